"""Hidden states → fp32 token log-probs, without ever holding a [tokens, vocabulary] tensor.

Only scored rows are multiplied with the head, tile by tile: some rows by some words of the vocabulary.
The backward pass computes each tile's logits again. Logits, log-softmax, log-probs and the head's
gradient are fp32 (fp64 for fp64 states) whatever the states' dtype: bf16 logits alone would move a
600-token sum by half a nat.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spot.training.memory_model import TILES

TokenLogProbs = Callable[..., tuple[Tensor, Tensor | None]]


class _TokenLogProbs(torch.autograd.Function):
    """log p(target) = logit[target] − logsumexp(logits), with logits = h Wᵀ."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        tile: tuple[int, int],
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        head = _operand(weight)
        memory = _memory(head, tile)
        parts = [
            _forward_rows(h, head, t, tile[1], memory, with_entropy)
            for h, t in zip(hidden.split(tile[0]), targets.split(tile[0]), strict=True)
        ]
        logps, normaliser, entropy = (torch.cat(values) for values in zip(*parts, strict=True))
        ctx.save_for_backward(hidden, weight, targets, normaliser)
        ctx.tile = tile
        ctx.mark_non_differentiable(entropy)
        return logps, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """∂ log p(t) / ∂ logits = onehot(t) − softmax(logits)."""
        hidden, weight, targets, normaliser = ctx.saved_tensors
        rows, words = ctx.tile
        head = _operand(weight)
        memory = _memory(head, ctx.tile)
        wide = normaliser.dtype
        grad_hidden = torch.zeros_like(hidden, dtype=wide) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        for i in range(0, len(hidden), rows):
            part = slice(i, i + rows)
            g = grad[part, None]
            for j in range(0, len(head), words):
                block = head[j : j + words]
                d_logits = _product(hidden[part], block.T, memory)
                d_logits.sub_(normaliser[part, None]).exp_().mul_(-g)
                at, inside = _place(targets[part], j, len(block))
                d_logits.scatter_add_(1, at, g * inside)
                d_logits = d_logits.to(head.dtype)
                if grad_hidden is not None:
                    _accumulate(grad_hidden[part], d_logits, block)
                if grad_weight is not None:
                    _accumulate(grad_weight[j : j + words], d_logits.T, hidden[part])
        return _as(hidden, grad_hidden), _as(weight, grad_weight), None, None, None


def _forward_rows(
    h: Tensor, head: Tensor, targets: Tensor, words: int, memory: Tensor | None, with_entropy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, logsumexp and entropy (empty unless asked for) of some rows, each [rows].

    Per tile the largest logit and the sum of exponentials below it; the tiles' sums are put on one
    scale at the end.
    """
    tops, sums, weighted = [], [], []
    picked: Tensor | float = 0.0
    for j in range(0, len(head), words):
        block = head[j : j + words]
        logits = _product(h, block.T, memory)
        at, inside = _place(targets, j, len(block))
        picked = picked + logits.gather(1, at)[:, 0] * inside[:, 0]
        top = logits.amax(1)
        shifted = logits.sub_(top[:, None])
        p = shifted.exp() if with_entropy else shifted.exp_()
        tops.append(top)
        sums.append(p.sum(1))
        if with_entropy:  # Σ exp(l − top) · l, with l = (l − top) + top
            weighted.append(p.mul_(shifted).sum(1) + top * sums[-1])
    top = torch.stack(tops).amax(0)
    scales = [(t - top).exp() for t in tops]
    total = sum(s * scale for s, scale in zip(sums, scales, strict=True))
    assert isinstance(total, Tensor)
    lse = total.log() + top
    entropy = lse.new_empty(0)
    if with_entropy:  # H = logsumexp − Σ p · logit
        mean = sum(s * scale for s, scale in zip(weighted, scales, strict=True)) / total
        entropy = lse - mean
    return picked - lse, lse, entropy


def _place(targets: Tensor, first: int, words: int) -> tuple[Tensor, Tensor]:
    """Where a tile's words hold each target, and whether they do: two of [rows, 1]."""
    at = (targets - first)[:, None]
    return at.clamp(0, words - 1), (at >= 0) & (at < words)


def _operand(weight: Tensor) -> Tensor:
    """What products with fp32 results take: the weight itself, or its fp32 copy on a CPU.

    A GPU multiplies bf16 matrices into fp32; torch's CPU has no such product.
    """
    return weight.float() if _narrow(weight) and not weight.is_cuda else weight


def _narrow(values: Tensor) -> bool:
    return values.dtype in (torch.bfloat16, torch.float16)


def _memory(head: Tensor, tile: tuple[int, int]) -> Tensor | None:
    """Memory for one tile's logits, used again for each: fresh pages cost a CPU a third of the time."""
    return None if _narrow(head) else head.new_empty(tile[0] * tile[1])


def _product(a: Tensor, b: Tensor, memory: Tensor | None = None) -> Tensor:
    """a @ b with fp32 (or fp64) accumulation and result, in `memory` if given."""
    if _narrow(b):
        return torch.mm(a, b, out_dtype=torch.float32)
    a = a.to(b.dtype)
    if memory is None:
        return a @ b
    return torch.mm(a, b, out=memory[: len(a) * b.shape[1]].view(len(a), -1))


def _accumulate(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, without a second tensor of total's size where torch allows it."""
    if a.dtype == total.dtype:
        total.addmm_(a, b.to(total.dtype))
    else:
        total += _product(a, b)


def _as(like: Tensor, values: Tensor | None) -> Tensor | None:
    return None if values is None else values.to(like.dtype)


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    entropy: bool = False,
    tile: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs [N] of `targets` [N], and on request the entropy [N] of each prediction, both fp32.

    hidden: [N, hidden] the states that predict them; weight: [vocabulary, hidden] of the head, tied
    to the embedding or not; tile: how many rows and words are done at once (default: `TILES`). The
    entropy carries no gradient. fp64 states give fp64.
    """
    logps, entropies = _TokenLogProbs.apply(
        hidden, weight, targets, tile or TILES[hidden.device.type], entropy
    )
    return logps, entropies if entropy else None


def liger_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The same through Liger's fused linear cross entropy."""
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import (
        LigerFusedLinearScaledCrossEntropyFunction as Fused,
    )

    output = Fused.apply(hidden, weight, targets, return_entropy=entropy)
    nll, entropies = output if entropy else (output, None)
    return -nll, None if entropies is None else entropies.float().detach()


KERNELS: dict[str, TokenLogProbs] = {"torch": token_logprobs, "liger": liger_logprobs}
