"""A model and a pack in, token log-probs out: the one forward pass of training, reference and probes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from spot.errors import UserError
from spot.training import attention, logprobs, selfcheck
from spot.training.packing import Pack


@dataclass(frozen=True)
class Kernels:
    """What computes attention and token log-probs: `hardware.attention` and `hardware.logprobs`."""

    attention: str = "sdpa"
    logprobs: str = "torch"

    def check(self, model: Any) -> float:
        """Compare both with plain computations on random tensors; a UserError where they differ.

        Returns the disagreement of attention, as a relative L2 distance.
        """
        hidden = model.get_output_embeddings().weight.shape[1]
        selfcheck.check_logprobs(self.logprobs, hidden, model.dtype, model.device)
        return selfcheck.check_attention(self.attention, model)

    def versions(self) -> dict[str, str]:
        """Each kernel with the version of what computes it, where that is not torch."""
        packages = {"flash": "flash-attn", "liger": "liger-kernel"}
        return {
            kind: f"{name} {version(packages[name])}" if name in packages else name
            for kind, name in vars(self).items()
        }


PLAIN = Kernels()


def score_pack(
    model: Any, pack: Pack, kernels: Kernels = PLAIN, *, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """fp32 log-probs [N] of a pack's scored tokens, and on request the entropy [N] of each prediction.

    The model's attention must be ours: see `attention.packed`.
    """
    hidden = attention.hidden_states(model, pack)[pack.sources]
    head = model.get_output_embeddings().weight
    return logprobs.KERNELS[kernels.logprobs](hidden, head, pack.targets, entropy=entropy)


def pack_logprobs(model: Any, pack: Pack, kernels: Kernels = PLAIN) -> Tensor:
    """fp32 log-probs [N] of a pack's scored tokens."""
    return score_pack(model, pack, kernels)[0]


def check_finite(pack: Pack, logps: Tensor, where: str) -> None:
    """Stop with the pairs' ids where a log-prob is NaN or infinite."""
    finite = torch.isfinite(logps.detach())
    if not finite.all():
        parts = finite.split(pack.scored)
        bad = [i for i, part in zip(pack.ids, parts, strict=True) if not part.all()]
        raise UserError(not_finite(f"log-probs {where}", bad))


def not_finite(what: str, ids: list[str]) -> str:
    """One line with at most eight of the ids."""
    named = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
    return f"The {what} are not finite (pairs {named}): lower the learning rate or look at these pairs."
