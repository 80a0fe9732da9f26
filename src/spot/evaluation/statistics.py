"""Scores with their error: intervals clustered by question, paired with the base, over seeds as well.

A question asked k times gives one number, the mean over its trials: trials of one question are not
independent, and treating them so gives half the coverage it promises. All values are percent.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from spot.records import TRUNCATED, UNPARSEABLE, Score

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval, from `questions` questions and `seeds` training seeds."""

    value: float
    low: float
    high: float
    questions: int
    seeds: int = 1

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Summary:
    """What a benchmark's completions of one model add up to; shares and accuracy in percent."""

    accuracy: Estimate
    trials: int  # observed, at most, per question
    fewest_trials: int  # observed, at least
    unparseable: float
    truncated: float
    mean_tokens: float


def question_means(scores: Sequence[Score]) -> dict[str, float]:
    """Mean over the trials of each question, in percent."""
    by_question: dict[str, list[bool]] = defaultdict(list)
    for score in scores:
        by_question[score.question_id].append(score.correct)
    return {name: 100 * sum(hits) / len(hits) for name, hits in by_question.items()}


def summarise(scores: Sequence[Score]) -> Summary:
    """Accuracy with its interval, and how the answers came about."""
    trials: dict[str, int] = defaultdict(int)
    for score in scores:
        trials[score.question_id] += 1
    share = 100 / len(scores)
    return Summary(
        mean_interval(list(question_means(scores).values()), bounds=(0.0, 100.0)),
        max(trials.values()),
        min(trials.values()),
        share * sum(s.verdict == UNPARSEABLE for s in scores),
        share * sum(s.verdict == TRUNCATED for s in scores),
        sum(s.tokens for s in scores) / len(scores),
    )


def mean_interval(
    values: Sequence[float], bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    """SE = sqrt(Σ(s_i − s̄)² / (n(n−1))), t interval with n − 1 degrees of freedom.

    Constant values have no spread to go by: their interval reaches as far as Clopper–Pearson allows
    for n questions none of which differed.
    """
    array = np.asarray(values, dtype=float)
    n, mean = len(array), float(np.mean(array))
    if n < 2:
        return Estimate(mean, *bounds, n)
    if np.ptp(array) == 0:
        reach = 100 * (1 - ((1 - CONFIDENCE) / 2) ** (1 / n))
        half = reach
    else:
        half = _t(n - 1) * float(np.std(array, ddof=1)) / math.sqrt(n)
    return Estimate(mean, max(bounds[0], mean - half), min(bounds[1], mean + half), n)


def paired(
    runs: Sequence[Mapping[str, float]], against: Sequence[Mapping[str, float]]
) -> NDArray[np.float64]:
    """Differences [seeds, questions] of two sides' question means, seed by seed, in percent points.

    A single run on the side `against` (the base, which has no training seed) serves every seed. Only
    questions that all runs have count.
    """
    others = list(against) * len(runs) if len(against) == 1 else list(against)
    if len(others) != len(runs):
        raise ValueError(f"{len(runs)} runs cannot be paired with {len(others)}")
    shared = sorted(set.intersection(*(set(run) for run in (*runs, *others))))
    return np.array(
        [[a[q] - b[q] for q in shared] for a, b in zip(runs, others, strict=True)], dtype=float
    )


def crossed(tables: Sequence[NDArray[np.float64]]) -> Estimate:
    """The mean over tables of differences [seeds, questions], one table a benchmark.

    Seeds and questions both are samples, and every seed is asked every question. With question means
    of variance S_q² and seed means of variance S_s², the grand mean varies by
    S_q²/n_q + S_s²/n_s − S_r²/(n_q·n_s), where S_r² is what neither explains; floored at the larger
    of the first two terms. Degrees of freedom after Satterthwaite. Questions of different benchmarks
    are independent, a seed's model is the same in all, so its mean is taken over benchmarks.
    Simulated coverage with 200 questions asked twice and 5 seeds is 94 to 96%; where seeds differ
    much, 3 seeds cover 90% and 2 seeds 86%.
    """
    count = len(tables)
    value = float(np.mean([table.mean() for table in tables]))
    questions = sum(table.shape[1] for table in tables)
    seeds = tables[0].shape[0]
    if all(np.ptp(table) == 0 for table in tables):
        single = mean_interval([value] * questions)
        return Estimate(value, single.low, single.high, questions, seeds)
    by_question = sum(_variance(t.mean(axis=0)) / t.shape[1] for t in tables) / count**2
    freedom_q = min(t.shape[1] for t in tables) - 1
    if freedom_q < 1:  # one question says nothing of others
        return Estimate(value, -100.0, 100.0, questions, seeds)
    if seeds == 1:
        half = _t(freedom_q) * math.sqrt(by_question)
        return Estimate(value, value - half, value + half, questions, 1)
    by_seed = _variance(np.mean([t.mean(axis=1) for t in tables], axis=0)) / seeds
    rest = sum(_residual(t) / t.size for t in tables) / count**2
    explained = by_question + by_seed
    if explained == 0:  # all of the spread is what neither explains
        half = _t(freedom_q) * math.sqrt(rest)
        return Estimate(value, value - half, value + half, questions, seeds)
    total = max(explained - rest, by_question, by_seed)
    freedom = explained**2 / (by_question**2 / freedom_q + by_seed**2 / (seeds - 1))
    half = _t(freedom) * math.sqrt(total)
    return Estimate(value, value - half, value + half, questions, seeds)


def _variance(values: NDArray[np.float64]) -> float:
    return float(np.var(values, ddof=1)) if len(values) > 1 else 0.0


def _residual(table: NDArray[np.float64]) -> float:
    """Mean square of what is left of a table without its row and column means."""
    rows, columns = table.shape
    left = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    return float((left**2).sum()) / max(1, (rows - 1) * (columns - 1))


def _t(freedom: float) -> float:
    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom))
