"""How time grows with tokens, vocabulary and pairs, and how evenly ranks share a step.

`python -m performance.scaling` measures the first three on this machine: seconds of forward and
backward against the tokens of a pack and against the vocabulary, with the straight line through
them, and seconds of planning an epoch. The other two are arithmetic, no time is measured:

- balance: how much longer the slowest of many ranks works than the mean, in Qwen3-8B's FLOPs, and
  than the least possible: a pair cannot be divided, so no step is shorter than its most expensive pair.
- prediction: FLOPs on the critical path of 8 ranks, 32 pairs a step, 2 epochs and one reference pass.
  It begins with padding as the released recipe pads: each rank takes 4 pairs, in 2 micro-batches of
  2, all four sequences as long as the longest; every micro-step lasts as long as the slowest rank's;
  logits for all positions; all layers computed twice forward (4 forward passes in all). Then, one
  after the other: no padding and logits for responses only; pairs dealt to ranks by cost, one
  synchronisation a step; prefixes shared; half of the layers checkpointed (3.5 forward passes). Every
  factor is the gain over the step before it, so it depends on this order.

`--lengths file.jsonl` predicts for lengths of your own: rows with the token counts prompt, chosen,
rejected and prefix (how many tokens the two responses begin alike).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch

from performance import common
from spot.training import attention
from spot.training.bin_packing import Cost, Lengths, deal
from spot.training.forward import pack_logprobs
from spot.training.packing import (
    PackingSettings,
    PairTokens,
    build_pack,
    fitting,
    plan_steps,
)

MODULE = "performance.scaling"
QWEN3_8B = Cost(token=2 * 6.946e9, scored=2 * 0.622e9, seen=4 * 36 * 4096)
SHARED = PackingSettings(16384, cost=QWEN3_8B, parts=False)
APART = replace(SHARED, share_prefix=False)
RANKS, BATCH, MICRO = 8, 32, 2  # of the prediction: ranks, pairs a step, pairs a micro-batch
REFERENCE = 0.5  # forward passes: one in two epochs
PROMPT = 150
Row = dict[str, Any]
SIZES: dict[str, tuple[Any, Any]] = {  # name: (in full, --quick)
    "tokens": ((1024, 2048, 4096, 8192, 16384), (128, 256, 512)),
    "vocabularies": ((4096, 8192, 16384, 32768, 65536), (256, 512, 1024)),
    "pack": (2048, 128),  # tokens while the vocabulary varies
    "model": ({}, {"layers": 1, "hidden": 32, "intermediate": 64, "vocabulary": 512}),
    "pairs": ((1_000, 10_000, 100_000), (64, 128)),
    "ranks": ((8, 16, 32, 64), (8,)),
    "draws": (50, 4),
    "steps": (40, 4),
    "means": ((1000, 1800, 4000), (1800,)),
    "cvs": ((0.5, 0.7, 1.0), (0.7,)),
    "shares": ((0.0, 0.3, 0.5, 0.7), (0.0, 0.5)),
}


def draw_lengths(
    rng: np.random.Generator, count: int, mean: float, cv: float, shared: float
) -> list[Lengths]:
    """Both responses have L tokens, lognormal, cut where the unshared pair would not fit a pack."""
    sigma2 = np.log(1 + cv**2)
    drawn = rng.lognormal(np.log(mean) - sigma2 / 2, sigma2**0.5, count)
    longest = SHARED.token_budget // 2 - PROMPT
    lengths = drawn.round().clip(4, longest).astype(int).tolist()
    return [Lengths(PROMPT, n, n, min(int(shared * n), n - 1)) for n in lengths]


# ---- measured ------------------------------------------------------------------------------------


def linear_fit(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Slope and intercept of the least-squares line, and R²."""
    slope, intercept = np.polyfit(x, y, 1)
    rest = np.asarray(y) - (slope * np.asarray(x) + intercept)
    return float(slope), float(intercept), float(1 - (rest**2).sum() / np.var(y) / len(y))


def seconds(work: Callable[[], Any]) -> float:
    """How long the work takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def step_seconds(tokens: int, **shape: Any) -> tuple[int, float]:
    """Tokens of a pack of about so many, and the median seconds of its forward and backward."""
    model = common.build_model(**shape)
    vocabulary = model.config.vocab_size
    length = min(200, tokens // 4)
    pair = length // 2 + 2 * (length - length // 2)  # tokens, half of the responses shared
    pairs = common.make_pairs(
        max(1, tokens // pair), mean=length, cv=0.1, prompt=8, vocabulary=vocabulary
    )
    pack = build_pack(pairs, replace(SHARED, token_budget=10**9))

    def step() -> None:
        with attention.packed(model):
            pack_logprobs(model, pack).sum().backward()

    return pack.tokens, median([seconds(step) for _ in range(4)][1:])


def with_fit(name: str, sizes: Sequence[int], times: Sequence[float]) -> list[Row]:
    """A row for each size: its time, and the time on the straight line through all."""
    slope, intercept, r2 = linear_fit(sizes, times)
    return [
        {
            name: size, "seconds": took, "µs each": 1e6 * took / size,
            "seconds on the line": slope * size + intercept, "R² of the line": r2,
        }
        for size, took in zip(sizes, times, strict=True)
    ]  # fmt: skip


def scale_tokens(size: dict[str, Any]) -> list[Row]:
    """Step time against the tokens of a pack."""
    found = [step_seconds(tokens, **size["model"]) for tokens in size["tokens"]]
    return with_fit("tokens", *zip(*found, strict=True))


def scale_vocabulary(size: dict[str, Any]) -> list[Row]:
    """Step time against the vocabulary; the line's intercept is the body."""
    shapes = [size["model"] | {"vocabulary": words} for words in size["vocabularies"]]
    times = [step_seconds(size["pack"], **shape)[1] for shape in shapes]
    return with_fit("vocabulary", size["vocabularies"], times)


def as_pair(name: str, lengths: Lengths) -> PairTokens:
    """A pair of such lengths that costs no memory: views of two arrays."""
    same = lengths.prefix
    chosen, rejected = ONES[: lengths.chosen], EDGE[len(ONES) - same :][: lengths.rejected]
    return PairTokens(name, ONES[: lengths.prompt], chosen, rejected)


ONES = np.ones(SHARED.token_budget, dtype=np.int32)
EDGE = np.concatenate([ONES, ONES + 1])


def scale_packing(size: dict[str, Any]) -> list[Row]:
    """Seconds to plan one epoch for 8 ranks, and milliseconds to build one rank's packs of a step."""
    rng, rows = np.random.default_rng(0), []
    for count in size["pairs"]:
        drawn = draw_lengths(rng, count, 1800, 0.7, 0.5)
        pairs = [as_pair(str(i), lengths) for i, lengths in enumerate(drawn)]
        begin = time.perf_counter()
        kept, _ = fitting(pairs, SHARED)
        steps = plan_steps(len(kept), BATCH, 1, 0)
        dealt = [deal_pairs([kept[i] for i in step]) for step in steps]
        took = time.perf_counter() - begin
        builds = []
        for step, bins in zip(steps[:20], dealt[:20], strict=True):
            own = [[kept[step[i]] for i in items] for items in bins[0]]
            builds.append(seconds(partial(list, map(partial(build_pack, settings=SHARED), own))))
        row = {"pairs": count, "steps": len(steps), "seconds to plan": took}
        row |= {"µs a pair": 1e6 * took / count, "ms to build a step's packs": 1e3 * median(builds)}
        rows.append(row)
    return rows


def deal_pairs(pairs: Sequence[PairTokens]) -> list[list[list[int]]]:
    """What every rank decides for itself before it builds its packs."""
    costs = [pair.cost(SHARED) for pair in pairs]
    return deal(costs, [pair.tokens(SHARED) for pair in pairs], SHARED.token_budget, RANKS)


# ---- calculated ----------------------------------------------------------------------------------


def slowest(pairs: Sequence[Lengths], ranks: int, shared: bool) -> tuple[float, float, float]:
    """FLOPs of the slowest rank, of the mean rank and of the most expensive pair."""
    costs = [pair.cost(QWEN3_8B, shared=shared) for pair in pairs]
    dealt = deal(costs, [pair.tokens(shared=shared) for pair in pairs], SHARED.token_budget, ranks)
    loads = [sum(costs[i] for items in bins for i in items) for bins in dealt]
    return max(loads), sum(loads) / ranks, max(costs)


def scale_ranks(size: dict[str, Any]) -> list[Row]:
    """How far the slowest rank is above the mean rank, and above the least possible."""
    rows = []
    for ranks, each in product(size["ranks"], (4, 8, 16)):
        rng = np.random.default_rng(0)
        draws = [draw_lengths(rng, ranks * each, 1800, 0.7, 0.5) for _ in range(size["draws"])]
        found = [slowest(pairs, ranks, shared=True) for pairs in draws]
        over_mean = [100 * (top / middle - 1) for top, middle, _ in found]
        over_least = [100 * (top / max(middle, pair) - 1) for top, middle, pair in found]
        row = {"ranks": ranks, "pairs a rank": each, "% over the mean": mean(over_mean)}
        row |= {"at most": max(over_mean), "% over the least possible": mean(over_least)}
        rows.append(row | {"at most ": max(over_least)})
    return rows


def by_rank(pairs: Sequence[Lengths]) -> Iterable[list[list[Lengths]]]:
    """Micro-steps of a step dealt in order, each a micro-batch for every rank."""
    each = max(1, len(pairs) // RANKS)
    shares = [pairs[i : i + each] for i in range(0, len(pairs), each)]
    return ([list(share[i : i + MICRO]) for share in shares] for i in range(0, each, MICRO))


def padded_cost(pairs: Sequence[Lengths]) -> float:
    """Both sides of a micro-batch, padded to the longest, logits everywhere."""
    width = max(pair.prompt + max(pair.chosen, pair.rejected) for pair in pairs)
    return 2 * len(pairs) * QWEN3_8B.row(width, 0, 0, width)


def path(pairs: Sequence[Lengths]) -> np.ndarray:
    """Forward FLOPs on a step's critical path: padded; unpadded; dealt by cost; prefixes shared."""
    micro_steps = list(by_rank(pairs))
    padded = sum(max(map(padded_cost, batches)) for batches in micro_steps)
    unpadded = sum(
        max(sum(pair.cost(QWEN3_8B, shared=False) for pair in batch) for batch in batches)
        for batches in micro_steps
    )
    dealt, shared = (slowest(pairs, RANKS, shared)[0] for shared in (False, True))
    return np.array([padded, unpadded, dealt, shared])


def predict(steps: Sequence[Sequence[Lengths]]) -> Row:
    """Factors between padded and packed training over these steps, and where they come from."""
    forward = np.sum([path(pairs) for pairs in steps], axis=0)
    padded, unpadded, dealt, shared = ((4 + REFERENCE) * forward).tolist()
    half = (3.5 + REFERENCE) / (4 + REFERENCE) * shared
    return {
        "no padding": padded / unpadded, "balance": unpadded / dealt, "sharing": dealt / shared,
        "PREDICTED factor": padded / shared, "half the layers": shared / half,
        "PREDICTED with half": padded / half,
    }  # fmt: skip


def scale_prediction(size: dict[str, Any]) -> list[Row]:
    """Predictions for drawn lengths."""
    rows = []
    for average, cv, share in product(size["means"], size["cvs"], size["shares"]):
        rng = np.random.default_rng(0)
        steps = [draw_lengths(rng, BATCH, average, cv, share) for _ in range(size["steps"])]
        rows.append({"mean": average, "cv": cv, "f": share, **predict(steps)})
    return rows


def read_lengths(file: Path) -> list[list[Lengths]]:
    """Whole steps of the file's pairs, in an order drawn once; pairs that fit no pack are dropped."""
    rows = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    pairs = [Lengths(*(row[name] for name in Lengths._fields)) for row in rows]
    kept = [pair for pair in pairs if pair.tokens(shared=False) <= SHARED.token_budget]
    print(f"{len(kept)} of {len(pairs)} pairs fit a pack of {SHARED.token_budget} tokens unshared.")
    steps = plan_steps(len(kept), BATCH, 1, 0)
    whole = [[kept[i] for i in step] for step in steps if len(step) == BATCH]
    if not whole:
        raise SystemExit(f"{file} has fewer than {BATCH} pairs that fit: a step is {BATCH} pairs.")
    return whole


TABLES: dict[str, Callable[[dict[str, Any]], list[Row]]] = {
    "scaling_tokens": scale_tokens,
    "scaling_vocabulary": scale_vocabulary,
    "scaling_packing": scale_packing,
    "scaling_ranks": scale_ranks,
    "scaling_prediction": scale_prediction,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Every table, or the prediction for given lengths."""
    parser = argparse.ArgumentParser(prog=MODULE)
    parser.add_argument("--quick", action="store_true", help="small sizes, in seconds")
    parser.add_argument("--no-write", action="store_true", help="print only")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--lengths", type=Path, help="predict for these token counts (JSON lines)")
    options = parser.parse_args(arguments)
    if options.lengths:
        print(common.markdown([predict(read_lengths(options.lengths))]))
        return
    torch.manual_seed(0)
    size = {name: small if options.quick else full for name, (full, small) in SIZES.items()}
    for name in options.only:
        rows = TABLES[name](size)
        if options.no_write:
            print(f"{name}\n{common.markdown(rows)}\n", flush=True)
        else:
            common.write_results(name, rows, f"python -m {MODULE}")


if __name__ == "__main__":
    main()
