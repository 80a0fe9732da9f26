"""Rows of unequal length that advance together, one token a step, over one key-value cache.

The tokens of a row lie side by side in the columns of a rectangle, and all rows write the same
column at the same step: they end together and begin where they must. Columns before a row's first
are seen by nobody. When enough rows have finished, new prompts take their places. On that occasion
the rectangle is copied, and columns that no row needs any more are left behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spot.generation.attention import ATTENTION, Groups

Choose = Callable[[Tensor, Tensor], Tensor]  # logits [B, V], uniforms [B] → tokens [B]

REFILL_BELOW = 0.8  # finished rows leave when less than this share of the batch still runs
ROOM = 64  # a rectangle has room for at least so many new columns …
ROOM_SHARE = 8  # … or for one per so many that are in use
DRAWS = 64  # random numbers drawn for a row at once
PROMPT_TOKENS = 8192  # read in one forward, unless one prompt is longer
SPREAD = (
    0.3  # rows are attended to together if the first begins so much earlier at most, of its age
)


@dataclass(frozen=True)
class Row:
    """A prompt of at least one token, to be continued by `limit` tokens at most."""

    key: str
    prompt: Sequence[int]
    seed: int
    limit: int


def decode(
    model: Any, rows: Sequence[Row], choose: Choose, stop_ids: Sequence[int], batch_size: int
) -> Iterator[tuple[Row, list[int]]]:
    """Each row with its new token ids, without the one that stopped it, as rows finish.

    choose: the next token of each row, from its logits and one uniform number in [0, 1).

    Fastest with the longest prompts first. Whenever it yields, the model is as it was before.
    """
    batch, waiting = _Batch(model, choose, stop_ids), deque(rows)
    while waiting or batch.rows:
        free = min(batch_size - len(batch.rows), len(waiting))
        with _inference(model):
            batch.refill([waiting.popleft() for _ in range(free)])
            finished = batch.advance()
        yield from finished


class _Batch:
    """The rows that run. Columns before `end` are in the cache; column `end` holds the newest token
    of every row, which the next step reads: at first the last token of its prompt.
    """

    def __init__(self, model: Any, choose: Choose, stop_ids: Sequence[int]) -> None:
        self.model = model
        self.choose = choose
        self.device = next(model.parameters()).device
        self.stop_ids = torch.tensor(stop_ids, device=self.device)
        self.rows: list[Row] = []
        self.end = 0
        self.cache = _Cache()
        self.draws = _Draws(self.device)
        # Of every row, the columns of its first token, its first new token, the first it may not
        # fill any more, and, once it has finished, where its new tokens end.
        self.places_4_B = torch.zeros(4, 0, dtype=torch.long, device=self.device)
        self.tokens_B_C = torch.zeros(0, 1, dtype=torch.long, device=self.device)
        self.running_B = torch.zeros(0, dtype=torch.bool, device=self.device)

    def refill(self, newcomers: Sequence[Row]) -> None:
        """Drop the rows that have finished, and read the prompts of new ones."""
        self._rearrange(self.running_B.nonzero()[:, 0], newcomers)
        self.rows += newcomers
        self._read_prompts(newcomers)

    def advance(self) -> list[tuple[Row, list[int]]]:
        """Step until enough rows have finished; they leave `rows`, and here they are."""
        enough = REFILL_BELOW * len(self.rows)
        while True:
            self._step()
            if int(self.running_B.sum()) < enough:
                break
        running = self.running_B.tolist()
        left = (~self.running_B).nonzero()[:, 0]
        _, begins, _, ends = self.places_4_B[:, left].tolist()
        tokens = self.tokens_B_C[left].tolist()
        gone = [row for row, runs in zip(self.rows, running, strict=True) if not runs]
        self.rows = [row for row, runs in zip(self.rows, running, strict=True) if runs]
        return [
            (row, ids[begin:end])
            for row, ids, begin, end in zip(gone, tokens, begins, ends, strict=True)
        ]

    def _step(self) -> None:
        """Read the newest token of every row and choose the next one."""
        if self.end + 1 == self.tokens_B_C.shape[1]:
            self._rearrange(torch.arange(len(self.running_B), device=self.device), [])
        first_B, _, limit_B, ends_B = self.places_4_B
        now, self.end = self.end, self.end + 1
        logits_B_V = self._forward(
            self.tokens_B_C[:, now : self.end],
            (now - first_B)[:, None],
            self.cache,
            self.mask_B_1_1_C[..., : self.end],
            self.groups,
        )
        self.cache.end = self.end
        next_B = self.choose(logits_B_V, self.draws.next())
        self.tokens_B_C[:, self.end] = next_B
        stopped_B = (next_B[:, None] == self.stop_ids).any(dim=-1)
        finished_B = self.running_B & (stopped_B | (limit_B == self.end + 1))
        ends_B.copy_(torch.where(finished_B, self.end + ~stopped_B, ends_B))
        self.running_B &= ~finished_B

    def _rearrange(self, kept: Tensor, newcomers: Sequence[Row]) -> None:
        """Copy the rows `kept` (indices) to a new rectangle, with room for newcomers and new columns."""
        oldest = int(self.places_4_B[0, kept].min()) if len(kept) else self.end
        end = max(self.end - oldest, 1, *(len(row.prompt) - 1 for row in newcomers))
        capacity = end + 1 + max(ROOM, end // ROOM_SHARE)
        self.cache.rearrange(kept, len(newcomers), oldest, end, capacity)

        shift, count = end - self.end, len(kept)
        tokens_B_C = self.tokens_B_C.new_zeros(count + len(newcomers), capacity)
        tokens_B_C[:count, oldest + shift : end + 1] = self.tokens_B_C[kept, oldest : self.end + 1]
        tokens_B_C[count:, end] = self._ints([row.prompt[-1] for row in newcomers])
        self.tokens_B_C = tokens_B_C
        places = [(end - len(r.prompt) + 1, end + 1, end + 1 + r.limit, 0) for r in newcomers]
        joined_4_n = self._ints(places).view(-1, 4).T
        self.places_4_B = torch.cat([self.places_4_B[:, kept] + shift, joined_4_n], dim=1)
        self.running_B = torch.cat([self.running_B[kept], joined_4_n[0] >= 0])
        self.draws.rearrange(kept.tolist(), [row.seed for row in newcomers])
        self.end = end

        first_B = self.places_4_B[0]
        hidden_B_C = torch.arange(capacity, device=self.device) < first_B[:, None]
        # Additive: a boolean mask would be converted again in every layer of every step.
        mask_B_C = torch.zeros(hidden_B_C.shape, dtype=self.model.dtype, device=self.device)
        self.mask_B_1_1_C = mask_B_C.masked_fill(hidden_B_C, float("-inf"))[:, None, None]
        self.groups = _groups(first_B.tolist(), end)

    def _read_prompts(self, newcomers: Sequence[Row]) -> None:
        """Put all but the last token of each prompt into the cache.

        Padding is on the right, where no token looks, so plain causal attention will do.
        """
        start = len(self.rows) - len(newcomers)
        for rows in _portions(newcomers):
            lengths_n = self._ints([len(row.prompt) - 1 for row in rows])
            width = max(int(lengths_n.max()), 1)
            padded = [[*row.prompt[:-1], *[0] * width][:width] for row in rows]
            places = slice(start, start + len(rows))
            positions_n_P = torch.arange(width, device=self.device).expand(len(rows), -1)
            reading = _Reading(self.cache, places, lengths_n, positions_n_P)
            self._forward(self._ints(padded), positions_n_P, reading)
            start = places.stop

    def _forward(
        self,
        ids_B_T: Tensor,
        positions_B_T: Tensor,
        cache: _Cache | _Reading,
        mask: Tensor | None = None,
        groups: Groups | None = None,
    ) -> Tensor:
        """Logits after the last column, `[B, V]`."""
        return self.model(
            input_ids=ids_B_T,
            attention_mask=mask,
            position_ids=positions_B_T,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            row_groups=groups,
        ).logits[:, -1]

    def _ints(self, values: Sequence[Any]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)


def _portions(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Neighbours that, padded to the longest, have at most PROMPT_TOKENS tokens."""
    start = longest = 0
    for stop, row in enumerate(rows):
        longest = max(longest, len(row.prompt))
        if stop > start and longest * (stop + 1 - start) > PROMPT_TOKENS:
            yield rows[start:stop]
            start, longest = stop, len(row.prompt)
    if start < len(rows):
        yield rows[start:]


def _groups(firsts: Sequence[int], end: int) -> Groups:
    """Neighbours whose first columns, of which these are before `end`, differ little."""
    groups: list[tuple[int, int]] = []
    for first in firsts:
        size, earliest = groups[-1] if groups else (0, -1)
        if groups and first - earliest <= SPREAD * (end - earliest):
            groups[-1] = (size + 1, min(first, earliest))
        else:
            groups.append((1, first))
    return groups


class _Cache:
    """Keys and values of all layers, each `[B, heads, capacity, width]`, written in place.

    Speaks the part of transformers' Cache interface that decoder layers use.
    """

    def __init__(self) -> None:
        self.rows = self.capacity = 0
        self.end = 0  # columns that hold tokens; advanced once all layers have written
        self.layers: dict[int, tuple[Tensor, ...]] = {}

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.end

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: object
    ) -> tuple[Tensor, ...]:
        """Write the next column; return all columns so far."""
        stored = self.layers[layer_idx]
        for whole, new in zip(stored, (keys, values), strict=True):
            whole[:, :, self.end : self.end + 1] = new
        return tuple(whole[:, :, : self.end + 1] for whole in stored)

    def write(self, layer_idx: int, rows: slice, keys: Tensor, values: Tensor) -> None:
        """Write prompts, which end with the columns so far."""
        if layer_idx not in self.layers:
            self.layers[layer_idx] = tuple(
                new.new_zeros(self.rows, new.shape[1], self.capacity, new.shape[3])
                for new in (keys, values)
            )
        for whole, new in zip(self.layers[layer_idx], (keys, values), strict=True):
            whole[rows, :, self.end - new.shape[2] : self.end] = new

    def rearrange(self, kept: Tensor, joined: int, oldest: int, end: int, capacity: int) -> None:
        """Keep these rows and their columns from `oldest` on, which now come before `end`."""
        count, columns = len(kept), slice(oldest, self.end)
        for layer, tensors in self.layers.items():
            moved = []
            for old in tensors:
                new = old.new_empty(count + joined, old.shape[1], capacity, old.shape[3])
                first = end - (self.end - oldest)
                torch.index_select(old[:, :, columns], 0, kept, out=new[:count, :, first:end])
                # What is masked must be finite all the same.
                new[:count, :, :first] = 0
                new[count:, :, :end] = 0
                moved.append(new)
            self.layers[layer] = tuple(moved)
        self.rows, self.end, self.capacity = count + joined, end, capacity


@dataclass(frozen=True)
class _Reading:
    """The cache as a forward over prompts sees it: nothing is in it, what is written goes to `rows`."""

    cache: _Cache
    rows: slice
    lengths_n: Tensor
    columns: Tensor

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: object
    ) -> tuple[Tensor, Tensor]:
        """Store the columns with the padding moved to the left; return them as they came."""
        sources_n_P = (self.columns + self.lengths_n[:, None]) % self.columns.shape[1]
        aligned = [
            states.gather(2, sources_n_P[:, None, :, None].expand_as(states))
            for states in (keys, values)
        ]
        self.cache.write(layer_idx, self.rows, *aligned)
        return keys, values


class _Draws:
    """Uniform numbers in [0, 1): the n-th of a row depends on its seed and n alone."""

    def __init__(self, device: torch.device) -> None:
        self.generators: list[np.random.Generator] = []
        self.drawn_B_S = torch.zeros(0, 0, device=device)

    def next(self) -> Tensor:
        """One number for each row, `[B]`."""
        if self.drawn_B_S.shape[1] == 0:
            self.drawn_B_S = self._draw(self.generators, DRAWS)
        uniforms_B, self.drawn_B_S = self.drawn_B_S[:, 0], self.drawn_B_S[:, 1:]
        return uniforms_B

    def rearrange(self, kept: Sequence[int], seeds: Sequence[int]) -> None:
        """Keep these rows and add others."""
        joined = [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]
        ahead = self._draw(joined, self.drawn_B_S.shape[1])
        self.drawn_B_S = torch.cat([self.drawn_B_S[kept], ahead])
        self.generators = [self.generators[i] for i in kept] + joined

    def _draw(self, generators: Sequence[np.random.Generator], count: int) -> Tensor:
        numbers = np.empty((len(generators), count), dtype=np.float32)
        for row, generator in zip(numbers, generators, strict=True):
            row[:] = generator.random(count)
        return torch.from_numpy(numbers).to(self.drawn_B_S.device)


@contextmanager
def _inference(model: Any) -> Iterator[None]:
    """Evaluation mode and attention for one query at a time, then whatever was before."""
    training, attention = model.training, model.config._attn_implementation
    model.eval()
    model.set_attn_implementation(ATTENTION)
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)
        model.set_attn_implementation(attention)
