"""Selective activation checkpointing: as few layers as the memory allows.

A checkpointed layer keeps its input alone and is computed again in the backward pass, a third more
work for it. Layers carry their own flag, so k of them can be checkpointed: the gradients are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from spot.training.forward import Computing
from spot.training.memory_model import RESERVE, Rows, capacity, footprint
from spot.training.packing import PairTokens
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
    # nothing random happens in a layer, so its random state need not be kept
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    for i, layer in enumerate(layers_of(model)):
        layer._gradient_checkpointing_func = again
        layer.gradient_checkpointing = i < count


def layers_to_checkpoint(
    config: Path, layers: int, pairs: Sequence[PairTokens], computing: Computing, reference: str
) -> int:
    """How many of `layers` `hardware.checkpoint_layers` means: all, none, a number, or auto.

    auto: the fewest with which full packs fit the device, by the memory model that `spot plan` shows, or
    all of an architecture that it does not know; `config` is the model's config.json. Raises UserError
    where not even all are enough.
    """
    hardware, packing = computing.hardware, computing.packing
    setting = hardware.checkpoint_layers
    if setting in ("none", "all"):
        return 0 if setting == "none" else layers
    if setting != "auto":
        return min(int(setting), layers)
    try:
        shape = read(config)
    except UserError:
        say(
            f"The memory of this model is not planned: hardware.checkpoint_layers=auto takes all {layers} "
            "layers; a number takes fewer."
        )
        return layers
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
    return planned.checkpointed
