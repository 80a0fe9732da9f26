"""What a person sees of a sweep: a live table on a terminal, else every line of every job."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Group
from rich.live import Live
from rich.text import Text

from spot.cli.display import COLOURS
from spot.pipeline import run_status
from spot.pipeline.sweep_jobs import Job, PrintLine
from spot.utils import terminal

STATES = [*COLOURS, "skipped"]  # by what is looked at first when not all jobs fit on the screen
FRAME = 6  # lines around the rows: head, rules, counts, cursor


def say(line: str) -> None:
    """A line of the sweep's own, beside those of its jobs."""
    print_line("sweep", line)


def print_line(name: str, line: str) -> None:
    """A line, after the name of the job whose it is."""
    print(f"{name:>5} | {terminal.clean(line)}", flush=True)


@contextmanager
def watched(jobs: list[Job]) -> Iterator[PrintLine]:
    """Show the jobs as long as the block lasts; yields what to call with every line."""
    console = terminal.Console()
    if not sys.stdout.isatty() or console.is_dumb_terminal:
        yield print_line
        return

    def now() -> Group:
        return table(jobs, max(1, console.height - FRAME), console.width)

    try:
        with Live(get_renderable=now, console=console, transient=True, vertical_overflow="crop"):
            yield lambda name, line: None  # the table reads them from the jobs
    finally:
        console.print(table(jobs, len(jobs), console.width))


def table(jobs: list[Job], rows: int, width: int) -> Group:
    """The jobs, at most so many and the most interesting ones, as a table of so many columns."""
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    chosen = sorted(jobs, key=lambda job: STATES.index(job.state))[:rows]
    counts = Counter(job.state for job in jobs)
    names = ("job", "overrides", "state", "time", "GPUs", "now")
    result = terminal.table(*names, right=("job", "time"))
    result.expand = True
    for column in result.columns:
        column.no_wrap, column.overflow = True, "ellipsis"
    result.columns[1].max_width, result.columns[4].max_width = width // 2, 15
    result.columns[-1].ratio = 1
    for job in (job for job in jobs if job in chosen):
        own = " ".join(line for line in job.overrides if line not in common)
        result.add_row(
            job.name,
            Text(own),
            Text(job.state, COLOURS.get(job.state, "dim green")),
            str(timedelta(seconds=int(job.seconds))) if job.began else "",
            ",".join(job.gpus),
            Text(terminal.clean(_now(job))),
        )
    # last and narrow: what Ctrl-C makes a terminal print fits behind it and moves no line
    return Group(result, ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]))


def _now(job: Job) -> str:
    """The step it is at, else why it failed, or the last line that it wrote."""
    progress = run_status.look(job.log.parent).progress if job.state == "running" else ""
    return progress if " " in progress else job.error or job.last_line
