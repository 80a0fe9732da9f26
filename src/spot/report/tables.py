"""The report's tables as plain rows: scores with intervals, how answers came about, what was run."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spot.evaluation.statistics import Estimate, Summary, crossed, summarise
from spot.report.load import FinishedRun, Study
from spot.report.verdicts import difference

PAPER = Path(__file__).parents[3] / "experiments" / "paper" / "paper_numbers.csv"
DOMAIN_NAMES = {"in_domain": "in-domain", "ood": "OOD", "general": "general"}


@dataclass(frozen=True)
class Column:
    """Some benchmarks whose mean a column shows, and what of the paper stands beside."""

    title: str
    note: str
    benchmarks: list[str]
    paper: str | None  # in_domain | ood | general | average


@dataclass(frozen=True)
class Cell:
    """One score: the mean over seeds, and its difference to the base paired by question."""

    accuracy: Estimate
    gain: Estimate | None = None  # None for the base itself
    paper_gain: float | None = None


@dataclass(frozen=True)
class Row:
    arm: str
    seeds: int
    cells: list[Cell]


def columns(study: Study) -> list[Column]:
    """Benchmarks, their domains' means where a domain has several, and the mean of all benchmarks."""
    result = []
    for domain, names in study.domains.items():
        short = DOMAIN_NAMES.get(domain, domain)
        for name in names:
            observed = summarise(study.runs[0].scores[name])
            asked = f"{observed.accuracy.questions} × {observed.trials}"
            result.append(Column(name.replace("_", " "), f"{short} · {asked}", [name], domain))
        if len(names) > 1:
            result[-len(names) :] = [
                Column(c.title, c.note, c.benchmarks, None) for c in result[-len(names) :]
            ]
            result.append(Column(f"{short} mean", f"{len(names)} benchmarks", names, domain))
    everything = study.benchmarks
    return [*result, Column("average", f"{len(everything)} benchmarks", everything, "average")]


def score_table(study: Study) -> list[Row]:
    """The base's row, then one row an arm."""
    paper = paper_gains(study)
    base_run = study.runs[0]
    base = [Cell(_accuracy([base_run.base_means], c.benchmarks)) for c in columns(study)]
    rows = [Row("base", 1, base)]
    for arm, runs in study.arms.items():
        cells = [
            Cell(
                _accuracy([run.means for run in runs], column.benchmarks),
                difference(runs, column.benchmarks),
                paper.get((arm, column.paper or "")),
            )
            for column in columns(study)
        ]
        rows.append(Row(arm, len(runs), cells))
    return rows


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


def paper_gains(study: Study) -> dict[tuple[str, str], float]:
    """(arm, domain) → the paper's gain over its base (Qwen3-8B), for a study of the paper."""
    if study.name not in ("table1", "table2", "table3") or not PAPER.exists():
        return {}
    values: dict[tuple[str, str], float] = {}
    with PAPER.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["model"] == "qwen3_8b" and row["arm"]:
                values[row["arm"], row["benchmark"]] = float(row["value"])
    domains = {"in_domain": "in_domain", "ood": "ood", "general": "ifeval", "average": "average"}
    return {
        (arm, domain): values[arm, name] - values["base", name]
        for arm in {arm for arm, _ in values}
        for domain, name in domains.items()
        if (arm, name) in values
    }


# ---- scores.csv --------------------------------------------------------------------------------

CSV_COLUMNS = [
    "arm", "seed", "benchmark", "domain", "questions", "trials", "accuracy", "low", "high",
    "difference", "difference_low", "difference_high", "unparseable", "truncated", "trivial", "mean_tokens",
]  # fmt: skip


def score_rows(study: Study) -> list[dict[str, Any]]:
    """One row per run and benchmark, the base first: the content of scores.csv, in percent."""
    first = study.runs[0]
    rows = [
        _score_row("base", "", first, name, summarise(first.base_scores[name]), None)
        for name in study.benchmarks
    ]
    for arm, runs in study.arms.items():
        for run in runs:
            for name in study.benchmarks:
                gain = difference([run], [name])
                rows.append(_score_row(arm, run.seed, run, name, summarise(run.scores[name]), gain))
    return rows


def _score_row(
    arm: str, seed: Any, run: FinishedRun, name: str, summary: Summary, gain: Estimate | None
) -> dict[str, Any]:
    trivial = run.manifest("scores")["details"].get("trivial", {}).get(name)
    values = {
        "arm": arm,
        "seed": seed,
        "benchmark": name,
        "domain": run.scores[name][0].domain,
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
    """The base and every arm: how its answers to each benchmark came about."""
    sides = {"base": [study.runs[0].base_scores]}
    sides |= {arm: [run.scores for run in runs] for arm, runs in study.arms.items()}
    table = []
    for arm, runs in sides.items():
        cells = []
        for name in study.benchmarks:
            of = [summarise(run[name]) for run in runs]
            cells.append(
                Answers(
                    float(np.mean([s.unparseable for s in of])),
                    float(np.mean([s.truncated for s in of])),
                    float(np.mean([s.mean_tokens for s in of])),
                )
            )
        table.append((arm, cells))
    return table


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
        key = str(runs[0].record["products"]["pairs"])
        ways.setdefault(key, ([], _funnel(runs[0])))[0].append(arm)
    return list(ways.values())


def _funnel(run: FinishedRun) -> list[Step]:
    kind = str(run.record["config"]["data"]["arm"])
    went_on = {"attempts": "correct" if kind == "self" else "wrong", "rectifications": "ok", "pairs": kind}  # fmt: skip
    titles = {"attempts": "responses", "rectifications": "corrections", "pairs": "pairs"}
    steps = []
    for stage in run.record["stages"]:
        product, counts = stage["product"], dict(stage["counts"])
        if product in went_on and counts:
            passed = counts.pop(went_on[product], 0)
            total = passed + sum(counts.values())
            steps.append(Step(titles[product], total, passed, went_on[product], counts))
    return steps


def held_out(run: FinishedRun) -> int:
    """How many wrong responses were set aside to watch the training."""
    stages = [s for s in run.record["stages"] if s["product"] == "held_out_rectifications"]
    return sum(sum(stage["counts"].values()) for stage in stages)


def stage_times(study: Study) -> list[tuple[str, float, int, int]]:
    """(product, seconds spent making it over all runs, times made, times reused)."""
    seconds: dict[str, float] = defaultdict(float)
    made: dict[str, int] = defaultdict(int)
    reused: dict[str, int] = defaultdict(int)
    for run in study.runs:
        for stage in run.record["stages"]:
            name = str(stage["product"])
            (reused if stage["reused"] else made)[name] += 1
            seconds[name] += 0.0 if stage["reused"] else stage["seconds"]
    names = dict.fromkeys([*made, *reused])
    return [(n.replace("_", " "), round(seconds[n], 1), made[n], reused[n]) for n in names]


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
