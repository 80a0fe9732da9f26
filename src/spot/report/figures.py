"""The study's figures: gains here, curves over steps and histograms of pairs in modules of their own."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from spot.report import curves, histograms, paper
from spot.report.load import FinishedRun, Study
from spot.report.style import DOMAINS, FIGURE_STYLE, INK, SOFT, WIDE, colours, label
from spot.report.verdicts import difference

BACKGROUND = re.compile("fill: #ffffff")  # of the figure's own rectangle, the first that is drawn
Draw = Callable[[Study], Figure | None]


def draw_all(study: Study, folder: Path) -> dict[str, str]:
    """Write every figure as SVG and PNG (on white) below `folder`; returns name → transparent SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    with matplotlib.rc_context(FIGURE_STYLE):
        for name, draw in FIGURES.items():
            figure = draw(study)
            if figure is None:
                continue
            svg = _svg(figure)
            (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
            drawn[name] = BACKGROUND.sub("fill: none", svg, count=1)
            figure.dpi = 150
            FigureCanvasAgg(figure).print_png(folder / f"{name}.png", metadata={"Software": None})
    return drawn


def _svg(figure: Figure) -> str:
    """On white, without a date; leaves the figure laid out, so that it is not once more for the PNG."""
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
    domains = study.domains
    if not domains:
        return None
    figure = Figure(figsize=(WIDE, 0.9 + 0.34 * len(arms)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(domains), sharey=True))
    for axes, (domain, names) in zip(panels, domains.items(), strict=True):
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
    points: list[tuple[float, float, str]] = []
    for arm, runs in study.arms.items():
        x = [_gain(run, inside) for run in runs]
        y = [_gain(run, general) for run in runs]
        axes.scatter(x, y, s=16, color=palette[arm], alpha=0.45, linewidths=0)
        axes.scatter([np.mean(x)], [np.mean(y)], s=52, color=palette[arm], linewidths=0)
        points.append((float(np.mean(x)), float(np.mean(y)), arm))
    axes.margins(0.08, 0.16)
    for across, height, arm in _labels_apart(points, axes):
        axes.annotate(
            label(arm), (across, height), xytext=(6, 7), textcoords="offset points",
            va="center", fontsize=8.5, color=palette[arm],
        )  # fmt: skip
    axes.set_title("Gain against forgetting")
    axes.set_xlabel("in-domain, points gained")
    axes.set_ylabel("general ability, points gained")
    return figure


def _labels_apart(
    points: Sequence[tuple[float, float, str]], axes: Axes
) -> list[tuple[float, float, str]]:
    """Where to write each point's name: names side by side may keep their heights."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    groups: list[list[tuple[float, float, str]]] = []
    for point in sorted(points):
        near = groups and point[0] - groups[-1][-1][0] < 0.1 * (right - left)
        groups[-1].append(point) if near else groups.append([point])
    placed = []
    for group in groups:
        heights = curves.apart([y for _, y, _ in group], 0.055 * (high - low))
        placed += [(x, y, arm) for (x, _, arm), y in zip(group, heights, strict=True)]
    return placed


def _gain(run: FinishedRun, benchmarks: Sequence[str]) -> float:
    return difference([run], benchmarks).value


FIGURES: dict[str, Draw] = {
    "gains": gains,
    "gain_against_forgetting": gain_against_forgetting,
    "ability_over_steps": curves.ability_over_steps,
    "general_ability": curves.general_ability,
    "loss": curves.loss,
    "rewards": curves.rewards,
    "distance": curves.distance,
    "tether": curves.tether,
    "surgery": curves.surgery,
    "rewards_by_part": curves.rewards_by_part,
    "kl_by_part": curves.kl_by_part,
    "change_ratio": histograms.change_ratio,
    "common_prefix": histograms.common_prefix,
}
