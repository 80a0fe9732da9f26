"""What finished runs left, read back for the report."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from spot import store
from spot.errors import UserError
from spot.evaluation.statistics import by_benchmark, question_means
from spot.records import Pair, Score

RUN_FILE = "run.json"
EXPORTED = "exports.csv"  # scores over steps, see spot.exports


@dataclass(frozen=True)
class FinishedRun:
    """One run's record and its products."""

    folder: Path
    record: Mapping[str, Any]

    @property
    def arm(self) -> str:
        """The paper's name for the choices, else what tells them apart."""
        config = self.record["config"]
        return str(self.record["arm"] or f"{config['loss']['name']} on {config['data']['arm']}")

    @property
    def seed(self) -> int:
        return int(self.record["seed"])

    @property
    def overrides(self) -> dict[str, str]:
        """What the command line chose, but for what `arm` and `seed` already say."""
        said = {"seed", "arm", "loss", "data.arm", "study", "output"}
        pairs = (line.lstrip("+").partition("=") for line in self.record["overrides"])
        return {key: value for key, _, value in pairs if key not in said}

    def product(self, name: str) -> Path:
        return (self.folder / self.record["products"][name]).resolve()

    def manifest(self, name: str) -> dict[str, Any]:
        return store.read_manifest(self.product(name))

    @cached_property
    def scores(self) -> dict[str, list[Score]]:
        return by_benchmark(store.read_rows(self.product("scores"), Score))

    @cached_property
    def base_scores(self) -> dict[str, list[Score]]:
        return by_benchmark(store.read_rows(self.product("base_scores"), Score))

    @cached_property
    def means(self) -> dict[str, dict[str, float]]:
        """Mean of every question, by benchmark, in percent."""
        return {name: question_means(rows) for name, rows in self.scores.items()}

    @cached_property
    def base_means(self) -> dict[str, dict[str, float]]:
        return {name: question_means(rows) for name, rows in self.base_scores.items()}

    @cached_property
    def metrics(self) -> dict[str, tuple[list[int], list[float]]]:
        """Steps and values of every column of metrics.csv, where it was measured."""
        columns: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
        with (self.product("checkpoint") / "metrics.csv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name != "step":
                        columns[name][0].append(int(row["step"]))
                        columns[name][1].append(float(value))
        return dict(columns)

    @cached_property
    def over_steps(self) -> dict[str, list[list[float]]]:
        """By benchmark: [step, accuracy, low, high] of what was exported; empty without."""
        path = self.folder / EXPORTED
        curves: dict[str, list[list[float]]] = defaultdict(list)
        if path.exists():
            with path.open(encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    values = [float(row[name]) for name in ("step", "accuracy", "low", "high")]
                    curves[row["benchmark"]].append(values)
        return dict(curves)

    def last(self, metric: str) -> float | None:
        """The last measured value of a column of metrics.csv."""
        _, values = self.metrics.get(metric, ([], []))
        return values[-1] if values else None

    def pairs(self, name: str = "pairs") -> list[Pair]:
        return store.read_rows(self.product(name), Pair)


def load(folder: Path) -> tuple[list[FinishedRun], list[str]]:
    """The finished runs in `folder`, itself a run or a sweep of jobs, and the jobs not finished."""
    if (folder / RUN_FILE).exists():
        return [_read(folder)], []
    jobs = sorted((p for p in folder.glob("*") if p.name.isdigit()), key=lambda p: int(p.name))
    finished = [_read(job) for job in jobs if (job / RUN_FILE).exists()]
    if not finished:
        raise UserError(
            f"{folder} holds no finished run: give a run's folder, or a sweep's, "
            "below outputs/runs or outputs/sweeps."
        )
    return finished, [job.name for job in jobs if not (job / RUN_FILE).exists()]


def _read(folder: Path) -> FinishedRun:
    try:
        record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        if not {"arm", "seed", "study", "config", "overrides", "products", "stages"} <= set(record):
            raise ValueError("another shape")
    except (ValueError, TypeError):
        raise UserError(
            f"{folder / RUN_FILE} is damaged: delete it and run its command again."
        ) from None
    return FinishedRun(folder, record)


def varied(runs: Sequence[FinishedRun]) -> list[str]:
    """Keys that some runs' command lines choose differently from others'."""
    keys = dict.fromkeys(key for run in runs for key in run.overrides)
    return [key for key in keys if len({run.overrides.get(key) for run in runs}) > 1]


@dataclass(frozen=True)
class Study:
    """Runs grouped by arm, with the benchmarks they share."""

    runs: list[FinishedRun]
    unfinished: list[str]

    @cached_property
    def arms(self) -> dict[str, list[FinishedRun]]:
        """Runs of each arm by seed; arms in the order they first ran.

        Runs that differ in more than arm and seed are arms of their own, named by what differs:
        `spot_bco data.gamma=0.4`.
        """
        groups: dict[str, list[FinishedRun]] = defaultdict(list)
        keys = varied(self.runs)
        for run in self.runs:
            chosen = [f"{key}={run.overrides[key]}" for key in keys if key in run.overrides]
            groups[" ".join([run.arm, *chosen])].append(run)
        return {arm: sorted(runs, key=lambda r: r.seed) for arm, runs in groups.items()}

    @cached_property
    def domains(self) -> dict[str, list[str]]:
        """Benchmarks of each domain, in_domain first, then ood, then general."""
        rows = {name: rows[0].domain for name, rows in self.runs[0].scores.items()}
        order = dict.fromkeys([*("in_domain", "ood", "general"), *rows.values()])
        return {
            domain: [name for name in self.ordered(rows) if rows[name] == domain]
            for domain in order
            if domain in rows.values()
        }

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({run.seed for run in self.runs})

    def ordered(self, names: Mapping[str, Any]) -> list[str]:
        """Benchmarks in the order the configuration names them."""
        tasks = list(self.runs[0].record["config"]["benchmarks"]["tasks"])
        return sorted(names, key=lambda n: tasks.index(n) if n in tasks else len(tasks))

    @property
    def benchmarks(self) -> list[str]:
        return [name for names in self.domains.values() for name in names]

    @property
    def name(self) -> str:
        return str(self.runs[0].record["study"] or "run")
