"""The plan of a run before anything is loaded: memory, time, disk and price."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from spot.config import Config
from spot.pipeline.plan.balance import Balance, balance_of
from spot.pipeline.plan.disk import File, files
from spot.pipeline.plan.oracle import Calls, calls
from spot.pipeline.plan.work import Work, work_of
from spot.training.bin_packing import Lengths, tight_budget
from spot.training.memory_model import Footprint, capacity, footprint
from spot.training.shapes import Shape, shape_of

GIB = 2.0**30
SHOWN = 3  # options that are named
SMALLEST_PACK = 1024  # tokens; less leaves a GPU waiting
MOST_DEVICES = 1024
PRICES = {  # of what is offered
    "tokens_per_pack": "; pairs longer than a pack would be dropped",
    "offload_optimizer": "; offloading takes the machine's memory: plan it with that option",
}


@dataclass(frozen=True)
class Plan:
    """Everything `spot plan` says. Bytes unless a name says otherwise."""

    config: Config
    shape: Shape
    work: Work
    balance: Balance
    memory: Footprint  # with a full pack
    again: int  # layers that the packs of a step compute again
    capacity: float | None  # of one rank's device; None: unknown
    flops: dict[str, float]
    files: list[File]
    calls: Calls
    remedies: list[str]  # options any one of which would make it fit

    @property
    def fits(self) -> bool | None:
        """None where the device's memory is unknown."""
        return None if self.capacity is None else self.memory.device <= self.capacity

    @property
    def exit_code(self) -> int:
        return 1 if self.fits is False else 0

    @property
    def busy_ranks(self) -> int:
        """Ranks that have a pair in every step: one pair is never divided."""
        return min(self.config.hardware.ranks, self.config.loss.batch_pairs)

    @property
    def rate(self) -> float | None:
        """FLOP/s of all ranks at `plan.utilisation`; None without a peak."""
        hardware = self.config.hardware
        if hardware.tflops is None:
            return None
        return hardware.tflops * 1e12 * hardware.ranks * self.config.plan.utilisation

    @property
    def verdict(self) -> str:
        """One line: whether it fits, and if not, what would help."""
        needs = self.memory.device / GIB
        if self.capacity is None:
            return f"needs {needs:.1f} GiB on each device: set hardware.memory_gib for a verdict"
        has = self.capacity / GIB
        if self.fits:
            auto = self.config.hardware.checkpoint_layers == "auto" and self.memory.checkpointed
            more = " (checkpoint_layers=auto uses what there is)" if auto else ""
            host = self.memory.host * self.config.hardware.devices / GIB
            if host >= 1:
                more += f", if each machine has {host:,.0f} GiB of memory beside"
            return f"fits, {has - needs:.1f} GiB left{more}"
        verdict = f"does NOT fit: needs {needs:.1f} GiB, has {has:.1f} GiB"
        if not self.remedies:
            return f"{verdict}, and no single option helps: take a smaller model, more memory or devices"
        price = "".join(note for key, note in PRICES.items() if key in " ".join(self.remedies))
        return f"{verdict}; {' or '.join(self.remedies)} would make it fit{price}"


def plan(
    config: Config, lengths: Sequence[Lengths] | None = None, wrong: int | None = None
) -> Plan:
    """Count what the run needs, without loading a model or touching a GPU.

    `lengths` are those of the run's pairs where they exist, `wrong` the number of wrong attempts where
    they were counted; without them `config.plan` and `config.data` are assumed. Raises UserError where
    the model's shape cannot be known.
    """
    shape = shape_of(config.model)
    work = work_of(config, shape, lengths)
    full, there = config.hardware.tokens_per_pack, capacity(config.hardware)
    memory = _memory(config, shape, work, full)
    again = _memory(config, shape, work, pack_tokens(config, work))
    remedies: list[str] = []
    if there is not None and memory.device > there:
        remedies = [
            option
            for option, changed in options(config, work.longest)
            if _memory(changed, shape, work, changed.hardware.tokens_per_pack).device <= there
        ]
    first = {option.partition("=")[0]: option for option in reversed(remedies)}
    return Plan(
        config=config,
        shape=shape,
        work=work,
        balance=balance_of(config, shape, lengths),
        memory=memory,
        again=again.checkpointed,
        capacity=there,
        flops=work.flops(shape, again.checkpointed, config.reference),
        files=files(config, shape, work),
        calls=calls(config, wrong),
        remedies=list(reversed(first.values()))[:SHOWN],
    )


def _memory(config: Config, shape: Shape, work: Work, tokens: int) -> Footprint:
    """With packs of so many tokens."""
    hardware, rows = config.hardware, work.trained
    return footprint(shape, hardware, config.reference, rows, tokens, capacity(hardware))


def pack_tokens(config: Config, work: Work) -> int:
    """Tokens of a pack, if all are alike: a rank's share of a step, in as few as hold it.

    Where the ranks hold parts of the weights, of the largest, which decides what all compute again.
    """
    hardware = config.hardware
    share = work.tokens_of_step(config.loss.batch_pairs, hardware.ranks)
    if hardware.in_parts:
        return tight_budget(work.longest, share, hardware.tokens_per_pack)
    return math.ceil(share / math.ceil(share / hardware.tokens_per_pack))


def options(config: Config, longest: int) -> Iterator[tuple[str, Config]]:
    """Overrides that save memory, from those that cost least, each with the configuration it gives.

    Packs stay as long as the `longest` pair: a longer pair would be dropped.
    """
    hardware = config.hardware
    changes: list[tuple[str, object]] = []
    if hardware.checkpoint_layers not in ("all", "auto"):
        changes.append(("checkpoint_layers", "all"))
    if config.reference != "cached":
        yield "reference=cached", replace(config, reference="cached")
    tokens = hardware.tokens_per_pack // 2
    while tokens >= max(longest, SMALLEST_PACK):
        changes.append(("tokens_per_pack", tokens))
        tokens //= 2
    if hardware.deepspeed:
        changes += [("zero_stage", stage) for stage in range(hardware.zero_stage + 1, 4)]
        changes.append(("offload_optimizer", True))
        nodes = 2 * hardware.nodes
        while nodes * hardware.devices <= MOST_DEVICES:
            changes.append(("nodes", nodes))
            nodes *= 2
    else:
        changes.append(("optimizer", "adamw8bit"))
    for key, value in changes:
        if getattr(hardware, key) != value:
            changed = replace(hardware, **{key: value})  # type: ignore[arg-type]
            yield f"hardware.{key}={str(value).lower()}", replace(config, hardware=changed)
