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
from spot.training.reference import HELD_OUT, TO_BASE, Reference

Score = Callable[[Pack], tuple[Tensor, Tensor | None]]
REWARDS = ("rewards/chosen", "rewards/rejected")
KL = "kl/rejected"
VALUES = (
    *("loss", "rewards/margins", "rewards/accuracies", *REWARDS),
    *("logps/chosen", "logps/rejected", "tether/chosen", "tether/rejected", KL),
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
        self.references: dict[str, list[Tensor]] = {}  # by the prefix of their metrics

    def start(self, references: Mapping[str, Reference], device: torch.device) -> None:
        """Pack this rank's pairs and note what the references give them; that does not change."""
        if not self.pairs:
            return
        packs = step_packs(self.pairs, self.settings, collectives.rank(), collectives.ranks())
        self.packs = [pack.to(device) for pack in packs]
        self.references = {
            prefix: [reference.of(pack) for pack in self.packs]
            for prefix, reference in references.items()
        }

    @torch.no_grad()
    def measure(self, score: Score, beta: float) -> tuple[dict[str, float], Tensor]:
        """Means over the pairs, and their rewards. `score` gives log-probs and entropies of a pack.

        `held_out/kl` is the token-level KL(π_ref ‖ π_θ) over the tokens of y⁻, which were sampled from
        the first round's start (up to the sampling temperature and top-p); `held_out/entropy` is the
        mean entropy of the policy's predictions there, in nats. Rewards and KL are also split by part,
        and, in a round after the first, measured once more against that start.
        """
        scored: list[Tensor] = []
        sums = torch.zeros(2, dtype=torch.float64)  # of entropy and tokens of y⁻
        for pack in self.packs:
            logps, entropy = score(pack)
            assert entropy is not None
            check_finite(pack, logps, "of held-out pairs")
            scored.append(logps)
            if pack.counted:
                sums += _over_rejected(pack, entropy.double())
        entropy_sum, tokens = collectives.all_reduce_sum(sums.to(collectives.device())).tolist()
        metrics = {f"{HELD_OUT}/entropy": entropy_sum / tokens} if tokens else {}
        rewards = torch.empty(0)
        for prefix, references in self.references.items():
            distances, of = self._distances(scored, references, beta)
            metrics |= {f"{prefix}/{name}": value for name, value in distances.items()}
            rewards = of if prefix == HELD_OUT else rewards
        return metrics, rewards

    def _distances(
        self, logps: Sequence[Tensor], references: Sequence[Tensor], beta: float
    ) -> tuple[dict[str, float], Tensor]:
        """Rewards and KL to one reference, over all pairs and by part; and the rewards of the pairs."""
        batch, parts = BatchValues(len(self.pairs)), PartMeans()
        sums = torch.zeros(2, dtype=torch.float64)  # of KL and tokens of y⁻
        for pack, own, reference in zip(self.packs, logps, references, strict=True):
            if not pack.counted:
                continue
            values = pair_metrics(pack, own, reference, beta)
            batch.put(pack.pairs, {k: v for k, v in values.items() if "rewards" in k})
            kl = kl_terms(own, reference)
            parts.add("rewards", pack, beta * (own - reference))
            parts.add("kl", pack, kl, KL_SIDES)
            sums += _over_rejected(pack, kl)
        batch.all_reduce()
        parts.all_reduce()
        kl_sum, tokens = collectives.all_reduce_sum(sums.to(collectives.device())).tolist()
        metrics = batch.means() | parts.per_pair("rewards", len(self.pairs)) | parts.per_token("kl")
        return metrics | ({"kl": kl_sum / tokens} if tokens else {}), batch.rewards()

    @torch.no_grad()
    def each(self, score: Score) -> list[dict[str, Any]]:
        """Of every pair log π_θ/π_base of both responses and, over the tokens of y⁻, the KL; in nats.

        The base is the first round's start.
        """
        batch = BatchValues(len(self.pairs))
        references = self.references.get(TO_BASE, self.references[HELD_OUT])
        for pack, reference in zip(self.packs, references, strict=True):
            logps, _ = score(pack)
            check_finite(pack, logps, "of held-out pairs")
            if not pack.counted:
                continue
            ratios = pack.slot_sums((logps - reference).double())
            kl = pack.slot_sums(kl_terms(logps, reference))[1]
            batch.put(pack.pairs, {**dict(zip(REWARDS, ratios, strict=True)), KL: kl})
        batch.all_reduce()
        columns = {"chosen": REWARDS[0], "rejected": REWARDS[1], "kl": KL}
        values = {name: batch.values[key].tolist() for name, key in columns.items()}
        return [
            {"pair": pair.id, "tokens": 0 if pair.rejected is None else len(pair.rejected)}
            | {name: of[place] for name, of in values.items()}
            for place, pair in enumerate(self.pairs)
        ]


def _over_rejected(pack: Pack, values: Tensor) -> Tensor:
    """The sum of per-token values [N] over the tokens of y⁻, and how many those are."""
    return torch.stack([pack.slot_sums(values)[1].sum(), pack.slot_counts()[1].sum()]).cpu()


@dataclass(frozen=True)
class Monitoring:
    """What is measured besides the training batch, and how often.

    held_out: the pairs that curves are drawn from; watched: all that are held out, which are measured
    one by one in the middle and at the end.
    """

    held_out: HeldOut
    watched: HeldOut
    probe: ProbeConfig
    ability_probe: Callable[[Any], Mapping[str, float]] | None = None  # gets the model itself

    def start(self, references: Mapping[str, Reference], device: torch.device) -> None:
        """See HeldOut.start."""
        for pairs in (self.held_out, self.watched):
            pairs.start(references, device)

    def looks_at_all(self, step: int, last: int) -> bool:
        """Whether all held-out pairs are measured after `step` of `last` steps; at the start all is 0."""
        return bool(self.watched.pairs) and step > 0 and step in (last // 2, last)

    def due(self, every: int | None, step: int, last: int) -> bool:
        """Whether it is measured after `step` of `last` steps."""
        return every is not None and every > 0 and (step in (0, last) or step % every == 0)
