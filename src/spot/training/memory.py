"""Selective activation checkpointing: as few layers as the memory allows.

A checkpointed layer keeps its input alone and is computed again in the backward pass, a third more
work for it. Layers carry their own flag, so k of them can be checkpointed: the gradients are the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from spot.errors import UserError
from spot.training import attention
from spot.training.logprobs import TILES
from spot.training.packing import Pack
from spot.training.scoring import Kernels, pack_logprobs

RESERVE = 0.92  # of a device's memory that may be planned with; the rest is fragmentation


def layers_of(model: Any) -> list[Any]:
    """The decoder layers, in order."""
    return list(model.base_model.layers)


def checkpoint_layers(model: Any, count: int) -> None:
    """Checkpoint the first `count` layers, no other. The model must be in train mode to notice.

    Sets what transformers' own switch sets, which changes its name between versions.
    """
    # nothing random happens in a layer, so its random state need not be kept
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    for i, layer in enumerate(layers_of(model)):
        layer._gradient_checkpointing_func = again
        layer.gradient_checkpointing = i < count


@dataclass(frozen=True)
class Activations:
    """Bytes per token that a forward pass keeps for the backward pass."""

    layer: float  # of one layer
    boundary: float  # of one checkpointed layer: its input
    rest: float  # outside the layers

    def kept(self, layers: int, checkpointed: int) -> float:
        """Bytes per token; a checkpointed layer is whole again while its backward pass runs."""
        again = self.layer if checkpointed else 0.0
        return (
            (layers - checkpointed) * self.layer + checkpointed * self.boundary + self.rest + again
        )


def measure(model: Any, pack: Pack, kernels: Kernels) -> Activations:
    """What a forward pass over this pack really keeps, by the storages that autograd saves."""
    kept: list[Any] = []  # storages, held so that no address is used twice
    seen = {p.untyped_storage().data_ptr() for p in model.parameters()}
    marks: list[int] = []
    total = 0

    def save(tensor: Tensor) -> Any:
        """Keeps no tensor: one would hold the graph that holds this hook. No backward pass follows."""
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept.append(storage)
            total += storage.nbytes()

    def mark(*_: Any) -> None:
        marks.append(total)

    layers = layers_of(model)
    checkpoint_layers(model, 0)
    handles = [layers[0].register_forward_pre_hook(mark)]
    handles += [layer.register_forward_hook(mark) for layer in layers]
    try:
        with (
            torch.autograd.graph.saved_tensors_hooks(save, lambda kept: kept),
            attention.packed(model, kernels.attention),
        ):
            pack_logprobs(model, pack, kernels)
    finally:
        for handle in handles:
            handle.remove()
    layer = (marks[-1] - marks[0]) / len(layers)
    itemsize = next(model.parameters()).element_size()
    return Activations(
        layer / pack.tokens,
        model.config.hidden_size * itemsize,
        (total - (marks[-1] - marks[0])) / pack.tokens,
    )


def fewest_layers(
    activations: Activations, layers: int, tokens: int, available: float
) -> int | None:
    """The fewest layers to checkpoint so that `tokens` fit `available` bytes; None if none is enough."""
    for count in range(layers + 1):
        if tokens * activations.kept(layers, count) <= available:
            return count
    return None


def standing_bytes(model: Any) -> float:
    """Weights, gradients, AdamW's two moments and, beside narrow weights, fp32 masters and gradients."""
    total = 0.0
    for p in model.parameters():
        narrow = p.element_size() < 4
        total += p.numel() * (p.element_size() + 4 + 8 + (4 if narrow else 0))
    return total


def head_bytes(model: Any) -> float:
    """A tile of fp32 logits with its gradient, the head's fp32 gradient, a tile's share and its copy."""
    rows, words = TILES[model.device.type]
    weight = model.get_output_embeddings().weight
    share = min(words, weight.shape[0]) * weight.shape[1]
    narrow_copy = 4 * weight.numel() if weight.element_size() < 4 and not weight.is_cuda else 0
    return 4.0 * (2 * rows * words + weight.numel() + share) + weight.nbytes + narrow_copy


def device_bytes(model: Any) -> float:
    """Memory of the model's device, or of the machine."""
    if model.device.type == "cuda":
        return float(torch.cuda.get_device_properties(model.device).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def plan_layers(
    setting: str,
    model: Any,
    sample: Callable[[], Pack],
    kernels: Kernels,
    token_budget: int,
    gib: float | None,
) -> int:
    """How many layers `hardware.checkpoint_layers` means: all, none, a number, or auto.

    auto: measured on `sample()`, for packs of `token_budget` tokens, within `gib` (null: the device's).
    """
    layers = len(layers_of(model))
    if setting in ("none", "all"):
        return 0 if setting == "none" else layers
    if setting != "auto":
        return min(int(setting), layers)
    memory = gib * 2**30 if gib else RESERVE * device_bytes(model)
    standing = standing_bytes(model) + head_bytes(model)
    count = fewest_layers(
        measure(model, sample(), kernels), layers, token_budget, memory - standing
    )
    if count is None:
        taken = f"weights, gradients and optimiser take {standing / 2**30:.3g} GiB"
        advice = "take a smaller model" if standing > memory else "lower hardware.tokens_per_pack"
        raise UserError(
            f"A pack of {token_budget} tokens does not fit {memory / 2**30:.3g} GiB even with every "
            f"layer checkpointed ({taken}): {advice}."
        )
    return count
