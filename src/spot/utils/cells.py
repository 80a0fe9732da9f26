"""Tables in CSV, and cells for spreadsheets: what one would take for a formula gets an apostrophe in front."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# At the start of a cell or of a line in it, where some programs begin another cell; in either width.
# The apostrophe itself is one of them, so that taking it away again gives every text back.
_START = r"(?:\A|(?<=[\r\n]))"
_SIGNS = r"(?=[=+\-@\t\r'＝＋－＠])"
_FORMULA = re.compile(_START + _SIGNS)
_DEFUSED = re.compile(_START + "'" + _SIGNS)
_NUMBER = re.compile(r"-[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")


def as_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A table with a header, whatever text is in it. Raises ValueError for a value without a column."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def defused(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula; a negative number stays one."""
    return cell if _NUMBER.fullmatch(cell) else _FORMULA.sub("'", cell)


def original(cell: str) -> str:
    """The text of a cell that was `defused`."""
    return _DEFUSED.sub("", cell)
