"""Attention while generating, under a name that transformers finds: prompts, and one query per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from spot.utils.errors import UserError

Groups = Sequence[tuple[int, int]]  # neighbouring rows: how many, and the first column of any

ATTENTION = "spot_generation"


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    row_groups: Groups | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """One query `[B, heads, 1, width]` per row over keys `[B, groups, L, width]`, or whole prompts.

    On a CPU two matrix products over the cache as it lies take half of SDPA's time, and groups of
    rows leave out the columns that none of them has.
    """
    window, cap = kwargs.get("sliding_window"), kwargs.get("softcap")
    if kwargs.get("s_aux") is not None:
        raise UserError(
            "This model's attention has sinks, which generator=transformers does not compute: choose "
            "generator=vllm."
        )
    if window is not None and key.shape[2] > window:
        row_groups = None
        if query.shape[2] == 1:  # all rows write the same column, so the last ones are the window
            key, value = key[:, :, -window:], value[:, :, -window:]
            mask = None if mask is None else mask[..., -window:]
        else:
            mask = banded(query.shape[2], window, query)
    if cap is not None:
        if mask is None and query.shape[2] > 1:
            mask = banded(query.shape[2], query.shape[2], query)
        return capped(query, key, value, mask, scaling, cap).transpose(1, 2), None
    if row_groups is None or mask is None or key.device.type != "cpu" or key.dtype != torch.float32:
        return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **kwargs)
    batch, heads, _, width = query.shape
    grouped = (query * scaling).reshape(batch, key.shape[1], heads // key.shape[1], width)
    sizes = [size for size, _ in row_groups]
    parts = zip(*(part.split(sizes) for part in (grouped, key, value, mask)), strict=True)
    outputs = []
    for (_, first), (q, k, v, m) in zip(row_groups, parts, strict=True):
        weights = torch.softmax(q @ k[:, :, first:].transpose(2, 3) + m[..., first:], dim=-1)
        outputs.append(weights @ v[:, :, first:])
    return torch.cat(outputs).reshape(batch, 1, heads, -1), None


def banded(length: int, window: int, like: Tensor) -> Tensor:
    """Additive `[length, length]`: each place sees itself and the `window - 1` before it."""
    seen = torch.ones(length, length, dtype=torch.bool, device=like.device).tril()
    seen = seen.triu(1 - window)
    return like.new_zeros(seen.shape).masked_fill_(~seen, float("-inf"))


def capped(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, cap: float
) -> Tensor:
    """`[B, heads, T, width]` with scores cap · tanh(score / cap), as Gemma 2's; SDPA has no such."""
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
    scores = torch.tanh(query @ key.transpose(2, 3) * (scaling / cap)) * cap
    scores = scores if mask is None else scores + mask
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


AttentionInterface.register(ATTENTION, _attend)
