"""What a reader should know before believing the table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spot.evaluation.statistics import CONFIDENCE, holm, summarise
from spot.report.load import FinishedRun, Study
from spot.report.style import label, signed
from spot.report.verdicts import difference

MANY = 5.0  # percent without a usable answer that is worth a word
NOTABLE = 0.05  # a held-out reward this far from 0 is more than noise
FEW_SEEDS = 4  # below, an interval cannot know the spread over seeds well
CHOSEN, REJECTED = "held_out/rewards/chosen", "held_out/rewards/rejected"


def cautions(study: Study) -> list[str]:
    """One line each: unfinished jobs, what weakens the numbers, and how training went wrong."""
    found = _unfinished(study) + _weak_intervals(study) + _many_looks(study)
    for arm, runs in study.arms.items():
        found += _answers(study, arm, runs) + _dropped(arm, runs) + _training(arm, runs)
    return found


def _unfinished(study: Study) -> list[str]:
    names = study.unfinished
    if not names:
        return []
    which = f"Job {names[0]} is" if len(names) == 1 else f"Jobs {', '.join(names)} are"
    return [f"{which} not finished; the same command runs what is missing."]


def _weak_intervals(study: Study) -> list[str]:
    found = []
    seeds = {len(runs) for runs in study.arms.values()}
    if seeds == {1}:
        found.append("One training seed: the intervals cover the choice of questions only.")
    elif min(seeds) < FEW_SEEDS:
        arms = [label(arm) for arm, runs in study.arms.items() if len(runs) < FEW_SEEDS]
        found.append(
            f"Fewer than {FEW_SEEDS} seeds ({', '.join(arms)}): where seeds differ much, an interval "
            "holds the truth less often than its 95%."
        )
    for arm, runs in study.arms.items():
        if len({run.seed for run in runs}) < len(runs):
            found.append(f"{label(arm)} ran more than once with the same seed; each run counts.")
    if len({run.product("base_scores") for run in study.runs}) > 1:
        found.append("The runs do not share one base: its row is the first run's.")
    return found


def _many_looks(study: Study) -> list[str]:
    """Differences to the base whose interval excludes 0 until all that are shown are counted (Holm)."""
    shown = [
        (f"{label(arm)} on {name}", difference(runs, [name]))
        for arm, runs in study.arms.items()
        for name in study.benchmarks
    ]
    corrected = holm([estimate.p for _, estimate in shown])
    doubtful = [
        what
        for (what, estimate), p in zip(shown, corrected, strict=True)
        if estimate.excludes_zero and p >= 1 - CONFIDENCE
    ]
    if not doubtful:
        return []
    return [
        f"Of {len(shown)} differences to the base some exclude 0 by themselves but not when all are "
        f"counted (Holm): {', '.join(doubtful)}."
    ]


def _answers(study: Study, arm: str, runs: Sequence[FinishedRun]) -> list[str]:
    fewer, missing, unusable = [], [], []
    for name in study.benchmarks:
        of = [summarise(run.scores[name]) for run in runs]
        asked = runs[0].record["config"]["benchmarks"]["tasks"][name]
        if min(s.fewest_trials for s in of) < asked["trials"]:
            fewer.append(f"{name} ({min(s.fewest_trials for s in of)} of {asked['trials']})")
        lost = {q for r in runs for q in r.means[name].keys() ^ r.base_means[name].keys()}
        if lost:
            missing.append(f"{name} ({len(lost)})")
        share = max(s.unparseable + s.truncated for s in of)
        if share > MANY:
            unusable.append(f"{name} (up to {share:.0f}%)")
    lines = {
        "has questions with fewer trials than asked for": fewer,
        "and the base do not share all questions; the unpaired are left out": missing,
        "often gives no usable answer": unusable,
    }
    return [f"{label(arm)} {what}: {', '.join(names)}." for what, names in lines.items() if names]


def _dropped(arm: str, runs: Sequence[FinishedRun]) -> list[str]:
    """Pairs that were selected and did not fit a pack."""
    over_long = max(len(r.manifest("checkpoint")["details"].get("over_long", [])) for r in runs)
    if not over_long:
        return []
    return [
        f"{label(arm)} left out {over_long} pairs that are longer than a pack: raise "
        "hardware.tokens_per_pack to train on them."
    ]


def _training(arm: str, runs: Sequence[FinishedRun]) -> list[str]:
    """Pull-up (§4.1): r⁻ rises. Collapse (§4.2): both fall, y⁺ is given up to punish y⁻."""
    ends = [(run.last(CHOSEN), run.last(REJECTED)) for run in runs]
    known = [(c, r) for c, r in ends if c is not None and r is not None]
    if not known:
        return []
    chosen, rejected = np.mean(known, axis=0)
    if rejected > NOTABLE:
        return [f"{label(arm)} pulls y⁻ up: its held-out reward ends at {signed(rejected, 2)}."]
    if chosen < -NOTABLE:
        return [
            f"{label(arm)} collapses: the held-out reward of y⁺ falls to {signed(chosen, 2)}, "
            f"that of y⁻ to {signed(rejected, 2)}."
        ]
    return []
