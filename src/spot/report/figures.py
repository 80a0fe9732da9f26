"""The paper's figures from our own logs: curves over steps and the histogram of change ratios."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spot.report.load import FinishedRun, Study

matplotlib.use("Agg")
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "spot",  # the same figure gives the same bytes
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.dpi": 110,
}
COLOURS = {  # Okabe–Ito: told apart by the colour-blind, and on white as on dark
    "spot_bco": "#D55E00",
    "spot_bce": "#E69F00",
    "dpo": "#0072B2",
    "rwsft": "#009E73",
    "sft_plus": "#CC79A7",
    "dft": "#56B4E9",
    "sft": "#7F7F7F",
    "rft": "#B8A100",
}
LABELS = {
    "base": "base",
    "sft": "SFT",
    "rft": "RFT",
    "sft_plus": "SFT+",
    "spot_bco": "SPoT-BCO",
    "spot_bce": "SPoT-BCE",
    "dpo": "DPO",
    "rwsft": "Reward-SFT",
    "dft": "DFT",
}
Draw = Callable[[Study], Figure | None]


def label(arm: str) -> str:
    return LABELS.get(arm, arm)


def colour(arm: str) -> str:
    return COLOURS.get(arm, "#7F7F7F")


def draw_all(study: Study, folder: Path) -> dict[str, str]:
    """Write every figure as SVG and PNG below `folder`; returns name → SVG text."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    with matplotlib.rc_context(STYLE):
        for name, draw in FIGURES.items():
            figure = draw(study)
            if figure is None:
                continue
            figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
            text = io.StringIO()
            figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
            svg = text.getvalue()
            (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
            drawn[name] = svg[svg.index("<svg") :]
    return drawn


def curves(axes: Axes, study: Study, column: str) -> bool:
    """One line an arm, the mean over seeds, with the range over seeds. False if nobody logged it."""
    ends = []
    for arm, runs in study.arms.items():
        logged = [run.metrics[column] for run in runs if column in run.metrics]
        if not logged:
            continue
        steps = sorted(set.intersection(*(set(s) for s, _ in logged)))
        rows = [[v for s, v in zip(*run, strict=True) if s in set(steps)] for run in logged]
        values = np.array([_smooth(row) for row in rows])
        line = values.mean(axis=0)
        axes.plot(steps, line, color=colour(arm), linewidth=1.4, label=label(arm))
        if len(values) > 1:
            axes.fill_between(
                steps, values.min(axis=0), values.max(axis=0), color=colour(arm), alpha=0.15, lw=0
            )
        ends.append((steps[-1], line[-1], arm))
    _name_lines(axes, ends)
    axes.set_xlabel("step")
    return bool(ends)


def _smooth(values: Sequence[float], width: int = 5) -> list[float]:
    """Running mean over a few steps for long curves, so that arms can be told apart."""
    if len(values) < 40:
        return list(values)
    padded = np.pad(np.asarray(values), width // 2, mode="edge")
    return list(np.convolve(padded, np.ones(width) / width, mode="valid"))


def _name_lines(axes: Axes, ends: list[tuple[int, float, str]]) -> None:
    """Write each arm's name at its line's end, pushed apart where they would overlap."""
    low, high = axes.get_ylim()
    gap, last = (high - low) * 0.062, -np.inf
    for step, value, arm in sorted(ends, key=lambda end: end[1]):
        last = max(value, last + gap)
        axes.annotate(
            label(arm),
            (step, last),
            xytext=(4, 0),
            textcoords="offset points",
            color=colour(arm),
            va="center",
            fontsize=8,
            annotation_clip=False,
        )
    axes.set_ylim(low, high)


def _panels(study: Study, panels: Sequence[tuple[str, str, str]]) -> Figure | None:
    """Curves side by side: (column, title, unit) each; panels nobody logged are left out."""
    logged = {name for run in study.runs for name in run.metrics}
    panels = [panel for panel in panels if panel[0] in logged]
    if not panels:
        return None
    figure = Figure(figsize=(4.4 * len(panels), 3.1), layout="constrained")
    for axes, (column, title, unit) in zip(
        np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True
    ):
        curves(axes, study, column)
        axes.set_title(title)
        axes.set_ylabel(unit)
        axes.margins(x=0.02)
        axes.set_xlim(right=axes.get_xlim()[1] * 1.24)
    return figure


def loss(study: Study) -> Figure | None:
    return _panels(study, [("loss", "Training loss (Figure 3)", "loss")])


def rewards(study: Study) -> Figure | None:
    return _panels(
        study,
        [
            ("held_out/rewards/chosen", "Reward of y⁺ (Figure 4, left)", "β log π_θ / π_ref"),
            ("held_out/rewards/rejected", "Reward of y⁻ (Figure 4, right)", "β log π_θ / π_ref"),
        ],
    )


def general_ability(study: Study) -> Figure | None:
    names = [name for run in study.runs for name in run.metrics if name.startswith("probe/")]
    panels = [
        (n, f"General ability: {n[6:]} (Figure 2)", "% correct") for n in dict.fromkeys(names)
    ]
    return _panels(study, panels)


def distance(study: Study) -> Figure | None:
    return _panels(
        study,
        [
            ("held_out/kl", "KL to the starting model", "nats per token"),
            ("tether/chosen", "Tether on y⁺, λ⁺", "1 − σ(r⁺ − δ)"),
            ("delta", "BCO's threshold δ", "δ"),
        ],
    )


def change_ratio(study: Study) -> Figure | None:
    """Histogram of R_LCS over all measured corrections, kept and dropped, with γ marked."""
    run = next((r for r in study.runs if r.record["config"]["data"]["arm"] == "rectified"), None)
    if run is None:
        return None
    kept = [p.change_ratio for p in run.pairs() if p.change_ratio is not None]
    watched = [p.change_ratio for p in run.pairs("held_out") if p.change_ratio is not None]
    gamma = run.record["config"]["data"]["gamma"]
    counts = run.manifest("pairs")["counts"]
    figure = Figure(figsize=(5.2, 3.1), layout="constrained")
    axes = figure.subplots()
    bins = [edge / 20 for edge in range(21)]
    share = [np.full(len(values), 100 / max(1, len(values))) for values in (kept, watched)]
    axes.hist(kept, bins, weights=share[0], color="#0072B2", alpha=0.75, label="trained on")
    axes.hist(
        watched, bins, weights=share[1], histtype="step", color="#D55E00", label="held out, any γ"
    )
    axes.axvline(gamma, color="#7F7F7F", linestyle="--", linewidth=1)
    axes.annotate(
        f"γ = {gamma:g}: {counts.get('change_ratio_above_gamma', 0)} dropped",
        (gamma, axes.get_ylim()[1]),
        xytext=(4, -8),
        textcoords="offset points",
        fontsize=8,
        color="#7F7F7F",
    )
    axes.set_title("Change ratio of corrections (Figure 5)")
    axes.set_xlabel("R_LCS(y⁻, y⁺), in tokens")
    axes.set_ylabel("% of pairs")
    axes.legend(frameon=False, fontsize=8)
    return figure


def gain_against_forgetting(study: Study) -> Figure | None:
    """One point per arm and seed: gain in-domain, change of general ability, in percent points."""
    inside, general = study.domains.get("in_domain"), study.domains.get("general")
    if not inside or not general:
        return None
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="#7F7F7F", linewidth=0.8)
    axes.axvline(0, color="#7F7F7F", linewidth=0.8)
    for arm, runs in study.arms.items():
        x = [_gain(run, inside) for run in runs]
        y = [_gain(run, general) for run in runs]
        axes.scatter(x, y, s=14, color=colour(arm), alpha=0.5, linewidths=0)
        axes.scatter([np.mean(x)], [np.mean(y)], s=46, color=colour(arm), linewidths=0)
        axes.annotate(
            label(arm),
            (float(np.mean(x)), float(np.mean(y))),
            xytext=(6, 5),
            textcoords="offset points",
            fontsize=8,
            color=colour(arm),
        )
    axes.set_title("Gain against forgetting")
    axes.set_xlabel("in-domain, change in points")
    axes.set_ylabel("general ability, change in points")
    axes.margins(0.12)
    return figure


def _gain(run: FinishedRun, benchmarks: Sequence[str]) -> float:
    after = [np.mean(list(run.means[name].values())) for name in benchmarks]
    before = [np.mean(list(run.base_means[name].values())) for name in benchmarks]
    return float(np.mean(after) - np.mean(before))


FIGURES: dict[str, Draw] = {
    "gain_against_forgetting": gain_against_forgetting,
    "general_ability": general_ability,
    "loss": loss,
    "rewards": rewards,
    "distance": distance,
    "change_ratio": change_ratio,
}
