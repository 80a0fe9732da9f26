"""Runs, sweeps and scores in a terminal: `spot runs`, `spot show`, and tables."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.filesize import decimal
from rich.live import Live
from rich.table import Table
from rich.text import Text

from spot.config import difference
from spot.config.arguments import read
from spot.data import run_record
from spot.data.rows import CORRECT, TRUNCATED, UNPARSEABLE, WRONG
from spot.pipeline import heartbeat, run_status
from spot.pipeline.run_status import METRICS, STATES, Mean, RunStatus, SweepStatus
from spot.utils import terminal
from spot.utils.errors import UserError
from spot.utils.terminal import signed, table

COLOURS = {
    "running": "cyan",
    "failed": "red",
    "interrupted": "yellow",
    "waiting": "dim",
    "complete": "green",
}
SCORES = {"in_domain": "in-domain", "ood": "OOD", "general": "general", "average": "average"}
# Columns that may go, the first one first.
SPARE_IN_LISTS = ("disk", "where", "general", "OOD", "in-domain", "seed", "age")
SHOWN = 3  # responses of each kind that could not be graded
END = 200  # characters of the beginning and of the end of a long text
LOG_LINES = 6
WATCH_SECONDS = 2.0
WATCHED = {  # metric, as a person reads it
    "loss": "loss",
    "rewards/chosen": "r⁺",
    "rewards/rejected": "r⁻",
    "held_out/rewards/chosen": "held-out r⁺",
    "held_out/rewards/rejected": "held-out r⁻",
    "held_out/kl": "KL to the reference",
    "held_out_to_base/kl": "KL to the base",
    "delta": "δ",
    "tether/chosen": "tether of y⁺",
    "tether/rejected": "tether of y⁻",
    "learning_rate": "learning rate",
}
ENDS = {
    heartbeat.REQUEUED: "by SLURM, which was to queue it again",
    129: "by its terminal, which was closed",
    130: "by Ctrl-C",
    131: "by SIGQUIT",
    143: "by SIGTERM",
}
UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


# ---- commands ----------------------------------------------------------------------------------


@dataclass
class RunsArguments:
    """Of `spot runs`."""

    output: str = "outputs"
    status: str = ""


@dataclass
class ShowArguments:
    """Of `spot show`."""

    output: str = "outputs"


def runs(arguments: Sequence[str], watch: bool = False) -> None:
    """`spot runs [output=outputs] [status=running,failed] [--watch]`."""
    _, given = read(RunsArguments, arguments, "runs")
    states = [state for state in given.status.split(",") if state]
    if unknown := [state for state in states if state not in STATES]:
        raise UserError(f"status={unknown[0]} is unknown: choose among {', '.join(STATES)}.")
    output, screen = _folder(given.output), terminal.console()
    if not watch:
        return show_list(output, states)
    if not screen.is_terminal or screen.is_dumb_terminal:
        raise UserError("--watch shows a table that changes and needs a terminal: leave it out.")

    def now() -> Group:
        return _list(output, states, screen.width)

    with (
        suppress(KeyboardInterrupt),
        Live(get_renderable=now, console=screen, screen=True, refresh_per_second=1 / WATCH_SECONDS),
    ):
        while True:
            time.sleep(WATCH_SECONDS)


def show(arguments: Sequence[str]) -> None:
    """`spot show <folder | newest | number from spot runs, 3 or 3/12> [output=outputs]`."""
    names, given = read(ShowArguments, arguments, "show", named=True)
    if len(names) != 1:
        raise UserError(
            "name one run: spot show <folder>, spot show newest, or its number in spot runs."
        )
    here = Path(names[0]).is_dir()
    show_one(run_status.locate(names[0], Path() if here else _folder(given.output)))


def _folder(output: str) -> Path:
    if not Path(output).is_dir():
        raise UserError(f"output={output} is not a folder: name the one that runs write to.")
    return Path(output)


# ---- the list ----------------------------------------------------------------------------------


def show_list(output: Path, states: Sequence[str] = (), console: Console | None = None) -> None:
    """All runs and sweeps below `output`, newest first; of these states only, if any are named."""
    console = console or terminal.console()
    console.print(_list(output, states, console.width))


def _list(output: Path, states: Sequence[str], width: int) -> Group:
    found = run_status.find(output)
    names = SCORES.values()
    rows = table("#", "status", "what", "seed", *names, "age", "disk", "where",
                 right=("#", "seed", "age", "disk", *names))  # fmt: skip
    for number, one in enumerate(found, 1):
        jobs = one.jobs if isinstance(one, SweepStatus) else (one,)
        if states and not {one.state, *(job.state for job in jobs)} & {*states}:
            continue
        disk = decimal(sum(job.disk_use for job in jobs))
        cells = _sweep_cells(one) if isinstance(one, SweepStatus) else _run_cells(one)
        rows.add_row(str(number), *cells, _age(one.at), disk, Text(str(one.folder)))
    if rows.row_count:
        more = f"spot show <#> says more; a sweep's job: <#>/<job>. {len(found)} in {output}."
        return Group(
            terminal.fit(rows, width, SPARE_IN_LISTS, ("what", "where")), Text(more, "dim")
        )
    what = f" that is {' or '.join(states)}" if states else ""
    return Group(Text(f"no run{what} in {output}: python train.py makes one."))


def _sweep_cells(sweep: SweepStatus) -> list[Text | str]:
    arms = len(sweep.arms)
    what = f"{sweep.study or 'sweep'}: {terminal.count(arms, 'arm')}, {_counts(sweep)}"
    return [_state(sweep.state), Text(what), "", *[""] * len(SCORES)]


def _run_cells(run: RunStatus) -> list[Text | str]:
    """status, what, seed and scores."""
    state = _state(run.state)
    if run.state in ("running", "interrupted"):
        state.append(f" {run.progress}".rstrip(), "dim")
    if run.state == "failed" and "exit" in run.record:
        state.append(f" exit {run.record['exit']}", "dim")
    what = " · ".join(filter(None, [run.study, run.what])) or " ".join(run.overrides)
    seed = "" if run.seed is None else str(run.seed)
    return [state, Text(what), seed, *(_score(run.scores.get(name)) for name in SCORES)]


# ---- one of them -------------------------------------------------------------------------------


def show_one(one: RunStatus | SweepStatus, console: Console | None = None) -> None:
    """Everything a person wants to know about a run, or the jobs of a sweep."""
    console = console or terminal.console()
    if isinstance(one, SweepStatus):
        _show_sweep(one, console)
    else:
        _show_run(one, console)


def _show_sweep(sweep: SweepStatus, console: Console) -> None:
    console.print(Text.assemble(str(sweep.folder), "  ", _state(sweep.state), "  ", _counts(sweep)))
    names = SCORES.values()
    rows = table("job", "status", "what", "seed", *names, "age",
                 right=("job", "seed", "age", *names))  # fmt: skip
    for arm, jobs in sweep.arms.items():
        for job in jobs:
            status, _, *rest = _run_cells(job)
            when = "" if job.state == "waiting" else _age(job.at)
            rows.add_row(job.folder.name, status, Text(arm), *rest, when)
    console.print(terminal.fit(rows, console.width, SPARE_IN_LISTS, ("what",)))
    for job in (job for job in sweep.jobs if job.state == "failed"):
        console.print(Text(f"job {job.folder.name}: {job.error}", COLOURS["failed"]))
    if not sweep.alive and sweep.state != "complete":
        _say(console, "the same command tries again what is missing and keeps what is complete.")
    if (report := sweep.folder / "report.html").exists():
        _say(console, f"report: {report}")


def _counts(sweep: SweepStatus) -> str:
    order = ("complete", *STATES[:-1])
    return ", ".join(f"{sweep.counts[state]} {state}" for state in order if sweep.counts[state])


def _show_run(run: RunStatus, console: Console) -> None:
    name = " ".join(filter(None, [run.what, "" if run.seed is None else f"seed {run.seed}"]))
    study = f" of {run.study}" if run.study else ""
    ago = f"  {_age(run.at)} ago" if run.at else ""
    console.print(Text.assemble((name or "run", "bold"), study, "  ", _state(run.state), ago))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in _facts(run):
        grid.add_row(Text(label, "dim"), Text(text))
    console.print(grid)
    for rows in (_products(run), _score_table(run), _metrics(run)):
        if rows.row_count:
            spare = ("folder", "95% interval", "95% interval ")
            console.print(terminal.fit(rows, console.width, spare, ("counts",)))
    _show_ungraded(run, console)
    if run.state != "complete":
        for line in run_status.log_lines(run.folder)[-LOG_LINES:]:
            console.print(Text(f"  {line}", "dim"))
    if run.state in ("interrupted", "failed"):
        again = run.record.get("command", "the same command")
        _say(console, f"next: {again} goes on from here and keeps what is made.")
    if run.state == "complete" and (report := run.folder / "report.html").exists():
        _say(console, f"next: open {report}, or spot compare {run.folder}")


def _facts(run: RunStatus) -> Iterator[tuple[str, str]]:
    """What there is to say in a line each."""
    record = run.record
    yield "command", record.get("command") or " ".join(run.overrides)
    if choices := _choices(run):
        yield "choices", "  ".join(choices)
    if run.state == "running" and "pid" in record:
        yield "process", f"{record['pid']} on {record['host']}, for {age(run.at)}"
    if run.state in ("running", "interrupted") and run.progress:
        yield "stage", run.progress
    if run.state == "interrupted":
        yield "interrupted", ENDS.get(run.record.get("exit", 0), "killed, or the machine went down")
    if run.state == "failed":
        code = f" (exit code {record['exit']})" if "exit" in record else ""
        yield "failed", f"{run.error}{code}"
    yield "folder", str(run.folder)
    if (report := run.folder / "report.html").exists():
        yield "report", str(report)
    if checkpoint := run.checkpoint:
        where = checkpoint / "model"
        yield "checkpoint", str(where if where.exists() else f"{checkpoint} (unfinished)")
    yield "disk", decimal(run.disk_use)


def _choices(run: RunStatus) -> list[str]:
    """What its configuration has otherwise than the defaults; of benchmarks beyond those, their names."""
    chosen = difference.changed(run.record.get("config", {}), difference.defaults())
    names = [key for key in chosen if re.fullmatch(r"benchmarks\.tasks\.[^.]+\.name", key)]
    added = tuple(name.removesuffix("name") for name in names)
    return [
        f"{key}={difference.written(value)}"
        for key, value in chosen.items()
        if key in names or not key.startswith(added)
    ]


def _products(run: RunStatus) -> Table:
    rows = table("stage", "product", "how", "counts", "folder", right=("how",))
    for stage in run.record.get("stages", ()):
        how = "reused" if stage["reused"] else f"{stage['seconds']:.1f} s"
        counts = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in stage["counts"].items())
        name, place = run_record.words(stage["product"]), run.products[stage["product"]].name
        rows.add_row(stage["stage"], Text(name), how, Text(counts), place)
    if current := run.record.get("current"):
        rows.add_row(current["stage"], "", "unfinished", "", Path(current["folder"]).name)
    return rows


def _score_table(run: RunStatus) -> Table:
    rows = table("benchmark", "base", "score", "95% interval", "difference", "95% interval ",
                 right=("base", "score", "difference"))  # fmt: skip
    scores = run_status.read_table(run.folder / "scores.csv")
    base = {row["benchmark"]: row["accuracy"] for row in scores if row.get("arm") == "base"}
    for row in (row for row in scores if row.get("arm") != "base"):
        low, high = _signed(row["difference_low"]), _signed(row["difference_high"])
        rows.add_row(
            Text(row["benchmark"]),
            _number(base.get(row["benchmark"], "")),
            _number(row["accuracy"]),
            f"[{_number(row['low'])}, {_number(row['high'])}]",
            _signed(row["difference"]),
            f"[{low}, {high}]" if row["difference"] else "",
        )
    if rows.row_count > 1 and (mean := run.scores.get("average")):
        gain = "" if mean.gain is None else signed(mean.gain)
        rows.add_row("average", "", f"{mean.value:.1f}", "", gain)
    return rows


def _metrics(run: RunStatus) -> Table:
    """The last value of each metric."""
    rows = table("metric", "last", "at step", right=("last", "at step"))
    metrics = run_status.read_table(run.checkpoint / METRICS) if run.checkpoint else []
    probes = [name for name in (metrics[0] if metrics else ()) if name.startswith("probe/")]
    for column, name in (WATCHED | dict(zip(probes, probes, strict=True))).items():
        if known := [row for row in metrics if row.get(column)]:
            rows.add_row(Text(name), f"{float(known[-1][column]):.4g}", known[-1]["step"])
    return rows


def _show_ungraded(run: RunStatus, console: Console) -> None:
    """A few responses that could not be graded: what was asked, and how each begins and ends."""
    made = {s["product"]: s["counts"] for s in run.record.get("stages", ())}
    for name, counts in made.items():
        for verdict in (TRUNCATED, UNPARSEABLE) if name.endswith("attempts") else ():
            if not counts.get(verdict):
                continue
            total = sum(counts.get(each, 0) for each in (CORRECT, WRONG, TRUNCATED, UNPARSEABLE))
            where = f", {name.partition('/')[0]}" if "/" in name else ""
            title = f"{verdict}: {counts[verdict]:,} of {total:,} responses{where}, for example"
            console.print(Text(title, COLOURS["interrupted"]))
            for row in run_status.some_attempts(run.products[name], verdict, SHOWN):
                asked = f"  {row.id}, {row.tokens} tokens, asked: {_ends(row.question)}"
                console.print(Text(asked), soft_wrap=True)
                console.print(
                    Text(f"    {_ends(row.response) or '(empty)'}", "dim"), soft_wrap=True
                )


def _ends(text: str) -> str:
    """How a text begins and ends, in one line."""
    line = " ".join(terminal.clean(text).split())
    return line if len(line) <= 2 * END else f"{line[:END]} […] {line[-END:]}"


# ---- words -------------------------------------------------------------------------------------


def age(at: float, now: float | None = None) -> str:
    """`5 min`, `3 h`: the time since `at` (s, Unix time), in its largest unit."""
    seconds = max(0.0, (time.time() if now is None else now) - at)
    unit, name = next(((u, n) for u, n in UNITS if seconds >= u), UNITS[-1])
    return f"{int(seconds // unit)} {name}"


def _age(at: float) -> str:
    """Nothing for what never began."""
    return age(at) if at else ""


def _score(mean: Mean | None) -> str:
    """`52.1 (+3.4)`."""
    if mean is None:
        return ""
    return f"{mean.value:.1f}" + ("" if mean.gain is None else f" ({signed(mean.gain)})")


def _signed(text: str) -> str:
    return signed(float(text)) if text else ""


def _number(text: str) -> str:
    return f"{float(text):.1f}" if text else ""


def _state(state: str) -> Text:
    return Text(state, COLOURS[state])


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True)
