"""The report's tables as plain rows: scores with intervals, how answers came about, what was run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spot.evaluation.statistics import Estimate, Summary, crossed
from spot.report import paper
from spot.report.load import FinishedRun, Study
from spot.report.verdicts import difference

DOMAIN_NAMES = {"in_domain": "in-domain", "ood": "OOD", "general": "general"}


@dataclass(frozen=True)
class Column:
    """Some benchmarks whose mean a column shows, and what of the paper stands beside."""

    title: str
    note: str
    benchmarks: list[str]
    paper: str | None  # a benchmark's name | in_domain | ood | general | average


@dataclass(frozen=True)
class Cell:
    """One score: the mean over seeds, and its difference to the base paired by question."""

    accuracy: Estimate
    gain: Estimate | None = None  # None for the base itself
    paper: float | None = None  # what the paper prints
    paper_gain: float | None = None

    @property
    def measured(self) -> bool:
        """Whether all runs of the row measured the column's benchmarks."""
        return self.accuracy.questions > 0


ABSENT = Cell(Estimate(math.nan, math.nan, math.nan, 0))


@dataclass(frozen=True)
class Row:
    """An arm's cells, one a column."""

    arm: str
    seeds: int
    cells: list[Cell]


def columns(study: Study) -> list[Column]:
    """Benchmarks, their domains' means where a domain has several, and the mean of all benchmarks.

    Benchmarks that only some runs measured come last and enter no mean.
    """
    known = {name for row in paper.tables_of(study) for name in row.values}
    result = []
    for domain, names in study.domains.items():
        short = DOMAIN_NAMES.get(domain, domain)
        alone = len(names) == 1
        for name in names:
            beside = name if name in known else domain if alone else None
            result.append(_column(study.runs[0], name, short, beside))
        if not alone:
            result.append(Column(f"{short} mean", f"{len(names)} benchmarks", names, domain))
    everything = study.benchmarks
    if everything:
        result.append(Column("average", f"{len(everything)} benchmarks", everything, "average"))
    for name in study.others:
        run = next(run for run in study.runs if name in run.scores)
        result.append(_column(run, name, "some runs only", None))
    return result


def _column(run: FinishedRun, name: str, domain: str, beside: str | None) -> Column:
    observed = run.summary(name)
    asked = f"{observed.accuracy.questions} × {observed.trials}"
    return Column(name.replace("_", " "), f"{domain} · {asked}", [name], beside)


def score_table(study: Study) -> list[Row]:
    """The base's row, then one row an arm."""
    beside, shown = paper.beside(study), columns(study)
    rows = [Row("base", 1, [_base_cell(study.runs[0], column, beside) for column in shown])]
    for arm, runs in study.arms.items():
        cells = [_cell(arm, runs, column, beside) for column in shown]
        rows.append(Row(arm, len(runs), cells))
    return rows


def _base_cell(run: FinishedRun, column: Column, beside: paper.Beside) -> Cell:
    if not run.base_means.keys() >= set(column.benchmarks):
        return ABSENT
    accuracy = _accuracy([run.base_means], column.benchmarks)
    return Cell(accuracy, paper=beside.value("base", column.paper))


def _cell(arm: str, runs: Sequence[FinishedRun], column: Column, beside: paper.Beside) -> Cell:
    wanted = set(column.benchmarks)
    if not all(run.means.keys() >= wanted and run.base_means.keys() >= wanted for run in runs):
        return ABSENT
    return Cell(
        _accuracy([run.means for run in runs], column.benchmarks),
        difference(runs, column.benchmarks),
        beside.value(arm, column.paper),
        beside.gain(arm, column.paper),
    )


def _accuracy(runs: Sequence[Mapping[str, Mapping[str, float]]], names: Sequence[str]) -> Estimate:
    """Mean accuracy over benchmarks and seeds, by the same formula as differences."""
    tables = []
    for name in names:
        shared = sorted(set.intersection(*(set(run[name]) for run in runs)))
        tables.append(np.array([[run[name][q] for q in shared] for run in runs]))
    e = crossed(tables)
    return Estimate(e.value, max(0.0, e.low), min(100.0, e.high), e.questions, e.seeds)


def trivial_row(study: Study) -> list[float | None]:
    """What the best constant answer scores in each column; None where it was not measured."""
    known = study.runs[0].manifest("base_scores")["details"].get("trivial", {})
    return [
        float(np.mean([known[name] for name in column.benchmarks]))
        if all(known.get(name) is not None for name in column.benchmarks)
        else None
        for column in columns(study)
    ]


# ---- scores.csv --------------------------------------------------------------------------------

CSV_COLUMNS = [
    "arm", "seed", "benchmark", "domain", "questions", "trials", "accuracy", "low", "high",
    "difference", "difference_low", "difference_high", "unparseable", "truncated", "trivial", "mean_tokens",
]  # fmt: skip


def score_rows(study: Study) -> list[dict[str, Any]]:
    """One row per run and benchmark, the base first: the content of scores.csv, in percent."""
    measured = [*study.benchmarks, *study.others]
    first = study.runs[0]
    rows = [
        _score_row("base", "", first, "base_scores", name, None)
        for name in measured
        if name in first.base_scores
    ]
    for arm, runs in study.arms.items():
        for run in runs:
            for name in (name for name in measured if name in run.scores):
                gain = difference([run], [name]) if name in run.base_scores else None
                rows.append(_score_row(arm, run.seed, run, "scores", name, gain))
    return rows


def _score_row(
    arm: str, seed: Any, run: FinishedRun, product: str, name: str, gain: Estimate | None
) -> dict[str, Any]:
    summary = run.summary(name, product)
    trivial = run.manifest(product)["details"].get("trivial", {}).get(name)
    values = {
        "arm": arm,
        "seed": seed,
        "benchmark": name,
        "domain": (run.scores if product == "scores" else run.base_scores)[name][0].domain,
        "questions": summary.accuracy.questions,
        "trials": summary.trials,
        "accuracy": summary.accuracy.value,
        "low": summary.accuracy.low,
        "high": summary.accuracy.high,
        "unparseable": summary.unparseable,
        "truncated": summary.truncated,
        "trivial": "" if trivial is None else trivial,
        "mean_tokens": summary.mean_tokens,
    }
    if gain:
        values |= {
            "difference": gain.value,
            "difference_low": gain.low,
            "difference_high": gain.high,
        }
    rounded = {k: round(v, 2) if isinstance(v, float) else v for k, v in values.items()}
    return {column: rounded.get(column, "") for column in CSV_COLUMNS}


# ---- how it came about -------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """Means over seeds of one arm on one benchmark: percent unparseable, percent cut, tokens."""

    unparseable: float
    truncated: float
    tokens: float


def answers(study: Study) -> list[tuple[str, list[Answers]]]:
    """The base and every arm: how its answers to each benchmark that all share came about."""
    table = [("base", _answers(study, study.runs[:1], "base_scores"))]
    return table + [(arm, _answers(study, runs, "scores")) for arm, runs in study.arms.items()]


def _answers(study: Study, runs: Sequence[FinishedRun], product: str) -> list[Answers]:
    return [_mean([run.summary(name, product) for run in runs]) for name in study.benchmarks]


def _mean(of: Sequence[Summary]) -> Answers:
    return Answers(
        float(np.mean([s.unparseable for s in of])),
        float(np.mean([s.truncated for s in of])),
        float(np.mean([s.mean_tokens for s in of])),
    )


@dataclass(frozen=True)
class Step:
    """A stage of the funnel: how many rows, how many went on, and the rest by reason."""

    name: str
    total: int
    passed: int
    what: str  # went on as
    others: dict[str, int]


def funnels(study: Study) -> list[tuple[list[str], list[Step]]]:
    """What became of the data, once for each way it went: (arms that went it, steps)."""
    ways: dict[str, tuple[list[str], list[Step]]] = {}
    for arm, runs in study.arms.items():
        key = str(runs[0].product("pairs"))
        ways.setdefault(key, ([], _funnel(runs[0])))[0].append(arm)
    return list(ways.values())


def _funnel(run: FinishedRun) -> list[Step]:
    kind = str(run.record["config"]["data"]["arm"])
    went_on = {"attempts": "correct" if kind == "self" else "wrong", "rectifications": "ok", "pairs": kind}  # fmt: skip
    titles = {"attempts": "responses", "rectifications": "corrections", "pairs": "pairs"}
    if kind == "self":  # needs no corrections, even where other arms' were counted
        del went_on["rectifications"]
    stages = {stage["product"]: stage for stage in run.record["stages"]}  # the last of each name
    steps = []
    for product, stage in stages.items():
        before, _, name = str(product).rpartition("/")  # `round1/attempts` of an earlier round
        counts = dict(stage["counts"])
        if name in went_on and counts:
            passed = counts.pop(went_on[name], 0)
            total = passed + sum(counts.values())
            title = titles[name] + (f", {before.replace('round', 'round ')}" if before else "")
            steps.append(Step(title, total, passed, went_on[name], counts))
    return steps


def held_out(run: FinishedRun) -> int:
    """How many wrong responses were set aside to watch the training."""
    stages = [s for s in run.record["stages"] if s["product"] == "held_out_rectifications"]
    return sum(stages[-1]["counts"].values()) if stages else 0


def exactness(study: Study) -> str:
    """What the trainer checked before the first update, over all runs; empty where none was trained."""
    details = [run.manifest("checkpoint")["details"] for run in study.runs]
    rewards = [d["max_start_reward"] for d in details if "max_start_reward" in d]
    if not rewards:
        return ""
    said = f"Largest reward before the first update: {max(rewards):.1e} (0 but for rounding)."
    kernels = {d["kernels"]["attention"] for d in details if "kernels" in d}
    if kernels:
        off = max(d.get("kernel_error", 0.0) for d in details)
        said += f" Attention by {', '.join(sorted(kernels))}: off from the dense computation by {off:.1e}."
    return said
