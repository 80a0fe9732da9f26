"""What the benchmarks can decide: by hand, by simulation, and beside the paper's tables."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from spot.config import PlanConfig
from spot.config.compose import compose
from spot.evaluation.statistics import correlation
from spot.pipeline.plan.power import Asked, benchmarks, chances, error, sections, sides, smallest
from spot.report.claims import claims
from spot.utils.errors import UserError

LAPTOP = Path(__file__).parents[2] / "experiments" / "laptop"
IFEVAL = Asked("ifeval", "general", 541, 5, 83.0, 0.6, 0.45)


def test_the_error_by_hand():
    """v = 83 · 17 = 1,411. An arm of 5 seeds has 25 answers: v(0.6 + 0.4/25) = 869.176; the base 5: 959.48.

    Less 2 · 0.45 · 1,411 = 1,269.9 and over 541 questions: 1.03282; and a point of spread over 5 seeds.
    """
    plan = PlanConfig()
    assert IFEVAL.variance(83, 83, (25, 5)) == pytest.approx(558.756 / 541)
    assert error([IFEVAL], [(83, 83)], plan, True) == pytest.approx((558.756 / 541 + 0.2) ** 0.5)
    twice = error([IFEVAL] * 2, [(83, 83)] * 2, plan, True)  # half of the variance over questions
    assert twice == pytest.approx((558.756 / 541 / 2 + 0.2) ** 0.5)
    arms = error([IFEVAL], [(83, 83)], plan, False)
    assert arms == pytest.approx((468.452 / 541 + 0.4) ** 0.5)


def test_the_smallest_difference_and_chances_by_hand():
    assert smallest(1.0) == pytest.approx(1.959964 + 0.841621)
    above = (0.0, np.inf)
    holds, fails = chances(smallest(1.0), 1.0, above)
    assert holds == pytest.approx(0.8)
    assert fails == pytest.approx(norm.cdf(-1.959964 * 2 - 0.841621))
    assert chances(0.0, 1.0, above) == pytest.approx((0.025, 0.025))
    assert chances(0.0, 0.25, (-1.0, 1.0))[0] == pytest.approx(2 * norm.cdf(4 - 1.959964) - 1)
    assert chances(0.0, 1.0, (-1.0, 1.0))[0] == 0  # no interval is that narrow
    assert chances(3.0, 1.0, above, looks=10)[0] == pytest.approx(norm.cdf(3 - 2.807034))
    # 3 worlds: t with 2 degrees of freedom, 4.302653 for 97.5% and 1.060660 for 80%
    assert smallest(1.0, worlds=3) == pytest.approx(4.302653 + 1.060660)
    assert chances(0.0, 1.0, above, worlds=3) == pytest.approx((0.025, 0.025))


def test_correlation_by_hand():
    """p = ½; of three questions one turns in half of its pairs: (¼ − ⅙) / ¼."""
    model = {"a": {0: True, 1: True}, "b": {0: False, 1: False}, "c": {0: True, 1: False}}
    assert correlation(model, model) == pytest.approx(1 / 3)
    once = {"a": {0: True}, "b": {0: False}}
    assert correlation(once, once) is None
    right = {"a": {0: True, 1: True}, "b": {0: True, 1: True}}
    assert correlation(right, right) is None


def test_simulated_answers_vary_as_the_formula_says():
    """Knowledge of a question is shared by models with s = 0.8, an answer follows it with r = 0.9: ρ = r², ρ' = r²s²."""
    rng = np.random.default_rng(0)
    n, trials, p, r, s = 300, 4, 0.4, 0.9, 0.8
    differences, found = [], []
    for _ in range(600):
        shared = rng.random(n) < p
        sides_ = []
        for _ in range(2):
            own = np.where(rng.random(n) < s, shared, rng.random(n) < p)
            redrawn = rng.random((n, trials)) < p
            sides_.append(np.where(rng.random((n, trials)) < r, own[:, None], redrawn))
        differences.append(100 * (sides_[0].mean() - sides_[1].mean()))
        if len(found) < 20:
            one, other = ({str(q): dict(enumerate(row)) for q, row in enumerate(of.tolist())} for of in sides_)  # fmt: skip
            found.append((correlation(one, one), correlation(one, other)))
    assert np.mean(found, axis=0) == pytest.approx([r**2, r**2 * s**2], abs=0.03)
    task = Asked("made", "ood", n, trials, 100 * p, r**2, r**2 * s**2)
    plan = PlanConfig(seeds=1, seed_spread=0)
    expected = error([task], [(40, 40)], plan, True)
    assert np.std(differences) == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize(
    ("claim", "rows"),
    [
        ("bco_gains", ("SPoT-BCO", "base")),
        ("bco_above_dpo", ("SPoT-BCO", "DPO")),
        ("rectified", ("rectified_2k", "direct_2k")),
        ("gamma", ("SPoT-BCO", "rectified_4k_any")),
        ("more_pairs", ("SPoT-BCO", "rectified_2k")),
        ("delta_gains", None),
    ],
)
def test_a_claim_is_about_the_rows_of_the_paper_that_differ_in_it_alone(claim, rows):
    (about,) = (one for one in claims() if one.id == claim)
    found = sides(about, "qwen3_8b")
    assert (found and tuple(row.row for row in found)) == rows


def test_a_plan_says_what_can_be_decided():
    config = compose(["study=table1", "benchmarks=paper", "model=qwen3_8b", "data=dapo"])
    differences, decided = sections(config).values()
    assert [what for what, *_ in differences] == ["in-domain", "out-of-domain", "general ability", "average"]  # fmt: skip
    general = next(line for line in differences if line[0] == "general ability")
    assert general[1] == "3.1"
    assert general[2] == "to the base; 3.2 between arms; 541 questions, 5 seeds, one world"
    raises = next(line for line in decided if line[0] == "BCO raises general ability")
    assert raises[2].startswith("+1.8, error 1.1; among all ")
    (alone,) = sections(dataclasses.replace(config, study=None)).values()  # no family
    assert alone == differences


def test_finished_runs_say_how_answers_correlate():
    """The laptop's base answers 25.1% of the sums, and arms and base more like themselves than each other."""
    archive = LAPTOP / "table1" / "runs.tar.gz"
    assumed, seen = (benchmarks(compose([f"plan.runs={runs}"])) for runs in ("null", archive))
    sums = seen[0]
    assert (sums.name, assumed[0].base, round(sums.base, 1)) == ("sums", 46.8, 25.1)
    assert 0 < sums.models < sums.repeat < 0.6
    with pytest.raises(UserError, match="holds no finished run"):
        benchmarks(compose([f"plan.runs={LAPTOP}"]))
    with pytest.raises(UserError, match=r"plan\.model_correlation"):
        compose(["plan.model_correlation=0.7"])
