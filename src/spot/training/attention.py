"""Attention over packs: every token sees its own sequence and nothing else.

The pack is one flat row of tokens, so that linear layers waste nothing. Attention takes every row
`[c | a | b]` apart: the queries of c and a see the keys of c and a, the queries of b the keys of c and
b, causal and aligned to the right. Two kinds of kernel do that:

- `sdpa`, anywhere: rows of similar length in one padded block, one SDPA call a block.
- `varlen` and `flash`, on a GPU: one call over all segments of unequal length.

They are registered through transformers' AttentionInterface and get the layout of a pack as an extra
keyword argument of the model's forward; no model is forked. Results of two calls are never merged by
their log-sum-exp: the backward pass of these kernels ignores it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from itertools import accumulate
from math import isclose
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface

from spot.generation.attention import capped
from spot.utils.errors import UserError

Rows = Sequence[tuple[int, int, int]]  # lengths of (c, a, b), in the order of the tokens


@dataclass(frozen=True)
class Scores:
    """What a layer makes of queries and keys: scores = cap · tanh(scale · q k / cap), within a window."""

    scale: float | None = None  # None: 1 / √d
    window: int | None = None  # how many keys a query sees at most, itself among them
    cap: float | None = None


PLAIN = Scores()
WASTE = 1.3  # a block ends where its longest segment would pad a shorter one beyond this ratio …
SHORT, SHORT_WASTE = 256, 2.5  # … and up to so many keys beyond this: another block costs more


# ---- sdpa: padded blocks -------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """Segments of similar length, padded to the longest: tokens of a pack that attend to each other.

    Padding repeats a segment's first token and lies behind it, where no real query looks.
    """

    rows: int
    queries: Tensor  # [rows * wide] places in the pack
    keys: Tensor  # [rows * long] places in the pack
    before: Tensor  # [rows, 1] how many keys precede a row's first query
    mask: Tensor | None  # [rows, 1, wide, long] additive; None: queries are the keys, causal
    windows: dict[int, Tensor] = field(default_factory=dict)  # the masks of sliding windows

    def mask_of(self, scores: Scores, query: Tensor, keys: int) -> Tensor | None:
        """The mask of a layer; None: causal."""
        window = min(scores.window or keys, keys)
        if self.mask is not None and window == keys:
            return self.mask
        if window == keys and scores.cap is None:
            return None
        if window not in self.windows:
            before, dtype = self.before.to(query.device), query.dtype
            self.windows[window] = _mask(before, query.shape[2], keys, dtype, window)
        return self.windows[window]


@dataclass(frozen=True)
class Blocks:
    """Where attention finds every segment of a pack, and where it puts the result back."""

    blocks: tuple[Block, ...]
    back: Tensor  # [T] place of every token in the blocks' queries laid end to end


def make_blocks(
    rows: Rows, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Blocks:
    """The blocks of a pack's rows: first all `[c | a]`, which need no mask, then all b."""
    starts = [0, *accumulate(sum(row) for row in rows)]
    heads, tails = [], []  # (queries, keys) of every segment
    for (c, a, b), start in zip(rows, starts, strict=False):
        heads.append((torch.arange(start, start + c + a),) * 2)
        if b:
            tail = torch.arange(start + c + a, start + c + a + b)
            tails.append((tail, torch.cat([torch.arange(start, start + c), tail])))
    blocks, queries = [], []
    for segments, masked in ((heads, False), (tails, True)):
        for group in _groups([(len(q), len(k)) for q, k in segments]):
            members = [segments[i] for i in group]
            before = torch.tensor([[len(k) - len(q)] for q, k in members])
            q, k = (pad_sequence(list(s), True, -1) for s in zip(*members, strict=True))
            mask = _mask(before, q.shape[1], k.shape[1], dtype).to(device) if masked else None
            places_q, places_k = _filled(q).to(device), _filled(k).to(device)
            blocks.append(Block(len(group), places_q, places_k, before, mask))
            queries.append(q.flatten())
    places = torch.cat(queries)
    real = (places >= 0).nonzero()[:, 0]
    back = torch.empty_like(real)
    back[places[real]] = real
    return Blocks(tuple(blocks), back.to(device))


def _mask(
    before: Tensor, queries: int, keys: int, dtype: torch.dtype, window: int | None = None
) -> Tensor:
    """Additive [rows, 1, queries, keys]: each query sees what is not behind it, from the right."""
    seen = _aligned_right(before, queries, keys)
    if window is not None:
        place = torch.arange(keys, device=before.device)
        # padding, which may lie behind the last key, must see one or its gradient is NaN
        query = (before + place[:queries]).clamp(max=keys - 1)[..., None]
        seen &= place > query - window
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(
        ~seen, float("-inf")
    )[:, None]


def _aligned_right(before: Tensor, queries: int, keys: int) -> Tensor:
    """Boolean [rows, queries, keys]: what a query sees when `before` [rows, 1] keys precede the first."""
    place = torch.arange(queries, device=before.device)
    return torch.arange(keys, device=before.device) <= (before + place)[..., None]


def _filled(places: Tensor) -> Tensor:
    """Padded places with each row's first in the place of padding, flat."""
    return torch.where(places < 0, places[:, :1], places).flatten()


def _groups(sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Segments in order of falling length, cut where padding would waste too much."""
    groups: list[list[int]] = []
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i][1], -sizes[i][0])):
        q, k = sizes[i]
        if groups:
            queries, keys = sizes[groups[-1][0]]
            waste = SHORT_WASTE if keys <= SHORT else WASTE
            if keys <= k * waste and queries / waste <= q <= queries * waste:
                groups[-1].append(i)
                continue
        groups.append([i])
    return groups


def packed_sdpa(q: Tensor, k: Tensor, v: Tensor, layout: Blocks, scores: Scores) -> Tensor:
    """q and k [T, heads, d], v [T, heads, d_v] → [T, heads, d_v]; keys and values may be grouped."""

    def gather(states: Tensor, places: Tensor, rows: int) -> Tensor:  # → [rows, heads, length, d]
        _, heads, d = states.shape
        flat = states.reshape(-1, heads * d).index_select(0, places)
        return flat.view(rows, -1, heads, d).transpose(1, 2)

    outputs, width = [], q.shape[1] * v.shape[2]
    for block in layout.blocks:
        query = gather(q, block.queries, block.rows)
        key, value = (gather(states, block.keys, block.rows) for states in (k, v))
        mask = block.mask_of(scores, query, key.shape[2])
        out = _sdpa(query, key, value, mask, scores)
        outputs.append(out.transpose(1, 2).reshape(-1, width))
    flat = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return flat.index_select(0, layout.back).view(len(q), q.shape[1], v.shape[2])


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scores: Scores) -> Tensor:
    if scores.cap is not None:
        scale = query.shape[-1] ** -0.5 if scores.scale is None else scores.scale
        return capped(query, key, value, mask, scale, scores.cap)
    groups = query.shape[1] // key.shape[1]
    grouped = groups > 1
    if grouped and query.is_cuda and (mask is not None or query.dtype == torch.float32):
        # no fast CUDA kernel takes grouped heads with a mask or in fp32
        key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
        grouped = False
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scores.scale,
        enable_gqa=grouped,
    )


# ---- varlen and flash: segments ------------------------------------------------------------------


@dataclass(frozen=True)
class Segments:
    """Queries are the pack's tokens in order; keys are its pieces, with c twice where there is a b."""

    pieces: tuple[int, ...]  # lengths of c, a and b of every row, empty ones left out
    keys: tuple[int, ...]  # which pieces the keys are made of, in order
    q_ends: Tensor  # [segments + 1] int32: where the queries of each begin and end
    k_ends: Tensor  # [segments + 1] int32
    longest: tuple[int, int]  # queries and keys of the longest


def make_segments(
    rows: Rows, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Segments:
    """Two segments for a row with a second tail, one for any other."""
    pieces: list[int] = []
    keys: list[int] = []
    queries, seen = [], []
    for c, a, b in rows:
        place = {}
        for name, length in zip("cab", (c, a, b), strict=True):
            if length:
                place[name] = len(pieces)
                pieces.append(length)
        keys += [place[name] for name in "ca" if name in place]
        queries.append(c + a)
        seen.append(c + a)
        if b:
            keys += [place["c"], place["b"]]
            queries.append(b)
            seen.append(c + b)
    q_ends, k_ends = (
        torch.tensor([0, *accumulate(n)], dtype=torch.int32, device=device) for n in (queries, seen)
    )
    return Segments(tuple(pieces), tuple(keys), q_ends, k_ends, (max(queries), max(seen)))


def packed_segments(
    call: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Segments,
    scores: Scores,
) -> Tensor:
    """One variable-length call. Keys are put together by slices: their gradient is then a plain sum."""

    def seen(states: Tensor) -> Tensor:
        pieces = states.split(layout.pieces)
        return torch.cat([pieces[i] for i in layout.keys])

    return call(q, seen(k), seen(v), layout.q_ends, layout.k_ends, *layout.longest, scores)


def torch_varlen(
    q: Tensor, k: Tensor, v: Tensor, q_ends: Tensor, k_ends: Tensor,
    longest_q: int, longest_k: int, scores: Scores,
) -> Tensor:  # fmt: skip
    """torch.nn.attention.varlen, on CUDA only. Its kernel takes grouped heads in every version.

    torch 2.12 asks to be told of grouped heads; 2.10 knows no scale and no window, but `is_causal`.
    """
    from torch.nn.attention.varlen import varlen_attn

    if scores.cap is not None:
        raise UserError(
            "hardware.attention=varlen knows no soft cap of scores, and this model has one: choose "
            "hardware.attention=sdpa."
        )
    given: dict[str, Any] = {"window_size": _causal(scores), "scale": scores.scale}
    known = signature(varlen_attn).parameters
    if "enable_gqa" in known:
        given["enable_gqa"] = q.shape[1] != k.shape[1]
    if "window_size" not in known:
        if scores.window is not None:
            raise UserError(
                f"hardware.attention=varlen knows no sliding window in torch {torch.__version__}: choose "
                "hardware.attention=sdpa."
            )
        given = {"is_causal": True}
        factor = 1.0 if scores.scale is None else scores.scale * q.shape[-1] ** 0.5
        if not isclose(factor, 1.0):  # the kernel's own scale is 1 / √d
            q = q * factor
    out = varlen_attn(q, k, v, q_ends, k_ends, longest_q, longest_k, **given)
    assert isinstance(out, Tensor)
    return out


def flash_varlen(
    q: Tensor, k: Tensor, v: Tensor, q_ends: Tensor, k_ends: Tensor,
    longest_q: int, longest_k: int, scores: Scores,
) -> Tensor:  # fmt: skip
    """flash-attn (2.1 and later, whose causal mask is aligned to the bottom right)."""
    from flash_attn import flash_attn_varlen_func

    out: Tensor = flash_attn_varlen_func(
        q, k, v, q_ends, k_ends, longest_q, longest_k, softmax_scale=scores.scale, causal=True,
        window_size=_causal(scores), softcap=scores.cap or 0.0
    )  # fmt: skip
    return out


def _causal(scores: Scores) -> tuple[int, int]:
    """How many keys before and behind its own place a query sees; -1: all."""
    return (-1 if scores.window is None else scores.window - 1), 0


# ---- kernels by name -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Kernel:
    """How a pack's rows are laid out, and what computes attention over them."""

    layout: Callable[..., Any]
    attend: Callable[..., Tensor]


def _segments(call: Callable[..., Tensor]) -> Kernel:
    return Kernel(make_segments, lambda *inputs: packed_segments(call, *inputs))


KERNELS: dict[str, Kernel] = {}


def _interface(name: str) -> str:
    """What transformers knows a kernel by: it refuses names with `sdpa` to models without (Gemma 2)."""
    return "spot." + ".".join(name)


def register(name: str, kernel: Kernel) -> None:
    """Make a kernel known to `packed` and to transformers."""

    def attention(
        module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor,
        attention_mask: Tensor | None, layout: Any = None, **kwargs: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        """query [1, heads, T, d], key and value [1, kv_heads, T, d] → [1, T, heads, d]."""
        if layout is None:
            raise RuntimeError("packed attention was called without a layout; see attention.packed")
        if kwargs.get("s_aux") is not None:
            raise UserError(
                "This model's attention has sinks, which packs do not compute: choose another model."
            )
        given = (kwargs.get(name) for name in ("scaling", "sliding_window", "softcap"))
        q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
        return kernel.attend(q, k, v, layout, Scores(*given))[None], None

    KERNELS[name] = kernel
    AttentionInterface.register(_interface(name), attention)


register("sdpa", Kernel(make_blocks, packed_sdpa))
register("varlen", _segments(torch_varlen))
register("flash", _segments(flash_varlen))


def choose(wanted: str, dtype: torch.dtype, device: torch.device | str) -> str:
    """`auto` is varlen on a GPU in a 16-bit dtype, sdpa anywhere else."""
    if wanted != "auto":
        return wanted
    narrow = dtype in (torch.bfloat16, torch.float16)
    return "varlen" if narrow and torch.device(device).type == "cuda" else "sdpa"


@contextmanager
def packed(model: Any, kernel: str = "sdpa") -> Iterator[None]:
    """Within, the model's attention is ours and takes packs; outside, it is the model's own."""
    before = model.config._attn_implementation
    model.set_attn_implementation(_interface(kernel))
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def hidden_states(model: Any, pack: Any) -> Tensor:
    """Last hidden states [T, hidden] of a pack. The model's attention must be ours: see `packed`."""
    known = {_interface(name): name for name in KERNELS}
    name = known.get(model.config._attn_implementation, "")
    if not name:
        raise RuntimeError(f"the model's attention is {model.config._attn_implementation}")
    layout = KERNELS[name].layout(pack.rows, model.dtype, pack.input_ids.device)
    output = model.base_model(
        input_ids=pack.input_ids, position_ids=pack.position_ids, use_cache=False, layout=layout
    )
    hidden: Tensor = output.last_hidden_state[0]
    return hidden
