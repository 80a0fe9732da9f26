"""What a terminal or a log shows: the one kind of table, and numbers with their sign."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

WIDTH = 10_000  # columns where there is no terminal: nothing is wrapped or cut in a log


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """An empty table; the columns named in `right` are aligned to the right."""
    result = Table(box=SIMPLE_HEAD, pad_edge=False)
    aligned = set(right)
    for column in columns:
        result.add_column(column, justify="right" if column in aligned else "left")
    return result


def console() -> Console:
    """The terminal, or a log."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=WIDTH)


def signed(value: float, digits: int = 1) -> str:
    """`+3.2`, `−1.0` with a true minus sign, `0.0` without one."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text[1:] if not text.strip("+−0.") else text


def count(number: int, noun: str, many: str = "") -> str:
    """`1 pair`, `2,000 pairs`; many: a plural that is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"
