"""Selective activation checkpointing: as few layers as the memory allows, pack by pack.

A checkpointed layer keeps its input alone and is computed again in the backward pass, a third more
work for it. Layers carry their own flag, so k of them can be checkpointed: the gradients are the same,
and so is the order in which they are there, so that ranks may differ in k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from spot.config import LoraConfig
from spot.training.forward import Computing
from spot.training.lora import drops
from spot.training.memory_model import RESERVE, Rows, capacity, footprint
from spot.training.packing import Pack, PairTokens
from spot.training.shapes import read
from spot.utils.errors import UserError
from spot.utils.progress import say


def layers_of(model: Any) -> list[Any]:
    """The decoder layers, in order. Families have their own names for the list of them."""
    count = model.config.num_hidden_layers
    lists = (m for m in model.base_model.modules() if isinstance(m, torch.nn.ModuleList))
    return list(next(layers for layers in lists if len(layers) == count))


def checkpoint_layers(model: Any, count: int) -> None:
    """Checkpoint the first `count` layers, no other. The model must be in train mode to notice.

    Sets what transformers' own switch sets, which changes its name between versions.
    """
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=count > 0 and drops(model))
    for i, layer in enumerate(layers_of(model)):
        layer._gradient_checkpointing_func = again
        layer.gradient_checkpointing = i < count


@dataclass(frozen=True)
class Recomputation:
    """How many layers packs compute again: `most` of them, or of a smaller pack as few as it needs."""

    most: int
    needed: Callable[[Rows, float], int] | None = (
        None  # by a pack's rows and tokens; None: always `most`
    )

    def of(self, pack: Pack) -> int:
        if self.needed is None:
            return self.most
        return self.needed(Rows.of_rows(pack.rows, len(pack.targets)), pack.tokens)


def recomputation(
    config: Path,
    layers: int,
    pairs: Sequence[PairTokens],
    computing: Computing,
    reference: str,
    lora: LoraConfig | None = None,
) -> Recomputation:
    """What `hardware.checkpoint_layers` means for `layers` layers: all, none, a number, or auto.

    auto: as few as each pack fits the device with, by the memory model that `spot plan` shows; under
    ZeRO-3, whose ranks gather a layer's weights together whenever it is computed and fetch ahead what
    the step before needed, as many for every pack as a full one needs; all of an architecture that is
    not planned. `config` is the model's config.json. Raises UserError where not even all layers make
    room for a full pack.
    """
    hardware, packing = computing.hardware, computing.packing
    setting = hardware.checkpoint_layers
    if setting in ("none", "all"):
        return Recomputation(0 if setting == "none" else layers)
    if setting != "auto":
        return Recomputation(min(int(setting), layers))
    try:
        shape = read(config)
        shape = replace(shape, lora=lora or shape.lora)
    except UserError:
        say(
            f"The memory of this model is not planned: hardware.checkpoint_layers=auto takes all {layers} "
            "layers; a number takes fewer."
        )
        return Recomputation(layers)
    memory = capacity(hardware)
    if memory is None:
        memory = RESERVE * torch.cuda.get_device_properties("cuda").total_memory
    rows = Rows.of([pair.lengths for pair in pairs], shape, packing.rejected, packing.share_prefix)
    tokens = packing.token_budget
    planned = footprint(shape, hardware, reference, rows, tokens, memory)
    if planned.device > memory:
        raise UserError(
            f"A pack of {tokens} tokens needs {planned.device / 2**30:.3g} GiB even with every layer "
            f"checkpointed, and {memory / 2**30:.3g} GiB are there: lower hardware.tokens_per_pack or "
            "take a smaller model; `spot plan` shows what else would help."
        )
    if hardware.in_parts:
        return Recomputation(planned.checkpointed)

    def needed(rows: Rows, tokens: float) -> int:
        return footprint(shape, hardware, reference, rows, tokens, memory).checkpointed

    return Recomputation(planned.checkpointed, needed)
