"""The methods as pure functions of tensors: equation and source beside each line.

Pair-level losses take implicit rewards (eq. 3), r = β (log π_θ(y|x) − log π_ref(y|x)) summed over
the response, and return one loss per pair and per-pair metrics. Token-level losses take token
log-probs and return one loss per token. All of it is fp32 (or wider), whatever the model's dtype.
"Paper" is SPoT, arXiv 2603.01683.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

PairLoss = tuple[Tensor, dict[str, Tensor]]


def sft(logps: Tensor) -> Tensor:
    """−log π_θ(token) for every token of y⁺ (paper, eq. 2 before it is summed or averaged). [tokens]"""
    return -logps


def dft(logps: Tensor) -> Tensor:
    """−sg(p) log p for every token of y⁺, p = π_θ(token): its gradient is −p ∇log p = −∇p.

    Wu et al. 2025, arXiv 2508.05629; the paper's Table 2. [tokens]
    """
    return -logps.detach().exp() * logps


def dpo(chosen: Tensor, rejected: Tensor, delta: float = 0.0) -> PairLoss:
    """−log σ(r⁺ − r⁻) (paper, eq. 4; Rafailov et al. 2023, eq. 7). δ cancels. [pairs]

    Both sides have the same coefficient, 1 − σ(r⁺ − r⁻): it looks at the margin alone.
    """
    margin = chosen - rejected
    tether = torch.sigmoid(-margin)
    return -logsigmoid(margin), {"tether/chosen": tether, "tether/rejected": tether}


def rwsft(chosen: Tensor, rejected: Tensor | None = None, delta: float = 0.0) -> PairLoss:
    """Reward-SFT: −log σ(r⁺), y⁺ alone (paper, eq. 5). [pairs]"""
    tether, _ = tether_coefficients(chosen)
    return -logsigmoid(chosen), {"tether/chosen": tether}


def bce(chosen: Tensor, rejected: Tensor, delta: float = 0.0) -> PairLoss:
    """SPoT-BCE: −log σ(r⁺) − log σ(−r⁻) (paper, eq. 9): BCO with δ = 0. [pairs]"""
    return bco(chosen, rejected, 0.0)


def bco(chosen: Tensor, rejected: Tensor, delta: float) -> PairLoss:
    """SPoT-BCO: −log σ(r⁺ − δ) − log σ(−(r⁻ − δ)) (paper, eq. 10; Jung et al. 2024). [pairs]"""
    loss = -logsigmoid(chosen - delta) - logsigmoid(-(rejected - delta))
    positive, negative = tether_coefficients(chosen, rejected, delta)
    return loss, {"tether/chosen": positive, "tether/rejected": negative}


def tether_coefficients(
    chosen: Tensor, rejected: Tensor | None = None, delta: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The elastic tether λ (paper, eq. 7): what is left of each side's gradient. Two of [pairs].

    λ⁺ = 1 − σ(r⁺ − δ) fades as y⁺ is learnt (λ(0) = 0.5, λ(10) = 4.5e-5); λ⁻ = σ(r⁻ − δ) fades as y⁻
    is unlearnt.
    """
    negative = torch.zeros_like(chosen) if rejected is None else torch.sigmoid(rejected - delta)
    return torch.sigmoid(-(chosen - delta)), negative


@dataclass(frozen=True)
class Loss:
    """What a method is and what it needs: `token` or `pair` says which of the two it takes."""

    token: Callable[[Tensor], Tensor] | None = None
    pair: Callable[..., PairLoss] | None = None
    needs_rejected: bool = False
    uses_delta: bool = False

    @property
    def needs_reference(self) -> bool:
        """Implicit rewards are measured against the frozen start."""
        return self.pair is not None


LOSSES: dict[str, Loss] = {
    "sft": Loss(token=sft),
    "dft": Loss(token=dft),
    "dpo": Loss(pair=dpo, needs_rejected=True),
    "rwsft": Loss(pair=rwsft),
    "bce": Loss(pair=bce, needs_rejected=True),
    "bco": Loss(pair=bco, needs_rejected=True, uses_delta=True),
}
