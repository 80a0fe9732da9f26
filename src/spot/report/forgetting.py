"""What training made a model forget, question by question, and the questions to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spot.data import artifacts
from spot.data.rows import Response
from spot.evaluation.statistics import Turns, over_worlds, turns
from spot.report.load import FinishedRun, Study, by_world

SHOWN = 3  # questions of an arm and a benchmark that are there to read
ASKED = "base_benchmark_responses"  # the product whose prompts are the questions as they were asked
COLUMNS = ["arm", "benchmark", "question", "base", "trained", "lost", "text"]


@dataclass(frozen=True)
class Lost:
    """A question that an arm lost. Percent right of base and arm, and of it lost beyond chance.

    text: as the base was asked; empty where the study does not hold it.
    """

    arm: str
    benchmark: str
    question: str
    base: float
    trained: float
    lost: float
    text: str

    @property
    def row(self) -> dict[str, Any]:
        """For CSV, in percent."""
        values = (getattr(self, name) for name in COLUMNS)
        rounded = [round(v, 1) if isinstance(v, float) else v for v in values]
        return dict(zip(COLUMNS, rounded, strict=True))


@dataclass(frozen=True)
class Forgetting:
    """What is shown: how answers turned by arm and benchmark, and what each arm lost most."""

    rows: dict[str, list[Turns | None]]
    lost: dict[str, list[Lost]]

    @property
    def chance(self) -> list[float | None]:
        """How often the base by itself turns from right to wrong, by benchmark; None: not known."""
        firsts = next(iter(self.rows.values()), [])
        return [turned.chance if turned else None for turned in firsts]

    @property
    def every(self) -> list[Lost]:
        return [one for of in self.lost.values() for one in of]


def forgetting(study: Study) -> Forgetting:
    """Every arm on every benchmark that all runs share, in their order."""
    rows = {arm: [_turns(runs, n) for n in study.benchmarks] for arm, runs in study.arms.items()}
    most = _most(study, rows)
    asked = _texts(study.runs, {f"{name}/{q}" for of in most.values() for name, q, _ in of})
    lost = {
        arm: [
            Lost(arm, name, q, *_right(study.arms[arm], name, q), value, asked.get(f"{name}/{q}", ""))
            for name, q, value in of
        ]
        for arm, of in most.items()
    }  # fmt: skip
    return Forgetting(rows, lost)


def _most(
    study: Study, rows: Mapping[str, Sequence[Turns | None]]
) -> dict[str, list[tuple[str, str, float]]]:
    """By arm: benchmark, id and loss of the questions lost most, largest first in each benchmark."""
    found: dict[str, list[tuple[str, str, float]]] = {arm: [] for arm in rows}
    for arm, of in rows.items():
        for name, turned in zip(study.benchmarks, of, strict=True):
            losses = (turned.by_question if turned else {}).items()
            worst = sorted(losses, key=lambda item: (-item[1], item[0]))[:SHOWN]
            found[arm] += [(name, question, lost) for question, lost in worst if lost > 0]
    return found


def _turns(runs: Sequence[FinishedRun], benchmark: str) -> Turns | None:
    """Over the worlds, each with questions of its own; None where one cannot say."""
    found = [_in_world(of, benchmark) for of in by_world(runs).values()]
    known = [turned for turned in found if turned is not None]
    if len(known) < len(found):
        return None
    chances = [turned.chance for turned in known if turned.chance is not None]
    return Turns(
        over_worlds([turned.lost for turned in known]),
        over_worlds([turned.learnt for turned in known]),
        float(np.mean(chances)) if len(chances) == len(known) else None,
        {question: lost for turned in known for question, lost in turned.by_question.items()},
    )


def _in_world(runs: Sequence[FinishedRun], benchmark: str) -> Turns | None:
    after, before = (
        [run.trials_of(product)[benchmark] for run in runs] for product in ("scores", "base_scores")
    )
    return turns(after, before)


def _right(runs: Sequence[FinishedRun], benchmark: str, question: str) -> tuple[float, float]:
    """Percent right of base and arm on a question, means over runs."""
    means = [
        (run.base_means[benchmark][question], run.means[benchmark][question])
        for run in runs
        if question in run.means[benchmark]  # of its world
    ]
    base, trained = np.mean(means, axis=0)
    return float(base), float(trained)


def _texts(runs: Sequence[FinishedRun], wanted: set[str]) -> Mapping[str, str]:
    """Prompts by `<benchmark>/<question id>`, of the first trial that is there."""
    folders = {run.product(ASKED) for run in runs if ASKED in run.products} if wanted else set()
    found: dict[str, str] = {}
    for folder in sorted(folders):
        for row in read(folder):
            if (name := row.id.rpartition("#")[0]) in wanted:
                found.setdefault(name, row.prompt)
    return found


def read(folder: Path) -> list[Response]:
    """What the base was asked; nothing of an archive that left it out."""
    kept = artifacts.ROWS in artifacts.read_manifest(folder)["files"]
    return artifacts.read_rows(folder, Response) if kept else []
