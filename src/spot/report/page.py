"""The report of a run or a sweep: report.html (one file, no network), report.md, scores.csv, figures/."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from spot.evaluation.statistics import Estimate
from spot.proximity import edited_spans
from spot.records import Pair
from spot.report import figures, tables
from spot.report.load import Study, load
from spot.report.verdicts import judge

SHOWN_PAIRS = 5
CAPTIONS = {
    "gain_against_forgetting": "Each small dot is a seed, each large one its arm's mean. Right is better reasoning; below the line is forgetting.",
    "general_ability": "A small run of the general benchmark during training; the band is the range over seeds.",
    "loss": "The training loss of each step. Losses of different methods have different scales.",
    "rewards": "Implicit rewards on the same held-out pairs for every arm. Rising y⁻ under positive-only training is the pull-up effect.",
    "distance": "How far the policy has moved, how much pull the tether leaves, and the threshold BCO subtracts.",
    "change_ratio": "Share of y⁺ that is not in y⁻, in order.",
}  # fmt: skip


def build(folder: Path) -> Path:
    """Write the report of a run's or a sweep's folder into it; returns the path of report.html.

    Raises UserError when nothing there is finished or a product is damaged.
    """
    study = Study(*load(folder))
    drawn = figures.draw_all(study, folder / "figures")
    content = _content(study)
    with (folder / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, tables.CSV_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(tables.score_rows(study))
    environment = Environment(
        loader=PackageLoader("spot.report"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "label": figures.label,
        "interval": interval,
        "signed": signed,
        "cell": lambda text: str(text).replace("|", "\\|"),
    }
    # Our own SVG is the only markup that is not escaped.
    graphics = [(name, CAPTIONS[name], Markup(svg)) for name, svg in drawn.items()]
    page = environment.get_template("report.html.j2").render(content, graphics=graphics)
    (folder / "report.html").write_text(page, encoding="utf-8")
    text = environment.get_template("report.md.j2").render(content, graphics=graphics)
    (folder / "report.md").write_text(text, encoding="utf-8")
    return folder / "report.html"


def _content(study: Study) -> dict[str, Any]:
    """Everything the two templates show."""
    run = study.runs[0]
    rows = tables.score_table(study)
    manifest = run.manifest("scores")
    return {
        "title": f"{study.name} · {len(study.runs)} runs" if len(study.runs) > 1 else figures.label(run.arm),
        "study": study.name,
        "runs": study.runs,
        "columns": [title for title, _, _ in tables.columns(study)],
        "rows": rows,
        "has_paper": any(c.paper_gain is not None for row in rows for c in row.cells),
        "verdicts": judge(study),
        "warnings": tables.warnings(study),
        "funnel": tables.funnel(run),
        "times": tables.stage_times(study),
        "pairs": [(pair, *marked(pair)) for pair in _examples(run.pairs())],
        "scores": tables.score_rows(study),
        "products": {name: run.product(name).name for name in run.record["products"]},
        "versions": manifest["versions"],
        "revision": manifest["revision"],
    }  # fmt: skip


def _examples(pairs: Sequence[Pair]) -> list[Pair]:
    """A few pairs spread over the change ratios, smallest first."""
    with_rejected = [p for p in pairs if p.rejected is not None]
    ordered = sorted(with_rejected, key=lambda p: (p.change_ratio or 0.0, p.id))
    if len(ordered) <= SHOWN_PAIRS:
        return ordered
    return [ordered[i * (len(ordered) - 1) // (SHOWN_PAIRS - 1)] for i in range(SHOWN_PAIRS)]


@dataclass(frozen=True)
class Piece:
    """Some words of a response, and whether the other response has them too."""

    text: str
    edited: bool


def marked(pair: Pair) -> tuple[list[Piece], list[Piece]]:
    """y⁻ and y⁺ in pieces, the edited words marked by their true longest common subsequence."""
    rejected, chosen = (
        re.findall(r"\s*\S+|\s+$", text) for text in (pair.rejected or "", pair.chosen)
    )
    numbers: dict[str, int] = {}
    ids = [
        [numbers.setdefault(word.strip(), len(numbers)) for word in side]
        for side in (rejected, chosen)
    ]
    before, after = [], []
    for tag, i1, i2, j1, j2 in edited_spans(*ids):
        edited = tag != "equal"
        if i2 > i1:
            before.append(Piece("".join(rejected[i1:i2]), edited))
        if j2 > j1:
            after.append(Piece("".join(chosen[j1:j2]), edited))
    return before, after  # fmt: skip


def interval(estimate: Estimate) -> str:
    """`42.1 [39.8, 44.4]`."""
    return f"{estimate.value:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"


def signed(value: float, digits: int = 1) -> str:
    """`+3.2`, `−1.0`, with a true minus sign."""
    return f"{value:+.{digits}f}".replace("-", "−")
