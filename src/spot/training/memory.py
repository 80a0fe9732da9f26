"""Selective activation checkpointing: as few layers as the memory allows.

A checkpointed layer keeps its input alone and is computed again in the backward pass, a third more
work for it. Layers carry their own flag, so k of them can be checkpointed: the gradients are the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM

from spot.training import attention
from spot.training.forward import Kernels, pack_logprobs
from spot.training.hardware import Hardware
from spot.training.logprobs import TILES
from spot.training.memory_model import standing
from spot.training.packing import Pack
from spot.training.weights import shortened
from spot.utils.errors import UserError


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
        """Bytes per token at the fullest moment.

        A checkpointed layer is whole again while its backward pass runs; by then what the layers behind
        it kept is gone, since the first ones are checkpointed.
        """
        whole = max(layers - checkpointed, 1) * self.layer
        return whole + checkpointed * self.boundary + self.rest


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


class Sizes(NamedTuple):
    """Parameters of a model, and of its head."""

    parameters: int
    head: int


def standing_bytes(skeleton: Any, hardware: Hardware, reference: str) -> float:
    """Weights, gradients, masters, moments, buffers and a live reference, on one rank's device.

    skeleton: the whole model, which may be without memory (`weights.skeleton`).
    """
    parameters = sum(p.numel() for p in skeleton.parameters())
    sizes = Sizes(parameters, skeleton.get_output_embeddings().weight.numel())
    return sum(item.device for item in standing(sizes, hardware, reference))


def head_bytes(model: Any) -> float:
    """A tile of fp32 logits with its gradient, the head's fp32 gradient, a tile's share and its copy."""
    rows, words = TILES[model.device.type]
    weight = model.get_output_embeddings().weight
    share = min(words, weight.shape[0]) * weight.shape[1]
    narrow_copy = 4 * weight.numel() if weight.element_size() < 4 and not weight.is_cuda else 0
    return 4.0 * (2 * rows * words + weight.numel() + share) + weight.nbytes + narrow_copy


def device_bytes(device: torch.device) -> float:
    """Memory of a device, or of the machine."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def small_model(config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """The model with at most two layers and whatever weights: its activations are what counts."""
    with device:
        return AutoModelForCausalLM.from_config(shortened(config, 2), dtype=dtype).train()


def plan_layers(
    setting: str,
    layers: int,
    measured: Callable[[], tuple[Activations, float]],
    tokens: int,
    memory: float,
) -> int:
    """How many of `layers` `hardware.checkpoint_layers` means: all, none, a number, or auto.

    auto: as few as let packs of `tokens` tokens fit `memory` bytes; `measured()` gives the activations
    and the bytes that stand whatever the pack.
    """
    if setting in ("none", "all"):
        return 0 if setting == "none" else layers
    if setting != "auto":
        return min(int(setting), layers)
    activations, standing = measured()
    count = fewest_layers(activations, layers, tokens, memory - standing)
    if count is None:
        taken = f"weights, gradients and optimiser take {standing / 2**30:.3g} GiB"
        advice = "take a smaller model" if standing > memory else "lower hardware.tokens_per_pack"
        raise UserError(
            f"A pack of {tokens} tokens does not fit {memory / 2**30:.3g} GiB even with every "
            f"layer checkpointed ({taken}): {advice}; `spot plan` shows what else would help."
        )
    return count
