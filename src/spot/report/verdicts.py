"""The paper's claims as checks on intervals: each holds, does not hold, or cannot be told.

"Gains" needs the whole 95% interval above 0, "loses" below 0, "keeps" above −1 point, "gains little"
below +1 point. A claim fails when the interval contradicts it, and cannot be told when it is too wide
for either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spot.evaluation.statistics import Estimate, crossed, mean_interval, paired
from spot.report.load import FinishedRun, Study

HOLDS, FAILS, UNCLEAR = "holds", "does not hold", "cannot tell"
MARGIN = 1.0  # percent points that still count as kept, and as little

Test = Callable[[Estimate], str]


@dataclass(frozen=True)
class Claim:
    """`arm` against `other` (the base if None) on a domain, or on the last value of a metric.

    An arm is named as in `Study.arms`; the domain `average` stands for all benchmarks.
    """

    text: str
    where: str  # in the paper
    arm: str
    test: Test
    domain: str | None = None
    other: str | None = None
    metric: str | None = None

    @property
    def unit(self) -> str:
        return "points" if self.domain else ""


@dataclass(frozen=True)
class Verdict:
    claim: Claim
    outcome: str
    estimate: Estimate


def gains(e: Estimate) -> str:
    return HOLDS if e.low > 0 else FAILS if e.high <= 0 else UNCLEAR


def loses(e: Estimate) -> str:
    return HOLDS if e.high < 0 else FAILS if e.low >= 0 else UNCLEAR


def keeps(e: Estimate) -> str:
    """Not worse by more than a point."""
    return HOLDS if e.low >= -MARGIN else FAILS if e.high < -MARGIN else UNCLEAR


def gains_little(e: Estimate) -> str:
    """Not better by more than a point."""
    return HOLDS if e.high <= MARGIN else FAILS if e.low > MARGIN else UNCLEAR


def no_growth(e: Estimate) -> str:
    return HOLDS if e.high <= 0 else FAILS if e.low > 0 else UNCLEAR


IN, OOD, GENERAL, AVERAGE = "in_domain", "ood", "general", "average"
REJECTED, CHOSEN, KL = "held_out/rewards/rejected", "held_out/rewards/chosen", "held_out/kl"

CLAIMS: tuple[Claim, ...] = (
    Claim("Direct SFT forgets general ability", "Table 1, §5.2", "sft", loses, GENERAL),
    Claim("Direct SFT loses out of domain", "Table 1, §5.2", "sft", loses, OOD),
    Claim("RFT gains little in-domain", "Table 1, §5.2", "rft", gains_little, IN),
    Claim("SFT+ gains in-domain", "Table 1, §5.2", "sft_plus", gains, IN),
    Claim("SFT+ loses general ability", "§3.1, Fig. 2", "sft_plus", loses, GENERAL),
    Claim("Reward-SFT keeps general ability", "§3.1, Fig. 2", "rwsft", keeps, GENERAL),
    Claim("DPO keeps general ability", "§3.1, Fig. 2", "dpo", keeps, GENERAL),
    Claim("BCO keeps general ability", "Table 2, §5.3", "spot_bco", keeps, GENERAL),
    Claim("BCE keeps general ability", "Table 2, §5.3", "spot_bce", keeps, GENERAL),
    Claim("BCO gains in-domain", "Table 2, §5.3", "spot_bco", gains, IN),
    Claim("BCE gains in-domain", "Table 2, §5.3", "spot_bce", gains, IN),
    Claim("BCO gains out of domain", "Table 2, §5.3", "spot_bco", gains, OOD),
    Claim("BCO gains more than SFT+ in-domain", "Table 1, §5.2", "spot_bco", gains, IN, "sft_plus"),
    Claim("BCO gains more than DPO in-domain", "Table 2, §4.2", "spot_bco", gains, IN, "dpo"),
    Claim("BCO gains more than Reward-SFT in-domain", "Table 2, §4.1", "spot_bco", gains, IN, "rwsft"),
    Claim("BCO is no worse than BCE in-domain", "Table 2, §5.3", "spot_bco", keeps, IN, "spot_bce"),
    Claim("BCE is no worse than BCO on general ability", "Table 2, §5.3", "spot_bce", keeps, GENERAL, "spot_bco"),
    Claim("DPO gains little in-domain", "Table 2, §5.3", "dpo", gains_little, IN),
    Claim("Reward-SFT gains little in-domain", "Table 2, §5.3", "rwsft", gains_little, IN),
    Claim("DFT loses general ability", "Table 2, §5.3", "dft", loses, GENERAL),
    Claim("DFT loses out of domain", "Table 2, §5.3", "dft", loses, OOD),
    Claim("SFT+ pulls the rejected reward up", "§4.1, Fig. 4", "sft_plus", gains, metric=REJECTED),
    Claim("Reward-SFT pulls the rejected reward up", "§4.1, Fig. 4", "rwsft", gains, metric=REJECTED),
    Claim("DPO pushes the rejected reward down", "§4.2, Fig. 4", "dpo", loses, metric=REJECTED),
    Claim("DPO's chosen reward does not grow", "§4.2, Fig. 4", "dpo", no_growth, metric=CHOSEN),
    Claim("BCO's chosen reward ends above BCE's", "§4.4, Fig. 4", "spot_bco", gains, other="spot_bce", metric=CHOSEN),
    Claim("BCO moves further from the base than BCE (KL)", "§4.4", "spot_bco", gains, other="spot_bce", metric=KL),
)  # fmt: skip


def judge(study: Study) -> list[Verdict]:
    """A verdict on every claim whose arms and measurements are there."""
    verdicts = []
    for claim in CLAIMS:
        if estimate := _measure(claim, study):
            verdicts.append(Verdict(claim, claim.test(estimate), estimate))
    return verdicts


def difference(
    runs: Sequence[FinishedRun],
    benchmarks: Sequence[str],
    others: Sequence[FinishedRun] = (),
) -> Estimate:
    """Mean over benchmarks of runs − others (each run's base if there are none), in percent points."""
    tables = []
    for name in benchmarks:
        against = [run.means[name] for run in others] or [run.base_means[name] for run in runs]
        tables.append(paired([run.means[name] for run in runs], against))
    return crossed(tables)


def _measure(claim: Claim, study: Study) -> Estimate | None:
    """The claim's number with its interval; None if the study cannot give it."""
    runs = {run.seed: run for run in study.arms.get(claim.arm, [])}
    others = {run.seed: run for run in study.arms.get(claim.other or "", [])}
    seeds = sorted(runs.keys() & others.keys()) if claim.other else sorted(runs)
    if not seeds:
        return None
    left, right = [runs[s] for s in seeds], [others[s] for s in seeds if claim.other]
    if claim.metric:
        return _at_the_end(claim.metric, left, right)
    names = study.benchmarks if claim.domain == AVERAGE else study.domains.get(claim.domain or "")
    return difference(left, names, right) if names else None


def _at_the_end(
    metric: str, runs: Sequence[FinishedRun], others: Sequence[FinishedRun]
) -> Estimate | None:
    """The last value of a curve, over seeds: they are all there is to judge its spread by."""
    last = [run.last(metric) for run in runs]
    minus = [run.last(metric) for run in others] or [0.0] * len(runs)
    values = [a - b for a, b in zip(last, minus, strict=True) if a is not None and b is not None]
    if len(values) < max(2, len(runs)):
        return None
    e = mean_interval(values)
    return Estimate(e.value, e.low, e.high, 0, len(values))
