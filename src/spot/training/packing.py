"""Pairs → packs: the pack is what one forward pass takes.

A pair becomes one row `[c | a | b]`: c is the prompt and the longest common prefix of the two
responses' token ids, a and b are what is left of y⁺ and of y⁻. Positions restart after c, and b does
not see a, so every token sees exactly what it would see in a sequence of its own, and the first
tokens of both tails are predicted from the last hidden state of c. Response tokens inside c are
computed and scored once and count for both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from spot.errors import UserError
from spot.proximity import common_prefix


@dataclass(frozen=True)
class PackingSettings:
    """How pairs are laid out for the forward pass; none of it changes the optimisation."""

    token_budget: int = 8192  # tokens of one pack at most
    share_prefix: bool = True


@dataclass(frozen=True)
class PairTokens:
    """A pair in token ids, each response tokenised once and ending in one EOS.

    `rejected` is None where there is no y⁻ or the loss has no use for it.
    """

    id: str
    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.prompt or not self.chosen or self.rejected == ():
            raise ValueError(f"pair {self.id}: the prompt or a response has no tokens")
        if self.chosen == self.rejected:
            raise ValueError(f"pair {self.id}: the two responses are the same")

    @property
    def unshared_tokens(self) -> int:
        """Tokens of the pair as sequences of their own: the unit of throughput."""
        rejected = 0 if self.rejected is None else len(self.prompt) + len(self.rejected)
        return len(self.prompt) + len(self.chosen) + rejected

    def without_rejected(self) -> PairTokens:
        return PairTokens(self.id, self.prompt, self.chosen)


def shared_length(pair: PairTokens, share_prefix: bool) -> int:
    """How many response tokens y⁺ and y⁻ share in the row (0 when they are kept apart)."""
    if pair.rejected is None or not share_prefix:
        return 0
    return common_prefix(pair.chosen, pair.rejected)


def row_tokens(pair: PairTokens, share_prefix: bool) -> int:
    """Tokens the pair takes in a pack."""
    if pair.rejected is None or not share_prefix:
        return pair.unshared_tokens
    return pair.unshared_tokens - len(pair.prompt) - shared_length(pair, share_prefix)


def scored_tokens(pair: PairTokens, share_prefix: bool) -> int:
    """Log-probs computed for the pair: all of y⁺, then of y⁻ what is not shared, in this order."""
    rejected = 0 if pair.rejected is None else len(pair.rejected)
    return len(pair.chosen) + rejected - shared_length(pair, share_prefix)


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
    has_rejected: Tensor  # [P] bool

    @property
    def tokens(self) -> int:
        return self.input_ids.shape[1]

    def slot_sums(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of per-token values [N] for y⁺ and y⁻ of every pair: two of [P] (0 without y⁻)."""
        sums = values.new_zeros(2 * len(self.ids))
        sums = sums.index_add(0, self.slots, values[self.members])
        chosen, rejected = sums.view(2, -1)
        return chosen, rejected

    def slot_counts(self) -> tuple[Tensor, Tensor]:
        """Response tokens of y⁺ and y⁻ of every pair: two of [P]."""
        return self.slot_sums(torch.ones(len(self.targets), dtype=torch.float32))


@dataclass
class _Builder:
    """Collects rows and scored tokens, then becomes a Pack."""

    tokens: list[int] = field(default_factory=list)
    positions: list[np.ndarray] = field(default_factory=list)
    rows: list[tuple[int, int, int]] = field(default_factory=list)
    sources: list[np.ndarray] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    members: list[np.ndarray] = field(default_factory=list)
    slots: list[np.ndarray] = field(default_factory=list)

    def row(self, c: Sequence[int], a: Sequence[int], b: Sequence[int]) -> int:
        """Append `[c | a | b]`; returns where it begins."""
        start = len(self.tokens)
        self.tokens += [*c, *a, *b]
        self.positions.append(np.arange(len(c) + len(a)))
        self.positions.append(np.arange(len(c), len(c) + len(b)))
        self.rows.append((len(c), len(a), len(b)))
        return start

    def score(self, before: int, first: int, tokens: Sequence[int], slots: Sequence[int]) -> None:
        """Score `tokens`, which lie at `first`, `first + 1`, …; the first is predicted from `before`."""
        if not tokens:
            return
        index = len(self.targets) + np.arange(len(tokens))
        self.sources.append(np.concatenate([[before], first + np.arange(len(tokens) - 1)]))
        self.targets += tokens
        for slot in slots:
            self.members.append(index)
            self.slots.append(np.full(len(tokens), slot))


def build_pack(
    pairs: Sequence[PairTokens], share_prefix: bool, places: Sequence[int] | None = None
) -> Pack:
    """One pack of these pairs; `places` are their indices in the step (default 0, 1, …)."""
    build = _Builder()
    count = len(pairs)
    for p, pair in enumerate(pairs):
        n = len(pair.prompt)
        chosen, rejected = list(pair.chosen), list(pair.rejected or ())
        if rejected and share_prefix:
            f = shared_length(pair, share_prefix)
            start = build.row([*pair.prompt, *chosen[:f]], chosen[f:], rejected[f:])
            end = start + n + f  # where c ends: both tails are predicted from the token before
            build.score(start + n - 1, start + n, chosen[:f], (p, count + p))
            build.score(end - 1, end, chosen[f:], (p,))
            build.score(end - 1, end + len(chosen) - f, rejected[f:], (count + p,))
            continue
        for slot, response in ((p, chosen), (count + p, rejected)):
            if response:
                start = build.row(pair.prompt, response, ())
                build.score(start + n - 1, start + n, response, (slot,))
    return Pack(
        ids=tuple(pair.id for pair in pairs),
        pairs=torch.tensor(range(count) if places is None else list(places)),
        input_ids=torch.tensor(build.tokens)[None],
        position_ids=_tensor(build.positions)[None],
        rows=tuple(build.rows),
        sources=_tensor(build.sources),
        targets=torch.tensor(build.targets),
        scored=tuple(scored_tokens(pair, share_prefix) for pair in pairs),
        members=_tensor(build.members),
        slots=_tensor(build.slots),
        has_rejected=torch.tensor([pair.rejected is not None for pair in pairs]),
    )


def _tensor(parts: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts))


def plan_steps(n_pairs: int, batch_pairs: int, epochs: int, seed: int) -> list[list[int]]:
    """The pairs of every optimiser step, fixed by the seed before anything is packed.

    Every epoch is a fresh permutation, and the epochs follow each other without a seam: each step
    has exactly `batch_pairs` pairs and only the very last may have fewer (its loss is the mean over
    the pairs it has). 2,000 pairs, 2 epochs, batches of 32: 125 steps.
    """
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(n_pairs) for _ in range(epochs)])
    return [order[i : i + batch_pairs].tolist() for i in range(0, len(order), batch_pairs)]


def fill_packs(costs: Sequence[int], token_budget: int) -> list[list[int]]:
    """Deal items of these token costs into as few packs as first-fit decreasing finds.

    Returns the items of every pack, longest first. An item above the budget is a UserError: selection
    drops such pairs before training.
    """
    packs: list[list[int]] = []
    free: list[int] = []
    for item in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        if costs[item] > token_budget:
            raise UserError(
                f"A pair takes {costs[item]} tokens and a pack holds {token_budget}: raise "
                "hardware.tokens_per_pack or lower model.context_length."
            )
        place = next((i for i, room in enumerate(free) if room >= costs[item]), None)
        if place is None:
            place = len(packs)
            packs.append([])
            free.append(token_budget)
        packs[place].append(item)
        free[place] -= costs[item]
    return packs


def step_packs(pairs: Sequence[PairTokens], settings: PackingSettings) -> list[Pack]:
    """The packs of one step's pairs; no pair is split."""
    costs = [row_tokens(pair, settings.share_prefix) for pair in pairs]
    return [
        build_pack([pairs[i] for i in items], settings.share_prefix, items)
        for items in fill_packs(costs, settings.token_budget)
    ]
