"""Histograms of the pairs: how much a correction changed, and how long both sides begin alike (Figure 5)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spot.data.rows import Pair
from spot.report.load import FinishedRun, Study
from spot.report.style import HALF, INK, colours

# A ratio of γ itself is kept, so it belongs to the bar left of γ.
BINS = [0.0, *(edge / 20 + 1e-9 for edge in range(1, 21))]


def corrected(study: Study) -> FinishedRun | None:
    """The first run on corrections, whose pairs stand for the study's."""
    return next((r for r in study.runs if r.record["config"]["data"]["arm"] == "rectified"), None)


def change_ratio(study: Study) -> Figure | None:
    """R_LCS over the corrections, those held out at any γ and those trained on."""
    run = corrected(study)
    if run is None:
        return None
    figure, axes = _shares(run, lambda pair: pair.change_ratio)
    axes.set_title("Change ratio of the corrections")
    axes.set_xlabel("R_LCS(y⁻, y⁺), in tokens")
    _mark_gamma(axes, run)
    return figure


def common_prefix(study: Study) -> Figure | None:
    """The share of y⁺ that y⁻ begins with, too: where the two gradients cancel (§4.5)."""
    run = corrected(study)
    if run is None:
        return None
    figure, axes = _shares(run, shared)
    axes.set_title("Common prefix of y⁻ and y⁺")
    axes.set_xlabel("share of y⁺'s tokens")
    return figure


def shared(pair: Pair) -> float | None:
    """How much of y⁺ stands before the first edit, 0 to 1."""
    return None if pair.common_prefix is None else pair.common_prefix / max(1, pair.chosen_tokens)


def _shares(run: FinishedRun, of: Callable[[Pair], float | None]) -> tuple[Figure, Axes]:
    """Bars for the pairs trained on, a line for those held out, in percent of each."""
    trained_on, held_out = (
        [value for p in run.pairs(name) if (value := of(p)) is not None]
        if name in run.products
        else []
        for name in ("pairs", "held_out")
    )
    figure = Figure(figsize=(HALF, 3.0), layout="constrained")
    axes = figure.subplots()
    blue, orange = colours(["dpo"])["dpo"], colours(["spot_bco"])["spot_bco"]
    axes.hist(trained_on, BINS, weights=_percent(trained_on), color=blue, alpha=0.6,
              label=f"trained on ({len(trained_on):,})")  # fmt: skip
    axes.hist(held_out, BINS, weights=_percent(held_out), histtype="step", color=orange,
              linewidth=1.4, label=f"held out, any γ ({len(held_out):,})")  # fmt: skip
    axes.set_ylim(top=axes.get_ylim()[1] * 1.12)
    axes.set_xlim(0, 1)
    axes.set_ylabel("% of pairs")
    axes.legend(frameon=False, fontsize=8.5, loc="best")
    return figure, axes


def _percent(values: list[float]) -> NDArray[np.float64]:
    """The weight of each value, so that bars are percent."""
    return np.full(len(values), 100 / max(1, len(values)))


def _mark_gamma(axes: Axes, run: FinishedRun) -> None:
    """γ, and how much of all corrections it keeps."""
    gamma, counts = run.record["config"]["data"]["gamma"], run.manifest("pairs")["counts"]
    above = counts.get("change_ratio_above_gamma", 0)
    within = counts.get("rectified", 0) + counts.get("beyond_pairs", 0)
    kept = f": {100 * within / (within + above):.0f}% kept" if within + above else ""
    axes.axvline(gamma, color=INK[0], linestyle=(0, (4, 3)), linewidth=1)
    axes.annotate(
        f"γ = {gamma:g}{kept}", (gamma, axes.get_ylim()[1]),
        xytext=(5, -4), textcoords="offset points", va="top", fontsize=8.5,
    )  # fmt: skip
