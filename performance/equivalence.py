"""Packed with shared prefixes, packed without, and separate sequences: the same numbers.

`python -m performance.equivalence` prints and writes the largest differences of log-probs, losses and
parameter gradients, for Qwen3 and Llama, in fp64, fp32 and bf16, with no, partial and full common
prefix, with one-token and empty tails, at 1 to 64 pairs a pack. Separate sequences go through the
model's own attention and a plain log-softmax over all logits, one response at a time.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from performance.common import build_model, write_results
from spot.training import losses
from spot.training.forward import PLAIN, Kernels, pack_logprobs
from spot.training.packing import PackingSettings, PairTokens, build_pack

KINDS = ("qwen3", "llama")
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
PREFIXES = ("none", "partial", "full", "one-token tails", "mixed")
COUNTS = (1, 4, 16, 64)
LAYOUTS = {"shared": PackingSettings(10**9), "unshared": PackingSettings(10**9, share_prefix=False)}
VOCABULARY = 97
BOUNDS = {  # log-probs and losses (absolute), gradients (relative L2); bf16 is printed, not bounded
    torch.float64: (1e-9, 1e-6),
    torch.float32: (1e-5, 2e-5),
}
SIZE = {
    "layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "intermediate": 48,
    "vocabulary": VOCABULARY, "scale": 0.1,
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What one way of computing gives."""

    chosen: Tensor  # [pairs] sums of token log-probs
    rejected: Tensor  # [pairs]
    tokens: Tensor  # [response tokens] log-probs, all of y⁺ and then of y⁻, pair by pair
    loss: Tensor  # [pairs]
    gradient: Tensor  # [parameters]


def make_case(prefix: str, count: int, seed: int = 0) -> list[PairTokens]:
    """Pairs of one kind of common prefix; `full` means that one response begins the other."""
    rng = random.Random(f"{prefix} {count} {seed}")

    def ids(low: int, high: int) -> list[int]:
        return [rng.randrange(6, VOCABULARY) for _ in range(rng.randint(low, high))]

    pairs = []
    for i in range(count):
        kind = rng.choice(PREFIXES[:-1]) if prefix == "mixed" else prefix
        shared = [] if kind == "none" else ids(1, 24)
        if kind == "full":
            chosen, rejected = shared, [*shared, *ids(1, 9)]
            if i % 2:
                chosen, rejected = rejected, chosen
        elif kind == "one-token tails":
            chosen, rejected = [*shared, 2], [*shared, 3]
        else:
            chosen, rejected = [*shared, 2, *ids(0, 24)], [*shared, 3, *ids(0, 24)]
        pairs.append(PairTokens(f"pair-{i}", ids(1, 9), chosen, rejected))
    return pairs


def separate(model: Any, pairs: Sequence[PairTokens]) -> tuple[Tensor, Tensor, Tensor]:
    """Every response in a forward pass of its own. Returns sums of y⁺, sums of y⁻, all tokens."""

    def response(pair: PairTokens, ids: Any) -> Tensor:
        tokens = torch.tensor([[*pair.prompt.tolist(), *ids.tolist()]], device=model.device)
        logits = model(tokens).logits[0, len(pair.prompt) - 1 : -1]
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return wide.log_softmax(-1).gather(-1, tokens[0, len(pair.prompt) :, None])[:, 0]

    chosen = [response(pair, pair.chosen) for pair in pairs]
    rejected = [response(pair, pair.rejected) for pair in pairs]
    tokens = [part for both in zip(chosen, rejected, strict=True) for part in both]
    return (
        torch.stack([c.sum() for c in chosen]),
        torch.stack([r.sum() for r in rejected]),
        torch.cat(tokens),
    )


def packed(
    model: Any, pairs: Sequence[PairTokens], settings: PackingSettings, kernels: Kernels = PLAIN
) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs in one pack, as training computes them. Returns what `separate` returns."""
    pack = build_pack(pairs, settings).to(model.device)
    with kernels.inside(model):
        logps = pack_logprobs(model, pack, kernels)
    chosen, rejected = pack.slot_sums(logps)
    order = torch.argsort(2 * (pack.slots % len(pairs)) + pack.slots // len(pairs), stable=True)
    return chosen, rejected, logps[pack.members[order]]


def outcome(
    model: Any, compute: Callable[[], tuple[Tensor, Tensor, Tensor]], reference: Sequence[Tensor]
) -> Outcome:
    """Run one way, with SPoT-BCO at a δ that is not 0 and a reference that is not the policy."""
    model.zero_grad()
    chosen, rejected, tokens = compute()
    rewards = [0.1 * (now - then) for now, then in zip((chosen, rejected), reference, strict=True)]
    loss, _ = losses.bco(*rewards, delta=0.05)
    loss.mean().backward()
    gradient = torch.cat([p.grad.flatten().double() for p in model.parameters()])
    return Outcome(chosen.detach(), rejected.detach(), tokens.detach(), loss.detach(), gradient)


def compare(
    kind: str,
    dtype: torch.dtype,
    prefix: str,
    count: int,
    *,
    size: dict[str, Any] = SIZE,
    device: str = "cpu",
    kernels: Kernels = PLAIN,
) -> list[dict[str, Any]]:
    """Largest differences to separate sequences, for either layout; in bf16 also theirs to fp64."""
    build = partial(build_model, kind, **size, tied=kind == "qwen3")
    pairs, exact = make_case(prefix, count), build().to(device, torch.float64)
    with torch.no_grad():
        start = [0.9 * sums for sums in separate(exact, pairs)[:2]]
    model = exact if dtype == torch.float64 else build().to(device, dtype)
    truth = None
    if dtype == torch.bfloat16:
        rounded = build().to(dtype).to(device, torch.float64)
        truth = outcome(rounded, lambda: separate(rounded, pairs), start)
    alone = outcome(model, lambda: separate(model, pairs), start)
    rows = []
    for name, settings in LAYOUTS.items():
        way = partial(packed, model, pairs, settings, kernels)
        got = outcome(model, way, start)
        row = {
            "model": kind, "dtype": str(dtype).removeprefix("torch."), "layout": name,
            "prefix": prefix, "pairs": count, **differences(got, alone),
        }  # fmt: skip
        if truth is not None:
            row["gradients, packed to fp64"] = differences(got, truth)["gradients"]
            row["gradients, separate to fp64"] = differences(alone, truth)["gradients"]
        rows.append(row)
    return rows


def differences(got: Outcome, wanted: Outcome) -> dict[str, float]:
    """Token log-probs and losses: largest absolute difference. Gradients: relative L2."""
    gradients = (got.gradient - wanted.gradient).norm() / wanted.gradient.norm()
    return {
        "log-probs": (got.tokens.double() - wanted.tokens.double()).abs().max().item(),
        "losses": (got.loss.double() - wanted.loss.double()).abs().max().item(),
        "gradients": gradients.item(),
    }


def beyond(row: dict[str, Any]) -> bool:
    """Whether a row breaks the bounds of its dtype."""
    bounds = BOUNDS.get(getattr(torch, row["dtype"]))
    if bounds is None:
        return False
    return not (max(row["log-probs"], row["losses"]) <= bounds[0] and row["gradients"] <= bounds[1])


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The worst of every model, dtype and layout."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["dtype"], row["layout"]), []).append(row)
    found = []
    for (model, dtype, layout), members in groups.items():
        keys = [k for k in members[0] if isinstance(members[0][k], float)]
        worst = {k: max(row[k] for row in members) for k in keys}
        found.append(
            {"model": model, "dtype": dtype, "layout": layout, "cases": len(members), **worst}
        )
    return found


def main() -> None:
    """Every case; exits with 1 when a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-write", action="store_true", help="print only")
    arguments = parser.parse_args()
    rows = [
        row
        for kind in KINDS
        for dtype in DTYPES
        for prefix in PREFIXES
        for count in COUNTS
        for row in compare(kind, dtype, prefix, count)
    ]
    worst = summary(rows)
    if arguments.no_write:
        for row in worst:
            print(row)
    else:
        keys = dict.fromkeys(key for row in worst for key in row)
        table = [{key: row.get(key) for key in keys} for row in worst]
        write_results("equivalence", table, "python -m performance.equivalence")
    broken = [row for row in rows if beyond(row)]
    for row in broken:
        print("beyond its bound:", row)
    raise SystemExit(1 if broken else 0)


if __name__ == "__main__":
    main()
