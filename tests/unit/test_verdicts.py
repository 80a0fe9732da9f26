"""Verdicts at the edges of their intervals, and from made-up runs whose truth is known."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from spot.evaluation.statistics import Estimate, crossed, mean_interval, paired
from spot.report import verdicts
from spot.report.verdicts import FAILS, HOLDS, UNCLEAR, Claim, judge


@pytest.mark.parametrize(
    ("test", "low", "high", "outcome"),
    [
        (verdicts.gains, 0.1, 2, HOLDS),
        (verdicts.gains, 0, 2, UNCLEAR),
        (verdicts.gains, -3, 0, FAILS),
        (verdicts.loses, -3, -0.1, HOLDS),
        (verdicts.loses, -3, 0, UNCLEAR),
        (verdicts.loses, 0, 2, FAILS),
        (verdicts.keeps, -1, 3, HOLDS),
        (verdicts.keeps, -1.1, 3, UNCLEAR),
        (verdicts.keeps, -1.1, -1, UNCLEAR),
        (verdicts.keeps, -4, -1.1, FAILS),
        (verdicts.gains_little, -2, 1, HOLDS),
        (verdicts.gains_little, -2, 1.1, UNCLEAR),
        (verdicts.gains_little, 1, 3, UNCLEAR),
        (verdicts.gains_little, 1.1, 3, FAILS),
        (verdicts.no_growth, -2, 0, HOLDS),
        (verdicts.no_growth, -2, 1, UNCLEAR),
        (verdicts.no_growth, 0.1, 1, FAILS),
    ],
)
def test_an_interval_decides(test, low, high, outcome):
    assert test(Estimate((low + high) / 2, low, high, 100, 5)) == outcome


@dataclass
class MadeUpRun:
    """Question means of one seed, and the ends of its curves."""

    seed: int
    means: dict
    base_means: dict
    ends: dict = field(default_factory=dict)

    def last(self, metric):
        return self.ends.get(metric)


BASE = {"b": {str(q): 50.0 for q in range(50)}}


def runs(gain: float, seeds=(0, 1, 2), **ends):
    """Every question gains `gain` points, give or take 2 by question and 1 by seed."""
    return [
        MadeUpRun(
            seed,
            {"b": {q: 50 + gain + 2 * (-1) ** int(q) + seed - 1 for q in BASE["b"]}},
            BASE,
            {f"held_out/rewards/{name}": value + 0.01 * seed for name, value in ends.items()},
        )
        for seed in seeds
    ]


def study(domain="in_domain", **arms):
    return SimpleNamespace(arms=arms, domains={domain: ["b"]}, benchmarks=["b"])


def outcomes(made_up):
    return {v.claim.text: v.outcome for v in judge(made_up)}


def test_only_claims_about_arms_that_ran_are_judged():
    assert outcomes(study(dpo=runs(0))) == {"DPO gains little in-domain": UNCLEAR}
    assert judge(study(unheard_of=runs(5))) == []


def test_a_claim_that_fails_is_told():
    found = outcomes(study("general", sft_plus=runs(20), dpo=runs(-20), spot_bco=runs(20)))
    assert found["SFT+ loses general ability"] == FAILS
    assert found["DPO keeps general ability"] == FAILS
    assert found["BCO keeps general ability"] == HOLDS


def test_two_arms_are_paired_by_question_and_seed():
    # Seed and question move both arms alike: every difference is 10 exactly.
    made_up = study(spot_bco=runs(15), dpo=runs(5))
    (verdict,) = (v for v in judge(made_up) if v.claim.other == "dpo")
    differences = paired([r.means["b"] for r in runs(15)], [r.means["b"] for r in runs(5)])
    assert (differences == 10).all()
    assert verdict.estimate == crossed([differences])
    assert verdict.outcome == HOLDS


def test_two_arms_are_compared_on_the_seeds_that_both_have():
    made_up = study(spot_bco=runs(15, seeds=(0, 1, 2)), dpo=runs(5, seeds=(1, 2, 3)))
    (verdict,) = (v for v in judge(made_up) if v.claim.other == "dpo")
    assert verdict.estimate.seeds == 2
    assert verdict.estimate.value == pytest.approx(10)
    apart = study(spot_bco=runs(15, seeds=(0,)), dpo=runs(5, seeds=(3,)))
    assert not [v for v in judge(apart) if v.claim.other]


def test_rewards_are_judged_over_seeds_at_the_last_step():
    found = {
        v.claim.text: v
        for v in judge(study(sft_plus=runs(9, rejected=2.0), dpo=runs(0, rejected=-3, chosen=-0.2)))
    }
    pull_up = found["SFT+ pulls the rejected reward up"]
    assert pull_up.outcome == HOLDS
    expected = mean_interval([2.0, 2.01, 2.02])
    assert (pull_up.estimate.low, pull_up.estimate.high) == (expected.low, expected.high)
    assert found["DPO pushes the rejected reward down"].outcome == HOLDS
    assert found["DPO's chosen reward does not grow"].outcome == HOLDS


def test_one_seed_gives_no_verdict_on_rewards():
    found = outcomes(study(sft_plus=runs(9, seeds=(0,), rejected=2.0)))
    assert "SFT+ pulls the rejected reward up" not in found
    assert found["SFT+ gains in-domain"] == HOLDS  # over questions only


def test_a_new_claim_is_a_row(monkeypatch):
    """Arms that differ in data are named by it; `average` is over all benchmarks."""
    few, many = "spot_bco data.pairs=2000", "spot_bco data.pairs=4000"
    claim = Claim("4k ≥ 2k", "Table 3", many, verdicts.keeps, verdicts.AVERAGE, few)
    monkeypatch.setattr(verdicts, "CLAIMS", (claim,))
    assert outcomes(study(**{few: runs(5), many: runs(15)})) == {"4k ≥ 2k": HOLDS}
    assert outcomes(study(**{few: runs(15), many: runs(5)})) == {"4k ≥ 2k": FAILS}
