"""Rows → bins of equal work: what one step costs, and who computes which part of it.

A step lasts as long as its slowest rank, and a row's cost is not its length: attention grows with
the square. So bins are filled by forward FLOPs, under a bound on their tokens (their memory).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Cost:
    """Forward FLOPs: per token, per scored token, per (query, key) pair that attention looks at."""

    token: float
    scored: float = 0.0
    seen: float = 0.0

    @classmethod
    def of(cls, model: Any) -> Cost:
        """2 FLOPs a weight of the body's and the head's matrices; 4 · layers · heads · d in attention."""
        config, head = model.config, model.get_output_embeddings().weight
        matrices = [p for p in model.base_model.parameters() if p.ndim == 2]
        embedding = model.get_input_embeddings().weight
        body = sum(p.numel() for p in matrices if p is not embedding)
        seen = 4 * config.num_hidden_layers * config.num_attention_heads * head_dim(config)
        return cls(2.0 * body, 2.0 * head.numel(), float(seen))

    def row(self, c: int, a: int, b: int, scored: int) -> float:
        """Of one row `[c | a | b]` with so many scored tokens."""
        seen = c * (c + 1) / 2 + a * (c + (a + 1) / 2) + b * (c + (b + 1) / 2)
        return self.token * (c + a + b) + self.scored * scored + self.seen * seen


TOKENS_ONLY = Cost(1.0)
SLACK = 1.15  # of room above a rank's mean share of a step


class Lengths(NamedTuple):
    """Token counts of a pair; the responses begin with `prefix` tokens alike. rejected=0: no y⁻."""

    prompt: int
    chosen: int
    rejected: int = 0
    prefix: int = 0

    def rows(self, rejected: bool = True, shared: bool = True) -> list[tuple[int, int, int]]:
        """Lengths of (c, a, b) of the pair's rows in a pack: one, or one for each response."""
        if not (rejected and self.rejected):
            return [(self.prompt, self.chosen, 0)]
        if not shared:
            return [(self.prompt, self.chosen, 0), (self.prompt, self.rejected, 0)]
        f = self.prefix
        return [(self.prompt + f, self.chosen - f, self.rejected - f)]

    def tokens(self, rejected: bool = True, shared: bool = True) -> int:
        """Tokens of the pair in a pack."""
        return sum(map(sum, self.rows(rejected, shared)))

    def scored(self, rejected: bool = True, shared: bool = True) -> int:
        """Log-probs computed for the pair."""
        return sum(sum(row) - self.prompt for row in self.rows(rejected, shared))

    def cost(self, cost: Cost, rejected: bool = True, shared: bool = True) -> float:
        """Forward FLOPs of the pair in a pack."""
        rows = self.rows(rejected, shared)
        return sum(cost.row(*row, sum(row) - self.prompt) for row in rows)


def head_dim(config: Any) -> int:
    """Width of an attention head, which a configuration may leave to the model's width."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def tight_budget(longest: int, share: float, budget: int) -> int:
    """Tokens of a pack, at most `budget`, that hold the longest pair and a rank's share of most steps.

    `share` is the mean one, in tokens. Where the largest pack decides how many layers every pack
    computes again, room that none needs would be paid for.
    """
    return min(budget, max(longest, math.ceil(SLACK * share)))


def deal(
    costs: Sequence[float], tokens: Sequence[int], budget: int, ranks: int = 1
) -> list[list[list[int]]]:
    """Items of every bin of every rank: `[rank][bin]`, the same number of bins on each rank.

    As few bins as hold all items at `budget` tokens each, of costs as equal as can be found; none is
    empty unless there are fewer items than bins. Raises ValueError if an item alone exceeds the
    budget: such pairs are dropped before training.
    """
    if tokens and max(tokens) > budget:
        raise ValueError(f"an item of {max(tokens)} tokens does not fit a bin of {budget}")
    inputs = costs, tokens, budget, ranks
    per_rank = max(1, -(-sum(tokens) // (ranks * budget)))
    while (dealt := _by_rank(*inputs, per_rank) or _by_bin(*inputs, per_rank)) is None:
        per_rank += 1
    return dealt


def _by_rank(
    costs: Sequence[float], tokens: Sequence[int], budget: int, ranks: int, per_rank: int
) -> list[list[list[int]]] | None:
    """Items over ranks first, then each rank's over its bins; None if no room was found.

    Equal bins would not do: one filled by a single expensive pair leaves nothing to even out its rank.
    """
    dealt = []
    for share in balance(costs, tokens, per_rank * budget, ranks) or []:
        if len(share) < per_rank:
            return None
        bins = balance([costs[i] for i in share], [tokens[i] for i in share], budget, per_rank)
        if bins is None:
            return None
        dealt.append([[share[i] for i in items] for items in bins])
    return dealt or None


def _by_bin(
    costs: Sequence[float], tokens: Sequence[int], budget: int, ranks: int, per_rank: int
) -> list[list[list[int]]] | None:
    """Items over all bins, then bins over ranks: finds room more often, at the price of balance."""
    bins = balance(costs, tokens, budget, ranks * per_rank)
    if bins is None:
        return None
    loads = [sum(costs[i] for i in items) for items in bins]
    groups = balance(loads, [1] * len(bins), per_rank, ranks)
    assert groups is not None  # ranks · per_rank bins of weight 1 always fit
    return [[bins[b] for b in sorted(group)] for group in groups]


def balance(
    costs: Sequence[float], tokens: Sequence[int], budget: int, bins: int
) -> list[list[int]] | None:
    """Items of each of `bins` bins with at most `budget` tokens, or None if no room was found.

    Longest processing time first: each item, from the most expensive, to the cheapest bin with room. Then
    exchanges between the most expensive bin and another, as long as they make the more expensive of the two cheaper.
    """
    content: list[list[int]] = [[] for _ in range(bins)]
    load, room = [0.0] * bins, [budget] * bins
    for item in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        open_bins = [b for b in range(bins) if room[b] >= tokens[item]]
        if not open_bins:
            return _by_tokens(tokens, budget, bins)
        best = min(open_bins, key=load.__getitem__)
        content[best].append(item)
        load[best] += costs[item]
        room[best] -= tokens[item]
    while bins > 1 and _exchange(costs, tokens, content, load, room):
        pass
    return content


def _by_tokens(tokens: Sequence[int], budget: int, bins: int) -> list[list[int]] | None:
    """First-fit decreasing by tokens: finds room more often, at the price of balance."""
    content: list[list[int]] = [[] for _ in range(bins)]
    room = [budget] * bins
    for item in sorted(range(len(tokens)), key=lambda i: (-tokens[i], i)):
        place = next((b for b in range(bins) if room[b] >= tokens[item]), None)
        if place is None:
            return None
        content[place].append(item)
        room[place] -= tokens[item]
    for items in content:  # one item always fits an empty bin
        fullest = max(content, key=len)
        if not items and len(fullest) > 1:
            items.append(fullest.pop())
    return content


def _exchange(
    costs: Sequence[float],
    tokens: Sequence[int],
    content: list[list[int]],
    load: list[float],
    room: list[int],
) -> bool:
    """Move the best item, or swap the best two, out of the most expensive bin; False when nothing helps."""
    top = max(range(len(load)), key=load.__getitem__)
    best: tuple[float, int, int, int | None] | None = None
    bound = load[top] * (1 - 1e-9)
    for other in range(len(load)):
        gap = load[top] - load[other]
        if gap <= 0:
            continue
        for out in content[top]:
            for back in (None, *content[other]):
                moved = costs[out] - (0.0 if back is None else costs[back])
                if not 0 < moved < gap:
                    continue
                shift = tokens[out] - (0 if back is None else tokens[back])
                if shift > room[other] or -shift > room[top]:
                    continue
                peak = max(load[top] - moved, load[other] + moved)
                if peak < bound:
                    bound, best = peak, (moved, other, out, back)
    if best is None:
        return False
    moved, other, out, back = best
    content[top].remove(out)
    content[other].append(out)
    shift = tokens[out]
    if back is not None:
        content[other].remove(back)
        content[top].append(back)
        shift -= tokens[back]
    load[top] -= moved
    load[other] += moved
    room[top] += shift
    room[other] -= shift
    return True
