"""The LightningModule: one `training_step` is one optimiser step over the packs of one global batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from spot.config import LOSSES, LossConfig
from spot.training import collectives, optimizers
from spot.training.activation_checkpointing import Recomputation, checkpoint_layers
from spot.training.delta import Delta
from spot.training.diagnostics import (
    KL_SIDES,
    SHARED_SIDE,
    PartMeans,
    gradients_apart,
    kl_terms,
    net_gradients,
    pair_metrics,
    span_weights,
)
from spot.training.forward import (
    Computing,
    check_finite,
    not_finite,
    pack_logprobs,
    score_pack,
)
from spot.training.losses import compute
from spot.training.model_check import check_model, evaluating, start_bound, start_histogram
from spot.training.monitoring import REWARDS, BatchValues, Monitoring
from spot.training.packing import Pack, PairTokens, build_pack, step_packs
from spot.training.precision import MasterWeights
from spot.training.reference import Reference, References
from spot.training.schedule import rate_factor
from spot.utils.errors import UserError

Record = Callable[[int, Mapping[str, Any]], None]
Refer = Callable[[Any], References]


class PairModule(pl.LightningModule):
    """Trains a model on pairs with one method. Rewards, δ and the loss are those of the global batch.

    load: makes the policy, inside the strategy's context; refer: gets it before the first step, or
    before a checkpoint is loaded, and returns the references of training and of the held-out pairs.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        refer: Refer,
        pairs: Sequence[PairTokens],
        loss: LossConfig,
        computing: Computing,
        recomputed: Recomputation,
        monitoring: Monitoring,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.load, self.refer, self.pairs = load, refer, pairs
        assert loss.beta is not None
        assert loss.learning_rate is not None
        self.config, self.loss, self.beta = loss, LOSSES[loss.name], loss.beta
        self.learning_rate, self.monitoring = loss.learning_rate, monitoring
        self.hardware, self.kernels = computing.hardware, computing.kernels
        self.packing, self.recomputed = computing.packing, recomputed
        self.reference: Reference | None = None
        self.at_start = True  # the reference is where the policy starts
        self.masters: MasterWeights | None = None
        self.delta = Delta(loss.delta.mode, loss.delta.decay, loss.delta.micro_batch)
        self.deltas: Tensor | None = (
            None  # [pairs] of the step, where its micro-batches have their own
        )
        self.max_start_reward = 0.0
        self.model_error = 0.0
        self.record: Record = lambda step, metrics: None
        self.run_key = ""  # names what the run is determined by; a checkpoint of another is refused
        self.steps = 0  # of the whole run; set with the plan
        self.seconds: dict[str, float] = {}

    def setup(self, stage: str) -> None:
        """After the process group and before DeepSpeed; outside of its context, which nests badly."""
        self.model = self.load()
        self.strict_loading = all(p.requires_grad for p in self.model.parameters())
        if self.hardware.in_parts:  # rank 0's number, if devices are unequal
            self.recomputed = Recomputation(collectives.broadcast_object(self.recomputed.most))

    def configure_optimizers(self) -> Any:
        """DeepSpeed keeps fp32 masters itself; on one device they are ours."""
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        if not self.hardware.deepspeed and any(p.element_size() < 4 for p in self.trained):
            self.masters = MasterWeights(self.trained)
            self.trained = self.masters.masters
        optimizer = optimizers.make(self.hardware, self.trained, self.config)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_factor(self.config, step, self.steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if weights := checkpoint.get("state_dict"):  # DeepSpeed writes its own
            every = self.named_parameters(remove_duplicate=False)
            frozen = {name for name, parameter in every if not parameter.requires_grad}
            checkpoint["state_dict"] = {k: v for k, v in weights.items() if k not in frozen}
        checkpoint["spot"] = {
            "delta": self.delta.state_dict(),
            "max_start_reward": self.max_start_reward,
            "run": self.run_key,
            "rng": torch.get_rng_state(),
            "masters": self.masters.state_dict() if self.masters else None,
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
        if self.masters:
            self.masters.load_state_dict(state["masters"])

    def on_fit_start(self) -> None:
        """The weights are still the reference's: a checkpoint is loaded after this."""
        begin = time.perf_counter()
        shortest = min(self.pairs, key=lambda pair: pair.tokens(self.packing))
        self.model_error = check_model(self.model, shortest, self.kernels)
        references = self.refer(self.model)
        self.reference, self.at_start = references.training, references.at_start
        self.delta.at_start = references.at_start
        self.monitoring.start(references.held_out, self.model.device)
        self._spend("reference", time.perf_counter() - begin)

    def on_train_start(self) -> None:
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):  # type: ignore[union-attr]
            group["lr"] = rate  # DeepSpeed's checkpoints do not bring it back
        if self.trainer.global_step == 0:
            self._record(0, self._watched(0))

    def forward(self, pack: Pack, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        """Log-probs [N] of a pack, and on request entropies [N]; see `score_pack`.

        DeepSpeed's engine does its own around every such pass.
        """
        return score_pack(self.model, pack, self.kernels, entropy=entropy)

    def training_step(self, batch: tuple[int, list[int]], batch_idx: int) -> None:
        """Forward and backward pack by pack, then one update; the shares sum to the global mean."""
        begin = time.perf_counter()
        step, indices = batch
        pairs = [self.pairs[i] for i in indices]
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        values, parts, scales = BatchValues(len(pairs)), PartMeans(), self._scales(pairs)
        packs = step_packs(pairs, self.packing, collectives.rank(), collectives.ranks())
        with self.kernels.inside(self.model):
            if self.loss.delta and self.delta.micro_batch:
                self.deltas = self._deltas(packs, len(pairs))
            for pack in packs:
                if self.hardware.deepspeed:
                    self.trainer.model.set_gradient_accumulation_boundary(pack is packs[-1])  # type: ignore[union-attr, operator]
                checkpoint_layers(self.model, self.recomputed.of(pack))
                self._backward(step, pack.to(self.device), scales, values, parts)
        values.all_reduce()
        parts.all_reduce()
        rate = optimizer.param_groups[0]["lr"]  # type: ignore[union-attr]
        norm = self._update(optimizer, step, pairs)
        schedule.step()  # type: ignore[union-attr]
        means = self._step_metrics(step, values, pairs)
        means |= parts.per_pair("rewards", len(pairs))
        means |= parts.per_token("gradients") | parts.per_token("kl")
        means |= parts.per_token("gradients_apart")
        means |= {"gradient_norm": norm, "learning_rate": rate}
        means["loss"] = values.values["loss"].sum().item() * scales[0]
        took = time.perf_counter() - begin
        means["tokens_per_second"] = sum(p.unshared_tokens(self.packing) for p in pairs) / took
        self._spend("steps", took)
        self._record(step, means | self._watched(step))

    def _backward(
        self,
        step: int,
        pack: Pack,
        scales: tuple[float, float],
        values: BatchValues,
        parts: PartMeans,
    ) -> None:
        """One pack's share of the gradient, and its metrics."""
        logps, _ = self.trainer.model(pack)  # type: ignore[misc]  # DeepSpeed's engine, or self
        check_finite(pack, logps, f"of step {step}")
        gradient: list[Tensor] = []
        logps.register_hook(gradient.append)
        reference = None if self.reference is None else self.reference.of(pack)
        loss, metrics = self._pack_loss(pack, logps, reference, scales[1])
        pulls: dict[str, Tensor] = {}
        for side in REWARDS:
            if side in metrics and metrics[side].requires_grad:
                metrics[side].register_hook(partial(pulls.__setitem__, side))
        # DeepSpeed averages over the ranks what has to be added up
        share = scales[0] * (collectives.ranks() if self.hardware.deepspeed else 1)
        self.manual_backward(loss.sum() * (share if pack.counted else 0.0))
        if not pack.counted:
            return
        values.put(pack.pairs, {"loss": loss, **metrics})
        with torch.no_grad():
            # of each pair's own loss: the mean over the batch is taken back
            parts.add("gradients", pack, net_gradients(pack, gradient[0]).abs() / share)
            if pulls:
                apart = gradients_apart(pack, pulls.values(), self.beta) / share
                parts.add("gradients_apart", pack, apart, SHARED_SIDE)
            if reference is not None:
                parts.add("rewards", pack, self.beta * (logps - reference))
                if bool(pack.has_rejected.all()):
                    parts.add("kl", pack, kl_terms(logps, reference), KL_SIDES)

    @torch.no_grad()
    def _deltas(self, packs: Sequence[Pack], pairs: int) -> Tensor:
        """δ of each pair [pairs] of a step by micro-batches: a forward pass before those with a gradient."""
        assert self.reference is not None
        values = BatchValues(pairs)
        for pack in (pack.to(self.device) for pack in packs):
            logps, _ = self.trainer.model(pack)  # type: ignore[misc]
            if pack.counted:
                weights = span_weights(pack, self.config.weights)
                found = pair_metrics(pack, logps, self.reference.of(pack), self.beta, weights)
                values.put(pack.pairs, {name: found[name] for name in REWARDS})
        values.all_reduce()
        return self.delta.of_each(torch.stack([values.values[n] for n in REWARDS]).mean(0))

    def _update(self, optimizer: Any, step: int, pairs: Sequence[PairTokens]) -> float:
        """Clip the global gradient, move the weights, forget the gradient; returns its norm."""
        if self.hardware.deepspeed:
            optimizer.step()
            norm = float(self.trainer.model.get_global_grad_norm())  # type: ignore[union-attr, operator, arg-type]
            if not math.isfinite(norm):
                raise UserError(not_finite(f"gradients of step {step}", [p.id for p in pairs]))
            return norm
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.config.clip).item()
        if not math.isfinite(norm):
            self._blame(step, pairs)
        optimizer.step()
        optimizer.zero_grad()
        if self.masters:
            self.masters.publish()
        return norm

    def _pack_loss(
        self, pack: Pack, logps: Tensor, reference: Tensor | None, sft_weight: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss [P] of every pair of a pack (a sum over tokens for token-level losses), and metrics."""
        weights = span_weights(pack, self.config.weights)
        metrics = pair_metrics(pack, logps, reference, self.beta, weights)
        delta = self.delta.value if self.deltas is None else self.deltas.to(logps)[pack.pairs]
        given = vars(self.config) | {"beta": self.beta, "delta": delta}
        if self.loss.token:
            values, more = compute(
                self.config.name, given | {"logps": logps, "reference": reference}
            )
            return pack.slot_sums(values, weights)[0], metrics | more
        if reference is None:
            scores = [self.beta * score for score in pack.slot_sums(logps, weights)]
        else:
            scores = [metrics[side] for side in REWARDS if side in metrics]
        if self.loss.mean:
            scores = [s / n for s, n in zip(scores, pack.slot_counts(), strict=True)]
        given |= dict(zip(("chosen", "rejected"), scores, strict=False))
        loss, tether = compute(self.config.name, given)
        if sft_weight:
            loss = loss + sft_weight * pack.slot_sums(-logps, weights)[0]
        return loss, metrics | tether

    def _scales(self, pairs: Sequence[PairTokens]) -> tuple[float, float]:
        """What the sum of the global batch's losses is multiplied with, and within it that of SFT.

        1 / pairs; 1 / response tokens for the token mean of SFT.
        """
        by_pair, by_token = 1 / len(pairs), 1 / sum(len(pair.chosen) for pair in pairs)
        sft = by_token if self.config.sft_reduction == "token" else by_pair
        return (sft, 0.0) if self.loss.token else (by_pair, self.config.sft_weight * sft / by_pair)

    def _step_metrics(
        self, step: int, values: BatchValues, pairs: Sequence[PairTokens]
    ) -> dict[str, float]:
        """Means over the global batch; δ as this step used it, then moved on."""
        metrics = values.means()
        if step == 1 and self.reference is not None:
            longest = max(pair.longest for pair in pairs)
            self._check_start(values.rewards(), longest)
        if self.loss.delta:
            metrics["delta"] = self.delta.value
            if self.deltas is not None:
                return metrics | {"delta": self.deltas.mean().item()}
            total = sum(values.values[name].double().sum().item() for name in REWARDS)
            self.delta.update(total, values.pairs)
        return metrics

    def _check_start(self, rewards: Tensor, tokens: int) -> None:
        """At step 0 policy and reference are the same, so every reward is rounding and no more.

        Not so in a later round that is tethered to the first round's start: its rewards begin at what
        the rounds before have made of them.
        """
        if not self.at_start:
            return
        reward = rewards.abs().max().item()
        self.max_start_reward = max(self.max_start_reward, reward)
        weight = max(1.0, self.config.weights.most)
        bound = weight * start_bound(self.model.dtype, self.beta, tokens)
        if not reward <= bound:
            narrow = self.model.dtype == torch.bfloat16
            rounding = "; if few lie beyond it, hardware.precision=fp32" if narrow else ""
            raise UserError(
                f"At step 0 a reward is {reward:.3g} and must be 0 but for rounding (bound {bound:.2g}; of "
                f"{len(rewards)}: {start_histogram(rewards, bound)}): the reference scores are not of this "
                f"model; delete the reference folder and start again{rounding}."
            )

    def _blame(self, step: int, pairs: Sequence[PairTokens]) -> None:
        """Name the pairs whose own gradient is not finite, or all when only their sum is not."""
        bad = []
        for pair in pairs:
            for parameter in self.trained:
                parameter.grad = None
            with self.kernels.inside(self.model):
                pack = build_pack([pair], self.packing).to(self.device)
                checkpoint_layers(self.model, self.recomputed.of(pack))
                reference = None if self.reference is None else self.reference.of(pack)
                logps = pack_logprobs(self.model, pack, self.kernels)
                self._pack_loss(pack, logps, reference, self._scales(pairs)[1])[0].sum().backward()
            if not all(torch.isfinite(p.grad).all() for p in self.trained if p.grad is not None):
                bad.append(pair.id)
        raise UserError(not_finite(f"gradients of step {step}", bad or [p.id for p in pairs]))

    def _watched(self, step: int) -> dict[str, float]:
        """Held-out and ability metrics that are due after `step` steps."""
        metrics: dict[str, float] = {}
        monitoring, last = self.monitoring, self.steps
        begin = time.perf_counter()
        if monitoring.held_out.pairs and monitoring.due(monitoring.probe.every, step, last):
            held_out, rewards = self._measure()
            metrics |= held_out
            if step == 0:
                self._check_start(rewards, monitoring.held_out.longest)
        self._spend("held_out", time.perf_counter() - begin)
        begin = time.perf_counter()
        if monitoring.ability_probe and monitoring.due(monitoring.probe.ability_every, step, last):
            scores = collectives.broadcast_object(
                self._ability() if collectives.rank() == 0 else None
            )
            metrics |= {f"probe/{name}": float(value) for name, value in scores.items()}
        self._spend("ability", time.perf_counter() - begin)
        return metrics

    def _measure(self) -> tuple[dict[str, float], Tensor]:
        """Held-out metrics and rewards, through DeepSpeed's engine, whose prefetching would stumble otherwise."""
        score = partial(self.trainer.model, entropy=True)  # type: ignore[arg-type, misc]
        with self.kernels.inside(self.model), evaluating(self.model):
            return self.monitoring.held_out.measure(score, self.beta)

    def measure_each(self) -> list[dict[str, Any]]:
        """Of every held-out pair, see HeldOut.each."""
        with self.kernels.inside(self.model), evaluating(self.model):
            return self.monitoring.watched.each(self.trainer.model)  # type: ignore[arg-type]

    def _ability(self) -> Mapping[str, float]:
        assert self.monitoring.ability_probe is not None
        self.model.eval()
        with torch.no_grad():
            scores = self.monitoring.ability_probe(self.model)
        self.model.train()
        return scores

    def _record(self, step: int, metrics: Mapping[str, Any]) -> None:
        if collectives.rank() == 0:
            self.record(step, metrics)

    def _spend(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
