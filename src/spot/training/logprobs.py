"""Hidden states → fp32 token log-probs, without ever holding a [tokens, vocabulary] tensor.

Only scored rows are multiplied with the head, one chunk after the other; the backward pass computes
each chunk's logits again. Logits, log-softmax, log-probs and the head's gradient are fp32 (fp64 for
fp64 states) whatever the states' dtype: bf16 logits alone would move a 600-token sum by half a nat.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spot.errors import UserError

CHUNK_ELEMENTS = 2**22  # of a chunk's logits: 16 MiB in fp32
TokenLogProbs = Callable[..., tuple[Tensor, Tensor | None]]


def chunk_rows(vocabulary: int) -> int:
    return max(16, CHUNK_ELEMENTS // vocabulary)


class _TokenLogProbs(torch.autograd.Function):
    """log p(target) = logit[target] − logsumexp(logits), with logits = h Wᵀ."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        head, lse, picked, entropy = _operand(weight), [], [], []
        for h, t in zip(hidden.split(rows), targets.split(rows), strict=True):
            logits = _product(h, head.T)
            lse.append(logits.logsumexp(-1))
            picked.append(logits.gather(-1, t[:, None])[:, 0])
            if with_entropy:  # H = logsumexp − Σ p · logit
                p = (logits - lse[-1][:, None]).exp_()
                entropy.append(lse[-1] - p.mul_(logits).sum(-1))
        normaliser = torch.cat(lse)
        ctx.save_for_backward(hidden, weight, targets, normaliser)
        ctx.rows = rows
        entropies = torch.cat(entropy) if entropy else normaliser.new_empty(0)
        ctx.mark_non_differentiable(entropies)
        return torch.cat(picked) - normaliser, entropies

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """∂ log p(t) / ∂ logits = onehot(t) − softmax(logits)."""
        hidden, weight, targets, normaliser = ctx.saved_tensors
        head = _operand(weight)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight, dtype=normaliser.dtype)
        for i in range(0, len(hidden), ctx.rows):
            part = slice(i, i + ctx.rows)
            logits = _product(hidden[part], head.T)
            d_logits = logits.sub_(normaliser[part, None]).exp_().mul_(-grad[part, None])
            d_logits.scatter_add_(-1, targets[part, None], grad[part, None])
            d_logits = d_logits.to(head.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = d_logits @ head
            if grad_weight is not None:
                _accumulate(grad_weight, d_logits.T, hidden[part])
        return grad_hidden, _as(weight, grad_weight), None, None, None


def _operand(weight: Tensor) -> Tensor:
    """What products with fp32 results take: the weight itself, or its fp32 copy on a CPU.

    A GPU multiplies bf16 matrices into fp32; torch's CPU has no such product.
    """
    narrow = weight.dtype in (torch.bfloat16, torch.float16)
    return weight.float() if narrow and not weight.is_cuda else weight


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b with fp32 (or fp64) accumulation and result."""
    if a.is_cuda and a.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.to(b.dtype) @ b


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
    rows: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs [N] of `targets` [N], and on request the entropy [N] of each prediction, both fp32.

    hidden: [N, hidden] the states that predict them; weight: [vocabulary, hidden] of the head, tied
    to the embedding or not; rows: how many are done at once (default: as many as 16 MiB hold). The
    entropy carries no gradient. fp64 states give fp64.
    """
    logps, entropies = _TokenLogProbs.apply(
        hidden, weight, targets, rows or chunk_rows(weight.shape[0]), entropy
    )
    return logps, entropies if entropy else None


def liger_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The same through Liger's fused linear cross entropy. Raises UserError when it is not installed."""
    try:
        from liger_kernel.ops.fused_linear_scaled_cross_entropy import (
            LigerFusedLinearScaledCrossEntropyFunction as Fused,
        )
    except ImportError as error:
        raise UserError(
            f"hardware.logprobs=liger needs liger-kernel ({error}): pip install 'spot[gpu]', or "
            "choose hardware.logprobs=torch."
        ) from error
    found = Fused.apply(hidden, weight, targets, return_entropy=entropy)
    nll, entropies = found if entropy else (found, None)
    return -nll, entropies


KERNELS: dict[str, TokenLogProbs] = {"torch": token_logprobs, "liger": liger_logprobs}
BOUNDS = {  # of log-probs (nats), and of gradients (relative L2)
    torch.float64: (1e-9, 1e-6),
    torch.float32: (1e-4, 1e-4),
    torch.bfloat16: (1e-3, 2e-2),
    torch.float16: (1e-3, 1e-2),
}


def check_kernel(name: str, hidden: int, dtype: torch.dtype, device: torch.device | str) -> None:
    """Compare a kernel with ours on random tensors; a UserError where its numbers differ."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(96, hidden, generator=generator).to(device, dtype)
    w = (torch.randn(1000, hidden, generator=generator) * (4 / hidden**0.5)).to(device, dtype)
    targets = torch.randint(0, 1000, (96,), generator=generator).to(device)
    upstream = torch.randn(96, generator=generator).to(device)
    results = []
    for kernel in (KERNELS[name], token_logprobs):
        inputs = h.clone().requires_grad_(), w.clone().requires_grad_()
        logps, _ = kernel(inputs[0], inputs[1], targets)
        results.append((logps.detach(), *torch.autograd.grad(logps, inputs, upstream.to(logps))))
    (logps, *gradients), (wanted, *wanted_gradients) = results
    bound, gradient_bound = BOUNDS[dtype]
    off = (logps - wanted).abs().max().item()
    gradient_off = max(
        ((a.double() - b.double()).norm() / b.double().norm()).item()
        for a, b in zip(gradients, wanted_gradients, strict=True)
    )
    if not (off <= bound and gradient_off <= gradient_bound):
        raise UserError(
            f"hardware.logprobs={name} does not give the numbers it should in {dtype} (log-probs off "
            f"by {off:.2g}, gradients by {gradient_off:.2g}): choose hardware.logprobs=torch."
        )
