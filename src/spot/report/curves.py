"""Curves over optimiser steps: a line for each arm, the mean over seeds, within their range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spot.report import metrics
from spot.report.load import FinishedRun, Study
from spot.report.metrics import NATS, logged
from spot.report.style import HALF, WIDE, colours, label

MOST_NAMES = 16  # beside one panel; more are unreadable


def general_ability(study: Study) -> Figure | None:
    names = dict.fromkeys(
        n for run in study.runs for n in run.metrics if n.startswith(metrics.PROBE)
    )
    title = "General ability while training: {}"
    panels = [(n, title.format(n.removeprefix(metrics.PROBE)), "% correct") for n in names]
    return _panels(study, panels)


def ability_over_steps(study: Study) -> Figure | None:
    """Scores of exported weights, a panel for each benchmark: accuracy and its interval."""
    names = [n for n in study.benchmarks if any(n in run.over_steps for run in study.runs)]
    if not names:
        return None
    across = min(len(names), 3)
    down = -(-len(names) // across)
    figure = Figure(figsize=(HALF if across == 1 else WIDE, 2.9 * down), layout="constrained")
    panels = np.ravel(figure.subplots(down, across, squeeze=False))
    for axes, name in zip(panels, names, strict=False):
        _scores_over_steps(axes, study, name)
        axes.set_title(f"Ability over steps: {name.replace('_', ' ')}")
        axes.set_ylabel("% correct")
        axes.set_xlabel("optimiser step")
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    return figure


def _scores_over_steps(axes: Axes, study: Study, benchmark: str) -> None:
    """A line and a band for each arm: accuracies and intervals at its steps, mean over seeds."""
    palette, ends = colours(list(study.arms)), []
    for arm, runs in study.arms.items():
        curves = [np.array(c) for run in runs if (c := run.over_steps.get(benchmark))]
        shared = sorted(set.intersection(*(set(c[:, 0]) for c in curves))) if curves else []
        if not shared:
            continue
        rows = np.mean([c[np.isin(c[:, 0], shared)] for c in curves], axis=0)
        steps, values, low, high = rows.T
        axes.fill_between(steps, low, high, color=palette[arm], alpha=0.14, linewidth=0)
        axes.plot(steps, values, marker="o", markersize=3, color=palette[arm], linewidth=1.5)
        ends.append((int(steps[-1]), float(values[-1]), arm))
    _name_ends(axes, ends, palette)


def loss(study: Study) -> Figure | None:
    return _panels(study, [(metrics.LOSS, "Training loss", "")])


def rewards(study: Study) -> Figure | None:
    return _panels(
        study,
        [
            (metrics.CHOSEN, "y⁺: r⁺/β", NATS),
            (metrics.REJECTED, "y⁻: r⁻/β", NATS),
        ],
    )


def distance(study: Study) -> Figure | None:
    return _panels(
        study,
        [
            (metrics.KL, "KL to the base", "nats per token"),
            (metrics.DELTA, "BCO's threshold, δ/β", NATS),
        ],
    )


def tether(study: Study) -> Figure | None:
    unit = "share of the pull that is left"
    return _panels(
        study,
        [
            (metrics.TETHERS[0], "Tether on y⁺, λ⁺", unit),
            (metrics.TETHERS[1], "Tether on y⁻, λ⁻", unit),
        ],
    )


def surgery(study: Study) -> Figure | None:
    titles = ("the shared prefix", "y⁺'s edited tokens", "y⁻'s edited tokens")
    unit = "|∂loss / ∂log π| of a token"
    return _parts(study, metrics.GRADIENT_PARTS, [f"Gradient on {part}" for part in titles], unit)


def rewards_by_part(study: Study) -> Figure | None:
    titles = ["Shared prefix, r/β", "y⁺'s edited tokens, r/β", "y⁻'s edited tokens, r/β"]
    return _parts(study, metrics.REWARD_PARTS, titles, NATS)


def kl_by_part(study: Study) -> Figure | None:
    titles = ["KL on the shared prefix", "KL on edited tokens", "KL after the edit"]
    return _parts(study, metrics.KL_PARTS, titles, "nats per token")


def _parts(study: Study, columns: Sequence[str], titles: Sequence[str], unit: str) -> Figure | None:
    """A panel for each part of a pair, all in one unit."""
    return _panels(study, [(c, t, unit) for c, t in zip(columns, titles, strict=True)])


def _panels(study: Study, panels: Sequence[tuple[str, str, str]]) -> Figure | None:
    """Curves side by side: (column, title, unit) each; panels where nothing moves are left out."""
    panels = [panel for panel in panels if any(_moves(run, panel[0]) for run in study.runs)]
    if not panels:
        return None
    width = HALF if len(panels) == 1 else WIDE
    figure = Figure(figsize=(width, 3.3 if len(panels) < 3 else 2.9), layout="constrained")
    for axes, (column, title, unit) in zip(
        np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True
    ):
        _curves(axes, study, column)
        axes.set_title(title)
        axes.set_ylabel(unit)
        axes.set_xlabel("optimiser step")
    return figure


def _moves(run: FinishedRun, column: str) -> bool:
    """Whether the run measured the column and found more than one value."""
    return len(set(run.metrics.get(column, ([], []))[1])) > 1


def _counts(run: FinishedRun, column: str) -> bool:
    """Whether the run has the column. δ of most losses is 0 throughout and none of theirs."""
    values = run.metrics.get(column, ([], []))[1]
    return any(values) if column == metrics.DELTA else bool(values)


def _curves(axes: Axes, study: Study, column: str) -> None:
    """A line for each arm, the mean over seeds, within the range over seeds."""
    palette, ends = colours(list(study.arms)), []
    for arm, runs in study.arms.items():
        curves = [logged(run, column) for run in runs if _counts(run, column)]
        steps = sorted(set.intersection(*(set(s) for s, _ in curves))) if curves else []
        if not steps:
            continue
        rows = [[v for s, v in zip(*curve, strict=True) if s in set(steps)] for curve in curves]
        values = np.array([_smooth(row) for row in rows])
        line = values.mean(axis=0)
        if len(values) > 1:
            low, high = values.min(axis=0), values.max(axis=0)
            axes.fill_between(steps, low, high, color=palette[arm], alpha=0.14, linewidth=0)
        marker = "o" if len(steps) < 12 else ""
        axes.plot(steps, line, marker=marker, markersize=3, color=palette[arm], linewidth=1.5)
        ends.append((steps[-1], float(line[-1]), arm))
    _name_ends(axes, ends, palette)


def _name_ends(
    axes: Axes, ends: Sequence[tuple[int, float, str]], palette: Mapping[str, str]
) -> None:
    """Each arm's name at the right edge, none over another; a leader from a curve that ends before.

    ends: (step, value, arm).
    """
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.margins(x=0.01)
    if len(ends) > MOST_NAMES:
        return
    low, high = axes.get_ylim()
    room = axes.get_window_extent().height * 72 / axes.figure.dpi  # points, before the layout
    gap = 11.5 * (high - low) / max(1.0, room * 0.9)
    heights = apart([end[1] for end in ends], gap)
    for rank, index in enumerate(np.argsort(heights, kind="stable")):  # not below the axis
        heights[index] = max(heights[index], low + (rank + 0.3) * gap)
    last = max((step for step, _, _ in ends), default=0)
    for (step, value, arm), height in zip(ends, heights, strict=True):
        axes.annotate(
            label(arm), (last, height), xytext=(5, 0), textcoords="offset points",
            va="center", fontsize=8.5, color=palette[arm], annotation_clip=False,
        )  # fmt: skip
        if step < last:
            axes.plot([step, last], [value, height], color=palette[arm], linewidth=0.6, alpha=0.6)
    axes.set_ylim(low, high)


def _smooth(values: Sequence[float], width: int = 5) -> list[float]:
    """Running mean over a few steps for long curves, so that arms can be told apart."""
    if len(values) < 40:
        return list(values)
    padded = np.pad(np.asarray(values), width // 2, mode="edge")
    return list(np.convolve(padded, np.ones(width) / width, mode="valid"))


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Heights moved as little as possible so that neighbours are at least `gap` apart."""
    order = np.argsort(heights, kind="stable")
    # With steps of `gap` taken out, "at least gap apart" is "not falling": pool what falls.
    pools: list[list[float]] = []
    for place, index in enumerate(order):
        pools.append([heights[index] - gap * place])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    level = [float(np.mean(pool)) for pool in pools for _ in pool]
    moved = [0.0] * len(heights)
    for place, index in enumerate(order):
        moved[index] = level[place] + gap * place
    return moved
