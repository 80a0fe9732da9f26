"""Attention over packs: every token sees its own sequence and nothing else.

The pack is one flat row of tokens, so that linear layers waste nothing. Only for attention its rows
are gathered into padded blocks of similar length, `[rows, width]`, and one SDPA call with a 4-D mask
runs per block: the cost is the sum of squared row lengths, not the square of the pack.

The function is registered through transformers' AttentionInterface and gets its layout as an extra
keyword argument of the model's forward; no model is forked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from spot.training.packing import Pack

NAME = "spot_sdpa"
WASTE = 1.3  # a block ends where its longest row would pad a shorter one beyond this ratio


@dataclass(frozen=True)
class Block:
    """Rows of similar length, padded to the longest."""

    index: Tensor  # [rows * width] tokens of the pack; padding repeats a row's first token
    mask: Tensor  # [rows, 1, width, width] additive: 0 where a query (dim 2) sees a key (dim 3)

    @property
    def shape(self) -> tuple[int, int]:
        return self.mask.shape[0], self.mask.shape[2]


@dataclass(frozen=True)
class Layout:
    """Where attention finds every row of a pack, and where it puts the result back."""

    blocks: tuple[Block, ...]
    back: Tensor  # [T] place of every token in the blocks laid end to end


def visible(rows: Sequence[tuple[int, int, int]], width: int) -> Tensor:
    """Boolean mask [rows, width, width] of rows `[c | a | b]`: causal, and b does not see a.

    Padding lies behind the row, so no real token sees it.
    """
    lengths = torch.tensor(rows)
    c, ca = lengths[:, 0, None, None], lengths[:, :2].sum(1)[:, None, None]
    query, key = torch.arange(width)[None, :, None], torch.arange(width)[None, None, :]
    return (key <= query) & ~((query >= ca) & ((key >= c) & (key < ca)))


def make_layout(rows: Sequence[tuple[int, int, int]], dtype: torch.dtype = torch.float32) -> Layout:
    """The blocks of a pack's rows (lengths of c, a and b, in the order of the tokens)."""
    lengths = [sum(row) for row in rows]
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    blocks, back, offset = [], torch.empty(starts[-1], dtype=torch.long), 0
    for group in _groups(lengths):
        width = lengths[group[0]]
        length, start = (torch.tensor([v[i] for i in group])[:, None] for v in (lengths, starts))
        column = torch.arange(width)[None]
        real = column < length
        index = torch.where(real, start + column, start)
        mask = torch.zeros(len(group), 1, width, width, dtype=dtype)
        mask.masked_fill_(~visible([rows[i] for i in group], width)[:, None], float("-inf"))
        blocks.append(Block(index.flatten(), mask))
        place = torch.arange(len(group) * width).view_as(index) + offset
        back[index[real]] = place[real]
        offset += index.numel()
    return Layout(tuple(blocks), back)


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Rows in order of falling length, cut where padding would waste too much."""
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not groups or lengths[i] * WASTE < lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(i)
    return groups


def packed_sdpa(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """SDPA over the rows of a pack: query [1, heads, T, d], key and value [1, kv_heads, T, d].

    Returns ([1, T, heads, d], None), as transformers expects.
    """
    if layout is None:
        raise RuntimeError("packed attention was called without a layout; see attention.packed")

    def gather(states: Tensor, block: Block) -> Tensor:  # → [rows, heads, width, d]
        _, heads, _, d = states.shape
        flat = states.transpose(1, 2).reshape(-1, heads * d)
        return flat.index_select(0, block.index).view(*block.shape, heads, d).transpose(1, 2)

    outputs = []
    for block in layout.blocks:
        q, k, v = (gather(states, block) for states in (query, key, value))
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=block.mask, scale=kwargs.get("scaling"), enable_gqa=True
        )
        outputs.append(out.transpose(1, 2).reshape(-1, q.shape[1] * q.shape[3]))
    flat = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return flat.index_select(0, layout.back).view(1, -1, query.shape[1], query.shape[3]), None


AttentionInterface.register(NAME, packed_sdpa)


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """Within, the model's attention is ours and takes packs; outside, it is the model's own."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def hidden_states(model: Any, pack: Pack) -> Tensor:
    """Last hidden states [T, hidden] of a pack. The model's attention must be ours: see `packed`."""
    if model.config._attn_implementation != NAME:
        raise RuntimeError(f"the model's attention is {model.config._attn_implementation}")
    layout = make_layout(pack.rows, dtype=model.dtype)
    output = model.base_model(
        input_ids=pack.input_ids, position_ids=pack.position_ids, use_cache=False, layout=layout
    )
    return output.last_hidden_state[0]
