"""Runs and sweeps in a terminal: the list of `spot runs` and the screen of `spot show`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spot.data import artifacts
from spot.pipeline import run_status, traces
from spot.pipeline.run_status import METRICS, Doing, KnownRun, Sweep
from spot.pipeline.traces import Made, Mean

COLOURS = {
    "running": "cyan",
    "failed": "red",
    "interrupted": "yellow",
    "waiting": "dim",
    "finished": "green",
}
SCORES = ("in_domain", "ood", "general", "average")
WIDTH = 10_000  # columns where there is no terminal: nothing is wrapped or cut in a log
LOG_LINES = 6
WATCHED = (  # metric, as a person reads it
    ("loss", "loss"),
    ("rewards/chosen", "r⁺"),
    ("rewards/rejected", "r⁻"),
    ("held_out/rewards/chosen", "held-out r⁺"),
    ("held_out/rewards/rejected", "held-out r⁻"),
    ("held_out/kl", "KL to the reference"),
    ("delta", "δ"),
    ("tether/chosen", "tether of y⁺"),
    ("tether/rejected", "tether of y⁻"),
    ("learning_rate", "learning rate"),
)
UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def show_list(output: Path, states: Sequence[str] = (), console: Console | None = None) -> None:
    """All runs and sweeps below `output`, newest first; of these states only, if any are named."""
    console = console or _console()
    found = run_status.find(output)
    made = run_status.made_of([run for one in found for run in _runs(one)])
    table = _table("#", "status", "what", "seed", *(_heading(name) for name in SCORES), "age",
                   "disk", "where", right=("#", "seed", "age", "disk", *map(_heading, SCORES)))  # fmt: skip
    for number, one in enumerate(found, 1):
        if states and not {one.state, *(run.state for run in _runs(one))} & {*states}:
            continue
        size = sum(run_status.disk_use(run, made.get(run.folder, ())) for run in _runs(one))
        cells = _sweep_cells(one, made) if isinstance(one, Sweep) else _run_cells(one, made)
        table.add_row(str(number), *cells, _age(one.at), size_text(size), Text(str(one.folder)))
    if table.row_count:
        console.print(table)
        console.print(f"spot show <#> tells more; a sweep's job: <#>/<job>. {len(found)} in {output}.",
                      style="dim", markup=False)  # fmt: skip
    else:
        what = f" that is {' or '.join(states)}" if states else ""
        console.print(f"no run{what} in {output}: python train.py makes one.", markup=False)


def show_one(one: KnownRun | Sweep, console: Console | None = None) -> None:
    """Everything a person wants to know about a run, or the jobs of a sweep."""
    console = console or _console()
    if isinstance(one, Sweep):
        _show_sweep(one, console)
    else:
        _show_run(one, console)


# ---- a sweep -----------------------------------------------------------------------------------


def _show_sweep(sweep: Sweep, console: Console) -> None:
    console.print(Text.assemble(str(sweep.folder), "  ", _state(sweep.state), "  ", _counts(sweep)))
    made = run_status.made_of(sweep.jobs)
    table = _table("job", "status", "what", "seed", *map(_heading, SCORES), "age",
                   right=("job", "seed", "age", *map(_heading, SCORES)))  # fmt: skip
    for arm, jobs in sweep.arms.items():
        for job in jobs:
            status, _, *rest = _run_cells(job, made)
            when = "" if job.state == "waiting" else _age(job.at)
            table.add_row(job.folder.name, status, Text(arm), *rest, when)
    console.print(table)
    for job in (job for job in sweep.jobs if job.state == "failed"):
        console.print(Text(f"job {job.folder.name}: {job.said}", COLOURS["failed"]))
    report = sweep.folder / "report.html"
    if sweep.alive:
        _say(console, f"watch it: spot show {sweep.folder}")
    elif sweep.state != "finished":
        _say(console, "the same command tries again what is missing and keeps what is finished.")
    if report.exists():
        _say(console, f"report: {report}")


def _sweep_cells(sweep: Sweep, made: Mapping[Path, Sequence[Made]]) -> list[Text | str]:
    arms = list(sweep.arms)
    what = f"{sweep.study or 'sweep'}: {len(arms)} arm{'s' * (len(arms) != 1)}, {_counts(sweep)}"
    return [_state(sweep.state), Text(what), "", *[""] * len(SCORES)]


def _counts(sweep: Sweep) -> str:
    order = ("finished", *COLOURS)
    counts = {state: sweep.counts[state] for state in order if sweep.counts[state]}
    return ", ".join(f"{count} {state}" for state, count in counts.items())


# ---- a run -------------------------------------------------------------------------------------


def _run_cells(run: KnownRun, made: Mapping[Path, Sequence[Made]]) -> list[Text | str]:
    """status, what, seed and scores."""
    state = _state(run.state)
    if run.state in ("running", "interrupted"):
        doing = run_status.doing(run, made.get(run.folder, ()))
        state.append(f" {progress(doing)}" if doing else "", "dim")
    if run.state == "failed" and run.exit is not None:
        state.append(f" exit {run.exit}", "dim")
    what = " · ".join(filter(None, [run.study, run.arm])) or " ".join(run.overrides)
    seed = "" if run.seed is None else str(run.seed)
    return [state, Text(what), seed, *(score(run.scores.get(name)) for name in SCORES)]


def _show_run(run: KnownRun, console: Console) -> None:
    made = run_status.made_of([run]).get(run.folder, [])
    name = " ".join(filter(None, [run.arm, "" if run.seed is None else f"seed {run.seed}"]))
    study = f" of {run.study}" if run.study else ""
    ago = f"  {_age(run.at)} ago" if run.at else ""
    console.print(Text.assemble((name or "run", "bold"), study, "  ", _state(run.state), ago))
    facts = _facts(run, made)
    grid = Table.grid(padding=(0, 2))
    for label, text in facts:
        grid.add_row(Text(label, "dim"), Text(text))
    console.print(grid)
    for table in (_products(run, made), _score_table(run), _metrics(run, made)):
        if table.row_count:
            console.print(table)
    if run.state != "finished":
        for line in traces.log_lines(run.folder)[-LOG_LINES:]:
            console.print(Text(f"  {line}", "dim"))
    for line in next_steps(run):
        _say(console, line)


def _facts(run: KnownRun, made: Sequence[Made]) -> Iterator[tuple[str, str]]:
    """What there is to say in a line each."""
    yield "command", run.command or " ".join(run.overrides)
    if choices := different(run):
        yield "choices", "  ".join(f"{key}={value}" for key, value in choices.items())
    if run.there is not None and run.state == "running":
        yield "process", f"{run.there.pid} on {run.there.host}, for {age(run.there.began)}"
    if run.state in ("running", "interrupted") and (doing := run_status.doing(run, made)):
        yield "stage", progress(doing)
    if run.state == "failed":
        code = "" if run.exit is None else f" (exit code {run.exit})"
        yield "failed", f"{run.said}{code}"
    yield "folder", str(run.folder)
    if (report := run.folder / "report.html").exists():
        yield "report", str(report)
    if checkpoint := run_status.checkpoint(run, made):
        where = checkpoint / "model"
        yield "checkpoint", str(where if where.exists() else f"{checkpoint} (in the making)")
    yield "disk", size_text(run_status.disk_use(run, made))


def different(run: KnownRun) -> dict[str, Any]:
    """Choices of a run that differ from the defaults."""
    config = run.record.get("config") or traces.read_yaml(run.folder / ".hydra" / "config.yaml")
    if not isinstance(config, dict):
        return {}
    from spot.config import compose, plain

    default = _flat(plain(compose.compose([])))
    own = _flat(config)
    own["arm"] = own.get("arm") or run.arm or None  # before it runs, Hydra knows none
    return {key: own[key] for key in own if key not in default or default[key] != own[key]}


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted key."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def _products(run: KnownRun, made: Sequence[Made]) -> Table:
    table = _table("stage", "product", "how", "counts", "folder", right=("how",))
    places = run.record.get("products", {})
    for stage in run.record.get("stages", ()):
        how = "reused" if stage["reused"] else f"{stage['seconds']:.1f} s"
        counts = _count_text(stage["counts"])
        place = Path(places.get(stage["product"], "")).name
        table.add_row(stage["stage"], Text(stage["product"].replace("_", " ")), how, Text(counts), place)  # fmt: skip
    for one in made if not places else ():
        manifest = traces.read_json(one.folder / artifacts.MANIFEST)
        how = f"{manifest['seconds']:.1f} s" if manifest else "unfinished"
        table.add_row(one.stage, "", how, _count_text(manifest.get("counts", {})), one.folder.name)
    return table


def _count_text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in counts.items())


def _score_table(run: KnownRun) -> Table:
    table = _table("benchmark", "base", "score", "95% interval", "difference", "95% interval ",
                   right=("base", "score", "difference"))  # fmt: skip
    rows = traces.read_scores(run.folder)
    base = {row["benchmark"]: row["accuracy"] for row in rows if row.get("arm") == "base"}
    for row in rows:
        if row.get("arm") == "base":
            continue
        interval = f"[{_number(row['low'])}, {_number(row['high'])}]"
        gain = row["difference"]
        low, high = (signed(row[name]) for name in ("difference_low", "difference_high"))
        table.add_row(
            Text(row["benchmark"]),
            _number(base.get(row["benchmark"], "")),
            _number(row["accuracy"]),
            interval,
            signed(gain),
            f"[{low}, {high}]" if gain else "",
        )
    if table.row_count > 1:
        mean = run.scores.get("average")
        table.add_row("average", "", f"{mean.value:.1f}" if mean else "", "", _gain(mean))
    return table


def _metrics(run: KnownRun, made: Sequence[Made]) -> Table:
    """The last value of each metric, and how it began."""
    table = _table("metric", "last", "at step", right=("last", "at step"))
    folder = run_status.checkpoint(run, made)
    rows = traces.read_table(folder / METRICS) if folder else []
    probes = [(name, name) for name in (rows[0] if rows else ()) if name.startswith("probe/")]
    for column, name in (*WATCHED, *probes):
        known = [row for row in rows if row.get(column)]
        if known:
            table.add_row(Text(name), f"{float(known[-1][column]):.4g}", known[-1]["step"])
    return table


def next_steps(run: KnownRun) -> list[str]:
    """What a person does next."""
    if run.state == "running":
        return [f"watch it: spot show {run.folder}"]
    if run.state in ("interrupted", "failed"):
        again = run.command or "the same command"
        return [f"next: {again} goes on from here and keeps what is made."]
    if run.state == "finished" and (run.folder / "report.html").exists():
        return [f"next: open {run.folder / 'report.html'}, or spot compare {run.folder}"]
    return []


# ---- words -------------------------------------------------------------------------------------


def progress(doing: Doing) -> str:
    """`train 46 of 125`."""
    if doing.done is None:
        return doing.stage
    return f"{doing.stage} {doing.done}" + (f" of {doing.total}" if doing.total else "")


def score(mean: Mean | None) -> str:
    """`52.1 (+3.4)`."""
    return f"{mean.value:.1f}" + (f" ({_gain(mean)})" if _gain(mean) else "") if mean else ""


def age(at: float, now: float | None = None) -> str:
    """`5 min`, `3 h`: the time since `at` (s, Unix time), in its largest unit."""
    seconds = max(0.0, (time.time() if now is None else now) - at)
    unit, name = next(((u, n) for u, n in UNITS if seconds >= u), UNITS[-1])
    return f"{int(seconds // unit)} {name}"


def _age(at: float) -> str:
    """Nothing for what never began."""
    return age(at) if at else ""


def size_text(count: float) -> str:
    """Bytes as `3.4 MiB`."""
    power = min(4, (int(count).bit_length() - 1) // 10) if count >= 1 else 0
    value = count / 1024**power
    digits = 1 if power and value < 10 else 0
    return f"{value:.{digits}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def signed(text: str) -> str:
    """`+3.2`, `−1.0`, `0.0`; nothing for nothing."""
    value = round(float(text), 1) if text else 0.0
    return (f"{value:+.1f}".replace("-", "−") if value else "0.0") if text else ""


def _number(text: str) -> str:
    return f"{float(text):.1f}" if text else ""


def _gain(mean: Mean | None) -> str:
    return signed(str(mean.gain)) if mean is not None and mean.gain is not None else ""


def _state(state: str) -> Text:
    return Text(state, COLOURS[state])


def _heading(domain: str) -> str:
    return {"in_domain": "in-domain", "ood": "OOD"}.get(domain, domain)


def _runs(one: KnownRun | Sweep) -> Sequence[KnownRun]:
    return one.jobs if isinstance(one, Sweep) else (one,)


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)


def _table(*columns: str, right: Iterable[str] = ()) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    aligned = set(right)
    for column in columns:
        table.add_column(column, justify="right" if column in aligned else "left")
    return table


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)
