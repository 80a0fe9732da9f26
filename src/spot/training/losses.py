"""The methods as pure functions of tensors and numbers: equation and source beside each.

A function takes what its parameters name. Pair losses take `chosen` and `rejected`, the implicit rewards
(paper, eq. 3) r = β (log π_θ(y|x) − log π_ref(y|x)) of a response, summed over its tokens or, for those
with `mean` in the table of `spot.config.loss`, divided by their number; they return one value a pair,
and λ⁺ = −∂loss/∂r⁺ and λ⁻ = ∂loss/∂r⁻ as `tether/chosen` and `tether/rejected`. Token losses take `logps`
and `reference`, log π_θ and log π_ref of every token of y⁺, and return one value a token. Every other
parameter is δ, β or a key of `loss`. All of it is fp32 (or wider), whatever the model's dtype.
"Paper" is SPoT, arXiv 2603.01683.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu, sigmoid

from spot.config import LOSSES

Metrics = dict[str, Tensor]
Result = tuple[Tensor, Metrics]


# ---- of the tokens of y⁺: [tokens] -------------------------------------------------------------


def sft(logps: Tensor) -> Result:
    """−log π_θ(token) (paper, eq. 2 before it is summed or averaged)."""
    return -logps, {}


def dft(logps: Tensor) -> Result:
    """−sg(p) log p, p = π_θ(token): its gradient is −p ∇log p = −∇p (Wu et al., arXiv 2508.05629)."""
    return -logps.detach().exp() * logps, {}


def psft(logps: Tensor, reference: Tensor, clip_ratio: float) -> Result:
    """−min(ρ, 1 + ε), ρ = π_θ/π_ref: PPO's clipped loss with an advantage of 1 (arXiv 2508.17784).

    A token that is 1 + ε times as likely as at the start has no gradient any more.
    """
    return -(logps - reference).clamp(max=math.log1p(clip_ratio)).exp(), {}


def asft(logps: Tensor, reference: Tensor, kl_weight: float) -> Result:
    """DFT + λ KL to the start (Zhu et al., arXiv 2509.23753); the KL is `anchor`."""
    return dft(logps)[0] + kl_weight * anchor(logps, reference), {}


def kl_sft(logps: Tensor, reference: Tensor, kl_weight: float) -> Result:
    """SFT + λ KL to the start; the KL is `anchor`."""
    return sft(logps)[0] + kl_weight * anchor(logps, reference), {}


def anchor(logps: Tensor, reference: Tensor) -> Tensor:
    """exp(−d) − 1 + d, d = log π_θ − log π_ref of y⁺'s own tokens: Schulman's k3, as GRPO has it. [tokens]

    It is 0 where a token is as likely as at the start, else above 0. The KL over the whole vocabulary
    would need π_ref's logits at every training step, which cached scores do not hold.
    """
    d = logps - reference
    return torch.expm1(-d) + d


# ---- of pairs: [pairs] -------------------------------------------------------------------------


def rwsft(chosen: Tensor) -> Result:
    """Reward-SFT: −log σ(r⁺), y⁺ alone (paper, eq. 5)."""
    return -logsigmoid(chosen), {"tether/chosen": tether_coefficients(chosen)[0]}


def dpo(chosen: Tensor, rejected: Tensor) -> Result:
    """−log σ(r⁺ − r⁻) (paper, eq. 4; Rafailov et al., arXiv 2305.18290, eq. 7).

    Both sides have the same coefficient, 1 − σ(r⁺ − r⁻): it looks at the margin alone.
    """
    margin = chosen - rejected
    return -logsigmoid(margin), _tethers(sigmoid(-margin), sigmoid(-margin))


def dpop(chosen: Tensor, rejected: Tensor, penalty: float) -> Result:
    """−log σ(r⁺ − r⁻ − λ max(0, −r⁺)): DPO-positive (Pal et al., arXiv 2402.13228, eq. 3).

    The penalty begins where y⁺ becomes less likely than at the start.
    """
    margin = chosen - rejected - penalty * relu(-chosen)
    tether = sigmoid(-margin)
    return -logsigmoid(margin), _tethers(tether * (1 + penalty * (chosen < 0)), tether)


def ipo(chosen: Tensor, rejected: Tensor, beta: float) -> Result:
    """((r⁺ − r⁻)/β − 1/(2β))² of mean rewards (Azar et al., arXiv 2310.12036, eq. 17 with τ = β).

    Means over tokens are TRL's reading, confirmed by the paper's authors there.
    """
    distance = (chosen - rejected) / beta - 1 / (2 * beta)
    return distance**2, _tethers(-2 * distance / beta, -2 * distance / beta)


def simpo(chosen: Tensor, rejected: Tensor, margin: float) -> Result:
    """−log σ(r⁺ − r⁻ − m) with r = β/|y| log π_θ(y), without a reference (arXiv 2405.14734, eq. 6)."""
    beyond = chosen - rejected - margin
    return -logsigmoid(beyond), _tethers(sigmoid(-beyond), sigmoid(-beyond))


def bce(chosen: Tensor, rejected: Tensor) -> Result:
    """SPoT-BCE: −log σ(r⁺) − log σ(−r⁻) (paper, eq. 9): BCO with δ = 0."""
    return bco(chosen, rejected, 0.0)


def bco(chosen: Tensor, rejected: Tensor, delta: float | Tensor) -> Result:
    """SPoT-BCO: −log σ(r⁺ − δ) − log σ(−(r⁻ − δ)) (paper, eq. 10; Jung et al., arXiv 2404.04656)."""
    loss = -logsigmoid(chosen - delta) - logsigmoid(-(rejected - delta))
    return loss, _tethers(*tether_coefficients(chosen, rejected, delta))


def tether_coefficients(
    chosen: Tensor, rejected: Tensor | None = None, delta: float | Tensor = 0.0
) -> tuple[Tensor, Tensor]:
    """The elastic tether λ (paper, eq. 7): what is left of each side's gradient. Two of [pairs].

    λ⁺ = 1 − σ(r⁺ − δ) fades as y⁺ is learnt (λ(0) = 0.5, λ(10) = 4.5e-5); λ⁻ = σ(r⁻ − δ) fades as y⁻
    is unlearnt.
    """
    negative = torch.zeros_like(chosen) if rejected is None else sigmoid(rejected - delta)
    return sigmoid(-(chosen - delta)), negative


def kto(chosen: Tensor, rejected: Tensor, delta: float | Tensor) -> Result:
    """σ(−(r⁺ − δ)) + σ(r⁻ − δ) (Ethayarajh et al., arXiv 2402.01306, eq. 7), on pairs.

    δ stands for its z₀, the KL of mismatched responses: both are the reward that nothing is gained by.
    """
    positive, negative = chosen - delta, rejected - delta
    return sigmoid(-positive) + sigmoid(negative), _tethers(_slope(positive), _slope(negative))


def apo_zero(chosen: Tensor, rejected: Tensor) -> Result:
    """σ(−r⁺) + σ(r⁻): anchored at the start, for y⁺ better than it (arXiv 2408.06266, eq. 7)."""
    return kto(chosen, rejected, 0.0)


def apo_down(chosen: Tensor, rejected: Tensor) -> Result:
    """σ(r⁺) + σ(−(r⁺ − r⁻)): both fall, y⁻ further, for y⁺ worse than the start (2408.06266, eq. 8)."""
    margin = chosen - rejected
    tethers = _tethers(_slope(margin) - _slope(chosen), _slope(margin))
    return sigmoid(chosen) + sigmoid(-margin), tethers


def nca(chosen: Tensor, rejected: Tensor) -> Result:
    """−log σ(r⁺) − ½ log σ(−r⁺) − ½ log σ(−r⁻) (Chen et al., arXiv 2402.05369, two responses).

    Noise contrast: y⁺ comes from the data once, and from the noise as often as y⁻.
    """
    loss = -logsigmoid(chosen) - (logsigmoid(-chosen) + logsigmoid(-rejected)) / 2
    return loss, _tethers(1 - 1.5 * sigmoid(chosen), sigmoid(rejected) / 2)


def _tethers(chosen: Tensor, rejected: Tensor) -> Metrics:
    return {"tether/chosen": chosen, "tether/rejected": rejected}


def _slope(reward: Tensor) -> Tensor:
    """σ′(r)."""
    return sigmoid(reward) * sigmoid(-reward)


# ---- by name -----------------------------------------------------------------------------------

FUNCTIONS: dict[str, Callable[..., Result]] = {name: globals()[name] for name in LOSSES}


def compute(name: str, given: Mapping[str, Any]) -> Result:
    """The loss of this name, of what its parameters name in `given`."""
    return FUNCTIONS[name](**{parameter: given[parameter] for parameter in parameters(name)})


@cache
def parameters(name: str) -> tuple[str, ...]:
    """What a loss takes."""
    return tuple(signature(FUNCTIONS[name]).parameters)
