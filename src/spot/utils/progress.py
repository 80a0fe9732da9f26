"""Progress that a person sees: a Rich bar on a terminal, a line now and then without one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from spot.utils.terminal import Console, clean

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 15.0
Listener = Callable[[str, int, int | None], None]  # of a label, how many are done, of how many
listeners: list[Listener] = []  # told of every item that `track` yields
console = Console(stderr=True, soft_wrap=True)


class Rate(ProgressColumn):
    """How many a second, or how many seconds one takes, whichever is above 1."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:,.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


def say(message: str) -> None:
    """One line to the person who waits (stderr, so that stdout stays for results)."""
    console.print(clean(message))


@cache
def say_once(message: str) -> None:
    """The same, once in a process: jobs of a sweep are alike."""
    say(message)


def track(
    items: Iterable[T],
    label: str,
    total: int | None,
    start: int = 0,
    note: Callable[[], str] = str,
) -> Iterator[T]:
    """Yield `items` and show how many of `total` are done, `start` of them before this began.

    `note()` is what there is to say besides.
    """
    shown = _bar if console.is_terminal else _lines
    for count, item in enumerate(shown(items, label, total, start, note), start + 1):
        yield item
        for listener in listeners:
            listener(label, count, total)


def _lines(
    items: Iterable[T], label: str, total: int | None, start: int, note: Callable[[], str]
) -> Iterator[T]:
    last = time.monotonic()
    for count, item in enumerate(items, start + 1):
        yield item
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            done = f"{label}: {count}" + (f" of {total}" if total else "")
            print(clean("; ".join(filter(None, [done, note()]))), file=sys.stderr)


def _bar(
    items: Iterable[T], label: str, total: int | None, start: int, note: Callable[[], str]
) -> Iterator[T]:
    columns = (
        TextColumn("{task.description:<22}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=total, completed=start, note="")
        for item in items:
            yield item
            bar.update(task, advance=1, note=note())
