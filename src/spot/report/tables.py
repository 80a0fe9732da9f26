"""The report's tables as plain rows: scores with intervals, how answers came about, what was run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spot.data.rows import Pair
from spot.evaluation.statistics import Estimate, crossed, mean_interval, over_worlds
from spot.report import paper
from spot.report.external import external
from spot.report.load import FinishedRun, Study, by_world, difference
from spot.utils.terminal import count

DOMAIN_NAMES = {"in_domain": "in-domain", "ood": "OOD", "general": "general"}
EXAMPLES = 5


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
    """An arm's cells, one a column; runs: how many there are, `5 seeds` or `3 worlds × 3 seeds`."""

    arm: str
    runs: str
    cells: list[Cell]


def columns(study: Study) -> list[Column]:
    """Benchmarks, their domains' means where a domain has several, and the mean of all benchmarks.

    Benchmarks that only some runs measured come last and enter no mean.
    """
    known = {name for row in paper.tables_of(study) for name in row.values}
    result = []
    for domain, names in study.domains.items():
        short, alone = DOMAIN_NAMES.get(domain, domain), len(names) == 1
        for name in names:
            beside = name if name in known else domain if alone else None
            result.append(_column(study.runs[0], name, short, beside))
        if not alone:
            result.append(Column(f"{short} mean", count(len(names), "benchmark"), names, domain))
    if everything := study.benchmarks:
        result.append(Column("average", count(len(everything), "benchmark"), everything, "average"))
    for name in study.others:
        run = next(run for run in study.runs if name in run.scores)
        result.append(_column(run, name, "some runs only", None))
    return result


def _column(run: FinishedRun, name: str, domain: str, beside: str | None) -> Column:
    observed = run.summary(name)
    asked = f"{observed.accuracy.questions} × {observed.trials}"
    return Column(name.replace("_", " "), f"{domain} · {asked}", [name], beside)


def score_table(study: Study) -> list[Row]:
    """The base's row, then one row an arm and one for each model trained elsewhere."""
    beside, shown = paper.beside(study), columns(study)
    rows = {"base": study.bases, **study.arms, **external(study)}
    return [
        Row(arm, _runs(runs), [_cell(arm, runs, column, beside) for column in shown])
        for arm, runs in rows.items()
    ]


def _runs(runs: Sequence[FinishedRun]) -> str:
    worlds = by_world(runs).values()
    fewest, most = min(map(len, worlds)), max(map(len, worlds))
    seeds = count(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
    return seeds if len(worlds) == 1 else f"{len(worlds)} worlds × {seeds}"


def _cell(arm: str, runs: Sequence[FinishedRun], column: Column, beside: paper.Beside) -> Cell:
    wanted, base = set(column.benchmarks), [run.base_means for run in runs]
    means = base if arm == "base" else [run.means for run in runs]
    if not all(each.keys() >= wanted for each in (*means, *base)):
        return ABSENT
    of_worlds = [
        [run.base_means if arm == "base" else run.means for run in of]
        for of in by_world(runs).values()
    ]
    accuracy = over_worlds([_accuracy(of, column.benchmarks) for of in of_worlds])
    low, high = max(0.0, accuracy.low), min(100.0, accuracy.high)
    return Cell(
        replace(accuracy, low=low, high=high),
        None if arm == "base" else difference(runs, column.benchmarks),
        beside.value(arm, column.paper),
        beside.gain(arm, column.paper),
    )


def _accuracy(runs: Sequence[Mapping[str, Mapping[str, float]]], names: Sequence[str]) -> Estimate:
    """Mean accuracy over benchmarks and seeds, by the same formula as differences.

    One model on one benchmark has the interval that `spot evaluate` prints.
    """
    if len(runs) == len(names) == 1:
        return mean_interval(list(runs[0][names[0]].values()), bounds=(0.0, 100.0))
    tables = []
    for name in names:
        shared = sorted(set.intersection(*(set(run[name]) for run in runs)))
        tables.append(np.array([[run[name][q] for q in shared] for run in runs]))
    return crossed(tables)


def trivial_row(study: Study) -> list[float | None]:
    """What the best constant answer scores in each column, mean over worlds; None where it was not measured."""
    known = [base.manifest("base_scores")["details"].get("trivial", {}) for base in study.bases]
    cells = [[of.get(name) for of in known for name in c.benchmarks] for c in columns(study)]
    return [None if None in of else float(np.mean(of)) for of in cells]


# ---- scores.csv --------------------------------------------------------------------------------

CSV_COLUMNS = [
    "arm", "world", "seed", "benchmark", "domain", "questions", "trials", "accuracy", "low", "high",
    "difference", "difference_low", "difference_high", "unparseable", "truncated", "trivial", "mean_tokens",
]  # fmt: skip


def score_rows(study: Study) -> list[dict[str, Any]]:
    """One row per run and benchmark, the base first: the content of scores.csv, in percent."""
    rows = [row for run in study.bases for row in _score_rows(study, "base", run, "base_scores")]
    for arm, runs in (study.arms | external(study)).items():
        rows += [row for run in runs for row in _score_rows(study, arm, run, "scores")]
    return rows


def _score_rows(study: Study, arm: str, run: FinishedRun, product: str) -> Iterator[dict[str, Any]]:
    scores, trivial = run.scores_of(product), run.manifest(product)["details"].get("trivial", {})
    for name in (n for n in (*study.benchmarks, *study.others) if n in scores):
        summary, gain = run.summary(name, product), None
        if product == "scores" and name in run.base_scores:
            gain = difference([run], [name])
        accuracy = summary.accuracy
        values = [
            arm, run.world, run.seed if arm in study.arms else "", name, scores[name][0].domain,
            accuracy.questions, summary.trials, accuracy.value, accuracy.low, accuracy.high,
            *((gain.value, gain.low, gain.high) if gain else ("", "", "")),
            summary.unparseable, summary.truncated, trivial.get(name), summary.mean_tokens,
        ]  # fmt: skip
        rounded = [round(v, 2) if isinstance(v, float) else "" if v is None else v for v in values]
        yield dict(zip(CSV_COLUMNS, rounded, strict=True))


# ---- how it came about -------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """Means over seeds of one arm on one benchmark: percent unparseable, percent truncated, tokens."""

    unparseable: float
    truncated: float
    tokens: float


def answers(study: Study) -> list[tuple[str, list[Answers]]]:
    """The base and every arm: how its answers to each benchmark that all share came about."""
    table = [("base", _answers(study, study.bases, "base_scores"))]
    measured = study.arms | external(study)
    return table + [(arm, _answers(study, runs, "scores")) for arm, runs in measured.items()]


def _answers(study: Study, runs: Sequence[FinishedRun], product: str) -> list[Answers]:
    summaries = [[run.summary(name, product) for run in runs] for name in study.benchmarks]
    return [
        Answers(*np.mean([(s.unparseable, s.truncated, s.mean_tokens) for s in of], axis=0))
        for of in summaries
    ]


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
    went_on = {  # title, and which of the rows' kinds the next stage takes
        "attempts": ("responses", "correct" if kind == "self" else "wrong"),
        "rectifications": ("corrections", "ok"),
        "pairs": ("pairs", kind),
    }
    if kind == "self":  # needs no corrections, even where other arms' were counted
        del went_on["rectifications"]
    stages = {stage["product"]: stage for stage in run.record["stages"]}  # the last of each name
    steps = []
    for product, stage in stages.items():
        before, _, name = str(product).rpartition("/")  # `round1/attempts` of an earlier round
        counts = dict(stage["counts"])
        if name in went_on and counts:
            title, taken = went_on[name]
            title += f", {before.replace('round', 'round ')}" if before else ""
            passed = counts.pop(taken, 0)
            steps.append(Step(title, passed + sum(counts.values()), passed, taken, counts))
    return steps


def held_out(study: Study) -> int:
    """How many wrong responses the first run set aside to watch the training."""
    stages = [
        s for s in study.runs[0].record["stages"] if s["product"] == "held_out_rectifications"
    ]
    return sum(stages[-1]["counts"].values()) if stages else 0


def exactness(study: Study) -> str:
    """What the trainer checked before the first update, over all runs; empty where none was trained."""
    details = [run.manifest("checkpoint")["details"] for run in study.runs]
    rewards = [d["max_start_reward"] for d in details if "max_start_reward" in d]
    if not rewards:
        return ""
    text = f"Largest reward before the first update: {max(rewards):.1e} (0 but for rounding)."
    if kernels := {d["kernels"]["attention"] for d in details if "kernels" in d}:
        off = max(d.get("kernel_error", 0.0) for d in details)
        text += f" Attention by {', '.join(sorted(kernels))}: off from the dense computation by {off:.1e}."
    return text


def examples(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs spread over the change ratios, smallest first; those without y⁻ show no edit and are left out."""
    with_rejected = [pair for pair in pairs if pair.rejected is not None]
    ordered = sorted(with_rejected, key=lambda p: (p.change_ratio or 0.0, p.id))
    if len(ordered) <= EXAMPLES:
        return ordered
    return [ordered[i * (len(ordered) - 1) // (EXAMPLES - 1)] for i in range(EXAMPLES)]
