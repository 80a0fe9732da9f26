"""Forgetting at equal gain: what an arm keeps of general ability, whatever rate and steps it took to gain.

A study that sweeps the learning rate and keeps weights on the way has many models of each arm, points
of gain in-domain and change of general ability, the base among them. Answering some questions by one
model and the rest by another has a value on the line between the two, so an arm's frontier is the upper
convex hull: the points that no other of the arm, and no mix of two, beats in both.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spot.evaluation.statistics import Estimate, crossed, over_worlds
from spot.report.arm_names import ASIDE
from spot.report.load import FinishedRun, Study, by_world
from spot.report.style import signed

RATE, INSIDE, GENERAL = "loss.learning_rate", "in_domain", "general"
# measure of a claim: the share of the first side's largest gain at which both are compared
SHARES = {"general_at_gain": 1.0, "general_at_half_gain": 0.5}
NAMES = {
    "general_at_gain": "general ability at the first's largest gain in-domain",
    "general_at_half_gain": "general ability at half of the first's largest gain in-domain",
}
FREE = (*ASIDE, RATE, "hardware.")  # what an arm's models may differ in
Means = Mapping[str, Mapping[str, float]]  # of questions, by benchmark
Tables = list[
    NDArray[np.float64]
]  # [seeds, questions] of each benchmark, percent points over the base


@dataclass(frozen=True)
class Point:
    """An arm at one rate after so many steps; `rate` is None for the base, which is never trained."""

    rate: float | None
    step: int
    tables: Mapping[str, Tables]  # by domain

    def mean(self, domain: str) -> float:
        return float(np.mean([table.mean() for table in self.tables[domain]]))

    @property
    def gain(self) -> float:
        """In-domain, percent points."""
        return self.mean(INSIDE)

    @property
    def general(self) -> float:
        """Change of general ability, percent points."""
        return self.mean(GENERAL)


@dataclass(frozen=True)
class Mix:
    """A place on a frontier: weights of its points, and how the frontier falls there for each point gained."""

    weights: Sequence[tuple[float, Point]]
    slope: float

    def tables(self, domain: str) -> Tables:
        """The weighted sum of the points' tables."""
        several = [[w * table for table in point.tables[domain]] for w, point in self.weights]
        return [np.sum(of, axis=0) for of in zip(*several, strict=True)]


def points(
    study: Study, runs: Sequence[FinishedRun], beside: Sequence[FinishedRun] = ()
) -> list[Point]:
    """The base and every model of these runs, over the seeds and questions that all of them have.

    beside: runs that must have those seeds and questions, too. Empty where there are fewer than two
    models, or the runs differ in more than rate, steps and seed. Worlds share no question, so those of
    several have no frontier in common.
    """
    domains = {name: study.domains.get(name, []) for name in (INSIDE, GENERAL)}
    if not (runs and all(domains.values())) or _differ(runs) or len(by_world(runs)) > 1:
        return []
    seeds = sorted(set.intersection(*(_seeds(side) for side in (runs, beside) if side)))
    asked = [name for names in domains.values() for name in names]
    by_rate: dict[float, dict[int, FinishedRun]] = defaultdict(dict)
    for run in runs:
        by_rate[run.config[RATE]][run.seed] = run
    models: dict[tuple[float, int], list[Means]] = {}
    for rate, of in sorted(by_rate.items()):
        for step in _steps([of[seed] for seed in seeds], asked):
            models[rate, step] = [of[seed].means_over_steps[step] for seed in seeds]
    if len(models) < 2:
        return []
    bases = [by_rate[min(by_rate)][seed].base_means for seed in seeds]
    shared = {name: _questions([*runs, *beside], name) for name in asked}

    def gains(after: Sequence[Means]) -> dict[str, Tables]:
        return {
            domain: [_gains(after, bases, name, shared[name]) for name in names]
            for domain, names in domains.items()
        }

    trained = [Point(rate, step, gains(after)) for (rate, step), after in models.items()]
    return [Point(None, 0, gains(bases)), *trained]


def _seeds(runs: Sequence[FinishedRun]) -> set[int]:
    """Those that ran at every rate."""
    by_rate: dict[float, set[int]] = defaultdict(set)
    for run in runs:
        by_rate[run.config[RATE]].add(run.seed)
    return set.intersection(*by_rate.values())


def _questions(runs: Sequence[FinishedRun], benchmark: str) -> list[str]:
    """Those that every base and every model of these runs was asked."""
    means = [m for run in runs for m in (run.base_means, *run.means_over_steps.values())]
    return sorted(set.intersection(*(set(m[benchmark]) for m in means if benchmark in m)))


def _gains(
    after: Sequence[Means], before: Sequence[Means], name: str, questions: Sequence[str]
) -> NDArray[np.float64]:
    """Differences [seeds, questions] on one benchmark."""
    pairs = zip(after, before, strict=True)
    return np.array([[a[name][q] - b[name][q] for q in questions] for a, b in pairs])


def _steps(runs: Sequence[FinishedRun], benchmarks: Sequence[str]) -> list[int]:
    """Steps after which every seed was asked all of these benchmarks."""
    of = [{s for s, m in run.means_over_steps.items() if m.keys() >= {*benchmarks}} for run in runs]
    return sorted(set.intersection(*of)) if of else []


def _differ(runs: Sequence[FinishedRun]) -> bool:
    """Whether the runs were configured otherwise than their frontier allows."""
    kept = [{k: v for k, v in run.config.items() if not k.startswith(FREE)} for run in runs]
    return any(config != kept[0] for config in kept)


def frontier(points: Sequence[Point]) -> list[Point]:
    """Those that no other and no mix of two beats in both, by their gain."""
    best: list[Point] = []  # from the largest gain down
    for point in sorted(points, key=lambda p: (-p.gain, -p.general)):
        if best and point.general <= best[-1].general:
            continue
        while len(best) > 1 and _slope(point, best[-1]) <= _slope(best[-1], best[-2]):
            best.pop()
        best.append(point)
    return best[::-1]


def _slope(left: Point, right: Point) -> float:
    """How general ability changes from one to the other for each point gained."""
    return (right.general - left.general) / (right.gain - left.gain)


def at(frontier: Sequence[Point], gain: float) -> Mix | None:
    """The frontier where it has gained so much; None where it never does."""
    place = next((i for i, point in enumerate(frontier) if point.gain >= gain - 1e-9), None)
    if place is None:
        return None
    right = frontier[place]
    if place == 0 or right.gain <= gain:
        return Mix([(1.0, right)], 0.0)
    left = frontier[place - 1]
    share = (gain - left.gain) / (right.gain - left.gain)
    return Mix([(1 - share, left), (share, right)], _slope(left, right))


def compare(
    study: Study, runs: Sequence[FinishedRun], others: Sequence[FinishedRun], share: float
) -> tuple[Estimate, str] | None:
    """General ability of `runs` − `others` at equal gain: over worlds, of which each has frontiers of its own.

    None where one has no frontiers of the two; a reason where it cannot be told in one.
    """
    theirs, found = by_world(others), []
    for world, of in by_world(runs).items():
        one = _compare(study, of, theirs.get(world, []), share)
        if one is None or one[1]:
            return one
        found.append(one[0])
    return (over_worlds(found), "") if found else None


def _compare(
    study: Study, runs: Sequence[FinishedRun], others: Sequence[FinishedRun], share: float
) -> tuple[Estimate, str] | None:
    """General ability of `runs` − `others` at equal gain, in percent points; or why it cannot be told.

    The gain is `share` of the largest that `runs` reach. The interval is `crossed` over the questions and
    seeds of both domains: to first order the difference is a sum of table means, general ability less
    slope × gain, since where a frontier is read off moves with the gains. None where the study has no
    frontiers of the two.
    """
    own, other = (frontier(points(study, *sides)) for sides in ((runs, others), (others, runs)))
    if not own or not other:
        return None
    most, reach = own[-1], other[-1].gain
    gain = share * most.gain
    unknown = Estimate(math.nan, -math.inf, math.inf, 0, len(most.tables[INSIDE][0]))
    if gain <= 0:
        return unknown, "the first gains nothing"
    here, there = at(own, gain), at(other, gain)
    if there is None:
        return unknown, f"the other gains {signed(reach, 1)} at most, not {signed(gain, 1)}"
    assert here is not None
    moved = [share * table for table in most.tables[INSIDE]]
    general = [a - b for a, b in zip(here.tables(GENERAL), there.tables(GENERAL), strict=True)]
    inside = [
        there.slope * (b - g) - here.slope * (a - g)
        for a, b, g in zip(here.tables(INSIDE), there.tables(INSIDE), moved, strict=True)
    ]
    count = len(general) + len(inside)  # `crossed` is a mean over tables
    weighted = [table * count / len(general) for table in general]
    return crossed(weighted + [table * count / len(inside) for table in inside]), ""
