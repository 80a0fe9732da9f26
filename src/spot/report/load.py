"""What finished runs left, read back for the report."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from spot.config import arm_label
from spot.data import artifacts, run_record
from spot.data.rows import Pair, Score
from spot.data.run_record import RUN_FILE
from spot.evaluation.statistics import (
    Estimate,
    Summary,
    Trials,
    by_benchmark,
    crossed,
    over_worlds,
    paired,
    question_means,
    summarise,
)
from spot.report.arm_names import arm_names, resolved
from spot.utils.errors import UserError

RECORDED = {"arm", "seed", "study", "config", "overrides", "products", "stages"}
NEEDED = {"pairs", "base_scores", "checkpoint", "scores"}  # products that every report reads
METRICS = "metrics.csv"
HELD_OUT = (
    "held_out"  # of a training: a table for each step that every held-out pair was measured at
)
EXPORTED = "exports.csv"  # scores over steps, see spot.pipeline.exports …
EXPORTED_QUESTIONS = "exports_by_question.csv"  # … and the mean of every question, in percent
Value = TypeVar("Value")


@dataclass(frozen=True)
class FinishedRun:
    """One run's record and its products.

    read: what was read of products already; runs of a study share it, as they share products.
    """

    folder: Path
    record: Mapping[str, Any]
    read: dict[tuple[str, Path], Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def arm(self) -> str:
        """The paper's name for the choices, else what tells them apart."""
        config = self.record["config"]
        return arm_label(self.record["arm"], config["loss"]["name"], config["data"]["arm"])

    @property
    def seed(self) -> int:
        return int(self.record["seed"])

    @property
    def world(self) -> int:
        """What data, Oracle, student and questions were drawn from; 0 where the record knows no worlds."""
        return int(self.record["config"].get("world", 0))

    @property
    def overrides(self) -> dict[str, str]:
        """What the command line chose, without leading pluses."""
        pairs = (line.lstrip("+").partition("=") for line in self.record["overrides"])
        return {key: value for key, _, value in pairs}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration by dotted key, β and the learning rate as they were used."""
        trained = self.manifest("checkpoint")["settings"] if "checkpoint" in self.products else {}
        return resolved(self.record["config"], trained.get("loss", {}))

    @property
    def products(self) -> Mapping[str, str]:
        """Folders by the product's name, relative to the run's; `round1/…` of an earlier round."""
        return dict(self.record["products"])

    def product(self, name: str) -> Path:
        return (self.folder / self.products[name]).resolve()

    def manifest(self, name: str) -> dict[str, Any]:
        path = self.product(name)
        return self._once("manifest", path, lambda: artifacts.read_manifest(path))

    @property
    def scores(self) -> dict[str, list[Score]]:
        return self.scores_of("scores")

    @property
    def base_scores(self) -> dict[str, list[Score]]:
        return self.scores_of("base_scores")

    @property
    def means(self) -> dict[str, dict[str, float]]:
        """Mean of every question, by benchmark, in percent."""
        return self.means_of("scores")

    @property
    def base_means(self) -> dict[str, dict[str, float]]:
        return self.means_of("base_scores")

    def scores_of(self, product: str) -> dict[str, list[Score]]:
        path = self.product(product)
        return self._once("scores", path, lambda: by_benchmark(artifacts.read_rows(path, Score)))

    def means_of(self, product: str) -> dict[str, dict[str, float]]:
        def means() -> dict[str, dict[str, float]]:
            return {name: question_means(rows) for name, rows in self.scores_of(product).items()}

        return self._once("means", self.product(product), means)

    def trials_of(self, product: str) -> dict[str, dict[str, Trials]]:
        """Whether each trial of each question was right, by benchmark."""

        def trials() -> dict[str, dict[str, Trials]]:
            found: dict[str, dict[str, dict[int, bool]]] = {}
            for name, rows in self.scores_of(product).items():
                of = found.setdefault(name, defaultdict(dict))
                for row in rows:
                    of[row.question_id][row.trial] = row.correct
            return {name: dict(of) for name, of in found.items()}

        return self._once("trials", self.product(product), trials)

    def summary(self, benchmark: str, product: str = "scores") -> Summary:
        """What a benchmark's completions add up to, of the trained model or of `base_scores`."""
        rows = self.scores_of(product)[benchmark]
        return self._once(f"summary {benchmark}", self.product(product), lambda: summarise(rows))

    def pairs(self, name: str = "pairs") -> list[Pair]:
        path = self.product(name)
        return self._once("pairs", path, lambda: artifacts.read_rows(path, Pair))

    def _once(self, what: str, path: Path, make: Callable[[], Value]) -> Value:
        if (what, path) not in self.read:
            self.read[what, path] = make()
        return self.read[what, path]  # type: ignore[no-any-return]

    @cached_property
    def metrics(self) -> dict[str, tuple[list[int], list[float]]]:
        """Steps and values of every column of metrics.csv, where it was measured."""
        columns: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
        for row in metrics(self.product("checkpoint")):
            step = int(row.pop("step"))
            for name, value in row.items():
                columns[name][0].append(step)
                columns[name][1].append(value)
        return dict(columns)

    @cached_property
    def watched(self) -> dict[int, list[dict[str, Any]]]:
        """By step, every held-out pair: `pair`, and in nats `chosen`, `rejected` and `kl` over `tokens` of y⁻.

        Those whose corrections are within the run's γ, with their `change_ratio`; empty where they were not
        measured one by one.
        """
        training = self.product("checkpoint")
        files = sorted((training / HELD_OUT).glob("step_*.csv"))
        kept = (
            {pair.id: pair.change_ratio or 0.0 for pair in self.pairs("held_out")} if files else {}
        )
        gamma, found = self.record["config"]["data"]["gamma"], {}
        for file in files:
            artifacts.verify(training, f"{HELD_OUT}/{file.name}")
            rows = [
                {"pair": row.pop("pair"), **{k: float(v) for k, v in row.items()}}
                for row in _table(file)
            ]
            within = [
                row | {"change_ratio": kept[row["pair"]]} for row in rows if row["pair"] in kept
            ]
            found[int(file.stem.removeprefix("step_"))] = [
                row for row in within if row["change_ratio"] <= gamma
            ]
        return found

    @cached_property
    def over_steps(self) -> dict[str, list[list[float]]]:
        """By benchmark: [step, accuracy, low, high] of what was exported; empty without."""
        path = self.folder / EXPORTED
        curves: dict[str, list[list[float]]] = defaultdict(list)
        try:
            for row in _table(path) if path.exists() else []:
                values = [float(row[name]) for name in ("step", "accuracy", "low", "high")]
                curves[row["benchmark"]].append(values)
        except (OSError, ValueError, TypeError, KeyError, csv.Error):
            raise run_record.damaged(path) from None
        return dict(curves)

    @cached_property
    def means_over_steps(self) -> dict[int, dict[str, dict[str, float]]]:
        """Means of questions by step and benchmark: of what was exported, and of the trained model."""
        path = self.folder / EXPORTED_QUESTIONS
        means: dict[int, dict[str, dict[str, float]]] = {}
        try:
            for row in _table(path) if path.exists() else []:
                of = means.setdefault(int(row["step"]), {}).setdefault(row["benchmark"], {})
                of[row["question"]] = float(row["percent"])
        except (OSError, ValueError, TypeError, KeyError, csv.Error):
            raise run_record.damaged(path) from None
        return means | {int(self.manifest("checkpoint")["details"].get("steps", 0)): self.means}


def metrics(training: Path) -> list[dict[str, float]]:
    """What a finished training measured at each step. Raises UserError where its table is damaged."""
    artifacts.verify(training, METRICS)
    rows = _table(training / METRICS)
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def load(folder: Path) -> tuple[list[FinishedRun], list[str]]:
    """The finished runs in `folder`, itself a run or a sweep of jobs, and the jobs not finished."""
    read: dict[tuple[str, Path], Any] = {}
    if run_record.is_finished(folder):
        return [_read(folder, read)], []
    jobs = sorted((p for p in folder.glob("*") if p.name.isdigit()), key=lambda p: int(p.name))
    finished = [job for job in jobs if run_record.is_finished(job)]
    if not finished:
        raise UserError(
            f"{folder} holds no finished run: give a run's folder, or a sweep's, "
            "below outputs/runs or outputs/sweeps."
        )
    unfinished = [job.name for job in jobs if job not in finished]
    return [_read(job, read) for job in finished], unfinished


def _read(folder: Path, read: dict[tuple[str, Path], Any]) -> FinishedRun:
    record = run_record.read(folder)
    if not (set(record) >= RECORDED and set(record["products"]) >= NEEDED):
        raise run_record.damaged(folder / RUN_FILE)
    return FinishedRun(folder, record, read)


@dataclass(frozen=True)
class Study:
    """Runs grouped by arm, with the benchmarks they share.

    folder: the sweep's, where it is known.
    """

    runs: list[FinishedRun]
    unfinished: list[str]
    folder: Path | None = None

    @cached_property
    def arms(self) -> dict[str, list[FinishedRun]]:
        """Runs of each arm by seed; arms in the order they first ran.

        Runs whose resolved configurations differ in more than arm and seed are arms of their own,
        named by what differs: `spot_bco data.gamma=0.4`.
        """
        groups: dict[str, list[FinishedRun]] = {}
        names = arm_names([(run.arm, run.config) for run in self.runs])
        for run, name in zip(self.runs, names, strict=True):
            groups.setdefault(name, []).append(run)
        return {arm: sorted(runs, key=lambda r: (r.world, r.seed)) for arm, runs in groups.items()}

    @cached_property
    def domains(self) -> dict[str, list[str]]:
        """Benchmarks of each domain that all runs share: in_domain first, then ood, then general.

        Without those `at_trivial`.
        """
        shared = set.intersection(
            *(run.scores.keys() & run.base_scores.keys() for run in self.runs)
        )
        shared -= self.at_trivial.keys()
        rows = {name: of[0].domain for name, of in self.runs[0].scores.items() if name in shared}
        order = dict.fromkeys([*("in_domain", "ood", "general"), *rows.values()])
        return {
            domain: [name for name in self.ordered(rows) if rows[name] == domain]
            for domain in order
            if domain in rows.values()
        }

    @cached_property
    def at_trivial(self) -> dict[str, tuple[float, float]]:
        """General benchmarks that the base knows nothing of, so that nothing of it can be forgotten.

        What it scores, no more than the best answer given without reading, and what that one does. [percent]
        """
        first = self.runs[0]
        trivial = first.manifest("base_scores")["details"].get("trivial", {})
        found = {
            name: (fmean(first.base_means[name].values()), float(trivial[name]))
            for name, rows in first.base_scores.items()
            if rows[0].domain == "general" and trivial.get(name) is not None
        }
        return {name: both for name, both in found.items() if both[0] <= both[1]}

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({run.seed for run in self.runs})

    @cached_property
    def worlds(self) -> list[int]:
        return sorted({run.world for run in self.runs})

    @cached_property
    def bases(self) -> list[FinishedRun]:
        """A run of each world, whose base stands for the world's."""
        return [of[0] for of in by_world(self.runs).values()]

    @property
    def covers(self) -> str:
        """What an interval over an arm's runs is over: `questions, seeds and 3 worlds`."""
        several, worlds = len(self.seeds) > 1, len(self.worlds)
        if worlds > 1:
            return f"questions, seeds and {worlds} worlds" if several else f"questions and {worlds} worlds, one seed in each"  # fmt: skip
        return "questions and seeds, one world" if several else "questions, one seed and one world"

    @property
    def unjudged(self) -> str:
        """What the runs cannot tell, however narrow their intervals are; empty where nothing is left out."""
        parts = []
        if len(self.worlds) == 1:
            parts.append(
                "what other data, another Oracle, student and other questions would give (worlds=3)"
            )
        if len(self.seeds) == 1:
            parts.append("what the order of batches moves (seed=0,1,2)")
        return f"Not judged: {'; '.join(parts)}." if parts else ""

    def ordered(self, names: Mapping[str, Any]) -> list[str]:
        """Benchmarks in the order the configuration names them."""
        tasks = list(self.runs[0].record["config"]["benchmarks"]["tasks"])
        return sorted(names, key=lambda n: tasks.index(n) if n in tasks else len(tasks))

    @property
    def benchmarks(self) -> list[str]:
        """What all runs measured; only these enter means and claims."""
        return [name for names in self.domains.values() for name in names]

    @cached_property
    def others(self) -> list[str]:
        """Benchmarks that some runs measured and others did not, and those at their trivial baseline."""
        every = dict.fromkeys(name for run in self.runs for name in run.scores)
        return [name for name in self.ordered(every) if name not in self.benchmarks]

    @property
    def name(self) -> str:
        return str(self.runs[0].record["study"] or "run")

    @property
    def corrected(self) -> FinishedRun | None:
        """The first run on corrections, whose pairs stand for the study's."""
        return next((run for run in self.runs if run.config["data.arm"] == "rectified"), None)


def difference(
    runs: Sequence[FinishedRun],
    benchmarks: Sequence[str],
    others: Sequence[FinishedRun] = (),
) -> Estimate:
    """Mean over benchmarks of runs − others (each run's base if there are none), in percent points.

    Others are paired with the runs one by one. Over questions and seeds of each world, then over worlds.
    """
    theirs = by_world(others)
    return over_worlds(
        [_difference(of, benchmarks, theirs.get(world, [])) for world, of in by_world(runs).items()]
    )


def by_world(runs: Sequence[FinishedRun]) -> dict[int, list[FinishedRun]]:
    """Runs by the world they were drawn in, in the order of the worlds."""
    return {
        world: [run for run in runs if run.world == world]
        for world in sorted({run.world for run in runs})
    }


def _difference(
    runs: Sequence[FinishedRun], benchmarks: Sequence[str], others: Sequence[FinishedRun]
) -> Estimate:
    tables = []
    for name in benchmarks:
        against = [run.means[name] for run in others] or [run.base_means[name] for run in runs]
        tables.append(paired([run.means[name] for run in runs], against))
    return crossed(tables)
