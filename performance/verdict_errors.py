"""How often a verdict on a claim is wrong: `python -m performance.verdict_errors`, on made scores.

Two sides answer the same questions with the same training seeds, in one world or in several that have
questions and seeds of their own. Their true difference is set: none, at the margin, or beyond it. Questions
differ in how hard they are and in what training does to them, seeds in how well they train, worlds in how
much the two sides differ there. Each row says how often the interval holds the truth, beside it a percentile
bootstrap over worlds, and counts, over many such studies, how often the one rule for all claims says
"holds" and "does not hold" for a direction. Where the claim is false "holds" is the error, where it is
true "does not hold" is; at the edge of a region both may come at most 2.5% of the time each.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from performance import common
from spot.evaluation.statistics import Estimate, crossed, over_worlds
from spot.report.claims import DIRECTIONS, FAILS, HOLDS, verdict

MARGIN = 1.0  # percent points, as in claims.yaml
TRUTHS = (-4.0, -MARGIN, 0.0, MARGIN, 4.0)
SETTINGS = {  # questions, seeds, spread over seeds in points; worlds, spread over worlds in points
    "300 questions, 1 seed": (300, 1, 0.0, 1, 0.0),
    "300 questions, 5 seeds": (300, 5, 0.5, 1, 0.0),
    "1,800 questions, 3 seeds": (1800, 3, 0.5, 1, 0.0),
    **{
        f"300 questions, {worlds} worlds × {seeds} seeds, worlds differ by {spread:g}": (300, seeds, 0.5, worlds, spread)
        for worlds in (3, 5)
        for seeds in (3, 5)
        for spread in (0.0, 2.0)
    },
}  # fmt: skip


def differences(
    rng: np.random.Generator,
    questions: int,
    seeds: int,
    spread: float,
    truth: float,
    trials: int = 2,
) -> np.ndarray:
    """[seeds, questions] in percent points: two sides' means over trials, whose expectation differs by `truth`."""
    chance = rng.beta(1.5, 1.0, questions)
    moved = rng.normal(0, 0.1, questions)  # what training does to a question beyond the mean
    shift = truth / 100 + moved + rng.normal(0, spread / 100, (seeds, 1))
    # What leaves [0, 1] would move the mean: give it back to the questions that have room.
    after = chance + shift
    for _ in range(20):
        after = np.clip(after, 0, 1)
        lost = (chance + shift).mean(axis=1, keepdims=True) - after.mean(axis=1, keepdims=True)
        after += lost
        if np.abs(lost).max() < 1e-6:
            break
    after = np.clip(after, 0, 1)
    before = rng.binomial(trials, chance, (seeds, questions)) / trials
    return 100 * (rng.binomial(trials, after) / trials - before)


def study(
    rng: np.random.Generator,
    setting: tuple[int, int, float, int, float],
    truth: float,
) -> list[Estimate]:
    """The estimates of one study's worlds."""
    questions, seeds, spread, worlds, apart = setting
    truths = truth + rng.normal(0, apart, worlds)
    return [crossed([differences(rng, questions, seeds, spread, each)]) for each in truths]


def resampled(values: Sequence[float]) -> tuple[float, float]:
    """The percentile bootstrap over worlds, of every resample there is."""
    means = [np.mean(some) for some in product(values, repeat=len(values))]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def rates(studies: int, seed: int = 0) -> list[dict[str, Any]]:
    """One row per setting and true difference: percent of the studies in which each direction holds and
    does not hold, and the most that any of them is wrong."""
    rows = []
    for name, setting in SETTINGS.items():
        for truth in TRUTHS if setting[3] == 1 else TRUTHS[2:]:  # either sign alike
            rng = np.random.default_rng(seed)
            of_worlds = [study(rng, setting, truth) for _ in range(studies)]
            made = [over_worlds(each) for each in of_worlds]
            row: dict[str, Any] = {"study": name, "true difference": truth}
            row["covers %"] = 100 * sum(e.low <= truth <= e.high for e in made) / studies
            row["bootstrap covers %"] = "–"
            if setting[3] > 1:
                ends = [resampled([e.value for e in each]) for each in of_worlds]
                hits = sum(low <= truth <= high for low, high in ends)
                row["bootstrap covers %"] = f"{100 * hits / studies:.1f}"
            wrong = 0.0
            for direction, region in DIRECTIONS.items():
                low, high = region(MARGIN, 0.0)
                said = Counter(verdict(e, (low, high)) for e in made)
                holds, fails = (100 * said[outcome] / studies for outcome in (HOLDS, FAILS))
                row[direction] = f"{holds:.1f} / {fails:.1f}"
                if truth in (low, high):
                    wrong = max(wrong, holds, fails)
                else:
                    wrong = max(wrong, fails if low < truth < high else holds)
            rows.append(row | {"wrong at most %": wrong})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="performance.verdict_errors")
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--write", action="store_true", help="keep the table as a result")
    options = parser.parse_args(arguments)
    rows = rates(options.studies)
    if options.write:
        command = " ".join(["python -m performance.verdict_errors", *sys.argv[1:]])
        common.write_results("verdict_errors", rows, command)
    else:
        print(common.markdown(rows))
    worst = max(row["wrong at most %"] for row in rows)
    print(f"most often wrong: {worst:.1f}% of {options.studies:,} studies")


if __name__ == "__main__":
    main()
