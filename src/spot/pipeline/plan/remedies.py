"""What would make a run fit: one option at a time, each tried by computing the memory again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from spot.config import Config

SHOWN = 3  # remedies that are named
SMALLEST_PACK = 1024  # tokens; less leaves a GPU waiting
MOST_DEVICES = 1024
Fits = Callable[[Config], bool]


def options(config: Config, longest: int) -> Iterator[tuple[str, Config]]:
    """Changes that save memory, from those that cost least, each with the configuration it gives.

    Packs stay as long as the `longest` pair: a longer pair would be dropped.
    """
    hardware = config.hardware

    def on(text: str, **changes: object) -> tuple[str, Config]:
        return text, replace(config, hardware=replace(hardware, **changes))  # type: ignore[arg-type]

    if hardware.checkpoint_layers not in ("all", "auto"):
        yield on("hardware.checkpoint_layers=all", checkpoint_layers="all")
    if config.reference != "cached":
        yield "reference=cached", replace(config, reference="cached")
    tokens = hardware.tokens_per_pack // 2
    while tokens >= max(longest, SMALLEST_PACK):
        yield on(f"hardware.tokens_per_pack={tokens}", tokens_per_pack=tokens)
        tokens //= 2
    if hardware.strategy == "single":
        if hardware.optimizer != "adamw8bit":
            yield on("hardware.optimizer=adamw8bit", optimizer="adamw8bit")
        return
    for stage in range(hardware.zero_stage + 1, 4):
        yield on(f"hardware.zero_stage={stage}", zero_stage=stage)
    if not hardware.offload_optimizer:
        yield on("hardware.offload_optimizer=true", offload_optimizer=True)
    nodes = 2 * hardware.nodes
    while nodes * hardware.devices <= MOST_DEVICES:
        yield on(f"hardware.nodes={nodes}", nodes=nodes)
        nodes *= 2


def single(config: Config, longest: int, fits: Fits) -> list[str]:
    """The first options that make the run fit by themselves; of each key only its first value."""
    found: dict[str, str] = {}
    for text, changed in options(config, longest):
        if len(found) < SHOWN and _key(text) not in found and fits(changed):
            found[_key(text)] = text
    return list(found.values())


def together(config: Config, longest: int, fits: Fits) -> list[str]:
    """Options added one after the other, in the same order, until the run fits; none if it never does.

    Of each key the first value that is enough, else the one that saves the most. What turns out not to
    be needed in the end is left out again.
    """
    taken: dict[str, str] = {}
    changed = config
    while left := [(t, c) for t, c in options(changed, longest) if _key(t) not in taken]:
        values = [(t, c) for t, c in left if _key(t) == _key(left[0][0])]
        text, changed = next(((t, c) for t, c in values if fits(c)), values[-1])
        taken[_key(text)] = text
        if fits(changed):
            return _needed(config, longest, list(taken.values()), fits)
    return []


def _needed(config: Config, longest: int, chosen: list[str], fits: Fits) -> list[str]:
    """Without each option that the others do without, the first ones first."""
    for text in list(chosen):
        others = [each for each in chosen if each != text]
        without = _with(config, longest, others)
        if without is not None and fits(without):
            chosen = others
    return chosen


def _with(config: Config, longest: int, texts: list[str]) -> Config | None:
    """The configuration with these options, if each of them still is one."""
    for text in texts:
        found = dict(options(config, longest)).get(text)
        if found is None:
            return None
        config = found
    return config


def _key(text: str) -> str:
    return text.partition("=")[0]
