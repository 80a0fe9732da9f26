"""The paper's claims as checks on 95% intervals: each holds, does not hold, or is undecided.

What is claimed, of whom and in which direction stands in `claims.yaml`; `verdict` is the one rule for
all of it. A claim names the runs it is about by their resolved configuration, so it is judged in any
sweep that has them: once for every setting in which the study ran them (γ = 0.2, γ = 0.4, …), and two
sides only where they agree in everything else.
"""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import yaml

from spot.evaluation.statistics import CONFIDENCE, Estimate, holm, mean_interval, over_worlds
from spot.report import frontier, rewards
from spot.report.arm_names import ASIDE, written
from spot.report.curves import CURVES, Curve
from spot.report.load import FinishedRun, Study, by_world, difference
from spot.report.style import DOMAINS, SHORT_KEYS, signed
from spot.utils.terminal import count

HOLDS, FAILS, UNCLEAR = "holds", "does not hold", "cannot tell"
Region = tuple[float, float]  # where a true value makes a claim true, without its ends
DIRECTIONS: dict[str, Callable[[float, float], Region]] = {  # of margin and bound
    "superior": lambda _, bound: (bound, math.inf),
    "inferior": lambda _, bound: (-math.inf, bound),
    "keeps": lambda margin, _: (-margin, math.inf),
    "forgets": lambda margin, _: (-math.inf, -margin),
    "no clear change": lambda margin, _: (-margin, margin),
}


def verdict(e: Estimate, region: Region) -> str:
    """The one rule: the whole interval lies in the region, none of it does, or it allows both."""
    low, high = region
    if low < e.low and e.high < high:
        return HOLDS
    return FAILS if e.high <= low or high <= e.low else UNCLEAR


def p_value(e: Estimate, region: Region) -> float:
    """Two-sided p of the verdict: 1 − the widest level whose interval still decides.

    Inside needs both ends (two one-sided tests), outside either.
    """
    low, high = region
    inside = max(
        e.above(low) if math.isfinite(low) else 0, e.below(high) if math.isfinite(high) else 0
    )
    outside = min(
        e.below(low) if math.isfinite(low) else 1, e.above(high) if math.isfinite(high) else 1
    )
    return min(1.0, 2 * min(inside, outside))


# ---- the claims --------------------------------------------------------------------------------

Choice = Mapping[str, Any]  # keys of the resolved configuration and what they must be
AVERAGE = "average"  # of all benchmarks
SCORES = DOMAINS | {"ood": "out-of-domain", AVERAGE: "average"}
DIGITS = {"points": 1, "nats": 1, "nats per token": 3, "share": 2, "loss": 2, "τ": 2}


@dataclass(frozen=True)
class Claim:
    """A row of claims.yaml: the `runs` against the `other` ones (the base if None)."""

    id: str
    text: str
    where: str  # in the paper
    runs: Choice
    measure: str  # a domain, average, or one of CURVES
    direction: str
    margin: float
    bound: float = 0.0
    other: Choice | None = None
    primary: tuple[str, ...] = ()  # studies in whose family it is

    @property
    def unit(self) -> str:
        return CURVES[self.measure].unit if self.measure in CURVES else "points"

    @property
    def region(self) -> Region:
        return DIRECTIONS[self.direction](self.margin, self.bound)

    @property
    def holds_when(self) -> str:
        """`interval above 0`, `interval within ±1`."""
        low, high = self.region
        if math.isfinite(low) and math.isfinite(high):
            return f"interval within ±{high:g}"
        where, bound = ("above", low) if math.isfinite(low) else ("below", high)
        return f"interval {where} {bound:g}".replace("-", "−")

    @property
    def measured(self) -> str:
        """What the estimate is of, in words: `in-domain score, difference of the two`."""
        curve = CURVES.get(self.measure)
        if self.measure in frontier.NAMES:
            return f"{frontier.NAMES[self.measure]}, difference of the two"
        name = curve.name if curve else f"{SCORES[self.measure]} score"
        base = "" if curve else "difference to the base"
        against = "difference of the two" if self.other else base
        return f"{name}, {against}" if against else name


@functools.cache
def claims(points: float | None = None) -> tuple[Claim, ...]:
    """All rows of claims.yaml; `points` is another margin of scores, in percent points."""
    content = yaml.safe_load((resources.files("spot.report") / "claims.yaml").read_text("utf-8"))
    arms, margins = content["arms"], content["margins"]
    if points is not None:
        margins["points"] = points
    made = []
    for row in content["claims"]:
        row["text"], row["primary"] = row.pop("claim"), tuple(row.pop("primary", ()))
        row["runs"] = arms[row["runs"]]
        row["other"] = arms[row["other"]] if "other" in row else None
        claim = Claim(**row, margin=0.0)
        made.append(replace(claim, margin=margins[claim.unit]))
    return tuple(made)


@dataclass(frozen=True)
class Verdict:
    """A claim's outcome; its estimate as text is what the pages print."""

    claim: Claim  # its text names the setting where the study has several
    estimate: Estimate
    setting: str = ""
    adjusted: float | None = None  # p, corrected for the study's primary family; None: exploratory
    reason: str = ""  # why there is no estimate

    @property
    def p(self) -> float:
        return p_value(self.estimate, self.claim.region)

    @property
    def outcome(self) -> str:
        """A primary claim must be decided after the correction, too."""
        decided = self.adjusted is None or self.adjusted < 1 - CONFIDENCE
        return verdict(self.estimate, self.claim.region) if decided else UNCLEAR

    @property
    def p_text(self) -> str:
        """The corrected p; `–` of an exploratory claim."""
        if self.adjusted is None:
            return "–"
        return "< 0.001" if self.adjusted < 0.001 else f"{self.adjusted:.3f}"

    @property
    def family(self) -> str:
        return "exploratory" if self.adjusted is None else "primary"

    @property
    def value(self) -> str:
        """With its unit."""
        if self.reason:
            return "–"
        value, unit = self.estimate.value, self.claim.unit
        if unit in ("share", "loss"):
            return f"{value:.{DIGITS[unit]}f}"
        return f"{signed(value, DIGITS[unit])} {unit}"

    def fewer(self, study: Study) -> str:
        """Of how many of the study's seeds or worlds it is, where not of all."""
        parts = [
            f"{of} of {count(among, what)}"
            for of, among, what in (
                (self.estimate.seeds, len(study.seeds), "seed"),
                (self.estimate.worlds, len(study.worlds), "world"),
            )
            if of < among
        ]
        return ", ".join(parts)

    @property
    def interval(self) -> str:
        if self.reason:
            return self.reason
        alone = self.bar is None and self.estimate.seeds == self.estimate.worlds == 1
        return "one seed" if alone else signed(self.estimate, DIGITS[self.claim.unit])

    @property
    def bar(self) -> tuple[float, float, float] | None:
        """Left end, width and value in percent of a bar around 0; None without an interval."""
        e = self.estimate
        if not (math.isfinite(e.low) and math.isfinite(e.high)):
            return None
        reach = max(abs(e.low), abs(e.high), 1e-6) * 1.08
        low, width, value = (50 * of / reach for of in (e.low, e.high - e.low, e.value))
        return round(50 + low, 2), round(width, 2), round(50 + value, 2)


TALLY = {HOLDS: ("holds", "hold"), FAILS: ("does not hold", "do not hold"), UNCLEAR: ("is undecided", "are undecided")}  # fmt: skip


def tally(verdicts: Sequence[Verdict]) -> Counter[str]:
    return Counter(verdict.outcome for verdict in verdicts)


def tally_text(verdicts: Sequence[Verdict]) -> str:
    """`9 claims: 5 hold, 1 does not hold and 3 are undecided.`"""
    counts, total = tally(verdicts), len(verdicts)
    parts = [f"{n} {words[n != 1]}" for o, words in TALLY.items() if (n := counts[o])]
    text = ", ".join(parts[:-1]) + " and " * (len(parts) > 1) + parts[-1]
    return f"{count(total, 'claim')}: {text}."


def judge(study: Study, points: float | None = None) -> list[Verdict]:
    """A verdict on every claim whose runs and measurements are there, for each setting they ran in.

    points: the margin of scores, in percent points. The study's primary claims come first.
    """
    verdicts = []
    for claim in claims(points):
        if claim.measure in frontier.SHARES:
            left, right = (_matching(study.runs, c or {}) for c in (claim.runs, claim.other))
            share = frontier.SHARES[claim.measure]
            if compared := frontier.compare(study, left, right, share):
                verdicts.append(Verdict(claim, compared[0], reason=compared[1]))
            continue
        found = [
            (key, estimate)
            for key, left, right in _settings(study.runs, claim)
            if (estimate := _measure(claim.measure, study, left, right))
        ]
        for key, estimate in found:
            setting = _setting_name(key, [other for other, _ in found])
            named = replace(claim, text=f"{claim.text} ({setting})") if setting else claim
            verdicts.append(Verdict(named, estimate, setting))
    primary = [v for v in verdicts if study.name in v.claim.primary]
    adjusted = holm([v.p for v in primary])
    family = [replace(v, adjusted=p) for v, p in zip(primary, adjusted, strict=True)]
    return family + [v for v in verdicts if study.name not in v.claim.primary]


COLUMNS = [
    "id", "claim", "paper", "setting", "family", "outcome", "direction", "holds_when", "measure", "unit",
    "value", "low", "high", "p", "p_adjusted", "margin", "questions", "seeds", "worlds",
]  # fmt: skip


def verdict_rows(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """The verdicts as plain rows for CSV or JSON; an end that no interval has is None.

    `value`, `low` and `high` are percent points for a domain, else in the curve's own unit.
    """
    rows = []
    for v in verdicts:
        claim, e = v.claim, v.estimate
        low, high, value = (
            round(n, 6) if math.isfinite(n) else None for n in (e.low, e.high, e.value)
        )
        adjusted = None if v.adjusted is None else float(f"{v.adjusted:.3g}")
        values = [
            claim.id, claim.text, claim.where, v.setting, v.family, v.outcome, claim.direction,
            claim.holds_when, claim.measured, claim.unit, value, low, high,
            float(f"{v.p:.3g}"), adjusted, claim.margin, e.questions, e.seeds, e.worlds,
        ]  # fmt: skip
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


# ---- which runs --------------------------------------------------------------------------------

# How runs are computed, and how their number of pairs is matched (`cautions` looks at the numbers).
APART = (*ASIDE, "hardware.", "data.matched")
TUNED = ("loss.beta", "loss.learning_rate", "loss.delta.")
Setting = dict[str, Any]
Runs = list[FinishedRun]


def _settings(
    runs: Sequence[FinishedRun], claim: Claim
) -> Iterator[tuple[Setting, Runs, Runs | None]]:
    """`(setting, runs, others)` for each setting that the claim's runs share, by equal worlds and seeds."""
    left, right = _matching(runs, claim.runs), _matching(runs, claim.other or {})
    compared = {**claim.runs, **(claim.other or {})}
    ignored = {"reference", *compared} | (_tuned(left, right) if claim.other else set())
    sides = _by_setting(left, ignored), _by_setting(right, ignored)
    for key, one in sides[0].items():
        other = sides[1].get(key, {})
        seeds = sorted(one.keys() & other.keys()) if claim.other else sorted(one)
        if seeds:
            others = [other[s] for s in seeds] if claim.other else None
            yield json.loads(key), [one[s] for s in seeds], others


def _matching(runs: Sequence[FinishedRun], choice: Choice) -> Runs:
    return [run for run in runs if all(run.config.get(k) == v for k, v in choice.items())]


def _tuned(left: Runs, right: Runs) -> set[str]:
    """Settings in which two losses, or ranks, may differ, each tuned for its own: those neither side varies."""
    ways = {(run.config["loss.name"], run.config.get("model.lora.rank")) for run in left + right}
    if len(ways) < 2:
        return set()
    keys = {key for run in left + right for key in run.config if key.startswith(TUNED)}
    return {k for k in keys if all(_constant(side, k) for side in (left, right))}


def _constant(runs: Runs, key: str) -> bool:
    return all(run.config.get(key) == runs[0].config.get(key) for run in runs)


def _by_setting(runs: Runs, ignored: set[str]) -> dict[str, dict[tuple[int, int], FinishedRun]]:
    """Runs by world and seed, by the JSON of what else they were configured to be."""
    groups: dict[str, dict[tuple[int, int], FinishedRun]] = {}
    for run in runs:
        kept = {
            key: value
            for key, value in run.config.items()
            if key not in ignored and not key.startswith(APART)
        }
        groups.setdefault(json.dumps(kept, sort_keys=True), {})[run.world, run.seed] = run
    return groups


def _setting_name(setting: Setting, among: Sequence[Setting]) -> str:
    """What tells a setting from others of the same claim: `γ = 0.4, pairs = 2000`."""
    keys = [k for k in setting if any(other.get(k) != setting[k] for other in among)]
    return ", ".join(f"{SHORT_KEYS.get(k, k)} = {written(setting[k])}" for k in keys)


# ---- the numbers -------------------------------------------------------------------------------


def _measure(measure: str, study: Study, runs: Runs, others: Runs | None) -> Estimate | None:
    """The claim's number with its interval; None if the study cannot give it."""
    if measure in CURVES:
        return _of_curve(CURVES[measure], runs, others)
    names = study.benchmarks if measure == AVERAGE else study.domains.get(measure)
    return difference(runs, names, others or ()) if names else None


def _of_curve(curve: Curve, runs: Runs, others: Runs | None) -> Estimate | None:
    """A curve's number over pairs, seeds and worlds; where no pair was measured alone, without pairs."""
    if curve.each and (estimate := rewards.estimate(curve.each, runs, others or ())):
        return estimate
    theirs = by_world(others or ())
    found = [_over_seeds(curve, of, theirs.get(world)) for world, of in by_world(runs).items()]
    known = [estimate for estimate in found if estimate]
    if len(known) < len(found):
        return None
    estimate = over_worlds(known)
    if others or not math.isfinite(estimate.error):  # one seed of one world has no interval
        return estimate
    low, high = curve.bounds
    return replace(estimate, low=max(low, estimate.low), high=min(high, estimate.high))


def _over_seeds(curve: Curve, runs: Runs, others: Runs | None) -> Estimate | None:
    """A curve's number over the seeds of one world; one says nothing of its spread."""
    left = [curve.value(run) for run in runs]
    minus = [curve.value(run) for run in others] if others else [0.0] * len(runs)
    values = [a - b for a, b in zip(left, minus, strict=True) if a is not None and b is not None]
    if len(values) < len(runs):
        return None
    return replace(mean_interval(values), questions=0, seeds=len(values))
