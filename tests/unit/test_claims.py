"""Verdicts at the edges of their intervals, and from made runs whose truth is known."""

import json
from pathlib import Path

import pytest
from scipy import stats

from spot.evaluation.statistics import Estimate, crossed, holm, mean_interval, paired
from spot.report import claims
from spot.report.claims import FAILS, HOLDS, UNCLEAR, judge, verdict_rows
from tests.support.runs import BASE, MadeRun, made_study

SEEDS = (0, 1, 2)
PAPER = Path(__file__).parents[2] / "experiments" / "paper"


@pytest.mark.parametrize(
    ("direction", "low", "high", "outcome"),
    [
        ("superior", 0.1, 2, HOLDS),
        ("superior", 0, 2, UNCLEAR),
        ("superior", -3, 0, FAILS),
        ("inferior", -3, -0.1, HOLDS),
        ("inferior", -3, 0, UNCLEAR),
        ("inferior", 0, 2, FAILS),
        ("keeps", -0.9, 3, HOLDS),
        ("keeps", -1, 3, UNCLEAR),
        ("keeps", -4, -1, FAILS),
        ("forgets", -4, -1.1, HOLDS),
        ("forgets", -2.7, -0.3, UNCLEAR),  # what a baseline loses is what SPoT keeps: one margin
        ("keeps", -2.7, -0.3, UNCLEAR),
        ("forgets", -1, 3, FAILS),
        ("no clear change", -0.9, 0.9, HOLDS),
        ("no clear change", -0.9, 1, UNCLEAR),
        ("no clear change", 1, 3, FAILS),
        ("no clear change", -3, -1, FAILS),
    ],
)
def test_an_interval_decides(direction, low, high, outcome):
    region = claims.DIRECTIONS[direction](1.0, 0.0)
    assert claims.verdict(Estimate((low + high) / 2, low, high, 100, 5), region) == outcome


CONTRARY = {"superior": "inferior", "inferior": "superior", "keeps": "forgets", "forgets": "keeps"}


@pytest.mark.parametrize("direction", CONTRARY)
def test_a_direction_fails_exactly_where_its_contrary_holds(direction):
    """But for an interval that ends at the bound itself."""
    ends = [x / 4 + 0.01 for x in range(-12, 12)]
    for low, high in ((a, b) for a in ends for b in ends if a < b):
        e = Estimate((low + high) / 2, low, high, 100)
        one, other = (
            claims.verdict(e, claims.DIRECTIONS[d](1.0, 0.0))
            for d in (direction, CONTRARY[direction])
        )
        assert (one == FAILS) == (other == HOLDS)


@pytest.mark.parametrize("direction", claims.DIRECTIONS)
@pytest.mark.parametrize("value", [-3.1, -1.7, -0.4, 0.0, 0.6, 1.9, 4.2])
def test_p_is_below_5_percent_exactly_where_the_interval_decides(direction, value):
    """Both come from one t distribution; the p of a decision is that of two one-sided tests."""
    error, freedom = 0.55, 7
    half = stats.t.ppf(0.975, freedom) * error
    e = Estimate(value, value - half, value + half, 8, 1, error, freedom)
    region = claims.DIRECTIONS[direction](1.0, 0.0)
    p = claims.p_value(e, region)
    assert (p < 0.05) == (claims.verdict(e, region) != UNCLEAR)
    if direction == "superior":
        assert p == pytest.approx(2 * stats.t.sf(abs(value) / error, freedom))


def seeds(loss="bco", data="rectified", right=None, **more):
    """The same run with three seeds."""
    return [MadeRun(loss, data, seed, right or {}, **more) for seed in SEEDS]


def ends(value, column="held_out/rewards/rejected", spread=0.01):
    """Curves for each seed that end near `value`."""
    return [{column: [0.0, value / 2, value + spread * seed]} for seed in SEEDS]


def with_curves(loss, curves, data="rectified"):
    return [MadeRun(loss, data, seed, curves=of) for seed, of in zip(SEEDS, curves, strict=True)]


def outcomes(study):
    return {v.claim.id: v.outcome for v in judge(study)}


def verdict_on(claim, study):
    (verdict,) = (v for v in judge(study) if v.claim.id == claim)
    return verdict


def test_every_claim_of_the_paper_is_there_once():
    rows = claims.claims()
    assert len({claim.id for claim in rows}) == len(rows)
    said = [(c.runs, c.other, c.measure, c.direction) for c in rows]
    assert not [one for i, one in enumerate(said) if one in said[:i]]
    exploratory = {"losses", "spans"}  # every other study has claims of its own
    assert {study for c in rows for study in c.primary} == {
        path.stem for path in PAPER.glob("*.yaml")
    } - exploratory
    known = {*claims.SCORES, *claims.CURVES, *claims.frontier.SHARES}
    assert all(c.measure in known and c.direction in claims.DIRECTIONS and c.where for c in rows)
    surpasses = {c.id: c.direction for c in rows if c.id in ("gamma", "rectified", "more_pairs")}
    assert set(surpasses.values()) == {"superior"}  # the paper says more than "no worse"


def test_the_margin_of_scores_can_be_changed(tmp_path):
    study = made_study(tmp_path, seeds("bco", right={"instructions": 88}))  # of 90
    loose, strict = ({v.claim.id: v for v in judge(study, m)} for m in (6.0, None))
    assert (loose["bco_keeps"].outcome, loose["bco_keeps"].claim.holds_when) == (
        HOLDS, "interval above −6",
    )  # fmt: skip
    assert strict["bco_keeps"].outcome != HOLDS
    assert strict["bco_keeps"].claim.holds_when == "interval above −1"


def test_a_primary_claim_must_hold_among_all_of_its_family(tmp_path):
    """What decides by itself need not decide among everything that Table 1 asks."""

    def judged(study):
        runs = [MadeRun("bco", seed=s, right={"sums": 46}, study=study) for s in SEEDS]
        runs += [MadeRun("sft", "direct", seed=s, study=study) for s in SEEDS]
        return judge(made_study(tmp_path / study, runs))

    (alone,) = (v for v in judged("mine") if v.claim.id == "bco_gains")
    assert (alone.family, alone.adjusted, alone.outcome) == ("exploratory", None, HOLDS)
    table = judged("table1")
    family = [v for v in table if v.family == "primary"]
    assert table[: len(family)] == family
    assert [v.adjusted for v in family] == pytest.approx(holm([v.p for v in family]))
    (gain,) = (v for v in family if v.claim.id == "bco_gains")
    assert gain.p == pytest.approx(alone.p)
    assert gain.adjusted > gain.p
    assert gain.outcome == (HOLDS if gain.adjusted < 0.05 else UNCLEAR)


def test_claims_hold_and_fail_by_what_was_scored(tmp_path):
    """Against a base of 40, 40 and 90 percent right on in-domain, OOD and general."""
    study = made_study(
        tmp_path,
        seeds("sft", "direct", {"instructions": 60, "word_problems": 55})
        + seeds("sft", "rectified", {"sums": 60, "instructions": 99})
        + seeds("sft", "self", {"sums": 60})
        + seeds("rwsft", right={"instructions": 95})
        + seeds("dpo", right={"instructions": 60, "sums": 45})
        + seeds("bco", right={"sums": 70, "instructions": 91})
        + seeds("dft", right={"word_problems": 20}),
    )
    found = outcomes(study)
    expected = {
        "sft_forgets": HOLDS, "sft_forgets_ood": FAILS, "sft_plus_gains": HOLDS,
        "sft_plus_forgets": FAILS, "rft_no_gain": FAILS, "rwsft_keeps": HOLDS,
        "dpo_keeps": FAILS, "bco_above_dpo": HOLDS, "bco_above_sft_plus": HOLDS,
        "dft_forgets_ood": HOLDS,
        "dft_forgets": UNCLEAR,  # as many right as before: nothing to be sure of
    }  # fmt: skip
    assert {claim: found[claim] for claim in expected} == expected
    assert "bco_above_bce" not in found  # BCE did not run


def test_two_arms_are_paired_by_question(tmp_path):
    study = made_study(
        tmp_path, seeds("bco", right={"sums": 55}) + seeds("bce", right={"sums": 45})
    )
    verdict = verdict_on("bco_above_bce", study)
    bco, bce = study.arms["spot_bco"], study.arms["spot_bce"]
    table = paired([r.means["sums"] for r in bco], [r.means["sums"] for r in bce])
    assert verdict.estimate == crossed([table])
    assert verdict.estimate.value == pytest.approx(10)
    assert verdict.outcome == HOLDS


def test_two_arms_are_compared_on_the_seeds_that_both_have(tmp_path):
    runs = [MadeRun("bco", seed=s, right={"sums": 60 + s}) for s in (0, 1, 2)]
    runs += [MadeRun("bce", seed=s, right={"sums": 50 + s}) for s in (1, 2, 3)]
    verdict = verdict_on("bco_above_bce", made_study(tmp_path, runs))
    assert verdict.estimate.seeds == 2
    assert verdict.estimate.value == pytest.approx(10)
    apart = made_study(tmp_path / "apart", [MadeRun("bco", seed=0), MadeRun("bce", seed=3)])
    assert not [v for v in judge(apart) if v.claim.other]


def test_table_3_compares_rows_that_agree_in_everything_else(tmp_path):
    def row(right, pairs, gamma=0.6, data="rectified"):
        config = {"data.pairs": pairs, "data.gamma": gamma}
        return seeds("bco", data, dict.fromkeys(BASE, right), config=config)

    study = made_study(
        tmp_path, row(20, 2000, data="direct") + row(50, 2000) + row(90, 4000, 1.0) + row(60, 4000)
    )
    found = {v.claim.id: v for v in judge(study) if v.claim.where.startswith("Table 3")}
    assert found["rectified"].estimate.value == pytest.approx(30)  # both 2,000 with γ = 0.6
    assert found["more_pairs"].estimate.value == pytest.approx(10)  # both γ = 0.6
    assert found["gamma"].estimate.value == pytest.approx(-30)  # both 4,000
    assert [found[name].outcome for name in ("rectified", "more_pairs", "gamma")] == [
        HOLDS, HOLDS, FAILS,
    ]  # fmt: skip


def test_a_sweep_over_gamma_judges_each_and_compares_the_two_of_the_paper(tmp_path):
    runs = [
        run
        for gamma, sums in ((0.2, 41), (0.6, 70), (1.0, 60))
        for run in seeds(right={"sums": sums}, config={"data.gamma": gamma})
    ]
    found = judge(made_study(tmp_path, runs))
    gains = {v.setting: v.outcome for v in found if v.claim.id == "bco_gains"}
    assert gains == {"γ = 0.2": UNCLEAR, "γ = 0.6": HOLDS, "γ = 1": HOLDS}
    texts = [v.claim.text for v in found if v.claim.id == "bco_gains"]
    assert texts[0] == "BCO gains in-domain (γ = 0.2)"
    (verdict,) = (v for v in found if v.claim.id == "gamma")
    assert verdict.estimate.value == pytest.approx(10 / 3)  # the mean over three benchmarks
    assert verdict.setting == ""


def test_losses_keep_their_own_beta_but_a_swept_beta_must_agree(tmp_path):
    def run(loss, beta, sums):
        return MadeRun(loss, right={"sums": sums}, config={"loss.beta": beta})

    tuned = [run("bco", 1.0, 60), run("bce", 0.1, 50)]
    swept = [run("bco", 1.0, 60), run("bco", 0.1, 55), run("bce", 0.1, 50), run("bce", 0.5, 90)]
    for name, runs, gain in (("tuned", tuned, 10), ("swept", swept, 5)):
        verdict = verdict_on("bco_above_bce", made_study(tmp_path / name, runs))
        assert verdict.estimate.value == pytest.approx(gain)


def test_rewards_are_compared_in_nats_whatever_the_beta(tmp_path):
    """BCO's r⁺ of 2 at β = 1 is 2 nats, BCE's of 1 at β = 0.1 is 10."""

    runs = [
        MadeRun(
            loss, seed=seed, config={"loss.beta": beta}, right={"sums": 60},
            curves={"held_out/rewards/chosen": [0.0, end + 0.001 * seed]},
        )
        for loss, beta, end in (("bco", 1.0, 2.0), ("bce", 0.1, 1.0))
        for seed in SEEDS
    ]  # fmt: skip
    verdict = verdict_on("bco_chosen_above_bce", made_study(tmp_path, runs))
    assert verdict.estimate.value == pytest.approx(2 - 10, abs=0.02)
    assert verdict.outcome == FAILS


@pytest.mark.parametrize(
    "key", ["loss.epochs", "loss.batch_pairs", "loss.weights.chosen.edit", "data.pairs"]
)
def test_losses_that_trained_differently_are_not_compared(tmp_path, key):
    runs = [
        MadeRun(loss, right={"sums": 60}, config={key: n}) for loss, n in (("bco", 4), ("bce", 1))
    ]
    found = outcomes(made_study(tmp_path, runs))
    assert "bco_gains" in found
    assert "bco_above_bce" not in found


def test_curves_are_judged_over_seeds_at_the_last_step(tmp_path):
    study = made_study(tmp_path, with_curves("sft", ends(2.0)) + with_curves("dpo", ends(-3.0)))
    found = {v.claim.id: v for v in judge(study)}
    expected = mean_interval([20.0, 20.1, 20.2])  # nats: β is 0.1
    pull_up = found["sft_pull_up"]
    found_ends = (pull_up.estimate.low, pull_up.estimate.high)
    assert found_ends == pytest.approx((expected.low, expected.high))
    assert (pull_up.outcome, pull_up.claim.unit) == (HOLDS, "nats")
    assert found["dpo_rejected_falls"].outcome == HOLDS
    assert "dpo_chosen_stagnates" not in found  # its curve was not logged


@pytest.mark.parametrize(
    ("late", "outcome"), [([1.0, 1.05], HOLDS), ([1.0, 0.5], HOLDS), ([1.0, 1.5], FAILS)]
)
def test_a_reward_stagnates_if_its_second_half_adds_little(tmp_path, late, outcome):
    column = "held_out/rewards/chosen"
    curves = [{column: [0.0, 0.6, late[0], 1.0, late[1] + 0.001 * seed]} for seed in SEEDS]
    found = outcomes(made_study(tmp_path, with_curves("dpo", curves)))
    assert found["dpo_chosen_stagnates"] == outcome


@pytest.mark.parametrize(
    ("measured", "tau", "outcome"),
    [([90, 85, 80, 75, 70], -1, HOLDS), ([90, 70, 80, 75, 85], 0, FAILS)],
)
def test_general_ability_falls_all_the_way_by_kendalls_tau(tmp_path, measured, tau, outcome):
    """τ by hand: −1; 5 of 10 pairs rise. One seed ends with a rise: of its pairs one turns, τ by 0.2."""

    def curve(values):
        return {"probe/instructions": [None if i % 2 else values[i // 2] for i in range(9)]}

    late = [*measured[:3], measured[4], measured[3]]
    curves = [curve(values) for values in (measured, measured, late)]
    turned = 0.2 if measured[3] > measured[4] else -0.2
    study = made_study(tmp_path, with_curves("sft", curves) + with_curves("dpo", curves))
    found = {v.claim.id: v for v in judge(study)}
    assert found["sft_plus_decays"].estimate.value == pytest.approx(tau + turned / 3)
    assert found["sft_plus_decays"].outcome == outcome
    assert found["dpo_no_decay"].outcome == (FAILS if outcome == HOLDS else HOLDS)
    still = [{"probe/instructions": [90.0, 90.0, 90.0]}] * 3
    still = verdict_on("sft_plus_decays", made_study(tmp_path / "still", with_curves("sft", still)))
    assert (still.estimate.value, still.estimate.low, still.estimate.high) == (0, -1, 1)
    two = with_curves("sft", [{"probe/instructions": [90, None, 70]}] * 3)
    assert "sft_plus_decays" not in outcomes(made_study(tmp_path / "short", two))


STUDIES = {  # a study's two sides by what their configurations hold, and a claim that tells them apart
    "delta_gains": ({"loss.delta.mode": "ema"}, {"loss.delta.mode": "zero"}),
    "beta_keeps": ({"loss.beta": 1.0}, {"loss.beta": 0.1}),
    "gamma_in_domain": ({"data.gamma": 0.6}, {"data.gamma": 1.0}),
    "more_pairs_in_domain": ({"data.pairs": 4000}, {"data.pairs": 2000}),
    "truth_gains": ({"oracle.ground_truth": True}, {"oracle.ground_truth": False}),
    "fresh_errors": ({"rounds": 2, "data.pairs": 2000}, {"rounds": 1, "data.pairs": 4000}),
}


@pytest.mark.parametrize("claim", STUDIES)
def test_the_studies_of_one_choice_are_judged(tmp_path, claim):
    """The better side has 70 of 100 right where the other has 60, in whatever the claim is about."""
    better, worse = (dict.fromkeys(BASE, s) for s in (70, 60))
    sides = zip(STUDIES[claim], (better, worse), strict=True)
    runs = [run for config, right in sides for run in seeds("bco", right=right, config=config)]
    verdict = verdict_on(claim, made_study(tmp_path, runs))
    assert verdict.estimate.value == pytest.approx(10)
    assert verdict.outcome == HOLDS


def test_a_policy_as_its_own_oracle_is_judged_against_the_base(tmp_path):
    mine = seeds("bco", right={"sums": 70}, config={"oracle.kind": "self"})
    usual = seeds("bco", right={"sums": 80}, config={"oracle.kind": "rule"})
    verdict = verdict_on("self_oracle_gains", made_study(tmp_path, mine + usual))
    assert (verdict.estimate.value, verdict.outcome) == (pytest.approx(30), HOLDS)


def test_the_prefix_cancels_as_far_as_its_gradient_is_below_the_two_pulls(tmp_path):
    """Over both steps 0.00 + 0.01 is left of 0.10 + 0.07, or 0.00 + 0.30 of 0.10 + 0.30."""

    def curves(left, apart):
        scales = [1 + 0.001 * seed for seed in SEEDS]
        return [
            {"gradients/shared": [None, 0.0, left * scale],
             "gradients_apart/shared": [None, 0.1, apart]}
            for scale in scales
        ]  # fmt: skip

    study = made_study(
        tmp_path,
        with_curves("bco", curves(0.01, 0.07)) + with_curves("bce", curves(0.3, 0.3)),
    )
    found = {v.claim.id: v for v in judge(study)}
    bco, bce = found["bco_prefix_cancels"], found["bce_prefix_cancels"]
    assert bco.estimate.value == pytest.approx(0.01 / 0.17, rel=0.01)
    assert bco.outcome == HOLDS
    assert bce.estimate.value == pytest.approx(0.3 / 0.4, rel=0.01)
    assert bce.outcome == FAILS
    unlogged = [{"gradients/shared": [None, 0.0, 0.1], "tether/chosen": [None, 0.5, 0.4]}] * 3
    found = outcomes(made_study(tmp_path / "unlogged", with_curves("bco", unlogged)))
    assert "bco_gains" in found
    assert "bco_prefix_cancels" not in found


def test_one_seed_cannot_tell_of_curves_but_of_scores(tmp_path):
    run = MadeRun("sft", right={"sums": 70}, curves={"held_out/rewards/rejected": [0.0, 1.0, 2.0]})
    study = made_study(tmp_path, [run])
    found = outcomes(study)
    assert found["sft_pull_up"] == UNCLEAR
    assert found["sft_plus_gains"] == HOLDS  # over questions only
    (row,) = (row for row in verdict_rows(judge(study)) if row["id"] == "sft_pull_up")
    assert (row["value"], row["low"], row["high"], row["seeds"]) == (20.0, None, None, 1)


def test_rows_say_all_that_a_verdict_rests_on(tmp_path):
    study = made_study(tmp_path, seeds("bco", right={"sums": 70}))
    rows = verdict_rows(judge(study))
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    (row,) = (row for row in rows if row["id"] == "bco_gains")
    assert row == {
        "id": "bco_gains", "claim": "BCO gains in-domain", "paper": "Table 1, Table 2", "setting": "",
        "family": "exploratory", "outcome": HOLDS, "direction": "superior",
        "holds_when": "interval above 0", "measure": "in-domain score, difference to the base",
        "unit": "points", "value": pytest.approx(30), "low": row["low"], "high": row["high"],
        "p": row["p"], "p_adjusted": None, "margin": 1.0, "questions": 100, "seeds": 3, "worlds": 1,
    }  # fmt: skip
    assert 0 < row["low"] < 30 < row["high"]
    assert 0 < row["p"] < 1e-6
