"""What the benchmarks can decide: the smallest difference, and each claim if the paper were right.

An answer is right with probability p, so that it varies by v = p(1 − p). Two answers of one arm to one
question correlate by ρ (`plan.repeat_correlation`), an answer each of two models by ρ'
(`plan.model_correlation`). With m answers of one side to each of n questions, and m' of the other,
their difference varies by

    (v(ρ + (1 − ρ)/m) + v'(ρ + (1 − ρ)/m') − 2ρ'√(vv')) / n

and a mean over B benchmarks by the sum of that over them, divided by B². What a seed moves
(`plan.seed_spread`) is added once for each side that is trained. An arm has `plan.seeds` × trials
answers to a question, the base one model's. Estimates are taken to be normal.

Of W worlds (`plan.worlds`), each with so many questions and seeds of its own, the mean varies by the sum of
this and what worlds differ by (`plan.world_spread`, squared), divided by W; it is taken to be t distributed
with W − 1 degrees of freedom, which makes two worlds decide little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm, t

from spot.config import Config, PlanConfig
from spot.evaluation.statistics import CONFIDENCE, correlation
from spot.pipeline.plan.work import questions_of
from spot.report import paper
from spot.report.archive import opened
from spot.report.claims import AVERAGE, SCORES, Claim, Region, claims
from spot.report.load import Study, load
from spot.report.paper import PaperRow

POWER = 0.8  # probability with which a difference is to be decided
UNKNOWN = 50.0  # percent right where nothing is known: answers vary most
ARMS = {  # loss and data of the paper's names; of others the name is the loss
    "sft": ("sft", "direct"), "rft": ("sft", "self"), "sft_plus": ("sft", "rectified"),
    "spot_bco": ("bco", "rectified"), "spot_bce": ("bce", "rectified"), "bco_direct": ("bco", "direct"),
}  # fmt: skip
TABLE3 = {"direct_2k": (2000, 0.6), "rectified_2k": (2000, 0.6), "rectified_4k_any": (4000, 1.0)}
Line = tuple[str, str, str]


@dataclass(frozen=True)
class Asked:
    """A benchmark: how much is asked, and how its answers correlate."""

    name: str
    domain: str
    questions: int
    trials: int
    base: float  # percent right
    repeat: float
    models: float

    def variance(self, one: float, other: float, answers: tuple[int, int]) -> float:
        """Of the difference of two sides' scores, in squared percent points.

        one and other: percent right; answers: of each side to a question.
        """
        v, w = (share * (100 - share) for share in (one, other))
        own = (of * (self.repeat + (1 - self.repeat) / m) for of, m in zip((v, w), answers, strict=True))  # fmt: skip
        return max(0.0, sum(own) - 2 * self.models * math.sqrt(v * w)) / self.questions


def error(
    asked: Sequence[Asked],
    sides: Sequence[tuple[float, float]],
    plan: PlanConfig,
    to_base: bool,
) -> float:
    """Standard error of the mean difference over benchmarks; sides: percent right of both in each."""
    models = 1 if to_base else plan.seeds
    variances = [
        task.variance(*of, (plan.seeds * task.trials, models * task.trials))
        for task, of in zip(asked, sides, strict=True)
    ]
    trained = (1 if to_base else 2) * plan.seed_spread**2 / plan.seeds
    in_one = sum(variances) / len(asked) ** 2 + trained
    apart = plan.world_spread**2 if plan.worlds > 1 else 0.0
    return math.sqrt((in_one + apart) / plan.worlds)


def spread(worlds: int) -> Any:
    """How an estimate is distributed around the truth, in standard errors."""
    return norm if worlds == 1 else t(worlds - 1)


def smallest(se: float, worlds: int = 1) -> float:
    """The difference whose 95% interval excludes 0 with a probability of 80%."""
    of = spread(worlds)
    return se * float(of.ppf(0.5 + CONFIDENCE / 2) + of.ppf(POWER))


def chances(
    value: float, se: float, region: Region, looks: int = 1, worlds: int = 1
) -> tuple[float, float]:
    """With what probability a claim is found to hold, and not to hold, where `value` is the truth.

    looks: of how many claims each must be decided (Bonferroni, which Holm's correction never does worse than).
    """
    of = spread(worlds)
    reach = se * float(of.ppf(1 - (1 - CONFIDENCE) / 2 / looks))
    low, high = ((end - value) / se for end in (region[0] + reach, region[1] - reach))
    outside = (region[0] - reach - value) / se, (region[1] + reach - value) / se
    holds = max(0.0, float(of.cdf(high) - of.cdf(low)))
    return holds, float(of.cdf(outside[0]) + of.sf(outside[1]))


# ---- what is shown -----------------------------------------------------------------------------


def sections(config: Config) -> dict[str, list[Line]]:
    """Titles and lines for the plan; none without benchmarks."""
    asked = benchmarks(config)
    if not asked:
        return {}
    plan, lines = config.plan, []
    for measure in (*dict.fromkeys(task.domain for task in asked), AVERAGE):
        tasks = _of(asked, measure)
        alike = [(task.base, task.base) for task in tasks]
        base, arms = (
            smallest(error(tasks, alike, plan, to_base), plan.worlds) for to_base in (True, False)
        )
        known = f"{sum(task.questions for task in tasks):,} questions, {plan.seeds} seeds"
        known += f", {plan.worlds} worlds" if plan.worlds > 1 else ", one world"
        lines.append((SCORES[measure], f"{base:.1f}", f"to the base; {arms:.1f} between arms; {known}"))  # fmt: skip
    how = f"measured in {plan.runs}" if plan.runs else "assumed"
    title = (
        f"smallest difference that {POWER:.0%} of such studies would decide, percent points ({how})"
    )
    return {title: lines} | _claims(config, asked)


def _claims(config: Config, asked: Sequence[Asked]) -> dict[str, list[Line]]:
    """With what probability each primary claim of the study is decided, of those the paper prints numbers for."""
    family = [claim for claim in claims() if config.study in claim.primary]
    lines = [line for claim in family if (line := _claim(claim, config, asked, len(family)))]
    if not lines:
        return {}
    if rest := len(family) - len(lines):
        lines.append(("others", str(rest), "of curves or choices that the paper prints no number for"))  # fmt: skip
    return {f"claims of {config.study} decided, if the paper's numbers were the truth": lines}


def _claim(claim: Claim, config: Config, asked: Sequence[Asked], looks: int) -> Line | None:
    tasks = _of(asked, claim.measure)
    rows = sides(claim, config.model.name)
    if not tasks or rows is None:
        return None
    values = [(printed(rows[0], task), printed(rows[1], task)) for task in tasks]
    se = error(tasks, values, config.plan, claim.other is None)
    value = float(np.mean([one - other for one, other in values]))
    alone, among = (chances(value, se, claim.region, n, config.plan.worlds) for n in (1, looks))
    contrary = f"; {alone[1]:.0%} that it does not hold" if alone[1] >= 0.005 else ""
    note = f"{value:+.1f}, error {se:.1f}; among all {looks} at least {sum(among):.0%}{contrary}"
    return claim.text, f"{sum(alone):.0%}", note.replace("-", "−")


def _of(asked: Sequence[Asked], measure: str) -> list[Asked]:
    return [task for task in asked if measure in (task.domain, AVERAGE)]


# ---- what is known -----------------------------------------------------------------------------


def benchmarks(config: Config) -> list[Asked]:
    """The run's benchmarks: base's score as the paper prints it, or as `plan.runs` has it.

    Raises UserError where `plan.runs` holds no finished run.
    """
    plan, found = config.plan, []
    base = next((row for row in _rows(config.model.name) if row.arm == "base"), None)
    seen = measured(Path(plan.runs).expanduser()) if plan.runs else {}
    for name, task in config.benchmarks.tasks.items():
        made = Asked(name, task.domain, questions_of(task), task.trials, UNKNOWN, plan.repeat_correlation, plan.model_correlation)  # fmt: skip
        known = {"base": printed(base, made) if base else UNKNOWN} | seen.get(name, {})
        found.append(Asked(**{**vars(made), **known}))
    return found


def measured(source: Path) -> dict[str, dict[str, float]]:
    """`base`, `repeat` and `models` of each benchmark, as far as finished runs show them: means over runs."""
    with opened(source) as folder:
        study = Study(*load(folder), folder)
        return {name: _measured(study, name) for name in study.benchmarks}


def _measured(study: Study, benchmark: str) -> dict[str, float]:
    bases = [run.trials_of("base_scores")[benchmark] for run in study.bases]
    arms = [run.trials_of("scores")[benchmark] for run in study.runs]
    own = [run.trials_of("base_scores")[benchmark] for run in study.runs]  # of the same questions
    pairs = {"repeat": [(of, of) for of in (*bases, *arms)], "models": zip(own, arms, strict=True)}
    means = [np.mean([*run.base_means[benchmark].values()]) for run in study.bases]
    found = {"base": float(np.mean(means))}
    for name, of in pairs.items():
        known = [value for pair in of if (value := correlation(*pair)) is not None]
        if known:
            found[name] = float(np.mean(known))
    return found


def _rows(model: str) -> list[PaperRow]:
    """The paper's rows of one model, Qwen3-8B's where it has none of this one."""
    rows = paper.rows()
    known = model if any(row.model == model for row in rows) else paper.MAIN
    return [row for row in rows if row.model == known]


def printed(row: PaperRow, task: Asked) -> float:
    """Percent right; a benchmark that the paper does not have counts as its domain's mean."""
    return row.values.get(task.name, row.values[paper.SUMMARIES[task.domain]])


def sides(claim: Claim, model: str) -> tuple[PaperRow, PaperRow] | None:
    """The two rows of the paper that a claim is about, as alike in all else as there are."""
    rows = _rows(model)
    left = [row for row in rows if _has(row, claim.runs)]
    right = [row for row in rows if _has(row, claim.other)]
    pairs = [(one, other) for one in left for other in right]
    return min(pairs, key=lambda pair: _apart(*pair), default=None)


def _has(row: PaperRow, wanted: Mapping[str, Any] | None) -> bool:
    """Whether a row is what a claim names; the base where it names nothing."""
    if wanted is None or row.arm == "base":
        return wanted is None and row.arm == "base"
    chosen = _choices(row)
    return all(chosen.get(key) == value for key, value in wanted.items())


def _choices(row: PaperRow) -> dict[str, Any]:
    loss, data = ARMS.get(row.arm, (row.arm, "rectified"))
    pairs, gamma = TABLE3.get(row.row, (4000, 0.6))
    return {"loss.name": loss, "data.arm": data, "data.pairs": pairs, "data.gamma": gamma}


def _apart(one: PaperRow, other: PaperRow) -> int:
    """In how many choices two rows differ, the base in none."""
    if other.arm == "base":
        return 0
    a, b = _choices(one), _choices(other)
    return sum(a[key] != b[key] for key in a)
