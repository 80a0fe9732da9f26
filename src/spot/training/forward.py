"""A model and a pack in, token log-probs out: the one forward pass of training, reference and probes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from spot.config import HardwareConfig
from spot.training import attention, kernel_checks, logprobs
from spot.training.fused_layers import fused
from spot.training.packing import Pack, PackingSettings
from spot.utils.errors import UserError


@dataclass(frozen=True)
class Kernels:
    """What computes packs: `hardware.attention`, `hardware.logprobs` and `hardware.fused`."""

    attention: str = "sdpa"
    logprobs: str = "torch"
    fused: str = "none"

    @contextmanager
    def inside(self, model: Any) -> Iterator[None]:
        """Within, the model takes packs and computes with these; outside, it is the model's own."""
        with (
            attention.packed(model, self.attention),
            fused(model) if self.fused == "liger" else nullcontext(),
        ):
            yield

    def check(self, config: Any, dtype: torch.dtype, device: torch.device | str) -> float:
        """Compare all with plain computations on random tensors; a UserError where they differ.

        config: the model's. Returns the disagreement of attention, as a relative L2 distance.
        """
        shaping = logprobs.Shaping.of(config)
        kernel_checks.check_logprobs(self.logprobs, config.hidden_size, dtype, device, shaping)
        if self.fused == "liger":
            kernel_checks.check_fused(config, dtype, device)
        return kernel_checks.check_attention(self.attention, config, dtype, device)

    def versions(self) -> dict[str, str]:
        """Each kernel with the version of what computes it, where that is not torch."""
        packages = {"flash": "flash-attn", "liger": "liger-kernel"}
        return {
            kind: f"{name} {version(packages[name])}" if name in packages else name
            for kind, name in vars(self).items()
            if name != "none"
        }


PLAIN = Kernels()


@dataclass(frozen=True)
class Computing:
    """How forward passes are made: what is computed with, how pairs are packed, which kernels run."""

    hardware: HardwareConfig
    packing: PackingSettings
    kernels: Kernels


def score_pack(
    model: Any, pack: Pack, kernels: Kernels = PLAIN, *, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """fp32 log-probs [N] of a pack's scored tokens, and on request the entropy [N] of each prediction.

    The model must compute with the kernels: see `Kernels.inside`.
    """
    hidden = attention.hidden_states(model, pack)[pack.sources]
    kernel = partial(
        logprobs.KERNELS[kernels.logprobs],
        entropy=entropy,
        shaping=logprobs.Shaping.of(model.config),
    )
    return _as_forward(model.get_output_embeddings(), kernel, hidden, pack.targets)


def _as_forward(
    head: nn.Module, kernel: logprobs.TokenLogProbs, hidden: Tensor, targets: Tensor
) -> Any:
    """Call the kernel as the head's own forward pass.

    ZeRO-3 gathers a module's weight in hooks around its forward and backward pass, and only there.
    """
    given: dict[str, Any] = {} if getattr(head, "bias", None) is None else {"bias": head.bias}
    head.forward = lambda states: kernel(states, head.weight, targets, **given)  # type: ignore[method-assign]
    try:
        return head(hidden)
    finally:
        del head.forward  # the class's own is back


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
