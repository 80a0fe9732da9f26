"""What a report warns of, from made runs that each have one thing wrong."""

import pytest

from spot.report.metrics import CHOSEN, REJECTED
from spot.report.warnings import cautions
from tests.support.runs import MadeRun, made_study

SOUND = {CHOSEN: [0.0, 0.5, 1.0, 1.5, 2.0], REJECTED: [0.0, -0.5, -1.0, -1.5, -2.0]}
TETHERS = {"tether/chosen": [None, 0.5, 0.4, 0.3, 0.2], "tether/rejected": [None, 0.5, 0.2, 0.1, 0.01]}  # fmt: skip
PEAK = [0.0, 1.0, 2.0, 1.5]
SPLITTER = "sentences were split by a simpler rule"


def warned(tmp_path, *runs):
    return cautions(made_study(tmp_path, runs))


def four(**settings):
    """Four seeds, so that nothing is said of their number."""
    return [MadeRun(seed=seed, **settings) for seed in range(4)]


@pytest.mark.parametrize(
    ("runs", "lines"),
    [
        (four(curves=SOUND | TETHERS), []),
        # y⁻ rises with y⁺
        (
            four(loss="sft", curves=SOUND | {REJECTED: [0.0, 0.1, 0.2, 0.3, 0.4]}),
            ["SFT+ pulls y⁻ up: log π_θ/π_ref ends at +4.0 nats held out."],
        ),
        # y⁺ falls, or to half of its peak
        (
            four(loss="dpo", curves=SOUND | {CHOSEN: [0.0, 0.1, -0.2, -0.4, -0.6]}),
            ["DPO collapses: log π_θ/π_ref of y⁺ falls to −6.0 nats held out, that of y⁻ to −20.0."],
        ),
        (
            four(loss="dpo", curves=SOUND | {CHOSEN: [*PEAK, 0.9]}),
            ["DPO loses what it had learnt: log π_θ/π_ref of y⁺ falls from +20.0 at step 2 to +9.0 nats held out, that of y⁻ to −20.0."],
        ),
        (four(loss="dpo", curves=SOUND | {CHOSEN: [*PEAK, 1.1]}), []),
        # pairs
        (
            four(pairs=8) + four(loss="sft", data="self", pairs=5, config={"data.pairs": 8}),
            ["The arms are not matched, they train on different numbers of pairs: SPoT-BCO 8; RFT 5. data.matched gives each as many as the smallest has."],
        ),
        (
            four(pairs=5, config={"data.pairs": 8}),
            ["Fewer pairs than data.pairs=8: SPoT-BCO 5. Raise data.questions."],
        ),
        (four(pairs=5) + four(pairs=8), []),  # a sweep over their number is matched within each
        # answers
        (
            four(config={"benchmarks.tasks.sums.trials": 4, "benchmarks.tasks.sums.questions": 200}),
            [
                "SPoT-BCO was asked fewer questions than wanted: sums (100 of 200).",
                "SPoT-BCO has questions with fewer trials than asked for: sums (1 of 4).",
            ],
        ),
        (
            four(verdict="unparseable"),
            ["SPoT-BCO often gives no usable answer: sums (up to 60%), word problems (up to 60%), instructions (up to 10%)."],
        ),
        (
            four(details={"warning": SPLITTER}),  # once a benchmark
            [f"SPoT-BCO, {name}: {SPLITTER}" for name in ("sums", "word problems", "instructions")],
        ),
        # seeds
        (
            four(curves=SOUND)[:3],
            ["Fewer than 4 seeds: where seeds differ much, an interval holds the truth less often than its 95%."],
        ),
        (
            four(curves=SOUND) + four(loss="sft", curves=SOUND)[:3],
            ["Fewer than 4 seeds (SFT+): where seeds differ much, an interval holds the truth less often than its 95%."],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_and_nothing_else(tmp_path, runs, lines):
    assert warned(tmp_path, *runs) == lines


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
    line = (
        f"SPoT-BCO saturates: from step {since} of 6 on the tether leaves less than 0.05 of each "
        "pull, so that the rest of the training moves little."
    )
    assert warned(tmp_path, *four(curves=curves)) == ([line] if since else [])
