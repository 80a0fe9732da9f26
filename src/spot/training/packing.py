"""Pairs → packs: the pack is what one forward pass takes.

A pair becomes one row `[c | a | b]`: c is the prompt and the longest common prefix of the two
responses' token ids, a and b are what is left of y⁺ and of y⁻. Positions restart after c, and b does
not see a, so every token sees exactly what it would see in a sequence of its own, and the first
tokens of both tails are predicted from the last hidden state of c. Response tokens inside c are
computed and scored once and count for both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spot.data.edits import NO_PART, align, common_prefix, first_step
from spot.training.bin_packing import TOKENS_ONLY, Cost, Lengths, deal, tight_budget

Ids = np.ndarray  # token ids, int32


@dataclass(frozen=True)
class PackingSettings:
    """How pairs are laid out for the forward pass.

    It changes the optimisation only in that a pair longer than the budget is dropped.
    """

    token_budget: int = 8192  # tokens of one pack at most
    share_prefix: bool = True
    rejected: bool = True  # False: a loss without a y⁻ term does not forward y⁻
    cost: Cost = TOKENS_ONLY  # what packs are balanced by
    parts: bool = True  # tell shared, edited and later tokens apart (an LCS for each pair)
    line_ends: tuple[int, ...] | None = (
        None  # tokens; given, the edit is the first step that differs
    )


@dataclass(frozen=True, eq=False)
class PairTokens:
    """A pair in token ids, each response tokenised once and ending in one EOS.

    `rejected` is None where there is no y⁻. `prefix` is how many tokens the responses begin alike.
    """

    id: str
    prompt: Ids
    chosen: Ids
    rejected: Ids | None = None
    prefix: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        for name in ("prompt", "chosen", "rejected"):
            if (ids := getattr(self, name)) is not None:
                object.__setattr__(self, name, np.asarray(ids, dtype=np.int32))
        a, b = self.chosen, self.rejected
        if not len(self.prompt) or not len(a) or (b is not None and not len(b)):
            raise ValueError(f"pair {self.id}: the prompt or a response has no tokens")
        if b is not None:
            object.__setattr__(self, "prefix", common_prefix(a, b))
            if self.prefix == len(a) == len(b):
                raise ValueError(f"pair {self.id}: the two responses are the same")

    @cached_property
    def parts(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The part of every token of y⁺ and of y⁻ (`edits.align`); None without y⁻."""
        return None if self.rejected is None else align(self.chosen, self.rejected, self.prefix)

    @property
    def longest(self) -> int:
        """Tokens of the longer of the two responses."""
        return max(len(self.chosen), 0 if self.rejected is None else len(self.rejected))

    @cached_property
    def lengths(self) -> Lengths:
        """Token counts."""
        rejected = 0 if self.rejected is None else len(self.rejected)
        return Lengths(len(self.prompt), len(self.chosen), rejected, self.prefix)

    def tokens(self, settings: PackingSettings) -> int:
        """Tokens the pair takes in a pack."""
        return self.lengths.tokens(settings.rejected, settings.share_prefix)

    def unshared_tokens(self, settings: PackingSettings) -> int:
        """Tokens of what is trained on as sequences of their own: the unit of throughput."""
        return self.lengths.tokens(settings.rejected, shared=False)

    def scored(self, settings: PackingSettings) -> int:
        """Log-probs computed for the pair: all of y⁺, then of y⁻ what is not shared, in this order."""
        return self.lengths.scored(settings.rejected, settings.share_prefix)

    def cost(self, settings: PackingSettings) -> float:
        """Forward FLOPs, by the settings' cost model."""
        return self.lengths.cost(settings.cost, settings.rejected, settings.share_prefix)


@dataclass(frozen=True)
class Pack:
    """Tensors of one forward pass over P pairs in R rows of T tokens, N of them scored.

    A slot is one side of one pair: slot p is y⁺ of pair p, slot P + p is y⁻ of pair p. Scored tokens
    of a shared prefix have two memberships, all others one; `slot_sums` adds them up.
    """

    ids: tuple[str, ...]  # [P]
    pairs: Tensor  # [P] places of the pairs in their step
    input_ids: Tensor  # [1, T]
    position_ids: Tensor  # [1, T]
    rows: tuple[tuple[int, int, int], ...]  # [R] lengths of (c, a, b), in the order of the tokens
    sources: Tensor  # [N] the hidden state that predicts
    targets: Tensor  # [N] the token that is predicted
    scored: tuple[int, ...]  # [P] scored tokens of each pair, in the order of the pairs
    members: Tensor  # [M] index into the scored tokens, M >= N
    slots: Tensor  # [M] the slot it counts for
    parts: Tensor  # [M] SHARED, EDITED or AFTER: see edits.align
    contexts: Tensor  # [N] the first scored token with the same tokens before it: twins share one
    has_rejected: Tensor  # [P] bool
    counted: bool = True  # False: forwarded only because other ranks wait for it

    @property
    def tokens(self) -> int:
        return self.input_ids.shape[1]

    def to(self, device: torch.device | str) -> Pack:
        """The same pack with its tensors on `device`."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: v.to(device) for k, v in moved.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def slot_sums(self, values: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Sums of per-token values [N] for y⁺ and y⁻ of every pair: two of [P] (0 without y⁻).

        `weights` [M] are those of each token for the side it counts for (default 1).
        """
        terms = values[self.members]
        terms = terms if weights is None else terms * weights
        sums = values.new_zeros(2 * len(self.ids)).index_add(0, self.slots, terms)
        chosen, rejected = sums.view(2, -1)
        return chosen, rejected

    def slot_counts(self) -> tuple[Tensor, Tensor]:
        """Response tokens of y⁺ and y⁻ of every pair: two of [P]."""
        return self.slot_sums(torch.ones_like(self.targets, dtype=torch.float32))


@dataclass
class _Builder:
    """Collects rows and scored tokens, then becomes a Pack."""

    tokens: int = 0
    scored: int = 0
    columns: dict[str, list[Any]] = field(default_factory=dict)
    rows: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, name: str, values: Any) -> None:
        self.columns.setdefault(name, []).append(values)

    def row(self, c: Sequence[Ids], a: Ids, b: Ids) -> int:
        """Append `[c | a | b]`; returns where it begins."""
        start, shared = self.tokens, sum(map(len, c))
        for ids in (*c, a, b):
            self.add("input_ids", ids)
        self.add("position_ids", np.arange(shared + len(a)))
        self.add("position_ids", np.arange(shared, shared + len(b)))
        self.rows.append((shared, len(a), len(b)))
        self.tokens += shared + len(a) + len(b)
        return start

    def score(
        self, before: int, first: int, ids: Ids, slots: dict[int, Ids], twin: int | None = None
    ) -> int:
        """Score `ids`, which lie at `first`, `first + 1`, …; the first is predicted from `before`.

        `slots` says for which sides, and in which part of each. Returns the index of the first among
        the scored tokens; `twin` is that of the same tokens scored in another row.
        """
        begin, index = self.scored, self.scored + np.arange(len(ids))
        if len(ids):
            self.add("sources", np.concatenate([[before], first + np.arange(len(ids) - 1)]))
            self.add("targets", ids)
            self.add("contexts", index if twin is None else twin + np.arange(len(ids)))
        for slot, parts in slots.items():
            self.add("members", index)
            self.add("slots", np.full(len(ids), slot))
            self.add("parts", parts)
        self.scored += len(ids)
        return begin

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(np.concatenate(self.columns[name]).astype(np.int64))


def build_pack(
    pairs: Sequence[PairTokens],
    settings: PackingSettings,
    places: Sequence[int] | None = None,
) -> Pack:
    """One pack of these pairs; `places` are their indices in the step (default 0, 1, …)."""
    build, count = _Builder(), len(pairs)
    for p, pair in enumerate(pairs):
        n, f, y, z = len(pair.prompt), pair.prefix, pair.chosen, pair.rejected
        parts, other = _parts(pair, settings)
        if z is None or not settings.rejected:
            start = build.row([pair.prompt], y, y[:0])
            build.score(start + n - 1, start + n, y, {p: parts})
        elif settings.share_prefix:
            start = build.row([pair.prompt, y[:f]], y[f:], z[f:])
            end = start + n + f  # where c ends: both tails are predicted from the token before
            build.score(start + n - 1, start + n, y[:f], {p: parts[:f], count + p: parts[:f]})
            build.score(end - 1, end, y[f:], {p: parts[f:]})
            build.score(end - 1, end + len(y) - f, z[f:], {count + p: other[f:]})
        else:
            start = build.row([pair.prompt], y, y[:0])
            twin = build.score(start + n - 1, start + n, y, {p: parts})
            start = build.row([pair.prompt], z, z[:0])
            build.score(start + n - 1, start + n, z[:f], {count + p: other[:f]}, twin)
            end = start + n + f
            build.score(end - 1, end, z[f:], {count + p: other[f:]})
    return Pack(
        ids=tuple(pair.id for pair in pairs),
        pairs=torch.tensor(range(count) if places is None else list(places)),
        input_ids=build.tensor("input_ids")[None],
        position_ids=build.tensor("position_ids")[None],
        rows=tuple(build.rows),
        sources=build.tensor("sources"),
        targets=build.tensor("targets"),
        scored=tuple(pair.scored(settings) for pair in pairs),
        members=build.tensor("members"),
        slots=build.tensor("slots"),
        parts=build.tensor("parts"),
        contexts=build.tensor("contexts"),
        has_rejected=torch.tensor([p.rejected is not None and settings.rejected for p in pairs]),
    )


def _parts(pair: PairTokens, settings: PackingSettings) -> tuple[np.ndarray, np.ndarray]:
    """The part of every token of y⁺ and of y⁻; NO_PART where there is nothing to compare with."""
    if settings.parts and pair.rejected is not None and settings.line_ends is not None:
        return first_step(pair.chosen, pair.rejected, pair.prefix, settings.line_ends)
    if settings.parts and pair.parts is not None:
        return pair.parts
    rejected = pair.chosen[:0] if pair.rejected is None else pair.rejected
    return np.full(len(pair.chosen), NO_PART), np.full(len(rejected), NO_PART)


def plan_steps(n_pairs: int, batch_pairs: int, epochs: int, seed: int) -> list[list[int]]:
    """The pairs of every optimiser step, fixed by the seed before anything is packed.

    Every epoch is a fresh permutation, and the epochs follow each other without a seam: each step
    has exactly `batch_pairs` pairs and only the very last may have fewer (its loss is the mean over
    the pairs it has). 2,000 pairs, 2 epochs, batches of 32: 125 steps.
    """
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(n_pairs) for _ in range(epochs)])
    return [order[i : i + batch_pairs].tolist() for i in range(0, len(order), batch_pairs)]


def fitting(
    pairs: Sequence[PairTokens], settings: PackingSettings
) -> tuple[list[PairTokens], list[str]]:
    """The pairs that fit a pack with both responses, and the ids of those that do not.

    Both responses count even where only y⁺ is forwarded, so that every loss trains on the same pairs.
    """
    whole = replace(settings, rejected=True)
    fits = [pair.tokens(whole) <= settings.token_budget for pair in pairs]
    kept = [pair for pair, ok in zip(pairs, fits, strict=True) if ok]
    return kept, [pair.id for pair, ok in zip(pairs, fits, strict=True) if not ok]


def held_to(
    settings: PackingSettings,
    pairs: Sequence[PairTokens],
    others: Sequence[PairTokens],
    share: float,
) -> PackingSettings:
    """Packs no larger than a run needs.

    The run trains on `pairs`, `share` of them in a rank's part of a step, and measures `others`.
    """
    whole = replace(settings, rejected=True)
    longest = max(pair.tokens(whole) for pair in (*pairs, *others))
    share *= sum(pair.tokens(settings) for pair in pairs) / len(pairs)
    return replace(settings, token_budget=tight_budget(longest, share, settings.token_budget))


def step_packs(
    pairs: Sequence[PairTokens], settings: PackingSettings, rank: int = 0, ranks: int = 1
) -> list[Pack]:
    """What `rank` of `ranks` forwards for one step's pairs: as many packs on every rank.

    All ranks gather and reduce in every forward and backward pass, so a rank that has nothing to do
    in one of them gets the shortest pair in a pack that is not `counted`.
    """
    costs = [pair.cost(settings) for pair in pairs]
    tokens = [pair.tokens(settings) for pair in pairs]
    bins = deal(costs, tokens, settings.token_budget, ranks)[rank]
    idle = [tokens.index(min(tokens))]
    packs = [
        build_pack([pairs[i] for i in items or idle], settings, items or idle) for items in bins
    ]
    return [replace(pack, counted=bool(items)) for pack, items in zip(packs, bins, strict=True)]
