"""Where a loss acts: rewards, gradients and KL split into shared prefix, edited tokens and what follows.

The paper claims surgery (§4.5): on the prefix that y⁺ and y⁻ share the two gradients cancel, so that
only the edit and what depends on it is moved. Packs know every token's part, so each step can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spot.config import WeightsConfig
from spot.data.edits import AFTER, EDITED, NO_PART, SHARED
from spot.training import collectives
from spot.training.packing import Pack

SIDES = {  # name: (part, y⁻?); a shared token is the same on both sides
    "shared": (SHARED, False),
    "chosen_edited": (EDITED, False),
    "chosen_after": (AFTER, False),
    "rejected_edited": (EDITED, True),
    "rejected_after": (AFTER, True),
}
SHARED_SIDE = {"shared": SIDES["shared"]}
KL_SIDES = {"shared": (SHARED, True), "edited": (EDITED, True), "after": (AFTER, True)}
MEASURED = [
    *(f"{measure}/{part}" for measure in ("rewards", "gradients") for part in SIDES),
    *(f"kl/{part}" for part in KL_SIDES),
    *(f"gradients_apart/{part}" for part in SHARED_SIDE),
]


def pair_metrics(
    pack: Pack, logps: Tensor, reference: Tensor | None, beta: float, weights: Tensor | None = None
) -> dict[str, Tensor]:
    """Rewards (paper, eq. 3) and log-probs of every pair of a pack, each [P]; y⁻ only where all have one.

    The difference to the reference is taken per token and summed after: two sums of hundreds of nats
    would lose what near-identical responses differ by. `weights` [M] are those of `span_weights`.
    Without a reference there are no rewards.
    """
    both = bool(pack.has_rejected.all())
    chosen_logps, rejected_logps = pack.slot_sums(logps)
    metrics = {"logps/chosen": chosen_logps} | ({"logps/rejected": rejected_logps} if both else {})
    if reference is None:
        return metrics
    chosen, rejected = (beta * s for s in pack.slot_sums(logps - reference, weights))
    metrics["rewards/chosen"] = chosen
    if both:
        metrics["rewards/rejected"] = rejected
        metrics["rewards/margins"] = chosen - rejected
        metrics["rewards/accuracies"] = (chosen > rejected).to(chosen.dtype)
    return metrics


def span_weights(pack: Pack, weights: WeightsConfig) -> Tensor | None:
    """Weights [M] of a pack's memberships, by their side and part; None if all are 1.

    With `fade` that of a token behind an edit halves with every so many tokens.
    """
    if weights.plain:
        return None
    sides = (weights.chosen, weights.rejected)
    by_part = [[side.prefix, side.edit, side.after, 1.0] for side in sides]  # in the parts' order
    table = torch.tensor(by_part, device=pack.parts.device)
    found = table[(pack.slots >= len(pack.ids)).long(), pack.parts]
    if weights.fade is None:
        return found
    behind = pack.parts == AFTER
    return torch.where(behind, found * 0.5 ** (_since_edit(pack, behind) / weights.fade), found)


def _since_edit(pack: Pack, behind: Tensor) -> Tensor:
    """How many tokens ago [M] the last edit ended; 1 where a response has only lost tokens there."""
    at = torch.arange(len(behind), device=behind.device)
    first = torch.cat([behind.new_ones(1), pack.slots[1:] != pack.slots[:-1]])  # of its slot
    edited = torch.where(behind, torch.where(first, at - 1, -1), at)
    return at - edited.cummax(0).values


def net_gradients(pack: Pack, gradient: Tensor) -> Tensor:
    """∂L/∂log π(token) [N], added up over scored tokens that are the same token after the same context.

    In a shared row they are one already; in separate rows y⁺ and y⁻ have a copy each, and what moves
    the model is the sum.
    """
    return torch.zeros_like(gradient).index_add_(0, pack.contexts, gradient)[pack.contexts]


def gradients_apart(pack: Pack, pulls: Iterable[Tensor], beta: float) -> Tensor:
    """What the terms of y⁺ and y⁻ pull with at each token [N], added up as if they did not meet.

    `pulls` are ∂L/∂r⁺ and ∂L/∂r⁻ of every pair, each [P]. On a shared token the two have opposite
    signs, and `net_gradients` is what is left of this (§4.5).
    """
    of_pair = beta * torch.stack([pull.abs() for pull in pulls]).sum(0)
    pair = torch.empty_like(pack.targets)
    pair[pack.members] = pack.slots % len(pack.ids)
    return of_pair[pair]


def kl_terms(logps: Tensor, reference: Tensor) -> Tensor:
    """exp(d) − 1 − d with d = log π_θ − log π_ref, per token (fp64).

    Its mean over tokens sampled from π_ref estimates KL(π_ref ‖ π_θ) without ever being negative
    (Schulman's k3).
    """
    d = (logps - reference).double()
    return torch.expm1(d) - d


@dataclass
class PartMeans:
    """Running sums and counts by measure and part, over the packs of a step."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(
        self,
        measure: str,
        pack: Pack,
        values: Tensor,
        sides: Mapping[str, tuple[int, bool]] = SIDES,
    ) -> None:
        """Take in per-token values [N], as sums of fp64 and counts of tokens."""
        side = (pack.slots >= len(pack.ids)).long()
        cell = pack.parts + (NO_PART + 1) * side
        size = 2 * (NO_PART + 1)
        sums = torch.bincount(cell, values.detach().double()[pack.members], size).tolist()
        counts = torch.bincount(cell, minlength=size).tolist()
        for name, (part, rejected) in sides.items():
            at = part + (NO_PART + 1) * rejected
            key = f"{measure}/{name}"
            self.sums[key] = self.sums.get(key, 0.0) + sums[at]
            self.counts[key] = self.counts.get(key, 0) + int(counts[at])

    def all_reduce(self) -> None:
        """Make the sums and counts those of all ranks."""
        mine = [[float(of.get(n, 0)) for n in MEASURED] for of in (self.sums, self.counts)]
        values = torch.tensor(mine, dtype=torch.float64, device=collectives.device())
        sums, counts = collectives.all_reduce_sum(values).tolist()
        self.sums = dict(zip(MEASURED, sums, strict=True))
        self.counts = dict(zip(MEASURED, map(int, counts), strict=True))

    def per_token(self, measure: str) -> dict[str, float]:
        """Means over the tokens of each part that has any."""
        names = [k for k in self.sums if k.startswith(f"{measure}/") and self.counts[k]]
        return {name: self.sums[name] / self.counts[name] for name in names}

    def per_pair(self, measure: str, pairs: int) -> dict[str, float]:
        """Sums over the tokens of each part, as means over pairs; only parts that have any tokens."""
        names = [k for k in self.sums if k.startswith(f"{measure}/") and self.counts[k]]
        return {name: self.sums[name] / pairs for name in names}
