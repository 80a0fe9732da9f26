"""BCO's threshold δ (paper, eq. 10 and the text below it): half the expected r⁺ + r⁻."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Delta:
    """One value for all packs of a step, updated once per optimiser step from the global batch.

    The value used at a step comes from the steps before it. It starts at 0, which is exact where the
    policy starts at the reference: every reward is 0 there. Elsewhere the first batch replaces it.

    micro_batch: the older trainer's way (TRL 0.9.3 to 0.28): a step's pairs come in groups of so many,
    and each group is judged by the mean over all pairs so far, its own among them.

    mode: `ema`, the exponential moving average of batch means (the paper, which does not state the
    decay); `cumulative`, the mean over all pairs so far (the released runs); `zero` (BCO becomes BCE).
    """

    mode: str = "ema"
    decay: float = 0.9
    micro_batch: int | None = None
    value: float = 0.0
    total: float = 0.0  # of (r⁺ + r⁻) / 2 over all pairs so far
    pairs: int = 0
    at_start: bool = True  # whether all rewards begin at 0

    def update(self, reward_sum: float, pairs: int) -> None:
        """Take in a step: the sum of all r⁺ and r⁻ of its `pairs` pairs, over all packs and ranks."""
        if self.mode == "zero" or pairs == 0:
            return
        unknown = not (self.at_start or self.pairs)
        self.total += reward_sum / 2
        self.pairs += pairs
        if self.mode == "cumulative" or unknown:
            self.value = self.total / self.pairs
        else:  # δ ← decay · δ + (1 − decay) · batch mean of (r⁺ + r⁻) / 2
            self.value = self.decay * self.value + (1 - self.decay) * reward_sum / (2 * pairs)

    def of_each(self, halves: Tensor) -> Tensor:
        """δ of every pair of a step [pairs], by micro-batches; `halves` are their (r⁺ + r⁻) / 2."""
        assert self.micro_batch is not None
        found = []
        for group in halves.double().split(self.micro_batch):
            self.total += group.sum().item()
            self.pairs += len(group)
            self.value = self.total / self.pairs
            found.append(torch.full_like(group, self.value))
        return torch.cat(found)

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "total": self.total, "pairs": self.pairs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value, self.total = float(state["value"]), float(state["total"])
        self.pairs = int(state["pairs"])
