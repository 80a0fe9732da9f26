"""A plan on the screen."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from spot.pipeline.plan.account import GIB, Plan
from spot.training.memory_model import RESERVE

Line = tuple[str, str, str]


def show(plan: Plan, console: Console | None = None) -> None:
    """Print the plan: memory, work, disk, Oracle, and whether it fits."""
    out = console or Console(highlight=False, soft_wrap=True)
    config, shape, hardware = plan.config, plan.shape, plan.config.hardware
    out.print(
        f"model={config.model.name}: {shape.parameters / 1e9:.3g} billion parameters, "
        f"{shape.layers} layers; hardware={hardware.name}: {_ranks(plan)}; "
        f"loss={config.loss.name}, reference={config.reference}",
        markup=False,
    )
    _print(out, f"memory of one {_device(plan)}, GiB (2³⁰ bytes)", _memory(plan))
    _print(out, "work", _work(plan))
    _print(out, "disk", _disk(plan))
    _print(
        out,
        "Oracle",
        [
            ("calls", _count(plan.calls.count), plan.calls.note),
            ("price", plan.calls.price, plan.calls.price_note),
        ],
    )
    out.print()
    out.print(plan.verdict, style="bold red" if plan.fits is False else "bold", markup=False)


def _print(out: Console, title: str, lines: Iterable[Line]) -> None:
    table = Table(
        title=title, title_justify="left", title_style="bold", show_header=False, box=None
    )
    table.add_column(min_width=22)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim", overflow="fold")
    for line in lines:
        table.add_row(*line)
    out.print()
    out.print(table)


def _memory(plan: Plan) -> list[Line]:
    lines = [
        (item.name, _gib(item.device), item.note + (" (on the host)" if item.host else ""))
        for item in plan.memory.items
    ]
    lines.append(("total", _gib(plan.memory.device), ""))
    if plan.capacity is not None:
        left = plan.capacity - plan.memory.device
        whose = "this machine's, per process"
        if plan.config.hardware.memory_gib is not None:
            whose = "hardware.memory_gib"
        lines.append(("has", _gib(plan.capacity), f"{RESERVE:.0%} of {whose}"))
        lines.append(("left", _gib(left), ""))
    if plan.memory.host:
        node = plan.memory.host * plan.config.hardware.devices
        said = f"of each rank; {node / GIB:.1f} GiB of a machine"
        lines.append(("host memory", _gib(plan.memory.host), said))
    return lines


def _work(plan: Plan) -> list[Line]:
    work, hardware, loss = plan.work, plan.config.hardware, plan.config.loss
    epochs, rounds = work.epochs, work.rounds
    step = work.trained.tokens / work.pairs * min(loss.batch_pairs, work.pairs)
    lines: list[Line] = [
        ("pairs", f"{work.pairs:,}", f"a round; {work.origin}" if rounds > 1 else work.origin),
        ("lengths", "", work.lengths),
        (
            "tokens",
            _count(rounds * epochs * work.trained.tokens),
            f"{_rounds(plan)}{epochs} epochs, as computed",
        ),
        (
            "without sharing",
            _count(rounds * epochs * work.apart),
            "prompts and responses as sequences of their own",
        ),
        (
            "optimiser steps",
            f"{rounds * work.steps:,}",
            f"{_rounds(plan)}{loss.batch_pairs} pairs each",
        ),
        (
            "tokens of a step",
            _count(step / plan.busy_ranks),
            f"on each rank; a pack holds {hardware.tokens_per_pack:,}",
        ),
    ]
    if rounds > 1:
        said = "work, disk and Oracle are of all rounds; each is assumed to be as large"
        lines.insert(0, ("rounds", f"{rounds:,}", said))
    if work.longest > hardware.tokens_per_pack:
        said = f"the longest pair has {work.longest:,} tokens; what no pack holds is dropped"
        lines.append(("over-long pairs", "", said))
    if plan.busy_ranks < hardware.ranks:
        idle = hardware.ranks - plan.busy_ranks
        lines.append(
            ("idle ranks", f"{idle:,}", "more ranks than loss.batch_pairs: they have no pair")
        )
    lines += [(f"FLOPs, {name}", f"{value:.3g}", "") for name, value in plan.flops.items()]
    if plan.minutes is None:
        return [*lines, ("minutes of training", "unknown", "set hardware.tflops")]
    used = plan.config.plan.utilisation
    peak = f"{plan.busy_ranks} × {hardware.tflops:g} TFLOP/s"
    said = f"if {used:.0%} (plan.utilisation) of {peak} is reached; with the reference, without sampling"
    return [*lines, ("minutes of training", f"{plan.minutes:.3g}", said)]


def _disk(plan: Plan) -> list[Line]:
    lines = [(file.name, _bytes(file.size), file.note) for file in plan.files]
    return [*lines, ("total", _bytes(sum(file.size for file in plan.files)), "at most at one time")]


def _rounds(plan: Plan) -> str:
    """What a figure of all rounds begins with."""
    return f"{plan.work.rounds} rounds, " if plan.work.rounds > 1 else ""


def _ranks(plan: Plan) -> str:
    hardware = plan.config.hardware
    if hardware.strategy == "single":
        return f"one {hardware.accelerator.upper()}"
    return (
        f"{hardware.nodes} × {hardware.devices} {hardware.accelerator.upper()}, "
        f"DeepSpeed ZeRO-{hardware.zero_stage}"
    )


def _device(plan: Plan) -> str:
    return "GPU" if plan.config.hardware.accelerator == "gpu" else "process"


def _count(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value / 1e6:,.1f} M" if value >= 1e6 else f"{value:,.0f}"


def _gib(size: float) -> str:
    gib = size / GIB
    return f"{gib:,.2f}" if abs(gib) >= 1 or not size else f"{gib:.2g}"


def _bytes(size: float) -> str:
    return f"{size / GIB:,.2f} GiB" if size >= GIB / 100 else f"{size / 2**20:,.1f} MiB"
