"""The report's tables as plain rows: scores with intervals, counts, what was run."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spot.evaluation.statistics import Estimate, crossed, summarise
from spot.records import Score
from spot.report.load import FinishedRun, Study
from spot.report.verdicts import difference

PAPER = Path(__file__).parents[3] / "experiments" / "paper" / "paper_numbers.csv"
DOMAIN_NAMES = {"in_domain": "in-domain", "ood": "OOD", "general": "general"}


@dataclass(frozen=True)
class Cell:
    """One score: the mean over seeds, and its difference to the base paired by question."""

    accuracy: Estimate
    gain: Estimate | None = None  # None for the base itself
    paper_gain: float | None = None  # in the paper's own benchmarks of this domain


@dataclass(frozen=True)
class Row:
    arm: str
    seeds: int
    cells: list[Cell]


def columns(study: Study) -> list[tuple[str, list[str], str]]:
    """(title, benchmarks, domain) of each column: benchmarks, domain means where they have several, all."""
    result = []
    for domain, names in study.domains.items():
        result += [(f"{name} ({DOMAIN_NAMES[domain]})", [name], domain) for name in names]
        if len(names) > 1:
            result.append((f"{DOMAIN_NAMES[domain]} mean", names, domain))
    return [*result, ("average", study.benchmarks, "average")]


def score_table(study: Study) -> list[Row]:
    """The base's row, then one row an arm."""
    paper = paper_gains(study)
    base_run = study.runs[0]
    base = [Cell(_accuracy([base_run.base_means], names)) for _, names, _ in columns(study)]
    rows = [Row("base", 1, base)]
    for arm, runs in study.arms.items():
        cells = [
            Cell(
                _accuracy([run.means for run in runs], names),
                difference(study, runs, names),
                paper.get((arm, domain)),
            )
            for _, names, domain in columns(study)
        ]
        rows.append(Row(arm, len(runs), cells))
    return rows


def _accuracy(runs: Sequence[dict[str, dict[str, float]]], names: Sequence[str]) -> Estimate:
    """Mean accuracy over benchmarks and seeds, by the same formula as differences."""
    from numpy import array

    tables = []
    for name in names:
        shared = sorted(set.intersection(*(set(run[name]) for run in runs)))
        tables.append(array([[run[name][q] for q in shared] for run in runs]))
    e = crossed(tables)
    return Estimate(e.value, max(0.0, e.low), min(100.0, e.high), e.questions, e.seeds)


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


CSV_COLUMNS = [
    "arm", "seed", "benchmark", "domain", "questions", "trials", "accuracy", "low", "high",
    "difference", "difference_low", "difference_high", "unparseable", "truncated", "trivial", "mean_tokens",
]  # fmt: skip


def score_rows(study: Study) -> list[dict[str, Any]]:
    """One row per run and benchmark, the base first: the content of scores.csv, in percent."""
    base_run = study.runs[0]
    rows = [
        _score_row("base", "", base_run, name, base_run.base_scores[name], None)
        for name in study.benchmarks
    ]
    for arm, runs in study.arms.items():
        for run in runs:
            for name in study.benchmarks:
                gain = difference(study, [run], [name])
                rows.append(_score_row(arm, run.seed, run, name, run.scores[name], gain))
    return rows  # fmt: skip


def _score_row(
    arm: str,
    seed: Any,
    run: FinishedRun,
    name: str,
    scores: list[Score],
    gain: Estimate | None,
) -> dict[str, Any]:
    summary = summarise(scores)
    trivial = run.manifest("scores")["details"].get("trivial", {}).get(name)
    values = {
        "arm": arm,
        "seed": seed,
        "benchmark": name,
        "domain": scores[0].domain,
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


def funnel(run: FinishedRun) -> list[tuple[str, str]]:
    """What became of the rows at each stage of one run: (product, counts by reason)."""
    return [
        (
            str(stage["product"]).replace("_", " "),
            ", ".join(f"{n} {k}" for k, n in stage["counts"].items()),
        )
        for stage in run.record["stages"]
        if stage["counts"]
    ]


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


def warnings(study: Study) -> list[str]:
    """What a reader should know before believing the table."""
    found = [f"Job {job} of the sweep is not finished." for job in study.unfinished]
    for arm, runs in study.arms.items():
        for name in study.benchmarks:
            summaries = [summarise(run.scores[name]) for run in runs]
            asked = runs[0].record["config"]["benchmarks"]["tasks"][name]["trials"]
            if min(s.fewest_trials for s in summaries) < asked:
                found.append(f"{arm} on {name} has fewer trials than the {asked} asked for.")
            unusable = max(s.unparseable + s.truncated for s in summaries)
            if unusable > 5:
                found.append(f"{arm} on {name}: up to {unusable:.0f}% without a usable answer.")
    return found + [
        f"{arm} has one seed: its intervals cover the choice of questions only."
        for arm, runs in study.arms.items()
        if len(runs) == 1
    ]
