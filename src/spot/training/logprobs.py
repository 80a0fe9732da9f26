"""Hidden states → fp32 token log-probs, without ever holding a [tokens, vocabulary] tensor.

Only scored rows are multiplied with the head, one chunk after the other; the backward pass computes
each chunk's logits again. Log-softmax, log-probs and the head's gradient are accumulated in fp32 (or
fp64 when the states are fp64) whatever the states' dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**22  # of a chunk's logits: 16 MiB in fp32


def chunk_rows(vocabulary: int) -> int:
    return max(16, CHUNK_ELEMENTS // vocabulary)


class _TokenLogProbs(torch.autograd.Function):
    """log p(target) = logit[target] − logsumexp(logits), with logits = h Wᵀ."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int) -> Tensor:
        lse, picked = [], []
        for h, t in zip(hidden.split(rows), targets.split(rows), strict=True):
            logits = _wide(h @ weight.T)
            lse.append(logits.logsumexp(-1))
            picked.append(logits.gather(-1, t[:, None])[:, 0])
        normaliser = torch.cat(lse)
        ctx.save_for_backward(hidden, weight, targets, normaliser)
        ctx.rows = rows
        return torch.cat(picked) - normaliser

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """∂ log p(t) / ∂ logits = onehot(t) − softmax(logits)."""
        hidden, weight, targets, normaliser = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=normaliser.dtype)
        for i in range(0, len(hidden), ctx.rows):
            part = slice(i, i + ctx.rows)
            logits = _wide(hidden[part] @ weight.T)
            d_logits = logits.sub_(normaliser[part, None]).exp_().mul_(-grad[part, None])
            d_logits.scatter_add_(-1, targets[part, None], grad[part, None])
            grad_hidden[part] = d_logits.to(hidden.dtype) @ weight
            grad_weight += d_logits.T @ _wide(hidden[part])
        return grad_hidden, grad_weight.to(weight.dtype), None, None


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, rows: int | None = None
) -> Tensor:
    """Log-probs [N] of `targets` [N], fp32 (fp64 for fp64 states).

    hidden: [N, hidden] the states that predict them; weight: [vocabulary, hidden] of the head, tied
    to the embedding or not; rows: how many are done at once (default: as many as 16 MiB hold).
    """
    result: Tensor = _TokenLogProbs.apply(
        hidden, weight, targets, rows or chunk_rows(weight.shape[0])
    )
    return result
