"""What a reader should know before believing the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spot.config.benchmarks import SIZES
from spot.evaluation.statistics import CONFIDENCE, holm
from spot.report.load import FinishedRun, Study, difference
from spot.report.metrics import CHOSEN, NOTABLE, REJECTED, TETHERS, logged
from spot.report.style import label, signed
from spot.utils.terminal import count

MANY = 5.0  # percent without a usable answer that is worth a word
FEW_SEEDS = 4  # below, an interval cannot know the spread over seeds well
TOO_FEW = "was asked fewer questions than wanted"
FEWER_TRIALS = "has questions with fewer trials than asked for"
UNPAIRED = "and the base do not share all questions; the unpaired are left out"
UNUSABLE = "often gives no usable answer"
SLACK = 0.05  # a tether coefficient, 0.5 at the start, below which little pull is left


def cautions(study: Study) -> list[str]:
    """One line each: unfinished jobs, what weakens the numbers, and how training went wrong."""
    found = [*_unfinished(study), *_weak_intervals(study), *_many_looks(study), *_unmatched(study)]
    if names := study.at_trivial:
        listed = ", ".join(f"{_spoken(n)} ({b:.1f}% of {t:.1f}%)" for n, (b, t) in names.items())
        found.append(
            "Left out of means and claims, as the base scores no more than the best answer given without "
            f"reading: {listed}."
        )
    found += _other_sizes(study)
    for arm, runs in study.arms.items():
        found += [*_answers(study, arm, runs), *_checkers(study, arm, runs), *_dropped(arm, runs)]
        found += [*_pull_up(arm, runs), *_collapse(arm, runs), *_saturation(arm, runs)]
    return found


def _unfinished(study: Study) -> Iterator[str]:
    if names := study.unfinished:
        which = f"Job {names[0]} is" if len(names) == 1 else f"Jobs {', '.join(names)} are"
        yield f"{which} not finished; the same command runs what is missing."


def _weak_intervals(study: Study) -> Iterator[str]:
    few = [label(arm) for arm, runs in study.arms.items() if len(runs) < FEW_SEEDS]
    if (worlds := len(study.worlds)) > 1:
        yield (
            f"{worlds} worlds leave {worlds - 1} degrees of freedom: intervals are wide, and after correction "
            "for many claims little is decided. More worlds say more than more seeds."
        )
    elif {len(runs) for runs in study.arms.values()} == {1}:
        yield "One training seed: the intervals cover the choice of questions only."
    elif few:
        which = f" ({'; '.join(few)})" if len(few) < len(study.arms) else ""
        yield (
            f"Fewer than {FEW_SEEDS} seeds{which}: where seeds differ much, an interval "
            "holds the truth less often than its 95%."
        )
    for arm, runs in study.arms.items():
        if len({(run.world, run.seed) for run in runs}) < len(runs):
            yield f"{label(arm)} ran more than once with the same seed; each run counts."
    if len({run.product("base_scores") for run in study.runs}) > len(study.worlds):
        yield "The runs do not share one base: its row is the first run's."


def _many_looks(study: Study) -> Iterator[str]:
    """Differences to the base whose interval excludes 0 until all that are shown are counted (Holm)."""
    shown = [
        (f"{label(arm)} on {_spoken(name)}", difference(runs, [name]))
        for arm, runs in study.arms.items()
        for name in study.benchmarks
    ]
    corrected = holm([estimate.p for _, estimate in shown])
    doubtful = [
        what
        for (what, estimate), p in zip(shown, corrected, strict=True)
        if estimate.excludes_zero and p >= 1 - CONFIDENCE
    ]
    if doubtful:
        yield (
            f"Of {len(shown)} differences to the base some exclude 0 by themselves but not when all "
            f"are counted (Holm): {', '.join(doubtful)}."
        )


# ---- data --------------------------------------------------------------------------------------


def _unmatched(study: Study) -> Iterator[str]:
    """Arms that train on different numbers of pairs though the same number was asked for."""
    by_asked: dict[int | None, dict[str, int]] = defaultdict(dict)
    for arm, runs in study.arms.items():
        asked, got = runs[0].record["config"]["data"].get("pairs"), _pairs(runs[0])
        if got is not None:
            by_asked[asked][arm] = got
    for asked, counts in by_asked.items():
        listed = "; ".join(f"{label(arm)} {got}" for arm, got in counts.items())
        if len(set(counts.values())) > 1:
            yield (
                f"The arms are not matched, they train on different numbers of pairs: {listed}. "
                "data.matched gives each as many as the smallest has."
            )
        elif asked is not None and min(counts.values()) < asked:
            yield f"Fewer pairs than data.pairs={asked}: {listed}. Raise data.questions."


def _pairs(run: FinishedRun) -> int | None:
    """How many pairs were selected to train on; None if the record does not say."""
    stages = [s for s in run.record["stages"] if s["product"] == "pairs"]
    count = stages[-1]["counts"].get(run.record["config"]["data"]["arm"]) if stages else None
    return None if count is None else int(count)


def _dropped(arm: str, runs: Sequence[FinishedRun]) -> Iterator[str]:
    """Pairs that were selected and did not fit a pack."""
    over_long = max(len(r.manifest("checkpoint")["details"].get("over_long", [])) for r in runs)
    if over_long:
        yield (
            f"{label(arm)} left out {count(over_long, 'pair')}, longer than a pack: raise "
            "hardware.tokens_per_pack to train on them."
        )


# ---- answers -----------------------------------------------------------------------------------


def _answers(study: Study, arm: str, runs: Sequence[FinishedRun]) -> Iterator[str]:
    found = defaultdict(list)
    for name in study.benchmarks:
        of, asked = [run.summary(name) for run in runs], _asked(runs[0], name)
        questions, trials = (
            min(s.accuracy.questions for s in of),
            min(s.fewest_trials for s in of),
        )
        lost = {q for r in runs for q in r.means[name].keys() ^ r.base_means[name].keys()}
        unusable = max(s.unparseable + s.truncated for s in of)
        if asked.get("questions") is not None and questions < asked["questions"]:
            found[TOO_FEW].append(f"{_spoken(name)} ({questions} of {asked['questions']})")
        if trials < asked["trials"]:
            found[FEWER_TRIALS].append(f"{_spoken(name)} ({trials} of {asked['trials']})")
        if lost:
            found[UNPAIRED].append(f"{_spoken(name)} ({len(lost)})")
        if unusable > MANY:
            found[UNUSABLE].append(f"{_spoken(name)} (up to {unusable:.0f}%)")
    for what in (TOO_FEW, FEWER_TRIALS, UNPAIRED, UNUSABLE):
        if found[what]:
            yield f"{label(arm)} {what}: {', '.join(found[what])}."


def _other_sizes(study: Study) -> Iterator[str]:
    """Benchmarks of the paper that were asked with another number of questions than there."""
    asked = {n: len(study.runs[0].base_means[n]) for n in study.benchmarks if n in SIZES}
    if found := [f"{_spoken(n)} ({k} of {SIZES[n]})" for n, k in asked.items() if k != SIZES[n]]:
        yield f"Not the paper's numbers of questions, so not its benchmarks: {', '.join(found)}."


def _asked(run: FinishedRun, benchmark: str) -> dict[str, Any]:
    return dict(run.record["config"]["benchmarks"]["tasks"][benchmark])


def _checkers(study: Study, arm: str, runs: Sequence[FinishedRun]) -> Iterator[str]:
    """What a checker said of its own verdicts, such as one that lacks its sentence splitter."""
    yield from dict.fromkeys(
        f"{label(arm)}, {_spoken(name)}: {score.details['warning']}"
        for name in study.benchmarks
        for run in runs
        for score in run.scores[name]
        if score.details.get("warning")
    )


def _spoken(benchmark: str) -> str:
    return benchmark.replace("_", " ")


# ---- training ----------------------------------------------------------------------------------


def _pull_up(arm: str, runs: Sequence[FinishedRun]) -> Iterator[str]:
    """log π_θ/π_ref of y⁻ rises with that of y⁺ (§4.1)."""
    _, rejected = _mean_curve(runs, REJECTED)
    if rejected and rejected[-1] > NOTABLE:
        yield (
            f"{label(arm)} pulls y⁻ up: log π_θ/π_ref ends at {signed(rejected[-1])} nats held out."
        )


def _collapse(arm: str, runs: Sequence[FinishedRun]) -> Iterator[str]:
    """log π_θ/π_ref of y⁺ falls below 0, or to half of its peak (§4.2): y⁺ is lost to punish y⁻."""
    steps, chosen = _mean_curve(runs, CHOSEN)
    _, rejected = _mean_curve(runs, REJECTED)
    if not chosen or not rejected:
        return
    top = int(np.argmax(chosen))
    ends = f"to {signed(chosen[-1])} nats held out, that of y⁻ to {signed(rejected[-1])}."
    if chosen[-1] < -NOTABLE:
        yield f"{label(arm)} collapses: log π_θ/π_ref of y⁺ falls {ends}"
    elif chosen[-1] < chosen[top] / 2 and chosen[top] - chosen[-1] > NOTABLE:
        yield (
            f"{label(arm)} loses what it had learnt: log π_θ/π_ref of y⁺ falls from "
            f"{signed(chosen[top])} at step {steps[top]} {ends}"
        )


def _saturation(arm: str, runs: Sequence[FinishedRun]) -> Iterator[str]:
    """All tether coefficients (eq. 7) are near 0 for the second half of the training, or longer."""
    measured = [curve for name in TETHERS if (curve := _mean_curve(runs, name))[0]]
    if not measured:
        return
    steps = measured[0][0]
    pulling = np.flatnonzero(np.max([values for _, values in measured], axis=0) >= SLACK)
    after = int(pulling[-1]) + 1 if len(pulling) else 0
    if after < len(steps) and steps[after] <= steps[-1] / 2:
        yield (
            f"{label(arm)} saturates: from step {steps[after]} of {steps[-1]} on the tether leaves "
            f"less than {SLACK:g} of each pull, so that the rest of the training moves little."
        )


def _mean_curve(runs: Sequence[FinishedRun], column: str) -> tuple[list[int], list[float]]:
    """Steps that all runs have logged, and the mean over runs there; empty if one has not."""
    curves = [dict(zip(*logged(run, column), strict=True)) for run in runs]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    return steps, [float(np.mean([curve[step] for curve in curves])) for step in steps]
