"""How unequal the ranks' shares of a step are: packs dealt as in training, over drawn or measured lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from spot.config import LOSSES, Config
from spot.training.bin_packing import Lengths, deal
from spot.training.shapes import Shape

STEPS = 24  # that are drawn
ACCEPTABLE = 0.1  # of a step's time spent waiting


@dataclass(frozen=True)
class Balance:
    """What waiting for the slowest rank costs."""

    slowest: float  # its work ÷ the mean rank's; 1: nobody waits
    source: str = ""
    remedies: tuple[str, ...] = ()  # options any one of which leaves at most ACCEPTABLE


def balance_of(config: Config, shape: Shape, lengths: Sequence[Lengths] | None) -> Balance:
    """Of the run's steps: `lengths` where they were measured, else as `plan` describes them."""
    ranks, batch = config.hardware.ranks, config.loss.batch_pairs
    if ranks == 1:
        return Balance(1.0)
    source = f"{STEPS} steps of {batch} pairs drawn, "
    source += (
        "lengths measured"
        if lengths
        else f"lengths log-normal, plan.variation={config.plan.variation:g}"
    )
    rejected, shared = LOSSES[config.loss.name].rejected, config.data.share_prefix
    budget = config.hardware.tokens_per_pack
    pool = [p for p in lengths or drawn(config) if p.tokens(rejected, shared) <= budget]
    if not pool:
        return Balance(1.0, f"{source}: none fits the context and a pack")
    costs = tuple(pair.cost(shape.cost, rejected, shared) for pair in pool)
    tokens = tuple(pair.tokens(rejected, shared) for pair in pool)

    def slowest(pairs: int, among: int) -> float:
        return simulated(costs, tokens, budget, pairs, among)

    now, remedies = slowest(batch, ranks), []
    if now > 1 + ACCEPTABLE:
        larger = (batch * 2**i for i in range(1, 6))
        fewer = (n for n in range(ranks - 1, 1, -1) if ranks % n == 0)
        fits = next((n for n in larger if slowest(n, ranks) <= 1 + ACCEPTABLE), None)
        remedies += [f"loss.batch_pairs={fits}"] if fits else []
        fits = next((n for n in fewer if slowest(batch, n) <= 1 + ACCEPTABLE), None)
        remedies += [f"{fits} ranks"] if fits else []
    return Balance(now, source, tuple(remedies))


def drawn(config: Config) -> tuple[Lengths, ...]:
    """Pairs with log-normal responses that fit the context, always the same ones."""
    plan, rng = config.plan, Random("spot plan")
    longest = config.model.context_length - plan.prompt_tokens
    spread = math.log(1 + plan.variation**2)
    middle = math.log(plan.response_tokens) - spread / 2
    pairs: list[Lengths] = []
    for _ in range(4 * STEPS * 32):
        n = max(2, round(rng.lognormvariate(middle, spread**0.5)))
        pair = Lengths(plan.prompt_tokens, n, n, min(int(plan.shared * n), n - 1))
        if n <= longest:
            pairs.append(pair)
    return tuple(pairs)


@lru_cache
def simulated(
    costs: Sequence[float], tokens: Sequence[int], budget: int, batch: int, ranks: int
) -> float:
    """FLOPs of the slowest rank ÷ those of the mean one, over steps of `batch` of these pairs."""
    rng, slowest, mean = Random("steps"), 0.0, 0.0
    for _ in range(STEPS):
        chosen = [rng.randrange(len(costs)) for _ in range(batch)]
        given = [costs[i] for i in chosen]
        dealt = deal(given, [tokens[i] for i in chosen], budget, ranks)
        slowest += max(sum(given[i] for items in bins for i in items) for bins in dealt)
        mean += sum(given) / ranks
    return slowest / mean
