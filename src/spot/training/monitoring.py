"""What is measured besides the training batch: held-out pairs and the ability probe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from spot.config import ProbeConfig
from spot.training import collectives
from spot.training.diagnostics import KL_SIDES, PartMeans, kl_terms, pair_metrics
from spot.training.forward import check_finite
from spot.training.packing import Pack, PackingSettings, PairTokens, step_packs
from spot.training.reference import Reference

Score = Callable[[Pack], tuple[Tensor, Tensor | None]]
REWARDS = ("rewards/chosen", "rewards/rejected")
VALUES = (
    *("loss", "rewards/margins", "rewards/accuracies", *REWARDS),
    *("logps/chosen", "logps/rejected", "tether/chosen", "tether/rejected"),
)


@dataclass
class BatchValues:
    """Per-pair values of one global batch, gathered from its packs."""

    pairs: int
    values: dict[str, Tensor] = field(default_factory=dict)  # each [pairs]

    def put(self, places: Tensor, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            kept = self.values.setdefault(name, value.new_zeros(self.pairs))
            kept[places] = value.detach()

    def all_reduce(self) -> None:
        """Fill in what other ranks have put in. Afterwards values are fp64 [pairs]."""
        mine = torch.zeros(len(VALUES), self.pairs + 1, dtype=torch.float64)
        for name, value in self.values.items():
            mine[VALUES.index(name), :-1] = value
            mine[VALUES.index(name), -1] = 1  # this rank has it
        rows = collectives.all_reduce_sum(mine.to(collectives.device())).cpu()
        self.values = {name: row[:-1] for name, row in zip(VALUES, rows, strict=True) if row[-1]}

    def rewards(self) -> Tensor:
        """Those of both sides, one after the other."""
        return torch.cat([self.values[name] for name in REWARDS if name in self.values])

    def means(self) -> dict[str, float]:
        return {name: value.mean().item() for name, value in self.values.items()}


class HeldOut:
    """The same pairs, with both responses, for every arm: what a method does to r⁺, r⁻ and the KL.

    Ranks share the pairs and all get the means over all of them.
    """

    def __init__(self, pairs: Sequence[PairTokens], settings: PackingSettings) -> None:
        self.pairs = pairs
        self.settings = replace(settings, rejected=True, line_ends=None)
        self.longest = max((pair.longest for pair in pairs), default=0)
        self.packs: list[Pack] = []
        self.references: list[Tensor] = []

    def start(self, reference: Reference, device: torch.device) -> None:
        """Pack this rank's pairs and note what the reference gives them; it does not change."""
        if not self.pairs:
            return
        packs = step_packs(self.pairs, self.settings, collectives.rank(), collectives.ranks())
        self.packs = [pack.to(device) for pack in packs]
        self.references = [reference.of(pack) for pack in self.packs]

    @torch.no_grad()
    def measure(self, score: Score, beta: float) -> tuple[dict[str, float], Tensor]:
        """Means over the pairs, and their rewards. `score` gives log-probs and entropies of a pack.

        `held_out/kl` is the token-level KL(π_ref ‖ π_θ) over the tokens of y⁻, which were sampled from
        the reference (up to the sampling temperature and top-p); `held_out/entropy` is the mean
        entropy of the policy's predictions there, in nats. Rewards and KL are also split by part.
        """
        batch, parts = BatchValues(len(self.pairs)), PartMeans()
        sums = torch.zeros(3, dtype=torch.float64)  # of KL, entropy and tokens of y⁻
        for pack, reference in zip(self.packs, self.references, strict=True):
            logps, entropy = score(pack)
            assert entropy is not None
            check_finite(pack, logps, "of held-out pairs")
            if not pack.counted:
                continue
            values = pair_metrics(pack, logps, reference, beta)
            batch.put(pack.pairs, {k: v for k, v in values.items() if "rewards" in k})
            kl = kl_terms(logps, reference)
            parts.add("rewards", pack, beta * (logps - reference))
            parts.add("kl", pack, kl, KL_SIDES)
            of_rejected = [pack.slot_sums(v)[1].sum().item() for v in (kl, entropy.double())]
            sums += torch.tensor([*of_rejected, float(pack.slot_counts()[1].sum())])
        batch.all_reduce()
        parts.all_reduce()
        kl_sum, entropy_sum, tokens = collectives.all_reduce_sum(
            sums.to(collectives.device())
        ).tolist()
        metrics = batch.means() | parts.per_pair("rewards", len(self.pairs)) | parts.per_token("kl")
        if tokens:
            metrics |= {"kl": kl_sum / tokens, "entropy": entropy_sum / tokens}
        return {f"held_out/{name}": value for name, value in metrics.items()}, batch.rewards()


@dataclass(frozen=True)
class Monitoring:
    """What is measured besides the training batch, and how often."""

    held_out: HeldOut
    probe: ProbeConfig
    ability_probe: Callable[[Any], Mapping[str, float]] | None = None  # gets the model itself

    def due(self, every: int | None, step: int, last: int) -> bool:
        """Whether it is measured after `step` of `last` steps."""
        return every is not None and every > 0 and (step in (0, last) or step % every == 0)
