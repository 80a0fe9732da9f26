"""Cells that a spreadsheet would take for formulas."""

import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot.pipeline.run_status import read_table
from spot.report.page import _csv
from spot.utils.cells import defused, original

FORMULA = re.compile(r"(?:\A|[\r\n])[=+\-@\t＝＋－＠]|\A\r")
NUMBER = re.compile(r"-\d+(\.\d+)?(e[-+]\d+)?")


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        *((f"{sign}cmd|' /C calc'!A0", f"'{sign}cmd|' /C calc'!A0") for sign in "=+-@\t\r＝＋－＠"),
        ("two\n=1+1", "two\n'=1+1"),
        ("two\r\n＝1+1\r@x", "two\r\n'＝1+1\r'@x"),
        ("\n=1", "\n'=1"),
        ("-1-2", "'-1-2"),
        ("-1\n-2", "'-1\n'-2"),
        ("+5", "'+5"),
        ("'quoted", "''quoted"),
        *((plain, plain) for plain in ("-5", "-3.25", "-1e-05", "5", "a=b", "a-b", "", "$x=1$")),
    ],
)
def test_formulas_are_text_and_negative_numbers_are_numbers(cell: str, shown: str) -> None:
    assert defused(cell) == shown
    assert original(shown) == cell


@given(st.text(st.sampled_from("=+-@\t\r\n'＝x1.")) | st.text())
def test_every_text_comes_back(cell: str) -> None:
    shown = defused(cell)
    assert original(shown) == cell
    assert NUMBER.fullmatch(shown) or not FORMULA.search(shown)


def test_a_table_of_scores_is_read_as_it_was_meant(tmp_path: Path) -> None:
    row = {"arm": '=HYPERLINK("http://x")\n+1', "difference": -1.25, "trivial": "-3"}
    text = _csv([row], list(row))
    [[_, number, trivial]] = list(csv.reader(io.StringIO(text)))[1:]
    assert (number, trivial) == ("-1.25", "-3")
    assert not FORMULA.search(text.partition("\n")[2].replace('"', "").replace(",-", ","))
    (tmp_path / "scores.csv").write_text(text, encoding="utf-8", newline="")
    assert read_table(tmp_path / "scores.csv") == [{n: str(v) for n, v in row.items()}]
