"""What a run will need, before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from spot.config import Config
from spot.pipeline.plan import disk, oracle, remedies
from spot.pipeline.plan.shapes import Shape, shape_of
from spot.pipeline.plan.work import Lengths, Work, work_of
from spot.training.hardware import Hardware
from spot.training.memory_model import RESERVE, Footprint, footprint

GIB = 2.0**30


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
    memory: Footprint
    capacity: float | None  # of one rank's device; None: unknown
    capacity_from: str
    flops: dict[str, float]
    files: list[disk.File]
    calls: oracle.Calls
    remedies: list[str]  # any one of them is enough …
    combination: list[str]  # … and where none is, all of these

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
    def minutes(self) -> float | None:
        """Training and reference at `plan.utilisation` of the busy ranks' peak; None without a peak."""
        hardware = self.config.hardware
        if hardware.tflops is None:
            return None
        rate = hardware.tflops * 1e12 * self.busy_ranks * self.config.plan.utilisation
        return sum(self.flops.values()) / rate / 60

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
        said = f"does NOT fit: needs {needs:.1f} GiB, has {has:.1f} GiB"
        offered = self.remedies or self.combination
        price = "".join(note for key, note in PRICES.items() if any(key in o for o in offered))
        if self.remedies:
            return f"{said}; {' or '.join(self.remedies)} would make it fit{price}"
        if self.combination:
            return f"{said}; {' '.join(self.combination)} together would make it fit{price}"
        return f"{said}: take a smaller model or more memory"


def make(
    config: Config, lengths: Sequence[Lengths] | None = None, wrong: int | None = None
) -> Plan:
    """The plan of a run, see `spot.pipeline.plan.plan`."""
    shape = shape_of(config.model)
    work = work_of(config, shape, lengths)
    capacity, said = _capacity(config)
    memory = _memory(config, shape, work, capacity)

    def fits(changed: Config) -> bool:
        assert capacity is not None
        return _memory(changed, shape, work, capacity).device <= capacity

    single: list[str] = []
    combination: list[str] = []
    if capacity is not None and memory.device > capacity:
        single = remedies.single(config, work.longest, fits)
        combination = [] if single else remedies.together(config, work.longest, fits)
    return Plan(
        config=config,
        shape=shape,
        work=work,
        memory=memory,
        capacity=capacity,
        capacity_from=said,
        flops=work.flops(shape, memory.checkpointed, config.reference),
        files=disk.files(config, shape, work),
        calls=oracle.calls(config, wrong),
        remedies=single,
        combination=combination,
    )


def _memory(config: Config, shape: Shape, work: Work, capacity: float | None) -> Footprint:
    given = config.hardware
    hardware = Hardware(**{name: getattr(given, name) for name in Hardware.__dataclass_fields__})
    tokens = given.tokens_per_pack
    return footprint(shape, hardware, config.reference, work.trained, tokens, capacity)


def _capacity(config: Config) -> tuple[float | None, str]:
    """Bytes of one rank's device: what is said, or on a CPU a share of this machine's memory."""
    hardware = config.hardware
    if hardware.memory_gib is not None:
        return RESERVE * hardware.memory_gib * GIB, f"{RESERVE:.0%} of hardware.memory_gib"
    if hardware.accelerator == "gpu":
        return None, "unknown"
    here = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return RESERVE * here / hardware.devices, f"{RESERVE:.0%} of this machine's, per process"
