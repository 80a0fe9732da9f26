"""The paper's claims as checks on 95% intervals: each holds, does not hold, or cannot be told.

A claim names the runs it is about by their resolved configuration, so it is judged in any sweep that
has them: once for every setting in which the study ran them (γ = 0.2, γ = 0.4, …), and two sides only
where they agree in everything else. What a rule asks for stands in `RULES`; a claim fails when the
interval contradicts the rule, and cannot be told when it is too wide for either.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from spot.evaluation.statistics import Estimate, mean_interval
from spot.report import metrics
from spot.report.arm_names import ASIDE, written
from spot.report.load import FinishedRun, Study, difference
from spot.report.metrics import NOTABLE, logged
from spot.report.style import DOMAINS, SHORT_KEYS, signed

HOLDS, FAILS, UNCLEAR = "holds", "does not hold", "cannot tell"
MARGIN = 1.0  # percent points that still count as kept, and as little


@dataclass(frozen=True)
class Rule:
    """What an interval must show; `rule(estimate)` is the outcome."""

    name: str
    text: str  # when it holds
    holds: Callable[[Estimate], bool]
    fails: Callable[[Estimate], bool]

    def __call__(self, e: Estimate) -> str:
        return FAILS if self.fails(e) else HOLDS if self.holds(e) else UNCLEAR


def at_or_above(bound: float, name: str, text: str) -> Rule:
    return Rule(name, text, lambda e: e.low >= bound, lambda e: e.high < bound)


def at_or_below(bound: float, name: str, text: str) -> Rule:
    return Rule(name, text, lambda e: e.high <= bound, lambda e: e.low > bound)


def below(bound: float, name: str, text: str) -> Rule:
    return Rule(name, text, lambda e: e.high < bound, lambda e: e.low >= bound)


gains = Rule("gains", "lower bound above 0", lambda e: e.low > 0, lambda e: e.high <= 0)
forgets = below(0, "forgets", "upper bound below 0")
keeps = at_or_above(-MARGIN, "keeps", "lower bound at −1 point or above")
at_least = Rule(
    "at least",
    "lower bound at −1 point or above, and 0 not above the interval",
    lambda e: e.low >= -MARGIN,
    lambda e: e.high < 0,
)
gains_little = at_or_below(MARGIN, "gains little", "upper bound at +1 point or below")
stagnates = at_or_below(NOTABLE, "stagnates", f"upper bound at +{NOTABLE:g} nat or below")
cancels = below(0.5, "cancels", "less than half is left: upper bound below 0.5")
RULES = (gains, forgets, keeps, at_least, gains_little, stagnates, cancels)


# ---- what is measured --------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """A number of one run from its logged curves; None where they do not say."""

    name: str
    unit: str  # nats | nats per token | share
    value: Callable[[FinishedRun], float | None]


def at_the_end(column: str, name: str, unit: str) -> Curve:
    def last(run: FinishedRun) -> float | None:
        _, values = logged(run, column)
        return values[-1] if values else None

    return Curve(f"{name}, at the end", unit, last)


def second_half(column: str, name: str, unit: str) -> Curve:
    """How much a curve rises from the middle of the training to its end."""

    def rise(run: FinishedRun) -> float | None:
        steps, values = logged(run, column)
        early = [v for s, v in zip(steps, values, strict=True) if s <= steps[-1] / 2]
        return values[-1] - early[-1] if early else None

    return Curve(f"{name}, change over the second half of the training", unit, rise)


def left_on_the_prefix(run: FinishedRun) -> float | None:
    """What is left of the pull on the prefix that y⁺ and y⁻ share (§4.5), over all steps, 0 to 1.

    Both terms pull at each shared token, one up by β|∂L/∂r⁺|, the other down by β|∂L/∂r⁻|. What is
    left of the two is `gradients/shared`, what they would add up to if they did not meet is
    `gradients_apart/shared`, both means over the same tokens. The ratio is 0 where the two cancel and
    1 where one acts alone. Runs that did not log both are not judged.
    """
    left, apart = (
        dict(zip(*logged(run, column), strict=True))
        for column in (metrics.ON_PREFIX, metrics.APART_ON_PREFIX)
    )
    steps = sorted(left.keys() & apart.keys())
    unmet = sum(apart[step] for step in steps)
    return sum(left[step] for step in steps) / unmet if unmet else None


PLUS, MINUS = "log π_θ/π_ref of held-out y⁺", "log π_θ/π_ref of held-out y⁻"
END_CHOSEN = at_the_end(metrics.CHOSEN, PLUS, "nats")
END_REJECTED = at_the_end(metrics.REJECTED, MINUS, "nats")
LATE_CHOSEN = second_half(metrics.CHOSEN, PLUS, "nats")
END_KL = at_the_end(metrics.KL, "KL to the base", "nats per token")
LEFT_ON_PREFIX = Curve("what is left of the pull on shared tokens", "share", left_on_the_prefix)


# ---- the claims --------------------------------------------------------------------------------

Choice = Mapping[str, Any]  # keys of the resolved configuration and what they must be


def trained(loss: str, data: str = "rectified", **more: Any) -> Choice:
    """The runs that train with a loss on a data arm; `gamma` and `pairs` narrow them down."""
    return {"loss.name": loss, "data.arm": data} | {f"data.{k}": v for k, v in more.items()}


SFT, RFT, SFT_PLUS = trained("sft", "direct"), trained("sft", "self"), trained("sft")
RWSFT, DPO, DFT = trained("rwsft"), trained("dpo"), trained("dft")
BCO, BCE, BCO_DIRECT = trained("bco"), trained("bce"), trained("bco", "direct")
CLOSE, ANY = trained("bco", gamma=0.6), trained("bco", gamma=1.0)
MORE, FEWER = trained("bco", pairs=4000), trained("bco", pairs=2000)
IN, OOD, GENERAL, AVERAGE = "in_domain", "ood", "general", "average"
SCORES = DOMAINS | {OOD: "out-of-domain", AVERAGE: "average"}


@dataclass(frozen=True)
class Claim:
    """The `runs` against the `other` ones (the base if None), on a domain or on a curve.

    The domain `average` stands for all benchmarks.
    """

    id: str
    text: str
    where: str  # in the paper
    runs: Choice
    rule: Rule
    measure: str | Curve
    other: Choice | None = None

    @property
    def unit(self) -> str:
        return "points" if isinstance(self.measure, str) else self.measure.unit

    @property
    def measured(self) -> str:
        """What the estimate is of, in words: `in-domain score, difference of the two`."""
        of = self.measure if isinstance(self.measure, str) else self.measure.name
        name = f"{SCORES.get(of, of)} score" if isinstance(self.measure, str) else of
        base = "difference to the base" if isinstance(self.measure, str) else ""
        against = "difference of the two" if self.other else base
        return f"{name}, {against}" if against else name


CLAIMS: tuple[Claim, ...] = (
    Claim("sft_forgets", "Direct SFT forgets general ability", "Table 1, §5.2", SFT, forgets, GENERAL),
    Claim("sft_forgets_ood", "Direct SFT forgets out of domain", "Table 1, §5.2", SFT, forgets, OOD),
    Claim("rft_gains_little", "RFT gains little in-domain", "Table 1, §5.2", RFT, gains_little, IN),
    Claim("sft_plus_gains", "SFT+ gains in-domain", "Table 1, §5.2", SFT_PLUS, gains, IN),
    Claim("sft_plus_forgets", "SFT+ loses general ability", "§3.1, Fig. 2", SFT_PLUS, forgets, GENERAL),
    Claim("rwsft_keeps", "Reward-SFT keeps general ability", "§3.1, Fig. 2", RWSFT, keeps, GENERAL),
    Claim("rwsft_gains_little", "Reward-SFT gains little in-domain", "Table 2, §5.3", RWSFT, gains_little, IN),
    Claim("dpo_keeps", "DPO keeps general ability", "§3.1, Fig. 2", DPO, keeps, GENERAL),
    Claim("dpo_gains_little", "DPO gains little in-domain", "Table 2, §5.3", DPO, gains_little, IN),
    Claim("dpo_gains_less", "DPO gains less in-domain than BCO", "Table 2, §4.2", DPO, forgets, IN, BCO),
    Claim("dft_forgets", "DFT forgets general ability", "Table 2, §5.3", DFT, forgets, GENERAL),
    Claim("dft_forgets_ood", "DFT forgets out of domain", "Table 2, §5.3", DFT, forgets, OOD),
    Claim("bco_gains", "BCO gains in-domain", "Table 2, §5.3", BCO, gains, IN),
    Claim("bco_gains_ood", "BCO gains out of domain", "Table 2, §5.3", BCO, gains, OOD),
    Claim("bco_keeps", "BCO keeps general ability", "Table 2, §5.3", BCO, keeps, GENERAL),
    Claim("bce_gains", "BCE gains in-domain", "Table 2, §5.3", BCE, gains, IN),
    Claim("bce_keeps", "BCE keeps general ability", "Table 2, §5.3", BCE, keeps, GENERAL),
    Claim("bco_above_sft_plus", "BCO gains more in-domain than SFT+", "Table 1, §5.2", BCO, gains, IN, SFT_PLUS),
    Claim("bco_above_rwsft", "BCO gains more in-domain than Reward-SFT", "Table 2, §4.1", BCO, gains, IN, RWSFT),
    Claim("bco_bce_in_domain", "BCO ≥ BCE in-domain", "Table 2, §5.3", BCO, at_least, IN, BCE),
    Claim("bce_bco_general", "BCE ≥ BCO on general ability", "Table 2, §4.4", BCE, at_least, GENERAL, BCO),
    Claim("gamma", "γ = 0.6 ≥ γ = 1, average", "Table 3, §5.4", CLOSE, at_least, AVERAGE, ANY),
    Claim("rectified", "Rectified ≥ direct data, average", "Table 3, §5.4", BCO, at_least, AVERAGE, BCO_DIRECT),
    Claim("more_pairs", "4k ≥ 2k pairs, average", "Table 3, §5.4", MORE, at_least, AVERAGE, FEWER),
    Claim("sft_pull_up", "SFT+ pulls r⁻ up", "§4.1, Fig. 4", SFT_PLUS, gains, END_REJECTED),
    Claim("rwsft_pull_up", "Reward-SFT pulls r⁻ up", "§4.1, Fig. 4", RWSFT, gains, END_REJECTED),
    Claim("dpo_rejected_falls", "DPO's r⁻ falls", "§4.2, Fig. 4", DPO, forgets, END_REJECTED),
    Claim("dpo_chosen_stagnates", "DPO's r⁺ stagnates late in training", "§4.2, Fig. 4", DPO, stagnates, LATE_CHOSEN),
    Claim("bco_chosen_above_bce", "BCO's r⁺ ends above BCE's", "§4.4, Fig. 4", BCO, gains, END_CHOSEN, BCE),
    Claim("bco_kl_above_bce", "BCO's KL to the base ends above BCE's", "§4.4", BCO, gains, END_KL, BCE),
    Claim("bco_prefix_cancels", "BCO's gradients on the shared prefix cancel", "§4.5", BCO, cancels, LEFT_ON_PREFIX),
    Claim("bce_prefix_cancels", "BCE's gradients on the shared prefix cancel", "§4.5", BCE, cancels, LEFT_ON_PREFIX),
)  # fmt: skip


DIGITS = {"points": 1, "nats": 1, "nats per token": 3, "share": 2}


@dataclass(frozen=True)
class Verdict:
    """A claim's outcome; its estimate as text is what the pages print."""

    claim: Claim  # its text names the setting where the study has several
    outcome: str
    estimate: Estimate
    setting: str = ""

    @property
    def value(self) -> str:
        """With its unit."""
        value, unit = self.estimate.value, self.claim.unit
        if unit == "share":
            return f"{value:.{DIGITS[unit]}f}"
        return f"{signed(value, DIGITS[unit])} {unit}"

    @property
    def interval(self) -> str:
        alone = self.bar is None and self.estimate.seeds == 1
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


TALLY = {HOLDS: ("holds", "hold"), FAILS: ("does not hold", "do not hold"), UNCLEAR: ("cannot be told",) * 2}  # fmt: skip


def tally(verdicts: Sequence[Verdict]) -> Counter[str]:
    return Counter(verdict.outcome for verdict in verdicts)


def tally_text(verdicts: Sequence[Verdict]) -> str:
    """`Of 9 claims of the paper 5 hold, 1 does not hold and 3 cannot be told.`"""
    counts, total = tally(verdicts), len(verdicts)
    parts = [f"{n} {words[n != 1]}" for o, words in TALLY.items() if (n := counts[o])]
    text = ", ".join(parts[:-1]) + " and " * (len(parts) > 1) + parts[-1]
    return f"Of {total} claim{'s' * (total != 1)} of the paper {text}."


def judge(study: Study) -> list[Verdict]:
    """A verdict on every claim whose runs and measurements are there, for each setting they ran in."""
    verdicts = []
    for claim in CLAIMS:
        found = [
            (key, estimate)
            for key, left, right in _settings(study.runs, claim)
            if (estimate := _measure(claim.measure, study, left, right))
        ]
        for key, estimate in found:
            setting = _setting_name(key, [other for other, _ in found])
            named = replace(claim, text=f"{claim.text} ({setting})") if setting else claim
            verdicts.append(Verdict(named, claim.rule(estimate), estimate, setting))
    return verdicts


COLUMNS = [
    "id", "claim", "paper", "setting", "outcome", "rule", "holds_when", "measure", "unit", "value",
    "low", "high", "questions", "seeds",
]  # fmt: skip


def verdict_rows(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """The verdicts as plain rows for CSV or JSON; an end that no interval has is None.

    `value`, `low` and `high` are percent points for a domain, else in the curve's own unit.
    """
    rows = []
    for verdict in verdicts:
        claim, e = verdict.claim, verdict.estimate
        numbers = [round(n, 6) if math.isfinite(n) else None for n in (e.value, e.low, e.high)]
        values = [
            claim.id, claim.text, claim.where, verdict.setting, verdict.outcome, claim.rule.name,
            claim.rule.text, claim.measured, claim.unit, *numbers, e.questions, e.seeds,
        ]  # fmt: skip
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


# ---- which runs --------------------------------------------------------------------------------

# How runs are computed, and how their number of pairs is matched (`cautions` looks at the numbers).
APART = (*ASIDE, "hardware.", "reference", "data.matched")
TUNED = ("loss.beta", "loss.learning_rate", "loss.delta.")
Setting = dict[str, Any]
Runs = list[FinishedRun]


def _settings(
    runs: Sequence[FinishedRun], claim: Claim
) -> Iterator[tuple[Setting, Runs, Runs | None]]:
    """`(setting, runs, others)` for each setting that the claim's runs share, by equal seeds."""
    left, right = _matching(runs, claim.runs), _matching(runs, claim.other or {})
    compared = {**claim.runs, **(claim.other or {})}
    ignored = set(compared) | (_tuned(left, right) if claim.other else set())
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
    """Settings in which two losses may differ, each tuned for its own: those neither side varies."""
    if len({run.config["loss.name"] for run in left + right}) < 2:
        return set()
    keys = {key for run in left + right for key in run.config if key.startswith(TUNED)}
    return {k for k in keys if all(_constant(side, k) for side in (left, right))}


def _constant(runs: Runs, key: str) -> bool:
    return all(run.config.get(key) == runs[0].config.get(key) for run in runs)


def _by_setting(runs: Runs, ignored: set[str]) -> dict[str, dict[int, FinishedRun]]:
    """Runs by seed, by the JSON of what else they were configured to be."""
    groups: dict[str, dict[int, FinishedRun]] = {}
    for run in runs:
        kept = {
            key: value
            for key, value in run.config.items()
            if key not in ignored and not key.startswith(APART)
        }
        groups.setdefault(json.dumps(kept, sort_keys=True), {})[run.seed] = run
    return groups


def _setting_name(setting: Setting, among: Sequence[Setting]) -> str:
    """What tells a setting from others of the same claim: `γ = 0.4, pairs = 2000`."""
    keys = [k for k in setting if any(other.get(k) != setting[k] for other in among)]
    return ", ".join(f"{SHORT_KEYS.get(k, k)} = {written(setting[k])}" for k in keys)


# ---- the numbers -------------------------------------------------------------------------------


def _measure(
    measure: str | Curve, study: Study, runs: Runs, others: Runs | None
) -> Estimate | None:
    """The claim's number with its interval; None if the study cannot give it."""
    if isinstance(measure, Curve):
        return _over_seeds(measure, runs, others)
    names = study.benchmarks if measure == AVERAGE else study.domains.get(measure)
    return difference(runs, names, others or ()) if names else None


def _over_seeds(curve: Curve, runs: Runs, others: Runs | None) -> Estimate | None:
    """A curve's number over seeds, which are all there is to judge its spread by: one says nothing."""
    left = [curve.value(run) for run in runs]
    minus = [curve.value(run) for run in others] if others else [0.0] * len(runs)
    values = [a - b for a, b in zip(left, minus, strict=True) if a is not None and b is not None]
    if len(values) < len(runs):
        return None
    e = mean_interval(values)
    return Estimate(e.value, e.low, e.high, 0, len(values))
