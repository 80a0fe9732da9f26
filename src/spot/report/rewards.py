"""What training did to held-out pairs, measured one by one: numbers of claims, and a table by change ratio."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from spot.evaluation.statistics import Estimate, crossed, over_worlds, paired, ratio, trimmed
from spot.report.load import FinishedRun, Study, by_world

EDGES = (0.1, 0.2, 0.4, 0.6, 1.0)  # of change ratios; a ratio of an edge belongs below it
FEWEST = 10  # pairs of which a stratum is shown
Row = Mapping[str, Any]  # of FinishedRun.watched
Values = Callable[[list[Row]], Sequence[float]]  # of pairs; what is shown is their mean
COLUMNS = [
    "arm", "change_ratio_above", "change_ratio_to", "pairs", "worlds", "seeds", "number", "value", "low", "high",
]  # fmt: skip


def of(column: str) -> Values:
    return lambda rows: [row[column] for row in rows]


def robust(column: str) -> Values:
    return lambda rows: list(trimmed([row[column] for row in rows]))


def kl(rows: list[Row]) -> Sequence[float]:
    """Per token of y⁻."""
    return list(ratio([row["kl"] for row in rows], [row["tokens"] for row in rows]))


NUMBERS: dict[str, Values] = {  # by the column of rewards.csv
    "chosen": of("chosen"),
    "chosen_trimmed": robust("chosen"),
    "rejected": of("rejected"),
    "rejected_trimmed": robust("rejected"),
    "kl_per_token": kl,
}


def at_the_end(values: Values, run: FinishedRun) -> dict[str, float]:
    """By pair; empty where the run did not measure every pair."""
    return _within(values, 0.0, 1.0, run)


def second_half(values: Values, run: FinishedRun) -> dict[str, float]:
    """By pair, how much it rises from the middle of the training to its end."""
    if len(run.watched) < 2:
        return {}
    before, after = (dict(_by_pair(values, run.watched[s])) for s in sorted(run.watched)[-2:])
    return {pair: after[pair] - before[pair] for pair in after}


def _by_pair(values: Values, rows: Sequence[Row]) -> list[tuple[str, float]]:
    return list(zip((row["pair"] for row in rows), values(list(rows)), strict=True))


def estimate(
    number: Callable[[FinishedRun], Mapping[str, float]],
    runs: Sequence[FinishedRun],
    others: Sequence[FinishedRun] = (),
) -> Estimate | None:
    """The mean over pairs, of runs less others, over pairs, seeds and worlds; None where one has no pairs.

    Others are paired with the runs one by one, and by the pairs that both have within their γ.
    """
    theirs, found = by_world(others), []
    for world, of_world in by_world(runs).items():
        ours = [number(run) for run in of_world]
        against = [number(run) for run in theirs.get(world, [])]
        if not all((*ours, *against)):
            return None
        zero = [dict.fromkeys(ours[0], 0.0)]
        found.append(crossed([paired(ours, against or zero)]))
    return over_worlds(found)


# ---- the table by change ratio -----------------------------------------------------------------


@dataclass(frozen=True)
class Stratum:
    """Held-out pairs of an arm whose change ratio is above `low` and at most `high`: an estimate a number."""

    arm: str
    low: float
    high: float
    numbers: Mapping[str, Estimate]

    @property
    def pairs(self) -> int:
        return next(iter(self.numbers.values())).questions

    @property
    def name(self) -> str:
        return f"{self.low:g} to {self.high:g}" if self.low else f"up to {self.high:g}"


def strata(study: Study) -> list[Stratum]:
    """Every arm over all pairs within its γ, then by change ratio; none of runs that measured no single pair."""
    found = []
    for arm, runs in study.arms.items():
        gamma = max(run.record["config"]["data"]["gamma"] for run in runs)
        parts = [(low, min(high, gamma)) for low, high in zip((0.0, *EDGES), EDGES, strict=False)]
        for low, high in [(0.0, gamma), *(part for part in parts if part[0] < part[1])]:
            numbers = {
                name: e
                for name, values in NUMBERS.items()
                if (e := estimate(partial(_within, values, low, high), runs))
            }
            if numbers:
                found.append(Stratum(arm, low, high, numbers))
    return [one for one in found if one.pairs >= FEWEST]


def _within(values: Values, low: float, high: float, run: FinishedRun) -> dict[str, float]:
    rows = run.watched[max(run.watched)] if run.watched else []
    some = [
        row
        for row in rows
        if row["change_ratio"] <= high and (row["change_ratio"] > low or not low)
    ]
    return dict(_by_pair(values, some)) if some else {}


def rows(strata: Sequence[Stratum]) -> list[dict[str, Any]]:
    """For rewards.csv, in nats; the KL in nats per token."""
    rows = []
    for one in strata:
        for name, e in one.numbers.items():
            numbers = (float(np.round(n, 6)) for n in (e.value, e.low, e.high))
            values = (one.arm, one.low, one.high, e.questions, e.worlds, e.seeds, name, *numbers)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows
