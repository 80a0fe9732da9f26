"""What a terminal or a log shows: the one kind of table, numbers with their sign, and no text of others
that would command the terminal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console as RichConsole
from rich.segment import Segment
from rich.table import Table

WIDTH = 10_000  # columns where there is no terminal: nothing is wrapped or cut in a log

# Whole sequences first, so that nothing of them is left as text: ECMA-48, 5.4 and 8.3.
_COMMANDS = re.compile(
    r"(?:\x1b[P\]X^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)"  # strings, as titles
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # control sequences, as colours
    r"|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # all other control characters
    r"|[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # the order of what is read (Unicode, UAX 9)
)
_HALF = re.compile("[\ud800-\udfff]")  # of a pair: no encoding has it


def clean(text: str, *, lines: bool = False) -> str:
    """Text of others without what a terminal obeys: escape sequences, control characters, overrides of
    the direction. Tabs and ends of lines stay where `lines` are wanted, else they are blanks.
    """
    text = _HALF.sub("\ufffd", _COMMANDS.sub("", text))
    return text if lines else re.sub("[\t\n\u2028\u2029]", " ", text)


class Console(RichConsole):
    """Rich's console for plain text: no markup in it, and no control characters but the console's own."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **given})

    def render(self, *given: Any, **named: Any) -> Iterable[Segment]:
        for segment in super().render(*given, **named):
            yield (
                segment
                if segment.control
                else segment._replace(text=clean(segment.text, lines=True))
            )


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """An empty table; the columns named in `right` are aligned to the right."""
    result = Table(box=SIMPLE_HEAD, pad_edge=False)
    aligned = set(right)
    for column in columns:
        result.add_column(column, justify="right" if column in aligned else "left")
    return result


def fit(rows: Table, width: int, spare: Iterable[str], wraps: Iterable[str] = ()) -> Table:
    """The table in so many columns of a terminal: whole columns go, in the order of `spare`, none is cut.

    wraps: columns whose cells may take several lines where that is not enough.
    """
    wide, shown, folding = RichConsole(width=WIDTH), rows, set(wraps)
    kept = list(rows.columns)
    for name in (None, *spare):
        kept = [column for column in kept if column.header != name]
        shown = Table(box=rows.box, pad_edge=rows.pad_edge)
        for column in kept:
            folds = column.header in folding
            shown.add_column(
                column.header, justify=column.justify, no_wrap=not folds, overflow="fold"
            )
        for cells in zip(*(column.cells for column in kept), strict=True):
            shown.add_row(*cells)
        if wide.measure(shown).maximum <= width:
            break
    return shown


def console() -> Console:
    """The terminal, or a log."""
    found = Console()
    return found if found.is_terminal else Console(width=WIDTH)


def signed(value: float, digits: int = 1) -> str:
    """`+3.2`, `−1.0` with a true minus sign, `0.0` without one."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text[1:] if not text.strip("+−0.") else text


def count(number: int, noun: str, many: str = "") -> str:
    """`1 pair`, `2,000 pairs`; many: a plural that is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"
