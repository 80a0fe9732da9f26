"""What a report warns of, from made runs that each have one thing wrong."""

import pytest

from spot.report.metrics import CHOSEN, REJECTED
from spot.report.warnings import cautions
from tests.support.runs import MadeRun, made_study

SOUND = {CHOSEN: [0.0, 0.5, 1.0, 1.5, 2.0], REJECTED: [0.0, -0.5, -1.0, -1.5, -2.0]}


def told(tmp_path, *runs):
    return cautions(made_study(tmp_path, runs))


def four(**settings):
    """Four seeds, so that nothing is said of their number."""
    return [MadeRun(seed=seed, **settings) for seed in range(4)]


def test_sound_runs_are_not_warned_of(tmp_path):
    tethers = {"tether/chosen": [None, 0.5, 0.4, 0.3, 0.2], "tether/rejected": [None, 0.5, 0.2, 0.1, 0.01]}  # fmt: skip
    assert told(tmp_path, *four(curves=SOUND | tethers)) == []


def test_a_rising_rejected_reward_is_pull_up(tmp_path):
    curves = SOUND | {REJECTED: [0.0, 0.1, 0.2, 0.3, 0.4]}
    assert told(tmp_path, *four(loss="sft", curves=curves)) == [
        "SFT+ pulls y⁻ up: log π_θ/π_ref ends at +4.0 nats held out."
    ]


def test_a_falling_chosen_reward_is_collapse(tmp_path):
    curves = SOUND | {CHOSEN: [0.0, 0.1, -0.2, -0.4, -0.6]}
    assert told(tmp_path, *four(loss="dpo", curves=curves)) == [
        "DPO collapses: log π_θ/π_ref of y⁺ falls to −6.0 nats held out, that of y⁻ to −20.0."
    ]


@pytest.mark.parametrize(("end", "warned"), [(0.9, True), (1.1, False)])
def test_losing_half_of_the_chosen_reward_is_told_with_its_peak(tmp_path, end, warned):
    curves = SOUND | {CHOSEN: [0.0, 1.0, 2.0, 1.5, end]}
    found = told(tmp_path, *four(loss="dpo", curves=curves))
    line = "DPO loses what it had learnt: log π_θ/π_ref of y⁺ falls from +20.0 at step 2 to +9.0 nats held out, that of y⁻ to −20.0."  # fmt: skip
    assert found == ([line] if warned else [])


@pytest.mark.parametrize(
    ("chosen", "rejected", "since"),
    [
        ([0.5, 0.2, 0.04, 0.03, 0.02, 0.01], [0.5, 0.04, 0.04, 0.01, 0.0, 0.0], 3),
        ([0.5, 0.2, 0.1, 0.1, 0.04, 0.01], [0.5, 0.04, 0.04, 0.01, 0.0, 0.0], None),  # only at the end
        ([0.5, 0.7, 0.8, 0.8, 0.8, 0.8], [0.5, 0.0, 0.0, 0.0, 0.0, 0.0], None),  # y⁺ still pulls
        ([0.5, 0.01, 0.01, 0.2, 0.01, 0.01], [0.5, 0.0, 0.0, 0.0, 0.0, 0.0], None),  # it came back
        ([0.5, 0.01, 0.01, 0.01, 0.01, 0.01], None, 2),
    ],
)  # fmt: skip
def test_saturation_is_little_pull_long_before_the_end(tmp_path, chosen, rejected, since):
    curves = {"tether/chosen": [None, *chosen]}
    if rejected:
        curves |= {"tether/rejected": [None, *rejected]}
    found = told(tmp_path, *four(curves=curves))
    said = (
        f"SPoT-BCO saturates: from step {since} of 6 on the tether leaves less than 0.05 of each "
        "pull, so that the rest of the training moves little."
    )
    assert found == ([said] if since else [])


def test_arms_with_different_numbers_of_pairs_are_not_matched(tmp_path):
    runs = four(pairs=8) + four(loss="sft", data="self", pairs=5, config={"data.pairs": 8})
    assert told(tmp_path, *runs) == [
        "The arms are not matched, they train on different numbers of pairs: SPoT-BCO 8, RFT 5. "
        "data.matched gives each as many as the poorest has."
    ]


def test_fewer_pairs_than_asked_are_told(tmp_path):
    assert told(tmp_path, *four(pairs=5, config={"data.pairs": 8})) == [
        "8 pairs were asked for, there are fewer: SPoT-BCO 5. Raise data.questions."
    ]


def test_a_sweep_over_the_number_of_pairs_is_matched_within_each(tmp_path):
    assert told(tmp_path, *four(pairs=5), *four(pairs=8)) == []


def test_fewer_questions_and_trials_than_asked_are_told(tmp_path):
    tasks = {
        "benchmarks.tasks.sums.trials": 4,
        "benchmarks.tasks.sums.questions": 200,
    }
    assert told(tmp_path, *four(config=tasks)) == [
        "SPoT-BCO was asked fewer questions than wanted: sums (100 of 200).",
        "SPoT-BCO has questions with fewer trials than asked for: sums (1 of 4).",
    ]


def test_answers_that_cannot_be_used_are_told(tmp_path):
    (line,) = told(tmp_path, *four(verdict="unparseable"))
    assert line == "SPoT-BCO often gives no usable answer: sums (up to 60%), word problems (up to 60%), instructions (up to 10%)."  # fmt: skip


def test_what_a_checker_says_of_itself_is_told_once_a_benchmark(tmp_path):
    found = told(tmp_path, *four(details={"warning": "sentences were split by a simpler rule"}))
    assert found == [
        f"SPoT-BCO, {name}: sentences were split by a simpler rule"
        for name in ("sums", "word problems", "instructions")
    ]


def test_few_seeds_are_told(tmp_path):
    (line,) = told(tmp_path, *four(curves=SOUND)[:3])
    assert line.startswith("Fewer than 4 seeds (SPoT-BCO)")
