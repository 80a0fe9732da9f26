"""The paper's claims as checks on intervals: each holds, does not hold, or cannot be told.

"Gains" needs the whole interval above 0, "keeps" above −1 point, "forgets" below 0. A claim fails when
the interval contradicts it, and cannot be told when it is too wide for either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spot.evaluation.statistics import Estimate, crossed, mean_interval, paired
from spot.report.load import FinishedRun, Study

HOLDS, FAILS, UNCLEAR = "holds", "does not hold", "cannot tell"
KEEPS = -1.0  # percent points that still count as kept

Test = Callable[[Estimate], str]


@dataclass(frozen=True)
class Claim:
    """`arm` against `other` (the base if None) on a domain, or on the last value of a metric."""

    text: str
    where: str  # section of the paper
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
    return HOLDS if e.low >= KEEPS else FAILS if e.high < KEEPS else UNCLEAR


def no_gain(e: Estimate) -> str:
    """Not larger than 0: holds when the interval reaches 0 from below, fails when it lies above."""
    return HOLDS if e.high <= 0 else FAILS if e.low > 0 else UNCLEAR


IN, OOD, GENERAL = "in_domain", "ood", "general"
REJECTED, CHOSEN, KL = "held_out/rewards/rejected", "held_out/rewards/chosen", "held_out/kl"

CLAIMS: tuple[Claim, ...] = (
    Claim("Direct SFT forgets", "Table 1", "sft", loses, GENERAL),
    Claim("RFT gains nothing in-domain", "Table 1", "rft", no_gain, IN),
    Claim("SFT+ gains in-domain", "Table 1", "sft_plus", gains, IN),
    Claim("SFT+ loses general ability", "§3.1, Fig. 2", "sft_plus", loses, GENERAL),
    Claim("Reward-SFT keeps general ability", "§3.1, Fig. 2", "rwsft", keeps, GENERAL),
    Claim("DPO keeps general ability", "§3.1, Fig. 2", "dpo", keeps, GENERAL),
    Claim("BCO keeps general ability", "Table 2", "spot_bco", keeps, GENERAL),
    Claim("BCE keeps general ability", "Table 2", "spot_bce", keeps, GENERAL),
    Claim("BCO gains in-domain", "Table 2", "spot_bco", gains, IN),
    Claim("BCE gains in-domain", "Table 2", "spot_bce", gains, IN),
    Claim("BCO gains out of domain", "Table 2", "spot_bco", gains, OOD),
    Claim("BCO gains more than SFT+ in-domain", "Table 1", "spot_bco", gains, IN, "sft_plus"),
    Claim("BCO gains more than DPO in-domain", "Table 2", "spot_bco", gains, IN, "dpo"),
    Claim("BCO gains more than Reward-SFT in-domain", "Table 2", "spot_bco", gains, IN, "rwsft"),
    Claim("BCO is no worse than BCE in-domain", "§4.4", "spot_bco", keeps, IN, "spot_bce"),
    Claim("BCE is no worse than BCO on general ability", "§4.4", "spot_bce", keeps, GENERAL, "spot_bco"),
    Claim("DPO gains nothing in-domain", "Table 2", "dpo", no_gain, IN),
    Claim("Reward-SFT gains nothing in-domain", "Table 2", "rwsft", no_gain, IN),
    Claim("DFT loses general ability", "Table 2", "dft", loses, GENERAL),
    Claim("DFT loses out of domain", "Table 2", "dft", loses, OOD),
    Claim("SFT+ pulls the rejected reward up", "§4.1, Fig. 4", "sft_plus", gains, metric=REJECTED),
    Claim("Reward-SFT pulls the rejected reward up", "§4.1, Fig. 4", "rwsft", gains, metric=REJECTED),
    Claim("DPO pushes the rejected reward down", "§4.2, Fig. 4", "dpo", loses, metric=REJECTED),
    Claim("DPO's chosen reward does not grow", "§4.2, Fig. 4", "dpo", no_gain, metric=CHOSEN),
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
    study: Study,
    runs: Sequence[FinishedRun],
    benchmarks: Sequence[str],
    others: Sequence[FinishedRun] = (),
) -> Estimate:
    """Mean over benchmarks of runs − others (the runs' base if there are none), in percent points."""
    tables = []
    for name in benchmarks:
        against = [run.means[name] for run in others] or [run.base_means[name] for run in runs]
        tables.append(paired([run.means[name] for run in runs], against))
    return crossed(tables)


def _measure(claim: Claim, study: Study) -> Estimate | None:
    runs, others = study.arms.get(claim.arm), study.arms.get(claim.other or "", [])
    if not runs or (claim.other and not others):
        return None
    seeds = {run.seed for run in runs}
    if others:  # the seeds that both have
        seeds &= {run.seed for run in others}
        runs = [run for run in runs if run.seed in seeds]
        others = [run for run in others if run.seed in seeds]
    if not runs:
        return None
    if claim.metric is None:
        names = study.domains.get(claim.domain or "")
        return difference(study, runs, names, others) if names else None
    last = [_last(run, claim.metric) for run in (*runs, *others)]
    values = [value for value in last if value is not None]
    if len(seeds) < 2 or len(values) < len(last):
        return None  # the spread over seeds is all there is to judge a curve by
    first = values[: len(runs)]
    if others:
        first = [a - b for a, b in zip(first, values[len(runs) :], strict=True)]
    e = mean_interval(first)
    return Estimate(e.value, e.low, e.high, 0, len(seeds))


def _last(run: FinishedRun, metric: str) -> float | None:
    _, values = run.metrics.get(metric, ([], []))
    return values[-1] if values else None
