"""The study's figures: gains over the base, curves over optimiser steps, histograms of the pairs."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from spot.data.rows import Pair
from spot.report import frontier_figure, metrics, paper
from spot.report.load import FinishedRun, Study, difference
from spot.report.metrics import NATS, logged
from spot.report.style import COLOURS, DOMAINS, FIGURE_STYLE, HALF, INK, SOFT, WIDE, colours, label

BACKGROUND = re.compile("fill: #ffffff")  # of the figure's own rectangle, the first that is drawn
MOST_NAMES = 16  # beside one panel; more are unreadable
# A ratio of γ itself is kept, so it belongs to the bar left of γ.
BINS = [0.0, *(edge / 20 + 1e-9 for edge in range(1, 21))]
Draw = Callable[[Study], Figure | None]
Panel = tuple[str, str, str]  # a column of metrics.csv or a benchmark, title, unit
Point = tuple[float, float, str]  # x, y, arm
Array = NDArray[np.float64]
Line = tuple[Sequence[float] | Array, Array, tuple[Array, Array] | None]  # steps, values, band


def draw_all(study: Study, folder: Path) -> dict[str, str]:
    """Write every figure as SVG and PNG (on white) below `folder`; returns name → transparent SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    with matplotlib.rc_context(FIGURE_STYLE):
        for name, draw in FIGURES.items():
            if figure := draw(study):
                svg = _svg(figure)
                (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
                drawn[name] = BACKGROUND.sub("fill: none", svg, count=1)
                figure.dpi = 150
                png = folder / f"{name}.png"
                FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    return drawn


def _svg(figure: Figure) -> str:
    """On white, without a date; fixes the layout, which the PNG then shares."""
    figure.set_facecolor("white")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None})
    return text.getvalue()


# ---- gains -------------------------------------------------------------------------------------


def gains(study: Study) -> Figure | None:
    """Each arm's difference to the base with its interval, a panel for each domain."""
    arms, palette, beside = list(study.arms), colours(list(study.arms)), paper.beside(study)
    if not study.domains:
        return None
    figure = Figure(figsize=(WIDE, 0.9 + 0.34 * len(arms)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(study.domains), sharey=True))
    for axes, (domain, names) in zip(panels, study.domains.items(), strict=True):
        axes.axvline(0, color=SOFT[0], linewidth=1)
        for place, arm in enumerate(arms):
            e = difference(study.arms[arm], names)
            axes.plot([e.low, e.high], [place] * 2, color=palette[arm], linewidth=2.2)
            axes.plot(e.value, place, "o", color=palette[arm], markersize=6)
            if (printed := beside.gain(arm, domain)) is not None:
                axes.plot(printed, place, "D", markersize=5, fillstyle="none", color=SOFT[0])
        axes.set_title(DOMAINS.get(domain, domain))
        axes.set_xlabel("points gained over the base")
        axes.set_yticks(range(len(arms)), [label(arm) for arm in arms])
        axes.tick_params(axis="y", length=0, labelsize=9, labelcolor=INK[0])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        axes.set_ylim(len(arms) - 0.4, -0.6)
    return figure


def gain_against_forgetting(study: Study) -> Figure | None:
    """One point per arm and seed: gain in-domain, change of general ability, in percent points."""
    inside, general = study.domains.get("in_domain"), study.domains.get("general")
    if not inside or not general or len(study.runs) < 2:
        return None
    palette = colours(list(study.arms))
    figure = Figure(figsize=(WIDE, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=SOFT[0], linewidth=1)
    axes.axvline(0, color=SOFT[0], linewidth=1)
    points: list[Point] = []
    for arm, runs in study.arms.items():
        x, y = ([difference([run], names).value for run in runs] for names in (inside, general))
        axes.scatter(x, y, s=16, color=palette[arm], alpha=0.45, linewidths=0)
        axes.scatter([np.mean(x)], [np.mean(y)], s=52, color=palette[arm], linewidths=0)
        points.append((float(np.mean(x)), float(np.mean(y)), arm))
    axes.margins(0.08, 0.16)
    for across, height, arm in _labels_apart(points, axes):
        _name(axes, arm, (across, height), (6, 7), palette[arm])
    axes.set_title("Gain against forgetting")
    axes.set_xlabel("in-domain, points gained")
    axes.set_ylabel("general ability, points gained")
    return figure


def _labels_apart(points: Sequence[Point], axes: Axes) -> list[Point]:
    """Where to write each point's name: names side by side may keep their heights."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    groups: list[list[Point]] = []
    for point in sorted(points):
        near = groups and point[0] - groups[-1][-1][0] < 0.1 * (right - left)
        groups[-1].append(point) if near else groups.append([point])
    placed = []
    for group in groups:
        heights = apart([y for _, y, _ in group], 0.055 * (high - low))
        placed += [(x, y, arm) for (x, _, arm), y in zip(group, heights, strict=True)]
    return placed


# ---- curves over steps -------------------------------------------------------------------------


def _parts(columns: Sequence[str], titles: Sequence[str], unit: str) -> list[Panel]:
    """A panel for each part of a pair, all in one unit."""
    return [(column, title, unit) for column, title in zip(columns, titles, strict=True)]


CURVES: dict[str, list[Panel]] = {
    "loss": [(metrics.LOSS, "Training loss", "")],
    "rewards": [(metrics.CHOSEN, "y⁺: r⁺/β", NATS), (metrics.REJECTED, "y⁻: r⁻/β", NATS)],
    "distance": [
        (metrics.KL, "KL to the base", "nats per token"),
        (metrics.DELTA, "BCO's threshold, δ/β", NATS),
    ],
    "tether": _parts(
        metrics.TETHERS, ("Tether on y⁺, λ⁺", "Tether on y⁻, λ⁻"), "share of the pull that is left"
    ),
    "surgery": _parts(
        metrics.GRADIENT_PARTS,
        [f"Gradient on {part}" for part in ("the shared prefix", "y⁺'s edited tokens", "y⁻'s edited tokens")],
        "|∂loss / ∂log π| of a token",
    ),
    "rewards_by_part": _parts(
        metrics.REWARD_PARTS,
        ("Shared prefix, r/β", "y⁺'s edited tokens, r/β", "y⁻'s edited tokens, r/β"),
        NATS,
    ),
    "kl_by_part": _parts(
        metrics.KL_PARTS,
        ("KL on the shared prefix", "KL on edited tokens", "KL after the edit"),
        "nats per token",
    ),
}  # fmt: skip


def logged_curves(study: Study, panels: Sequence[Panel]) -> Figure | None:
    """Columns of metrics.csv; those that move in no run are left out."""
    return _panels(
        study, [p for p in panels if any(_moves(r, p[0]) for r in study.runs)], _logged_line
    )


def general_ability(study: Study) -> Figure | None:
    names = dict.fromkeys(
        name for run in study.runs for name in run.metrics if name.startswith(metrics.PROBE)
    )
    title = "General ability while training: {}"
    panels = [(n, title.format(n.removeprefix(metrics.PROBE)), "% correct") for n in names]
    return logged_curves(study, panels)


def ability_over_steps(study: Study) -> Figure | None:
    """Scores of exported weights, a panel for each benchmark: accuracy and its interval."""
    names = [n for n in study.benchmarks if any(n in run.over_steps for run in study.runs)]
    panels = [(n, f"Ability over steps: {n.replace('_', ' ')}", "% correct") for n in names]
    return _panels(study, panels, _score_line)


def _panels(
    study: Study,
    panels: Sequence[Panel],
    line_of: Callable[[str, Sequence[FinishedRun]], Line | None],
) -> Figure | None:
    """The arms' lines for each panel, up to three side by side."""
    if not panels:
        return None
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    size = HALF if across == 1 else WIDE, (3.3 if across < 3 else 2.9) * down
    figure = Figure(figsize=size, layout="constrained")
    places = list(figure.subplots(down, across, squeeze=False).flat)
    for axes, (what, title, unit) in zip(places, panels, strict=False):
        _lines(axes, study, partial(line_of, what))
        axes.set_title(title)
        axes.set_ylabel(unit)
        axes.set_xlabel("optimiser step")
    for axes in places[len(panels) :]:
        axes.set_visible(False)
    return figure


def _moves(run: FinishedRun, column: str) -> bool:
    """Whether the run measured the column and found more than one value."""
    return len(set(run.metrics.get(column, ([], []))[1])) > 1


def _counts(run: FinishedRun, column: str) -> bool:
    """Whether the run has the column. δ of most losses is 0 throughout and none of theirs."""
    values = run.metrics.get(column, ([], []))[1]
    return any(values) if column == metrics.DELTA else bool(values)


def _lines(
    axes: Axes, study: Study, line_of: Callable[[Sequence[FinishedRun]], Line | None]
) -> None:
    """A line within its band for each arm, its name at the end."""
    palette, ends = colours(list(study.arms)), []
    for arm, runs in study.arms.items():
        if line := line_of(runs):
            steps, values, band = line
            if band:
                axes.fill_between(steps, *band, color=palette[arm], alpha=0.14, linewidth=0)
            marker = "o" if len(steps) < 12 else ""
            axes.plot(steps, values, marker=marker, markersize=3, color=palette[arm], linewidth=1.5)
            ends.append((int(steps[-1]), float(values[-1]), arm))
    _name_ends(axes, ends, palette)


def _logged_line(column: str, runs: Sequence[FinishedRun]) -> Line | None:
    """The mean over seeds within the range over seeds."""
    curves = [logged(run, column) for run in runs if _counts(run, column)]
    steps = sorted(set.intersection(*(set(s) for s, _ in curves))) if curves else []
    if not steps:
        return None
    rows = [[v for s, v in zip(*curve, strict=True) if s in set(steps)] for curve in curves]
    values = np.array([_smooth(row) for row in rows])
    band = (values.min(axis=0), values.max(axis=0)) if len(values) > 1 else None
    return steps, values.mean(axis=0), band


def _score_line(benchmark: str, runs: Sequence[FinishedRun]) -> Line | None:
    """Accuracies and intervals of exported weights, mean over seeds."""
    curves = [np.array(c) for run in runs if (c := run.over_steps.get(benchmark))]
    shared = sorted(set.intersection(*(set(c[:, 0]) for c in curves))) if curves else []
    if not shared:
        return None
    steps, values, low, high = np.mean([c[np.isin(c[:, 0], shared)] for c in curves], axis=0).T
    return steps, values, (low, high)


def _name_ends(axes: Axes, ends: Sequence[Point], palette: Mapping[str, str]) -> None:
    """Each arm's name at the right edge, none over another; a leader from a curve that ends before."""
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
        _name(axes, arm, (last, height), (5, 0), palette[arm], annotation_clip=False)
        if step < last:
            axes.plot([step, last], [value, height], color=palette[arm], linewidth=0.6, alpha=0.6)
    axes.set_ylim(low, high)


def _name(
    axes: Axes,
    arm: str,
    place: tuple[float, float],
    offset: tuple[int, int],
    colour: str,
    **options: Any,
) -> None:
    axes.annotate(
        label(arm), place, xytext=offset, textcoords="offset points", va="center", fontsize=8.5,
        color=colour, **options,
    )  # fmt: skip


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


# ---- histograms of the pairs (Figure 5) --------------------------------------------------------


def change_ratio(study: Study) -> Figure | None:
    """R_LCS over the corrections, those held out at any γ and those trained on."""
    if (run := study.corrected) is None:
        return None
    figure, axes = _shares(run, lambda pair: pair.change_ratio)
    axes.set_title("Change ratio of the corrections")
    axes.set_xlabel("R_LCS(y⁻, y⁺), in tokens")
    _mark_gamma(axes, run)
    return figure


def common_prefix(study: Study) -> Figure | None:
    """The share of y⁺ before the first edit, 0 to 1: there the two gradients cancel (§4.5)."""

    def share(pair: Pair) -> float | None:
        prefix = pair.common_prefix
        return None if prefix is None else prefix / max(1, pair.chosen_tokens)

    if (run := study.corrected) is None:
        return None
    figure, axes = _shares(run, share)
    axes.set_title("Common prefix of y⁻ and y⁺")
    axes.set_xlabel("share of y⁺'s tokens")
    return figure


def _shares(run: FinishedRun, share: Callable[[Pair], float | None]) -> tuple[Figure, Axes]:
    """Bars for the pairs trained on, a line for those held out, in percent of each."""
    trained_on, held_out = (
        [value for p in run.pairs(name) if (value := share(p)) is not None]
        if name in run.products
        else []
        for name in ("pairs", "held_out")
    )
    figure = Figure(figsize=(HALF, 3.0), layout="constrained")
    axes = figure.subplots()
    for values, name, looks in (
        (trained_on, "trained on", {"color": COLOURS["dpo"][0], "alpha": 0.6}),
        (held_out, "held out, any γ",
         {"histtype": "step", "color": COLOURS["spot_bco"][0], "linewidth": 1.4}),
    ):  # fmt: skip
        percent = np.full(len(values), 100 / max(1, len(values)))
        axes.hist(values, BINS, weights=percent, label=f"{name} ({len(values):,})", **looks)  # type: ignore[arg-type]
    axes.set_ylim(top=axes.get_ylim()[1] * 1.12)
    axes.set_xlim(0, 1)
    axes.set_ylabel("% of pairs")
    axes.legend(frameon=False, fontsize=8.5, loc="best")
    return figure, axes


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


FIGURES: dict[str, Draw] = {
    "gains": gains,
    "gain_against_forgetting": gain_against_forgetting,
    "frontier": frontier_figure.draw,
    "ability_over_steps": ability_over_steps,
    "general_ability": general_ability,
    **{name: partial(logged_curves, panels=panels) for name, panels in CURVES.items()},
    "change_ratio": change_ratio,
    "common_prefix": common_prefix,
}
