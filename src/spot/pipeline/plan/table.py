"""The plan of a run as a table in the terminal."""

from __future__ import annotations

from rich.table import Table

from spot.pipeline.plan.account import GIB, Plan
from spot.pipeline.plan.minutes import spent, total
from spot.training.memory_model import RESERVE
from spot.utils import terminal

Line = tuple[str, str, str]  # what, how much, a note


def show(plan: Plan, console: terminal.Console | None = None) -> None:
    """Print the plan: memory, work, disk, Oracle, and whether it fits."""
    from spot.pipeline.plan import power  # with scipy, which checks of the plan can do without

    out = console or terminal.Console(soft_wrap=True)
    config, shape, hardware = plan.config, plan.shape, plan.config.hardware
    kind = hardware.accelerator.upper()
    ranks = f"one {kind}"
    if hardware.deepspeed:
        zero = hardware.zero_stage
        ranks = f"{hardware.nodes} × {hardware.devices} {kind}, DeepSpeed ZeRO-{zero}"
    out.print(
        f"{config.model.name}: {shape.parameters / 1e9:.3g} billion parameters, "
        f"{shape.layers} layers; hardware={hardware.name}: {ranks}; "
        f"loss={config.loss.name}, reference={config.reference}",
    )
    device, calls = "GPU" if kind == "GPU" else "process", plan.calls
    oracle = ("calls", _count(calls.count), calls.note), ("price", calls.price, calls.price_note)
    sections: dict[str, list[Line]] = {
        f"memory of one {device}, GiB (2³⁰ bytes)": _memory(plan),
        "work": _work(plan),
        "time, minutes": _time(plan),
        "disk": _disk(plan),
        "Oracle": list(oracle),
        **power.sections(config),
    }
    for title, lines in sections.items():
        out.print()
        out.print(_table(title, lines))
    out.print()
    out.print(plan.verdict, style="bold red" if plan.fits is False else "bold")


def _table(title: str, lines: list[Line]) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", show_header=False, box=None
    )
    table.add_column(min_width=22)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim", overflow="fold")
    for line in lines:
        table.add_row(*line)
    return table


def _memory(plan: Plan) -> list[Line]:
    hardware, memory = plan.config.hardware, plan.memory
    lines = [
        (item.name, _gib(item.device), item.note + (" (on the host)" if item.host else ""))
        for item in memory.items
    ]
    lines.append(("total", _gib(memory.device), ""))
    if plan.capacity is not None:
        whose = "hardware.memory_gib" if hardware.memory_gib else "this machine's, per process"
        lines.append(("has", _gib(plan.capacity), f"{RESERVE:.0%} of {whose}"))
        lines.append(("left", _gib(plan.capacity - memory.device), ""))
    if memory.host:
        note = f"of each rank; {memory.host * hardware.devices / GIB:.1f} GiB of a machine"
        lines.append(("host memory", _gib(memory.host), note))
    return lines


def _work(plan: Plan) -> list[Line]:
    work, hardware, loss = plan.work, plan.config.hardware, plan.config.loss
    rounds, idle = work.rounds, hardware.ranks - plan.busy_ranks
    passes = rounds * work.epochs
    step = work.tokens_of_step(loss.batch_pairs, hardware.ranks)
    pairs, each = work.origin, ""
    lines: list[Line] = []
    if rounds > 1:
        pairs, each = f"a round; {work.origin}", f"{rounds} rounds, "
        note = "work, disk and Oracle are of all rounds; each is assumed to be as large"
        lines.append(("rounds", f"{rounds:,}", note))
    apart = "prompts and responses as sequences of their own"
    lines += [
        ("pairs", f"{work.pairs:,}", pairs),
        ("lengths", "", work.lengths),
        (
            "tokens",
            _count(passes * work.trained.tokens),
            f"{each}{work.epochs} epochs, as computed",
        ),
        ("without sharing", _count(passes * work.apart), apart),
        ("optimiser steps", f"{rounds * work.steps:,}", f"{each}{loss.batch_pairs} pairs each"),
        (
            "tokens of a step",
            _count(step),
            f"on each rank; a pack holds {hardware.tokens_per_pack:,}; "
            f"{plan.again} of {plan.shape.layers} layers computed again",
        ),
    ]
    if work.longest > hardware.tokens_per_pack:
        note = f"the longest pair has {work.longest:,} tokens; what no pack holds is dropped"
        lines.append(("over-long pairs", "", note))
    if idle:
        note = "more ranks than loss.batch_pairs: they have no pair"
        lines.append(("idle ranks", f"{idle:,}", note))
    lines += [(f"FLOPs, {name}", f"{value:.3g}", "") for name, value in plan.flops.items()]
    if plan.balance.remedies:
        note = f"{plan.balance.slowest:.2f} × the mean rank's work: {' or '.join(plan.balance.remedies)} would even it out"
        lines.append(("slowest rank", "", note))
    return lines


def _time(plan: Plan) -> list[Line]:
    rows = spent(plan)
    minutes, unknown = total(rows)
    lines = [
        (row.what, "unknown" if row.minutes is None else f"{row.minutes:,.1f}", row.source)
        for row in rows
    ]
    if unknown:
        note = f"not among it: {'; '.join(name.replace(',', '') for name in unknown)}"
        return [*lines, ("sum of what is known", f"{minutes:,.1f}", note)]
    return [*lines, ("sum", f"{minutes:,.1f}", f"{minutes / 60:.1f} hours")]


def _disk(plan: Plan) -> list[Line]:
    lines = [(file.name, _bytes(file.size), file.note) for file in plan.files]
    return [*lines, ("total", _bytes(sum(file.size for file in plan.files)), "at most at one time")]


def _count(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value / 1e6:,.1f} M" if value >= 1e6 else f"{value:,.0f}"


def _gib(size: float) -> str:
    gib = size / GIB
    return f"{gib:,.2f}" if abs(gib) >= 1 or not size else f"{gib:.2g}"


def _bytes(size: float) -> str:
    return f"{size / GIB:,.2f} GiB" if size >= GIB / 100 else f"{size / 2**20:,.1f} MiB"
