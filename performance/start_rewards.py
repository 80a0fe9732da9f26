"""How far a reward is from 0 before the first update, when nothing but bf16 rounding is there.

`python -m performance.start_rewards` scores random pairs with the same weights, in bf16 and in fp32, and
prints and writes the differences of log-probs: of a token, and of a response over the root of its
tokens. Two ways to compute in bf16, which a policy and its reference are on a GPU, differ by such
differences to the exact value. The models are random; their logits lie closer together or further
apart, as a trained one's do. `spot.training.model_check.start_bound` is this, with a margin.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from performance.common import build_model, make_pairs, write_results
from spot.training import attention
from spot.training.forward import pack_logprobs
from spot.training.packing import PackingSettings, PairTokens, step_packs

SIZE: dict[str, Any] = {
    "layers": 8, "hidden": 128, "heads": 4, "kv_heads": 2, "head_dim": 32, "vocabulary": 2048
}  # fmt: skip
SCALES = (0.02, 0.08, 0.2)  # of the weights


@torch.no_grad()
def differences(model: Any, pairs: Sequence[PairTokens]) -> tuple[Tensor, Tensor, Tensor]:
    """bf16 − fp32 of every scored token, and of every response over √tokens; and what fp32 gives."""
    exact = copy.deepcopy(model).float()
    tokens, responses, values = [], [], []
    for pack in step_packs(pairs, PackingSettings(8192), 0, 1):
        with attention.packed(model, "sdpa"), attention.packed(exact, "sdpa"):
            wanted = pack_logprobs(exact, pack)
            off = pack_logprobs(model, pack) - wanted
        for total, count in zip(pack.slot_sums(off), pack.slot_counts(), strict=True):
            responses.append(total / count.sqrt())
        tokens.append(off)
        values.append(wanted)
    return torch.cat(tokens), torch.cat(responses), torch.cat(values)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="performance.start_rewards")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--mean", type=int, default=200, help="tokens of a response")
    options = parser.parse_args(arguments)
    made = make_pairs(options.pairs, mean=options.mean, vocabulary=SIZE["vocabulary"])
    pairs = [
        PairTokens(p.id, *(np.asarray(ids) for ids in (p.prompt, p.chosen, p.rejected)))
        for p in made
    ]
    rows = []
    for scale in SCALES:
        model = build_model(**SIZE, scale=scale, dtype=torch.bfloat16)
        token, response, values = differences(model, pairs)
        rows.append(
            {
                "spread of log-probs": values.std().item(),
                "tokens": len(token),
                "a token's, standard deviation": token.std().item(),
                "largest": token.abs().max().item(),
                "responses": len(response),
                "a response's / √tokens, median": response.abs().median().item(),
                "largest ": response.abs().max().item(),
            }
        )
    write_results("start_rewards", rows, "python -m performance.start_rewards")


if __name__ == "__main__":
    main()
