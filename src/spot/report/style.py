"""How arms, numbers and text are written, how arms are coloured, and how our own SVG gets into a page."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from spot.evaluation.statistics import Estimate
from spot.utils import terminal

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
    "bco_direct": "BCO on direct answers",
    "int": "InT",
    "edit_only": "SPoT-BCO, edits only",
    "fading_suffix": "SPoT-BCO, fading suffix",
    "step_dpo": "Step-DPO",
}
METHODS = {
    "sft": "SFT",
    "dpo": "DPO",
    "rwsft": "Reward-SFT",
    "bce": "BCE",
    "bco": "BCO",
    "dft": "DFT",
    "psft": "PSFT",
    "asft": "ASFT",
    "kl_sft": "SFT + KL",
    "dpop": "DPO-positive",
    "ipo": "IPO",
    "simpo": "SimPO",
    "kto": "KTO",
    "apo_zero": "APO-zero",
    "apo_down": "APO-down",
    "nca": "NCA",
}
LEARNED = {"rectified": "corrections", "direct": "direct answers", "self": "own answers"}
DOMAINS = {"in_domain": "in-domain", "ood": "out of domain", "general": "general ability"}
SHORT_KEYS = {
    "data.gamma": "γ",
    "data.pairs": "pairs",
    "loss.beta": "β",
    "loss.learning_rate": "lr",
}
SETTINGS = {  # how a setting that tells arms apart is written, its value in the braces
    "rounds": "{} rounds",
    "data.gamma": "γ={}",
    "data.pairs": "{} pairs",
    "data.arm": "data {}",
    "data.source": "{}",
    "loss.beta": "β={}",
    "loss.learning_rate": "lr={}",
    "loss.delta.mode": "δ {}",
    "loss.delta.decay": "decay {}",
    "oracle.kind": "Oracle {}",
    "model.name": "{}",
}
WORDS = {
    "oracle.ground_truth=true": "truth told",
    "oracle.ground_truth=false": "truth not told",
    "rounds=1": "1 round",
    "data.pairs=null": "all pairs",
}
WIDE, HALF = 10.4, 5.1  # inches of a figure: a page's width, and half of it beside another

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
    """`spot_bco data.pairs=2000 data.gamma=0.4` → `SPoT-BCO, 2k pairs, γ=0.4`; unknown names stay."""
    words = arm.split(" ")
    name = " ".join(word for word in words if "=" not in word)
    loss, _, data = name.partition(" on ")
    if data:
        name = f"{METHODS.get(loss, loss)} on {LEARNED.get(data, data)}"
    return ", ".join([LABELS.get(name, name), *(_setting(w) for w in words if "=" in w)])


def _setting(choice: str) -> str:
    """`data.pairs=2000` → `2k pairs`."""
    key, _, value = choice.partition("=")
    if key == "data.pairs" and value.isdigit() and int(value) % 1000 == 0:
        value = f"{int(value) // 1000}k"
    short = SETTINGS.get(key, f"{key.rpartition('.')[2].replace('_', ' ')}={{}}")
    return WORDS.get(choice) or short.format(value)


def colours(arms: Sequence[str]) -> dict[str, str]:
    """Each arm's colour on white: always the same for the paper's, in turn for others."""
    spare = [light for name, (light, _) in COLOURS.items() if name not in arms]
    spare = spare or [light for light, _ in COLOURS.values()]
    others = [arm for arm in arms if arm not in COLOURS]
    turns = {arm: spare[i % len(spare)] for i, arm in enumerate(others)}
    return {arm: turns[arm] if arm in turns else COLOURS[arm][0] for arm in arms}


def signed(value: float | Estimate, digits: int = 1) -> str:
    """`+3.2`, `−1.0` with a true minus sign, `0.0` without one; an estimate's interval in brackets.

    An interval without ends, such as that of one seed, is `–`.
    """
    if isinstance(value, Estimate):
        if not (math.isfinite(value.low) and math.isfinite(value.high)):
            return "–"
        return f"[{signed(value.low, digits)}, {signed(value.high, digits)}]"
    return terminal.signed(value, digits)


def duration(seconds: float) -> str:
    """`2.1 s`, `42 s`, `8 min 30 s`, `2 h 5 min`."""
    if round(seconds) < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if round(seconds) < 3600:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    return "{} h {} min".format(*divmod(round(seconds / 60), 60))


def short(number: float) -> str:
    """`950`, `62.1k`, `1.2M`."""
    if round(number) < 1000:
        return f"{number:.0f}"
    letters = "kMG"
    number /= 1000
    while round(number, 1) >= 1000 and len(letters) > 1:
        number, letters = number / 1000, letters[1:]
    return f"{number:.1f}".removesuffix(".0") + letters[0]


def cell(text: object) -> str:
    """Text for a Markdown table: nothing in it is markup or ends the cell."""
    safe = str(text).replace("&", "&amp;").replace("<", "&lt;")
    safe = re.sub(r"([\\|*_\[\]!`~])", r"\\\1", safe)
    return " ".join(safe.split())


def fence(text: str) -> str:
    """Backticks that open and close a Markdown block of `text`: more than it has in a row."""
    return "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))


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
