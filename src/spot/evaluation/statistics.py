"""Scores with their error: intervals clustered by question, paired with the base, over seeds and worlds.

A question asked k times gives one number, the mean over its trials: trials of one question are not
independent, and treating them so gives half the coverage it promises. All values are percent.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from spot.data.rows import TRUNCATED, UNPARSEABLE, Score

Trials = Mapping[int, bool]  # of one question: whether each trial was answered right
CONFIDENCE = 0.95
FEW = 5  # right or wrong answers below which t is not trusted


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval, from `questions` questions (or pairs), and `seeds` seeds in each of `worlds`.

    error: the standard error; freedom: degrees of freedom of its t distribution. inside: both once
    more, if these worlds were all there are; no interval is narrower and no p smaller than they allow.
    """

    value: float
    low: float
    high: float
    questions: int
    seeds: int = 1
    error: float = math.inf
    freedom: float = math.inf
    worlds: int = 1
    inside: tuple[float, float] = (0.0, math.inf)

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    @property
    def p(self) -> float:
        """Of a difference, how probable one so far from 0 is if there is none (two-sided)."""
        return min(1.0, 2 * min(self.above(0), self.below(0)))

    def above(self, bound: float) -> float:
        """One-sided p of "the true value is above the bound": small where it surely is."""
        return max(float(stats.t.sf((self.value - bound) / e, f)) for e, f in self._spreads)

    def below(self, bound: float) -> float:
        """One-sided p of "the true value is below the bound"."""
        return max(float(stats.t.cdf((self.value - bound) / e, f)) for e, f in self._spreads)

    @property
    def _spreads(self) -> list[tuple[float, float]]:
        both = [(self.error, self.freedom), self.inside]
        return [spread for spread in both if spread[0] > 0] or both[:1]


@dataclass(frozen=True)
class Summary:
    """What a benchmark's completions of one model add up to; shares and accuracy in percent."""

    accuracy: Estimate
    trials: int  # observed, at most, per question
    fewest_trials: int  # observed, at least
    unparseable: float
    truncated: float
    mean_tokens: float


def by_benchmark(scores: Iterable[Score]) -> dict[str, list[Score]]:
    """Scores by benchmark, in the order of first appearance."""
    result: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        result[score.benchmark].append(score)
    return dict(result)


def question_means(scores: Sequence[Score]) -> dict[str, float]:
    """Mean over the trials of each question, in percent."""
    return means_by_question((score.question_id, score.correct) for score in scores)


def means_by_question(answers: Iterable[tuple[str, bool]]) -> dict[str, float]:
    """The same of `(question id, correct)`, one for each trial."""
    by_question: dict[str, list[bool]] = defaultdict(list)
    for question_id, correct in answers:
        by_question[question_id].append(correct)
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

    At the edges t promises too much. Constant values have no spread to go by: their interval reaches
    as far as Clopper–Pearson allows for n questions none of which differed. Where all values are one
    bound or the other and fewer than 5 are of one kind, the interval is Clopper–Pearson's.
    """
    array = np.asarray(values, dtype=float)
    n, mean = len(array), float(np.mean(array))
    if n < 2:
        return Estimate(mean, *bounds, n)
    hits = int((array == bounds[1]).sum())
    binary = bool(np.isin(array, bounds).all())
    error, freedom = float(np.std(array, ddof=1)) / math.sqrt(n), n - 1.0
    if np.ptp(array) == 0:
        error, freedom = _unseen(n) / _t(math.inf), math.inf
        low, high = mean - _unseen(n), mean + _unseen(n)
    elif binary and min(hits, n - hits) < FEW:
        shares = clopper_pearson(hits, n)
        low, high = (bounds[0] + share * (bounds[1] - bounds[0]) for share in shares)
    else:
        low, high = mean - _t(freedom) * error, mean + _t(freedom) * error
    return Estimate(mean, max(bounds[0], low), min(bounds[1], high), n, 1, error, freedom)


def clopper_pearson(hits: int, n: int) -> tuple[float, float]:
    """The exact 95% interval of a share, from `hits` in `n`; both ends in [0, 1]."""
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if hits == 0 else float(stats.beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits == n else float(stats.beta.ppf(1 - tail, hits + 1, n - hits))
    return low, high


def macro(values: Sequence[Sequence[float]]) -> Estimate:
    """The mean over benchmarks of their means, from the question means of each: SE = sqrt(ΣSE²)/B."""
    mean = crossed([np.asarray([benchmark], dtype=float) for benchmark in values])
    return Estimate(mean.value, max(0.0, mean.low), min(100.0, mean.high), mean.questions)


def bootstrap(values: Sequence[float], seed: int = 0, resamples: int = 4000) -> tuple[float, float]:
    """A 95% percentile interval of the mean from resampled questions: a check on `mean_interval`.

    It assumes no distribution, and is too narrow for few questions.
    """
    array = np.asarray(values, dtype=float)
    rng = np.random.default_rng(seed)
    means = [float(rng.choice(array, len(array)).mean()) for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p value corrected for all of them (Holm 1979): below .05 it holds among so many looks."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


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


@dataclass(frozen=True)
class Turns:
    """How a benchmark's answers turned between base and model, in percent of pairs of trials.

    lost and learnt: right to wrong and wrong to right, in excess of `chance`, how often two trials of
    the base differ so by themselves; None where the base has single trials, and nothing is taken off.
    `learnt` − `lost` is the difference of the scores, whatever chance is.
    """

    lost: Estimate
    learnt: Estimate
    chance: float | None
    by_question: Mapping[str, float]  # `lost` of each, mean over seeds


def turned(before: Trials, after: Trials) -> float:
    """Percent of pairs of a trial before and another one after, the first right, the second wrong.

    Equal trials draw the same random numbers and are no pair: two models that answer alike then turn
    as often as either by itself. Only a single trial on both sides is paired with its equal.
    """
    right = {trial for trial, correct in before.items() if correct}
    wrong = {trial for trial, correct in after.items() if not correct}
    pairs = len(before) * len(after) - len(before.keys() & after.keys())
    if not pairs:
        return 100.0 * len(right) * len(wrong)
    return 100.0 * (len(right) * len(wrong) - len(right & wrong)) / pairs


def correlation(one: Mapping[str, Trials], other: Mapping[str, Trials]) -> float | None:
    """Of an answer each of two models to the same question, in different trials, over questions.

    With shares right p and p', and t of pairs that turn, it is (p(1 − p') − t) / √(p(1 − p) p'(1 − p')).
    None where a model is always right or wrong, or a single trial is all there is.
    """
    shared = one.keys() & other.keys()
    if any(len(one[q].keys() | other[q].keys()) < 2 for q in shared):
        return None
    p, q = (float(np.mean([np.mean([*of[n].values()]) for n in shared])) for of in (one, other))
    spread = math.sqrt(p * (1 - p) * q * (1 - q))
    turn = float(np.mean([turned(one[n], other[n]) for n in shared])) / 100
    return (p * (1 - q) - turn) / spread if spread else None


def turns(
    runs: Sequence[Mapping[str, Trials]], bases: Sequence[Mapping[str, Trials]]
) -> Turns | None:
    """What each run (a seed) lost and learnt beside its base, over the questions that all have.

    None where they share none. That forgetting is read off single questions and corrected for what
    turns by chance is the idea of arXiv 2510.17776, which corrects for guessing; here chance is what
    resampling the base shows.
    """
    shared = sorted(set.intersection(*(set(each) for each in (*runs, *bases))))
    if not shared:
        return None
    pairs = list(zip(runs, bases, strict=True))
    corrected = all(len(base[q]) > 1 for base in bases for q in shared)
    chance, lost, learnt = (
        np.array([[of(run[q], base[q]) for q in shared] for run, base in pairs], dtype=float)
        for of in (
            lambda run, base: turned(base, base) if corrected else 0.0,
            lambda run, base: turned(base, run),
            lambda run, base: turned(run, base),
        )
    )
    lost, learnt = lost - chance, learnt - chance
    by_question = dict(zip(shared, lost.mean(axis=0).tolist(), strict=True))
    own = float(chance.mean()) if corrected else None
    return Turns(crossed([lost]), crossed([learnt]), own, by_question)


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
        reach = _unseen(questions)
        error = reach / _t(math.inf)
        return Estimate(value, value - reach, value + reach, questions, seeds, error)
    by_question = sum(_variance(t.mean(axis=0)) / t.shape[1] for t in tables) / count**2
    freedom_q = min(t.shape[1] for t in tables) - 1
    if freedom_q < 1:  # one question says nothing of others
        return Estimate(value, -100.0, 100.0, questions, seeds)
    by_seed = _variance(np.mean([t.mean(axis=1) for t in tables], axis=0)) / seeds
    rest = sum(_residual(t) / t.size for t in tables) / count**2
    explained = by_question + by_seed
    if seeds == 1:
        variance, freedom = by_question, float(freedom_q)
    elif explained == 0:  # all of the spread is what neither explains
        variance, freedom = rest, float(freedom_q)
    else:
        variance = max(explained - rest, by_question, by_seed)
        freedom = explained**2 / (by_question**2 / freedom_q + by_seed**2 / (seeds - 1))
    error = math.sqrt(variance)
    half = _t(freedom) * error
    return Estimate(value, value - half, value + half, questions, seeds, error, freedom)


def over_worlds(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of what worlds gave, each with questions, data, Oracle and student of its own.

    Worlds share nothing, so each estimate is one draw, whatever it came from, and the mean of n varies
    by their variance / n; it is t distributed with n − 1 degrees of freedom. No other estimator has
    more: what questions and seeds add is in that variance already. Where worlds happen to agree the
    interval is still as wide as questions and seeds alone make it (`inside`). Simulated coverage is 95
    to 99% with 3 and 5 worlds (`performance.verdict_errors`), where a percentile bootstrap over worlds covers
    64 to 69% and 81 to 86%.
    """
    n = len(estimates)
    if n == 1:
        return estimates[0]
    values = [estimate.value for estimate in estimates]
    value, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(n)
    known = [(e.error**2, e.freedom) for e in estimates if math.isfinite(e.error)]
    inside = (0.0, math.inf)
    if len(known) == n and (variance := sum(v for v, _ in known)):
        freedom = variance**2 / max(sum(v**2 / f for v, f in known), 1e-300)
        inside = math.sqrt(variance) / n, freedom
    half = max(_t(f) * e for e, f in ((error, n - 1.0), inside))
    return Estimate(
        value, value - half, value + half, sum(e.questions for e in estimates),
        min(e.seeds for e in estimates), error, n - 1.0, n, inside,
    )  # fmt: skip


TRIM = 0.2  # share of values that a trimmed mean leaves out at each end


def trimmed(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of which the mean is the 20% trimmed mean, and whose spread is its own.

    Extreme values are drawn in to the ones that are left (winsorised), and distances from their mean
    grow by 1 / (1 − 2·0.2): the standard error of the mean of these is Yuen's (1974) for the trimmed mean.
    So few rewrites do not carry it, and it has intervals by the same formulas as a mean.
    """
    array = np.asarray(values, dtype=float)
    ordered, cut = np.sort(array), int(TRIM * len(array))
    kept = ordered[cut : len(array) - cut]
    drawn_in = np.clip(array, kept[0], kept[-1])
    return np.asarray(kept.mean() + (drawn_in - drawn_in.mean()) / (1 - 2 * TRIM))


def ratio(
    sums: Sequence[float] | NDArray[np.float64], sizes: Sequence[float] | NDArray[np.float64]
) -> NDArray[np.float64]:
    """Values of which the mean is Σ sums / Σ sizes, and whose spread is that ratio's (linearised)."""
    of, by = np.asarray(sums, dtype=float), np.asarray(sizes, dtype=float)
    whole = of.sum() / by.sum()
    return np.asarray(whole + (of - whole * by) / by.mean())


def _unseen(n: int) -> float:
    """Percent points by which a mean may be off when none of n questions differed (Clopper–Pearson)."""
    return 100 * clopper_pearson(0, n)[1]


def _variance(values: NDArray[np.float64]) -> float:
    return float(np.var(values, ddof=1)) if len(values) > 1 else 0.0


def _residual(table: NDArray[np.float64]) -> float:
    """Mean square of what is left of a table without its row and column means."""
    rows, columns = table.shape
    left = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    return float((left**2).sum()) / max(1, (rows - 1) * (columns - 1))


def _t(freedom: float) -> float:
    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom))
