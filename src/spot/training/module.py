"""The LightningModule: one `training_step` is one optimiser step over the packs of one global batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from spot.errors import UserError
from spot.progress import track
from spot.training import attention
from spot.training.delta import Delta
from spot.training.losses import Method
from spot.training.packing import Pack, PackingSettings, PairTokens, step_packs
from spot.training.reference import ReferenceScores, pack_logprobs

MAX_START_REWARD = 1e-3  # fp32: |r| at step 0 beyond this means another reference
Record = Callable[[int, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Optimisation:
    """AdamW and its schedule. Defaults: the paper's Appendix C and its released scripts."""

    learning_rate: float
    epochs: int = 2
    batch_pairs: int = 32
    schedule: str = "cosine"  # cosine | linear | constant, after the warm-up
    warmup: float = 0.05  # share of all steps
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0  # of the global gradient norm
    decay_norms: bool = True  # weight decay on norms and biases too, as the released scripts

    def factor(self, step: int, steps: int) -> float:
        """The learning rate of step 0, 1, … of `steps`, as a share of the peak.

        Warm-up rises linearly and reaches 1 at its last step, so no step is spent at rate 0.
        """
        warm = math.ceil(self.warmup * steps)
        if step < warm:
            return (step + 1) / warm
        progress = (step - warm) / max(1, steps - warm)
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        return 1.0 if self.schedule == "constant" else 1.0 - progress


class Steps:
    """The optimiser steps as a dataloader that knows where it is: `(number, pair indices)`.

    Lightning saves and restores its state, so a resumed run goes on with the step it was stopped at.
    """

    def __init__(self, plan: Sequence[Sequence[int]]) -> None:
        self.plan = plan
        self.next = 0

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Any:
        rest = range(self.next, len(self.plan))
        for i in track(rest, "Training steps", len(self.plan), self.next):
            self.next = i + 1
            yield i + 1, self.plan[i]

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


@dataclass
class _Batch:
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


def pair_metrics(pack: Pack, logps: Tensor, reference: Tensor, beta: float) -> dict[str, Tensor]:
    """Rewards (paper, eq. 3) and log-probs of every pair of a pack, each [P]; y⁻ only where all have one.

    The difference to the reference is taken per token and summed after: two sums of hundreds of nats
    would lose what near-identical responses differ by.
    """
    chosen, rejected = (beta * s for s in pack.slot_sums(logps - reference))
    chosen_logps, rejected_logps = pack.slot_sums(logps)
    metrics = {"rewards/chosen": chosen, "logps/chosen": chosen_logps}
    if bool(pack.has_rejected.all()):
        metrics["rewards/rejected"] = rejected
        metrics["rewards/margins"] = chosen - rejected
        metrics["rewards/accuracies"] = (chosen > rejected).to(chosen.dtype)
        metrics["logps/rejected"] = rejected_logps
    return metrics


class HeldOut:
    """The same pairs, with both responses, for every arm: what a method does to r⁺, r⁻ and the KL."""

    def __init__(
        self, pairs: Sequence[PairTokens], reference: ReferenceScores, settings: PackingSettings
    ) -> None:
        self.count = len(pairs)
        self.packs = step_packs(pairs, settings) if pairs else []
        self.references = [reference.of(pack) for pack in self.packs]

    @torch.no_grad()
    def measure(self, model: Any, beta: float) -> tuple[dict[str, float], float]:
        """Means over the pairs, and max |r|.

        `held_out/kl` is the token-level KL(π_ref ‖ π_θ) over the tokens of y⁻.

        y⁻ was sampled from the reference, so with d = log π_θ − log π_ref the mean of
        exp(d) − 1 − d ≥ 0 estimates the divergence (Schulman's k3), up to the sampling temperature
        and top-p that y⁻ was drawn with.
        """
        batch, kl, tokens = _Batch(self.count), 0.0, 0
        with attention.packed(model):
            for pack, reference in zip(self.packs, self.references, strict=True):
                logps = pack_logprobs(model, pack)
                values = pair_metrics(pack, logps, reference, beta)
                batch.put(pack.pairs, {k: v for k, v in values.items() if "rewards" in k})
                d = (logps - reference).double()
                _, terms = pack.slot_sums(torch.expm1(d) - d)
                kl += terms.sum().item()
                tokens += int(pack.slot_counts()[1].sum())
        metrics = {f"held_out/{name}": value for name, value in batch.means().items()}
        metrics |= {"held_out/kl": kl / tokens} if tokens else {}
        return metrics, max((batch.largest(name) for name in _REWARDS), default=0.0)


@dataclass(frozen=True)
class Watch:
    """What is measured besides the training batch, and how often."""

    held_out: HeldOut
    probe_every: int = 1
    ability_probe: Callable[[Any], Mapping[str, float]] | None = None  # gets the model itself
    ability_every: int = 0  # 0: never

    def due(self, every: int, step: int, last: int) -> bool:
        return every > 0 and (step in (0, last) or step % every == 0)


class PairModule(pl.LightningModule):
    """Trains `model` on pairs with one method. Rewards, δ and the loss are those of the global batch."""

    def __init__(
        self,
        model: Any,
        pairs: Sequence[PairTokens],
        reference: ReferenceScores | None,
        method: Method,
        optimisation: Optimisation,
        packing: PackingSettings,
        watch: Watch,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.pairs, self.reference = pairs, reference
        self.method, self.optimisation, self.packing = method, optimisation, packing
        self.watch = watch
        self.delta = Delta(method.delta_mode, method.delta_decay)
        self.max_start_reward = 0.0
        self.record: Record = lambda step, metrics: None
        self.run_key = ""  # names what the run is determined by; a checkpoint of another is refused
        self.steps = 0  # of the whole run; set with the plan
        self.seconds: dict[str, float] = {}

    def configure_optimizers(self) -> Any:
        o = self.optimisation
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": o.weight_decay},
            {
                "params": [p for p in parameters if p.ndim < 2],
                "weight_decay": o.weight_decay if o.decay_norms else 0.0,
            },
        ]
        optimizer = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=o.learning_rate, betas=o.betas, fused=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: o.factor(t, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["spot"] = {
            "delta": self.delta.state_dict(),
            "max_start_reward": self.max_start_reward,
            "run": self.run_key,
            "rng": torch.get_rng_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["spot"]
        if state["run"] != self.run_key:
            raise UserError(
                "The checkpoint to resume from belongs to another run (other pairs, method or "
                "settings): delete the resume folder of this run and start again."
            )
        self.delta.load_state_dict(state["delta"])
        self.max_start_reward = float(state["max_start_reward"])
        torch.set_rng_state(state["rng"])

    def on_train_start(self) -> None:
        if self.trainer.global_step == 0:
            self.record(0, self._watched(0))

    def training_step(self, batch: tuple[int, list[int]], batch_idx: int) -> None:
        """Forward and backward pack by pack, then one update; the shares sum to the global mean."""
        begin = time.perf_counter()
        step, indices = batch
        pairs = [self.pairs[i] for i in indices]
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        optimizer.zero_grad()  # type: ignore[union-attr]
        values = _Batch(len(pairs))
        scale = self._loss_scale(pairs)
        with attention.packed(self.model):
            for pack in step_packs(pairs, self.packing):
                loss, metrics = self._pack_loss(pack)
                self._check_finite(step, pack, loss)
                self.manual_backward(loss.sum() * scale)
                values.put(pack.pairs, {"loss": loss, **metrics})
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.optimisation.clip)
        if not torch.isfinite(norm):
            raise UserError(_not_finite(step, "gradient", [pair.id for pair in pairs]))
        rate = optimizer.param_groups[0]["lr"]  # type: ignore[union-attr]
        optimizer.step()  # type: ignore[union-attr]
        schedule.step()  # type: ignore[union-attr]
        means = self._step_metrics(step, values)
        means |= {"gradient_norm": norm.item(), "learning_rate": rate}
        means["loss"] = values.values["loss"].sum().item() * scale
        took = time.perf_counter() - begin
        means["tokens_per_second"] = sum(pair.unshared_tokens for pair in pairs) / took
        self._spend("steps", took)
        self.record(step, means | self._watched(step))

    def _loss_scale(self, pairs: Sequence[PairTokens]) -> float:
        """1 / pairs of the global batch; for a token mean 1 / its response tokens."""
        if self.method.loss.token and self.method.sft_reduction == "token":
            return 1 / sum(len(pair.chosen) for pair in pairs)
        return 1 / len(pairs)

    def _pack_loss(self, pack: Pack) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss [P] of every pair of a pack (a sum over tokens for token-level losses), and metrics."""
        logps = pack_logprobs(self.model, pack)
        if token_loss := self.method.loss.token:
            loss, _ = pack.slot_sums(token_loss(logps))
            return loss, {"logps/chosen": pack.slot_sums(logps)[0]}
        assert self.reference is not None
        assert self.method.loss.pair is not None
        metrics = pair_metrics(pack, logps, self.reference.of(pack), self.method.beta)
        loss, tether = self.method.loss.pair(
            metrics["rewards/chosen"], metrics.get("rewards/rejected"), self.delta.value
        )
        return loss, metrics | tether

    def _step_metrics(self, step: int, values: _Batch) -> dict[str, float]:
        """Means over the global batch; δ as this step used it, then moved on."""
        metrics = values.means()
        if step == 1 and self.reference is not None:
            self._check_start(max(values.largest(name) for name in _REWARDS))
        if self.method.loss.uses_delta:
            metrics["delta"] = self.delta.value
            total = sum(values.values[name].double().sum().item() for name in _REWARDS)
            self.delta.update(total, values.pairs)
        return metrics

    def _check_start(self, reward: float) -> None:
        """At step 0 policy and reference are the same, so every reward is rounding and no more."""
        self.max_start_reward = max(self.max_start_reward, reward)
        if not reward <= MAX_START_REWARD:
            raise UserError(
                f"At step 0 a reward is {reward:.3g} and must be 0 (bound {MAX_START_REWARD:g}): the "
                "reference scores are not of this model; delete the reference folder and start again."
            )

    def _check_finite(self, step: int, pack: Pack, loss: Tensor) -> None:
        finite = torch.isfinite(loss.detach())
        if not finite.all():
            bad = [i for i, ok in zip(pack.ids, finite.tolist(), strict=True) if not ok]
            raise UserError(_not_finite(step, "loss", bad))

    def _watched(self, step: int) -> dict[str, float]:
        """Held-out and ability metrics that are due after `step` steps."""
        metrics: dict[str, float] = {}
        watch, last = self.watch, self.steps
        begin = time.perf_counter()
        if watch.held_out.packs and watch.due(watch.probe_every, step, last):
            held_out, largest = watch.held_out.measure(self.model, self.method.beta)
            metrics |= held_out
            if step == 0:
                self._check_start(largest)
        self._spend("held_out", time.perf_counter() - begin)
        begin = time.perf_counter()
        if watch.ability_probe and watch.due(watch.ability_every, step, last):
            self.model.eval()
            with torch.no_grad():
                scores = watch.ability_probe(self.model)
            self.model.train()
            metrics |= {f"probe/{name}": float(value) for name, value in scores.items()}
        self._spend("ability", time.perf_counter() - begin)
        return metrics

    def _spend(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


_REWARDS = ("rewards/chosen", "rewards/rejected")


def _not_finite(step: int, what: str, ids: Sequence[str]) -> str:
    named = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
    return (
        f"The {what} of step {step} is not finite (pairs {named}): lower the learning rate or "
        "look at these pairs."
    )
