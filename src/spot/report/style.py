"""How arms, numbers and text are written, how arms are coloured, and how our own SVG gets into a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from spot.evaluation.statistics import Estimate

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
DOMAINS = {"in_domain": "in-domain", "ood": "out of domain", "general": "general ability"}
SHORT_KEYS = {
    "data.gamma": "γ",
    "data.pairs": "pairs",
    "loss.beta": "β",
    "loss.learning_rate": "lr",
}

# Okabe–Ito's hues, told apart by the colour-blind: (on white, on dark), each readable as text there.
COLOURS = {
    "spot_bco": ("#c44e00", "#ff8a3d"),
    "spot_bce": ("#a87400", "#f0b429"),
    "dpo": ("#0063a5", "#5aa9e6"),
    "rwsft": ("#007a58", "#37c196"),
    "sft_plus": ("#b0508a", "#e48fc0"),
    "dft": ("#2d87bd", "#8fd0f5"),
    "sft": ("#5f6770", "#aab2bb"),
    "rft": ("#7d6f00", "#d6c84a"),
}
INK, SOFT, LINE = ("#1d2126", "#e6e8eb"), ("#626a73", "#9aa3ad"), ("#d3d8de", "#3d444d")


def label(arm: str) -> str:
    """`spot_bco data.gamma=0.4` → `SPoT-BCO γ=0.4`; unknown names stay."""
    name, *chosen = arm.split(" ")
    pairs = (choice.partition("=") for choice in chosen)
    return " ".join(
        [LABELS.get(name, name), *(SHORT_KEYS.get(k, k) + eq + v for k, eq, v in pairs)]
    )


def colours(arms: Sequence[str]) -> dict[str, str]:
    """Each arm's colour on white: always the same for the paper's, in turn for others."""
    spare = [light for name, (light, _) in COLOURS.items() if name not in arms]
    spare = spare or [light for light, _ in COLOURS.values()]
    others = [arm for arm in arms if arm not in COLOURS]
    turns = {arm: spare[i % len(spare)] for i, arm in enumerate(others)}
    return {arm: turns[arm] if arm in turns else COLOURS[arm][0] for arm in arms}


def signed(value: float | Estimate, digits: int = 1) -> str:
    """`+3.2`, `−1.0` with a true minus sign, `0.0` without one; an estimate's interval in brackets."""
    if isinstance(value, Estimate):
        return f"[{signed(value.low, digits)}, {signed(value.high, digits)}]"
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text[1:] if not text.strip("+−0.") else text


def cell(text: object) -> str:
    """Text for a Markdown table: nothing in it is markup or ends the cell."""
    safe = str(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(safe.split())


def css_variables(dark: bool) -> str:
    """`--c1d2126: …` for every colour that figures are drawn in."""
    pairs = [INK, SOFT, LINE, *COLOURS.values()]
    return " ".join(f"--c{pair[0][1:]}: {pair[dark]};" for pair in pairs)


def embeddable(svg: str, name: str, description: str) -> str:
    """A figure's SVG for a page: transparent, its colours the page's, its ids its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\b(id|xlink:href|href)="(#?)', rf'\1="\2{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    for light, _ in [INK, SOFT, LINE, *COLOURS.values()]:
        svg = svg.replace(light, f"var(--c{light[1:]})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{description}" ', 1)


FIGURE_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "spot",  # the same figure gives the same bytes
    "svg.fonttype": "path",
    "font.size": 9,
    "text.color": INK[0],
    "axes.labelcolor": SOFT[0],
    "axes.edgecolor": LINE[0],
    "axes.titlecolor": INK[0],
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": LINE[0],
    "grid.linewidth": 0.5,
    "xtick.color": LINE[0],
    "ytick.color": LINE[0],
    "xtick.labelcolor": SOFT[0],
    "ytick.labelcolor": SOFT[0],
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
