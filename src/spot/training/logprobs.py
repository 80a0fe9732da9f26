"""Hidden states → fp32 token log-probs, without ever holding a [tokens, vocabulary] tensor.

Only scored rows are multiplied with the head, tile by tile: some rows by some words of the vocabulary.
The backward pass computes each tile's logits again. Logits, log-softmax, log-probs and the head's
gradient are fp32 (fp64 for fp64 states) whatever the states' dtype: bf16 logits alone would move a
600-token sum by half a nat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spot.training.memory_model import TILES
from spot.utils.errors import UserError

TokenLogProbs = Callable[..., tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Shaping:
    """What a model makes of its head's output z = h Wᵀ + b: logits = cap · tanh(scale · z / cap)."""

    scale: float = 1.0
    cap: float | None = None  # None: no tanh

    @classmethod
    def of(cls, config: Any) -> Shaping:
        """As a model's configuration says; each family has its own word for it."""
        text = config.get_text_config()
        scale = float(getattr(text, "logit_scale", None) or 1.0)  # Cohere
        scale /= float(getattr(text, "logits_scaling", None) or 1.0)  # Granite
        return cls(scale, getattr(text, "final_logit_softcapping", None))  # Gemma

    def __call__(self, z: Tensor) -> Tensor:
        """Logits, in the place of z."""
        if self.scale != 1.0:
            z.mul_(self.scale)
        return z if self.cap is None else z.div_(self.cap).tanh_().mul_(self.cap)

    def slope(self, logits: Tensor) -> Tensor | float:
        """∂ logits / ∂ z, where the logits are these."""
        return self.scale if self.cap is None else (1 - (logits / self.cap) ** 2).mul_(self.scale)


UNSHAPED = Shaping()


class _TokenLogProbs(torch.autograd.Function):
    """log p(target) = logit[target] − logsumexp(logits)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        tile: tuple[int, int],
        with_entropy: bool,
        shaping: Shaping,
    ) -> tuple[Tensor, Tensor]:
        head = _Head(weight, bias, shaping, tile)
        parts = [
            _forward_rows(h, head, t, with_entropy)
            for h, t in zip(hidden.split(tile[0]), targets.split(tile[0]), strict=True)
        ]
        logps, normaliser, entropy = (torch.cat(values) for values in zip(*parts, strict=True))
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser)
        ctx.tile, ctx.shaping = tile, shaping
        ctx.mark_non_differentiable(entropy)
        return logps, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """∂ log p(t) / ∂ logits = onehot(t) − softmax(logits)."""
        hidden, weight, bias, targets, normaliser = ctx.saved_tensors
        head = _Head(weight, bias, ctx.shaping, ctx.tile)
        wide = normaliser.dtype
        grads = [
            torch.zeros_like(t, dtype=wide) if t is not None and needed else None
            for t, needed in zip((hidden, weight, bias), ctx.needs_input_grad[:3], strict=True)
        ]
        grad_hidden, grad_weight, grad_bias = grads
        for i in range(0, len(hidden), ctx.tile[0]):
            part = slice(i, i + ctx.tile[0])
            g = grad[part, None]
            for words, block, d_logits in head.tiles(hidden[part]):
                slope = head.shaping.slope(d_logits)
                d_logits.sub_(normaliser[part, None]).exp_().mul_(-g)
                at, inside = _place(targets[part], words.start, len(block))
                d_logits.scatter_add_(1, at, g * inside)
                if head.shaping != UNSHAPED:
                    d_logits.mul_(slope)
                if grad_bias is not None:
                    grad_bias[words] += d_logits.sum(0)
                d_logits = d_logits.to(block.dtype)
                if grad_hidden is not None:
                    _accumulate(grad_hidden[part], d_logits, block)
                if grad_weight is not None:
                    _accumulate(grad_weight[words], d_logits.T, hidden[part])
        given = zip((hidden, weight, bias), grads, strict=True)
        return *(_as(like, values) for like, values in given), None, None, None, None


class _Head:
    """The logits of some rows, tile by tile of the vocabulary."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, shaping: Shaping, tile: tuple[int, int]
    ) -> None:
        self.weight = _operand(weight)
        self.bias = bias  # added to fp32: no copy is needed
        self.shaping, self.words = shaping, tile[1]
        self.memory = _memory(self.weight, tile)

    def tiles(self, h: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Which words, their rows of the weight, and their logits, in memory that the next tile takes."""
        for j in range(0, len(self.weight), self.words):
            block = self.weight[j : j + self.words]
            words = slice(j, j + len(block))
            z = _product(h, block.T, self.memory)
            if self.bias is not None:
                z.add_(self.bias[words])
            yield words, block, self.shaping(z)


def _forward_rows(
    h: Tensor, head: _Head, targets: Tensor, with_entropy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, logsumexp and entropy (empty unless asked for) of some rows, each [rows].

    Per tile the largest logit and the sum of exponentials below it; the tiles' sums are put on one
    scale at the end.
    """
    tops, sums, weighted = [], [], []
    picked: Tensor | float = 0.0
    for words, block, logits in head.tiles(h):
        at, inside = _place(targets, words.start, len(block))
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
    bias: Tensor | None = None,
    shaping: Shaping = UNSHAPED,
    tile: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs [N] of `targets` [N], and on request the entropy [N] of each prediction, both fp32.

    hidden: [N, hidden] the states that predict them; weight: [vocabulary, hidden] of the head, tied
    to the embedding or not; bias: [vocabulary]; tile: how many rows and words are done at once
    (default: `TILES`). The entropy carries no gradient. fp64 states give fp64.
    """
    tile = tile or TILES[hidden.device.type]
    logps, entropies = _TokenLogProbs.apply(hidden, weight, bias, targets, tile, entropy, shaping)
    return logps, entropies if entropy else None


def liger_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    entropy: bool = False,
    bias: Tensor | None = None,
    shaping: Shaping = UNSHAPED,
) -> tuple[Tensor, Tensor | None]:
    """The same through Liger's fused linear cross entropy, for a head that is one matrix."""
    if bias is not None or shaping != UNSHAPED:
        raise UserError(
            "hardware.logprobs=liger knows no bias, scale or cap of logits, and this model's head has "
            "one: choose hardware.logprobs=torch."
        )
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import (
        LigerFusedLinearScaledCrossEntropyFunction as Fused,
    )

    output = Fused.apply(hidden, weight, targets, return_entropy=entropy)
    nll, entropies = output if entropy else (output, None)
    return -nll, None if entropies is None else entropies.float().detach()


KERNELS: dict[str, TokenLogProbs] = {"torch": token_logprobs, "liger": liger_logprobs}
