"""What is measured besides the training batch: held-out pairs and the ability probe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from spot.training import attention
from spot.training.diagnostics import KL_SIDES, PartMeans, kl_terms, pair_metrics
from spot.training.packing import PackingSettings, PairTokens, step_packs
from spot.training.reference import ReferenceScores
from spot.training.scoring import PLAIN, Kernels, check_finite, score_pack

REWARDS = ("rewards/chosen", "rewards/rejected")


@dataclass
class BatchValues:
    """Per-pair values of one global batch, gathered from its packs."""

    pairs: int
    values: dict[str, Tensor] = field(default_factory=dict)  # each [pairs]

    def put(self, places: Tensor, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            kept = self.values.setdefault(name, value.new_zeros(self.pairs))
            kept[places] = value.detach()

    def largest(self, name: str) -> float:
        return self.values[name].abs().max().item() if name in self.values else 0.0

    def means(self) -> dict[str, float]:
        return {name: value.mean().item() for name, value in self.values.items()}


class HeldOut:
    """The same pairs, with both responses, for every arm: what a method does to r⁺, r⁻ and the KL."""

    def __init__(
        self,
        pairs: Sequence[PairTokens],
        reference: ReferenceScores,
        settings: PackingSettings,
        kernels: Kernels = PLAIN,
    ) -> None:
        self.count, self.kernels = len(pairs), kernels
        self.longest = max((pair.longest for pair in pairs), default=0)
        self.packs = step_packs(pairs, replace(settings, rejected=True)) if pairs else []
        self.references = [reference.of(pack) for pack in self.packs]

    @torch.no_grad()
    def measure(self, model: Any, beta: float) -> tuple[dict[str, float], float]:
        """Means over the pairs, and max |r|.

        `held_out/kl` is the token-level KL(π_ref ‖ π_θ) over the tokens of y⁻, which were sampled from
        the reference (up to the sampling temperature and top-p); `held_out/entropy` is the mean
        entropy of the policy's predictions there, in nats. Rewards and KL are also split by part.
        """
        batch, parts = BatchValues(self.count), PartMeans()
        totals = {"kl": 0.0, "entropy": 0.0}
        tokens = 0
        with attention.packed(model, self.kernels.attention):
            for pack, scores in zip(self.packs, self.references, strict=True):
                pack, reference = pack.to(model.device), scores.to(model.device)
                logps, entropy = score_pack(model, pack, self.kernels, entropy=True)
                assert entropy is not None
                check_finite(pack, logps, "of held-out pairs")
                values = pair_metrics(pack, logps, reference, beta)
                batch.put(pack.pairs, {k: v for k, v in values.items() if "rewards" in k})
                kl = kl_terms(logps, reference)
                parts.add("rewards", pack, beta * (logps - reference))
                parts.add("kl", pack, kl, KL_SIDES)
                totals["kl"] += pack.slot_sums(kl)[1].sum().item()
                totals["entropy"] += pack.slot_sums(entropy.double())[1].sum().item()
                tokens += int(pack.slot_counts()[1].sum())
        metrics = batch.means() | parts.per_pair("rewards", self.count) | parts.per_token("kl")
        metrics |= {name: total / tokens for name, total in totals.items() if tokens}
        largest = max((batch.largest(name) for name in REWARDS), default=0.0)
        return {f"held_out/{name}": value for name, value in metrics.items()}, largest


@dataclass(frozen=True)
class Watch:
    """What is measured besides the training batch, and how often."""

    held_out: HeldOut
    probe_every: int = 1
    ability_probe: Callable[[Any], Mapping[str, float]] | None = None  # gets the model itself
    ability_every: int = 0  # 0: never

    def due(self, every: int, step: int, last: int) -> bool:
        return every > 0 and (step in (0, last) or step % every == 0)
