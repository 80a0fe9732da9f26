"""The report of a run or a sweep: report.html (one file, no network), report.md, tables as CSV, figures/."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from spot.data.word_diff import marked
from spot.report import claims, figures, forgetting, paper, provenance, rewards, style, tables
from spot.report.archive import opened, read_defaults
from spot.report.arm_names import differences
from spot.report.claims import FAILS, HOLDS, UNCLEAR
from spot.report.external import external
from spot.report.load import Study, load
from spot.report.warnings import cautions
from spot.utils.cells import as_csv, defused
from spot.utils.files import write_aside
from spot.utils.redact import scrubbed

LONGEST = 60_000  # characters of report.md: a pull request takes 65,536
CAPTIONS = {
    "gains": "Difference to the base, paired by question, with its 95% interval.",
    "gain_against_forgetting": "Small dots are seeds, large ones their mean. Right is better reasoning, below the line is forgetting.",
    "frontier": "Every model of an arm, whatever its learning rate and steps, mean over seeds; the line joins those that no other of the arm, and no mix of two, beats in both, the base among them. Higher is less forgotten at the same gain.",
    "ability_over_steps": "The benchmarks on weights saved during training, from the base (step 0) to the trained model; the band is the 95% interval over questions; line and band of several seeds are their mean (Figure 2).",
    "general_ability": "A small run of the general benchmark during training; the band is the range over seeds (Figure 2).",
    "loss": "Losses of different methods have different scales (Figure 3).",
    "rewards": "Implicit rewards on the same held-out pairs for every arm, each divided by the β of its arm: how many nats likelier a whole response has become, the same unit whatever the β. The band is the range over seeds (Figure 4). Rising y⁻ under positive-only training is the pull-up effect.",
    "distance": "How far the policy has moved on held-out y⁻, and the threshold that BCO subtracts, divided by β as the rewards are.",
    "tether": "How much of the loss's pull the tether leaves (equation 7): 0.5 at the start, near 0 where a pair is learnt.",
    "surgery": "How hard the loss pulls at a token of the training batch, by its part of the pair. On the shared prefix y⁺ and y⁻ pull in opposite directions; a loss without a y⁻ term pulls there like anywhere.",
    "rewards_by_part": "Held-out rewards divided by each arm's β, summed over the tokens before the first edit and over the edited ones.",
    "kl_by_part": "How far the policy has moved on held-out y⁻: before the first edit, where it was edited, and behind it.",
    "change_ratio": "Share of y⁺ that is not in y⁻, in order (Figure 5).",
    "common_prefix": "How much of y⁺ stands before the first edit: there the gradients of y⁺ and y⁻ meet and cancel.",
}  # fmt: skip
OUTCOMES = {HOLDS: "holds", FAILS: "fails", UNCLEAR: "unclear"}


@dataclass(frozen=True)
class Graphic:
    caption: str
    svg: Markup

    @property
    def full(self) -> bool:
        """Whether it takes the page's whole width."""
        width = re.search(r'width="([\d.]+)pt"', self.svg)
        return width is not None and float(width[1]) > 72 * (style.HALF + style.WIDE) / 2


def write(source: Path, into: Path | None = None, margin: float | None = None) -> Path:
    """Write the report of a folder or an archive; see `spot.report.build`."""
    target = into or (source if source.is_dir() else source.parent)
    with opened(source) as folder:
        study = Study(*load(folder), folder)
        target.mkdir(parents=True, exist_ok=True)
        drawn = figures.draw_all(study, target / "figures")
        content = {name: of(study) for name, of in CONTENT.items()}
        content |= {"study": study, "graphics": _graphics(study, drawn)}
        content["verdicts"] = claims.judge(study, margin)
    environment = _environment()
    markdown = environment.get_template("report.md.j2")
    text = markdown.render(content, brief=False)
    if len(text) > LONGEST:
        text = markdown.render(content, brief=True)
    write_aside(target / "scores.csv", _csv(content["scores"], tables.CSV_COLUMNS))
    rows = claims.verdict_rows(content["verdicts"])
    write_aside(target / "verdicts.csv", _csv(rows, claims.COLUMNS))
    lost = [one.row for one in content["forgetting"].every]
    write_aside(target / "forgotten.csv", _csv(lost, forgetting.COLUMNS))
    if content["strata"]:
        write_aside(target / "rewards.csv", _csv(rewards.rows(content["strata"]), rewards.COLUMNS))
    write_aside(target / "report.md", text)
    page = environment.get_template("report.html.j2").render(content)
    write_aside(target / "report.html", page)
    return target / "report.html"


def _csv(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    cells = ({k: defused(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows)
    return as_csv(cells, columns)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("spot.report"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("label", "signed", "cell", "fence", "duration", "short"):
        environment.filters[name] = getattr(style, name)
    environment.filters |= {
        "column_names": paper.column_names,
        "command": provenance.run_command,
        "tally": claims.tally,
        "tally_text": claims.tally_text,
        "total": provenance.total,
    }
    environment.globals |= {
        "outcomes": OUTCOMES,
        "paper_models": paper.MODELS,
        "palette_light": style.css_variables(False),
        "palette_dark": style.css_variables(True),
    }
    return environment


def _graphics(study: Study, drawn: dict[str, str]) -> dict[str, Graphic]:
    """Our own SVG: the only markup that the page does not escape."""
    beside, captions = paper.beside(study), dict(CAPTIONS)
    if beside.arms:
        captions["gains"] += f" Hollow diamonds are the paper's gains ({beside.model})."
    return {
        name: Graphic(
            captions[name], Markup(style.embeddable(svg, name, str(escape(captions[name]))))
        )
        for name, svg in drawn.items()
    }


def _title(study: Study) -> str:
    if len(study.runs) == 1:
        return style.label(study.runs[0].arm)
    if not study.runs[0].record["study"]:
        return "Sweep"
    name = re.sub(r"^table(\d)$", r"Table \1", study.name)
    return name[:1].upper() + name[1:].replace("_", " ")


def _choices(study: Study) -> dict[str, Any]:
    """What a reader asks first about the first run."""
    config = study.runs[0].record["config"]
    asked = {
        "model": config.get("model", {}).get("name"),
        "questions": config["data"].get("source"),
        "oracle": config.get("oracle", {}).get("kind"),
        "benchmarks": config["benchmarks"].get("name"),
        "hardware": config.get("hardware", {}).get("name"),
    }
    return {key: value for key, value in asked.items() if value is not None}


def _colours(study: Study) -> dict[str, str]:
    palette = style.colours(list(study.arms))
    return {arm: f"var(--c{code[1:]})" for arm, code in palette.items()}


def _pairs(study: Study) -> list[Any]:
    """A few corrections with their edits marked; of other arms' pairs where none was corrected."""
    run = study.corrected or study.runs[0]
    return [(pair, *marked(pair.rejected, pair.chosen)) for pair in tables.examples(run.pairs())]


def _differences(study: Study) -> list[Any]:
    configs = {arm: [run.record["config"] for run in runs] for arm, runs in study.arms.items()}
    assert study.folder is not None
    return differences(configs, read_defaults(study.folder))


def _config(study: Study) -> str:
    config = scrubbed(study.runs[0].record["config"])
    return json.dumps(config, indent=2, ensure_ascii=False)


CONTENT: dict[str, Callable[[Study], Any]] = {  # what the two templates show, by its name there
    "title": _title,
    "choices": _choices,
    "colour": _colours,
    "columns": tables.columns,
    "rows": tables.score_table,
    "trivial": tables.trivial_row,
    "scores": tables.score_rows,
    "forgetting": forgetting.forgetting,
    "strata": rewards.strata,
    "beside": paper.beside,
    "paper_rows": paper.tables_of,
    "cautions": cautions,
    "answers": tables.answers,
    "external": external,
    "funnels": tables.funnels,
    "held_out": tables.held_out,
    "exactness": tables.exactness,
    "pairs": _pairs,
    "costs": provenance.costs,
    "own_seconds": provenance.own_seconds,
    "command": provenance.command,
    "differences": _differences,
    "products": provenance.products,
    "versions": provenance.versions,
    "machines": provenance.machines,
    "config": _config,
}
