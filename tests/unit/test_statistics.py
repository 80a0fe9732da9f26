"""Intervals: values worked out by hand, an independent library, and coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from spot.data.rows import Score
from spot.evaluation.statistics import (
    Estimate,
    bootstrap,
    clopper_pearson,
    crossed,
    holm,
    macro,
    mean_interval,
    over_worlds,
    paired,
    question_means,
    ratio,
    summarise,
    trimmed,
    turned,
    turns,
)


def score(question: str, trial: int, correct: bool, verdict: str = "wrong") -> Score:
    verdict = "correct" if correct else verdict
    return Score(
        f"b/{question}#{trial}",
        "b",
        "ood",
        question,
        trial,
        correct,
        verdict,
        "1",
        "",
        "stop",
        10,
        0,
    )


def test_trials_of_a_question_count_once():
    scores = [score("a", 0, True), score("a", 1, False), score("b", 0, True), score("b", 1, True)]
    assert question_means(scores) == {"a": 50.0, "b": 100.0}
    # n = 2, mean 75, s = 35.355, SE = 25, t(1) = 12.706: the interval is cut to what a percentage can be
    summary = summarise(scores)
    assert (summary.accuracy.value, summary.accuracy.low, summary.accuracy.high) == (75, 0, 100)
    assert summary.trials == summary.fewest_trials == 2


def test_shares_of_unusable_answers_and_missing_trials():
    scores = [
        score("a", 0, False, "unparseable"),
        score("a", 1, False, "truncated"),
        score("b", 0, True),
        score("c", 0, False),
    ]
    summary = summarise(scores)
    assert (summary.unparseable, summary.truncated, summary.mean_tokens) == (25, 25, 10)
    assert (summary.trials, summary.fewest_trials) == (2, 1)


def test_the_interval_is_scipys():
    values = [0, 50, 100, 100, 0, 25]
    low, high = stats.t.interval(0.95, 5, np.mean(values), stats.sem(values))
    estimate = mean_interval(values)
    assert estimate.low == pytest.approx(low)
    assert estimate.high == pytest.approx(high)


def test_constant_scores_are_not_certain():
    # Clopper–Pearson of 0 in 30 is [0, 11.57%], of 30 in 30 it is [88.43%, 100%].
    bound = 100 * stats.beta.ppf(0.975, 1, 30)
    assert bound == pytest.approx(11.57, abs=0.01)
    assert mean_interval([0.0] * 30, (0, 100)).high == pytest.approx(bound)
    assert mean_interval([100.0] * 30, (0, 100)).low == pytest.approx(100 - bound)
    estimate = crossed([np.zeros((5, 30))])
    assert (estimate.low, estimate.high) == pytest.approx((-bound, bound))


def trials(answers: str) -> dict[int, bool]:
    """`"101"` → right, wrong, right."""
    return {number: answer == "1" for number, answer in enumerate(answers)}


@pytest.mark.parametrize(
    ("before", "after", "percent"),
    [
        ("1111", "0000", 100),
        (
            "1100",
            "1100",
            100 * 4 / 12,
        ),  # two right, two wrong, never the same trial: all four pairs
        ("1100", "0011", 100 * 2 / 12),  # of 2 × 2 pairs two are of equal trials
        ("11", "01", 50),  # 0 → 1 and 1 → 0; the second turns
        ("10", "11", 0),
        ("1", "0", 100),  # nothing else to pair
        ("1", "01", 0),  # trial 0 beside trial 1 alone
    ],
)
def test_answers_turn_between_different_trials(before, after, percent):
    assert turned(trials(before), trials(after)) == pytest.approx(percent)


def test_what_turns_by_chance_is_taken_off():
    """By hand, four trials. a is lost; b wavers in both (2 · 2 of 12 pairs, as the base does); c is learnt."""
    base = {"a": trials("1111"), "b": trials("1100"), "c": trials("0000")}
    tuned = {"a": trials("0000"), "b": trials("1100"), "c": trials("1110"), "more": trials("1111")}
    found = turns([tuned], [base])
    assert found.by_question == pytest.approx({"a": 100, "b": 0, "c": 0})
    assert found.chance == pytest.approx(100 / 3 / 3)
    assert (found.lost.value, found.learnt.value) == pytest.approx((100 / 3, 75 / 3))
    assert found.lost.low == pytest.approx(100 / 3 - stats.t.ppf(0.975, 2) * 100 / 3)
    # What was learnt less what was lost is what the scores say: (0 + 50 + 75) / 3 − (100 + 50 + 0) / 3.
    assert found.learnt.value - found.lost.value == pytest.approx((125 - 150) / 3)
    same = turns([base], [base])
    assert (same.lost.value, same.learnt.value) == (0, 0)


def test_single_trials_are_not_corrected():
    base, tuned = ({q: trials(a) for q, a in zip("abcd", of, strict=True)} for of in ("1100", "0110"))  # fmt: skip
    found = turns([tuned], [base])
    assert (found.lost.value, found.learnt.value, found.chance) == (25, 25, None)
    assert turns([tuned], [{"other": trials("1")}]) is None


def test_forgetting_of_a_wavering_model_is_found_without_bias():
    """Two models of equal accuracy that know other questions: 20% are lost, whatever wavers beside."""
    rng = np.random.default_rng(3)
    p = np.repeat([1.0, 0.5, 0.0], [200, 600, 200])  # share right, by question
    q = np.repeat([0.0, 0.5, 1.0], [200, 600, 200])
    base, tuned = (
        {str(i): dict(enumerate(rng.random(4) < share)) for i, share in enumerate(of)}
        for of in (p, q)
    )
    found = turns([tuned], [base])
    assert found.lost.low < 20 < found.lost.high
    assert found.lost.high - found.lost.low < 8
    assert found.chance == pytest.approx(15, abs=1.5)  # 600 · ½ · ½ of 1,000


def test_pairs_are_formed_by_question_and_seed():
    runs = [{"a": 100.0, "b": 0.0, "c": 50.0}, {"a": 0.0, "b": 0.0, "extra": 1.0}]
    base = [{"a": 50.0, "b": 0.0}]
    assert paired(runs, base).tolist() == [[50.0, 0.0], [-50.0, 0.0]]
    with pytest.raises(ValueError, match="2 runs cannot be paired with 3"):
        paired(runs, base * 3)


def test_worlds_are_as_many_draws():
    """Estimates 1, 4, 7: mean 4, S = 3, so 3/√3 with 2 degrees of freedom, whatever each came from."""
    of = [Estimate(value, -9, 9, 100, seeds, 0.5, 50) for value, seeds in ((1, 3), (4, 3), (7, 2))]
    both, half = over_worlds(of), 4.302653 * 3**0.5
    assert (both.value, both.low, both.high) == pytest.approx((4, 4 - half, 4 + half))
    assert (both.questions, both.seeds, both.worlds) == (300, 2, 3)
    assert both.p == pytest.approx(2 * stats.t.sf(4 / 3**0.5, 2))
    assert over_worlds(of[:1]) == of[0]


def test_worlds_that_happen_to_agree_are_no_surer_than_their_questions():
    """Three times 4 ± 0.6 (standard error, 50 degrees of freedom): 0.6/√3, with 3 · 50 of them."""
    both = over_worlds([Estimate(4, 2, 6, 100, 3, 0.6, 50)] * 3)
    half = stats.t.ppf(0.975, 150) * 0.6 / 3**0.5
    assert (both.low, both.high) == pytest.approx((4 - half, 4 + half))
    assert both.p == pytest.approx(2 * stats.t.sf(4 / (0.6 / 3**0.5), 150))


def test_a_trimmed_mean_and_a_ratio_have_intervals_of_a_mean():
    """Of 0, 1, 2, 3, 100 a fifth goes at each end: mean 2 of 1, 2, 3, drawn in 1, 1, 2, 3, 3 (S² = 1).

    Yuen's standard error is S / (0.6 √5). And (2 + 6) / (1 + 3) is 2, to which both pairs keep.
    """
    values = trimmed([0, 1, 2, 3, 100])
    assert values.mean() == pytest.approx(2)
    assert values.std(ddof=1) == pytest.approx(1 / 0.6)
    assert ratio([2, 6], [1, 3]).tolist() == [2, 2]
    assert ratio([1, 7], [1, 3]).tolist() == [1.5, 2.5]  # 2 + (1 − 2)/2 and 2 + (7 − 6)/2


def test_one_seed_is_the_paired_t_interval():
    differences = np.array([[0.0, 50.0, 50.0, -50.0, 100.0]])
    low, high = stats.t.interval(0.95, 4, differences.mean(), stats.sem(differences[0]))
    estimate = crossed([differences])
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((30, low, high))
    assert estimate.seeds == 1


def test_two_ways_by_hand():
    # Question means 10, 20, 30 (S² = 100), seed means 18, 22 (S² = 8), nothing left over.
    table = np.array([[8.0, 18.0, 28.0], [12.0, 22.0, 32.0]])
    by_question, by_seed = 100 / 3, 8 / 2
    freedom = (by_question + by_seed) ** 2 / (by_question**2 / 2 + by_seed**2 / 1)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(by_question + by_seed)
    estimate = crossed([table])
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx(
        (20, 20 - half, 20 + half)
    )


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        ([[50.0], [0.0]], -100, 100),  # one question
        (
            [[50.0, -50.0, 0.0], [-50.0, 50.0, 0.0]],
            -124.2,
            124.2,
        ),  # no main effect: MS 5000, n 6, t(2)
    ],
)
def test_tables_without_a_spread_to_go_by(table, low, high):
    estimate = crossed([np.array(table)])
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.1)


def test_an_average_over_benchmarks_has_a_quarter_of_two_equal_variances():
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(1, 50)) for _ in range(2)]
    expected = np.sqrt(sum(t.var(ddof=1) / 50 for t in tables)) / 2 * stats.t.ppf(0.975, 49)
    estimate = crossed(tables)
    assert estimate.high - estimate.value == pytest.approx(expected)


@pytest.mark.parametrize(("seed_sd", "question_sd"), [(0, 30), (3, 10), (6, 30)])
def test_coverage_of_95_percent(seed_sd, question_sd):
    """5 seeds, 200 questions: the true mean 7 lies in the interval about as often as it promises."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(1000):
        table = (
            7
            + rng.normal(0, seed_sd, (5, 1))
            + rng.normal(0, question_sd, (1, 200))
            + rng.normal(0, 35, (5, 200))
        )
        estimate = crossed([table])
        hits += estimate.low <= 7 <= estimate.high
    assert 0.93 <= hits / 1000 <= 0.985


@pytest.mark.slow
def test_coverage_of_graded_answers():
    """Right or wrong, asked twice, difference to a base that was sampled once: 5 seeds, 200 questions."""
    rng = np.random.default_rng(2)

    def chance(logits):
        return 1 / (1 + np.exp(-logits))

    def shift(questions):  # of a question's logit: what training does to it
        return 0.5 + rng.normal(0, 0.7, (1, questions))

    def spread(seeds, questions):  # what a seed adds to all questions, and to each
        return rng.normal(0, 0.3, (seeds, 1)) + rng.normal(0, 0.5, (seeds, questions))

    many = 400_000
    easy = rng.normal(0, 1.5, (1, many))
    noise = rng.normal(0, np.hypot(0.3, 0.5), (1, many))
    truth = 100 * (chance(easy + shift(many) + noise) - chance(easy)).mean()
    hits = 0
    for _ in range(1000):
        easy = rng.normal(0, 1.5, (1, 200))
        base = rng.binomial(2, chance(easy)) / 2
        arm = rng.binomial(2, chance(easy + shift(200) + spread(5, 200))) / 2
        estimate = crossed([100 * (arm - base)])
        hits += estimate.low <= truth <= estimate.high
    assert 0.93 <= hits / 1000 <= 0.985


@pytest.mark.parametrize(("questions", "trials"), [(30, 16), (500, 5)])
def test_coverage_of_a_benchmark_asked_several_times(questions, trials):
    """avg@k of AIME's and MATH-500's size: the true accuracy lies in 93 to 97% of intervals."""
    rng = np.random.default_rng(3)

    def chances(count):  # some questions are nearly hopeless, some nearly safe
        return 1 / (1 + np.exp(-rng.normal(-0.3, 2.0, count)))

    truth = 100 * chances(2_000_000).mean()
    hits, independent = 0, 0
    for _ in range(2000):
        answers = rng.binomial(trials, chances(questions)) / trials * 100
        estimate = mean_interval(list(answers), (0.0, 100.0))
        hits += estimate.low <= truth <= estimate.high
        error = np.sqrt(answers.mean() * (100 - answers.mean()) / (questions * trials))
        independent += abs(answers.mean() - truth) <= 1.96 * error
    assert 0.93 <= hits / 2000 <= 0.97
    assert independent / 2000 < 0.85  # what treating trials as independent would promise as 95%


def test_the_edges_are_clopper_pearsons():
    # scipy's own: 2 of 40
    exact = stats.binomtest(2, 40).proportion_ci(0.95, "exact")
    assert clopper_pearson(2, 40) == pytest.approx((exact.low, exact.high))
    assert clopper_pearson(0, 40)[0] == 0
    assert clopper_pearson(40, 40)[1] == 1
    estimate = mean_interval([100.0] * 2 + [0.0] * 38, (0.0, 100.0))
    assert (estimate.low, estimate.high) == pytest.approx((100 * exact.low, 100 * exact.high))


def test_a_bootstrap_agrees_with_the_interval():
    values = list(np.random.default_rng(4).choice([0.0, 25.0, 50.0, 75.0, 100.0], 300))
    estimate = mean_interval(values, (0.0, 100.0))
    assert bootstrap(values) == pytest.approx((estimate.low, estimate.high), abs=0.5)
    assert bootstrap(values) == bootstrap(values)


def test_a_macro_average_by_hand():
    a, b = [0.0, 100.0, 50.0, 50.0], [10.0, 20.0]
    error = np.sqrt(stats.sem(a) ** 2 + stats.sem(b) ** 2) / 2
    estimate = macro([a, b])
    assert estimate.value == pytest.approx((50 + 15) / 2)
    assert estimate.low == pytest.approx(max(0, 32.5 - stats.t.ppf(0.975, 1) * error))


def test_p_is_that_of_the_paired_t_test():
    before, after = [0.0, 50.0, 50.0, 100.0, 0.0, 50.0], [50.0, 50.0, 100.0, 100.0, 50.0, 0.0]
    table = paired([dict(enumerate(after))], [dict(enumerate(before))])
    assert crossed([table]).p == pytest.approx(stats.ttest_rel(after, before).pvalue)
    assert crossed([np.zeros((1, 9))]).p == 1
    assert crossed([np.full((1, 9), 50.0)]).p < 0.05  # nine of nine differ: so does the interval
    assert crossed([np.full((1, 3), 50.0)]).p > 0.05


def test_many_comparisons_are_corrected():
    # worked out by hand: sorted .01 .03 .04 → × 3, × 2, × 1, never below the one before
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    rng = np.random.default_rng(5)
    false_alarms = sum(min(holm(list(rng.uniform(size=8)))) < 0.05 for _ in range(2000))
    assert 0.035 < false_alarms / 2000 < 0.065
