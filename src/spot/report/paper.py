"""The paper's printed numbers, and which of them stand beside a study's own."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spot.report.load import FinishedRun, Study

PAPER = Path(__file__).parents[3] / "experiments" / "paper" / "paper_numbers.csv"
MODELS = {"qwen3_8b": "Qwen3-8B", "llama31_8b_instruct": "Llama-3.1-8B-Instruct"}
MAIN = "qwen3_8b"  # every table has it
TABLES = {  # of a study: its own rows, and where their base stands
    "table1": ("table1",),
    "table2": ("table2", "table1"),
    "table3": ("table3", "table1"),
}
SUMMARIES = {"in_domain": "in_domain", "ood": "ood", "general": "ifeval", "average": "average"}
ROW = "paper/table3"  # the choice that says which row of Table 3 a run is


@dataclass(frozen=True)
class PaperRow:
    """A row of a table: percent by benchmark, `in_domain`, `ood` and `average` among them."""

    table: str
    model: str
    row: str
    arm: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Beside:
    """The paper's rows for a study's arms, of one model; empty where the study is none of the paper's."""

    model: str
    base: Mapping[str, float]
    arms: Mapping[str, Mapping[str, float]]  # by the name in Study.arms

    def value(self, arm: str, column: str | None) -> float | None:
        """What the paper prints for an arm, or for `base`; None where it has nothing to compare."""
        of = self.base if arm == "base" else self.arms.get(arm, {})
        return of.get(SUMMARIES.get(column or "", column or ""))

    def gain(self, arm: str, column: str | None) -> float | None:
        """The same minus the paper's own base, in percent points."""
        value, base = self.value(arm, column), self.value("base", column)
        return None if value is None or base is None or arm == "base" else value - base


@functools.cache
def rows() -> list[PaperRow]:
    """All rows of all tables; none outside of a clone."""
    if not PAPER.exists():
        return []
    found: dict[tuple[str, str, str, str], dict[str, float]] = {}
    with PAPER.open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            key = line["table"], line["model"], line["row"], line["arm"]
            found.setdefault(key, {})[line["benchmark"]] = float(line["value"])
    return [PaperRow(*key, values) for key, values in found.items()]


def beside(study: Study) -> Beside:
    """The paper's numbers for a study of one of its tables: its model's, else Qwen3-8B's."""
    tables = TABLES.get(study.name, ())
    model = _model(study, tables)
    of = [row for table in tables for row in rows() if (row.table, row.model) == (table, model)]
    base = next((row.values for row in of if row.arm == "base"), {})
    arms = {
        arm: row.values
        for arm, runs in study.arms.items()
        if (row := next((row for row in of if _is(row, runs[0], study.name)), None))
    }
    return Beside(MODELS[model], base, arms)


def tables_of(study: Study) -> list[PaperRow]:
    """The table of the paper that the study repeats, of every model it has.

    Rows that the paper prints in another table come first: the base, and arms that the study ran.
    """
    if study.name not in TABLES:
        return []
    own = [row for row in rows() if row.table == study.name]
    models, printed = {row.model for row in own}, {row.arm for row in own}
    ran = {"base", *(run.arm for run in study.runs)} if study.name != "table3" else {"base"}
    borrowed = [
        row
        for row in rows()
        if row.table in TABLES[study.name][1:] and row.model in models and row.arm in ran - printed
    ]
    return borrowed + own


def column_names(rows: Sequence[PaperRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.values))


def _model(study: Study, tables: tuple[str, ...]) -> str:
    name = str(study.runs[0].record["config"].get("model", {}).get("name"))
    known = {row.model for row in rows() if row.table in tables[:1]}
    return name if name in known else MAIN


def _is(row: PaperRow, run: FinishedRun, study: str) -> bool:
    if study == "table3":
        return row.table == study and run.overrides.get(ROW) in (row.row, row.arm)
    return row.arm == run.arm
