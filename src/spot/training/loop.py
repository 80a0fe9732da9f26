"""Pairs and a policy in; a checkpoint in Hugging Face format and metrics.csv out.

The seed moves the order of the pairs and nothing else: there is no dropout, and the weights start
where the reference is, so that all rewards begin at 0.
"""

from __future__ import annotations

import hashlib
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from spot import chat
from spot.errors import UserError
from spot.files import sync
from spot.progress import say
from spot.records import Pair
from spot.training import attention
from spot.training.balance import Cost
from spot.training.diagnostics import KL_SIDES, SIDES
from spot.training.losses import Method
from spot.training.memory import checkpoint_layers, plan_layers
from spot.training.module import PairModule
from spot.training.packing import Pack, PackingSettings, PairTokens, build_pack, fitting, plan_steps
from spot.training.precision import DTYPES
from spot.training.reference import model_identity, pairs_digest, reference_scores
from spot.training.saving import Checkpoints, MetricsTable, save_model
from spot.training.schedule import Optimisation, Steps
from spot.training.scoring import Kernels
from spot.training.watch import HeldOut, Watch

COLUMNS = [
    "step", "loss",
    "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
    "logps/chosen", "logps/rejected",
    "delta", "tether/chosen", "tether/rejected",
    "gradient_norm", "learning_rate", "tokens_per_second",
    "held_out/rewards/chosen", "held_out/rewards/rejected",
    "held_out/rewards/margins", "held_out/rewards/accuracies", "held_out/kl", "held_out/entropy",
    *(f"{measure}/{part}" for measure in ("rewards", "gradients") for part in SIDES),
    *(f"kl/{part}" for part in KL_SIDES),
    *(f"held_out/rewards/{part}" for part in SIDES),
    *(f"held_out/kl/{part}" for part in KL_SIDES),
]  # fmt: skip


@dataclass(frozen=True)
class Hardware:
    """What the model is computed with; the config group `hardware` has the same names."""

    accelerator: str = "cpu"  # cpu | gpu
    precision: str = "fp32"  # fp32 | bf16, with fp32 master weights
    attention: str = "auto"  # auto | sdpa | varlen | flash
    logprobs: str = "torch"  # torch | liger
    checkpoint_layers: str = "none"  # auto | all | none | how many
    memory_gib: float | None = None  # what checkpoint_layers=auto plans with; None: the device's

    @property
    def device(self) -> str:
        return "cuda" if self.accelerator == "gpu" else "cpu"


@dataclass(frozen=True)
class RunOptions:
    """How it is computed, watched and kept.

    The weights depend on it in rounding, and in which pairs are too long for a pack.
    """

    packing: PackingSettings = field(default_factory=PackingSettings)
    hardware: Hardware = field(default_factory=Hardware)
    reference_folder: Path | None = None  # shared by a sweep's losses and seeds; None: not kept
    thinking: bool = False
    probe_every: int = 1
    ability_probe: Callable[[Any], Mapping[str, float]] | None = None
    ability_every: int = 25
    save_every: int = 50
    loggers: Sequence[Any] = ()  # Lightning loggers, see spot.tracking


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves for the manifest."""

    steps: int
    resumed_at: int  # 0: from the start
    seconds: float
    timings: dict[str, float]  # seconds by stage
    max_start_reward: float  # max |r| at step 0, over held-out pairs and the first batch
    kernels: dict[str, str]  # what computed attention and log-probs
    kernel_error: float  # relative distance of the attention kernel to the oracle, at start-up
    checkpointed_layers: int
    over_long: list[str]  # ids of pairs, dropped because they do not fit a pack
    held_out_over_long: list[str]
    final: dict[str, float]  # the last row of metrics.csv


def train(
    policy_folder: Path,
    out: Path,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    method: Method,
    optimisation: Optimisation,
    seed: int,
    options: RunOptions,
) -> TrainResult:
    """Train the policy in `policy_folder` and write `<out>/model` and `<out>/metrics.csv`.

    A killed run started again with the same arguments goes on from its last checkpoint under
    `<out>/resume` and ends with the same weights. `held_out` pairs are only measured.
    """
    begin = time.perf_counter()
    timings: dict[str, float] = {}
    out.mkdir(parents=True, exist_ok=True)
    hardware = options.hardware
    model, tokenizer = load_policy(policy_folder, hardware)
    packing = replace(options.packing, cost=Cost.of(model))
    kernels = Kernels(
        attention.choose(hardware.attention, model.dtype, model.device), hardware.logprobs
    )
    kernel_error = kernels.check(model)
    tokens, over_long = fitting(tokenise(tokenizer, pairs, options.thinking), packing)
    watched, held_over_long = fitting(tokenise(tokenizer, held_out, options.thinking), packing)
    check_pairs(tokens, over_long, method, packing)
    timings["load"] = time.perf_counter() - begin

    clock = time.perf_counter()
    identity = model_identity(model, tokenizer, packing, kernels)
    where = packing, kernels, options.reference_folder, identity
    held_reference = reference_scores(model, watched, *where)
    reference = reference_scores(model, tokens, *where) if method.loss.needs_reference else None
    timings["reference"] = time.perf_counter() - clock

    watch = Watch(
        HeldOut(watched, held_reference, packing, kernels),
        options.probe_every,
        options.ability_probe,
        options.ability_every,
    )
    checkpointed = _checkpoint(model, tokens, packing, kernels, hardware)
    module = PairModule(model, tokens, reference, method, optimisation, packing, watch, kernels)
    module.run_key = run_key(identity["weights"], tokens, method, optimisation, seed)
    plan = plan_steps(len(tokens), optimisation.batch_pairs, optimisation.epochs, seed)
    checkpoints = Checkpoints(out / "resume")
    table = MetricsTable(out / "metrics.csv", COLUMNS)
    resumed_at = fit(module, plan, checkpoints, table, options)

    if broken := [n for n, p in model.named_parameters() if not torch.isfinite(p).all()]:
        raise UserError(
            f"The last step left weights that are not finite ({broken[0]}): lower the learning rate."
        )
    clock = time.perf_counter()
    save_model(model, tokenizer, out / "model")
    timings |= module.seconds | {"save": time.perf_counter() - clock}
    return TrainResult(
        steps=len(plan),
        resumed_at=resumed_at,
        seconds=time.perf_counter() - begin,
        timings={name: round(value, 3) for name, value in timings.items()},
        max_start_reward=module.max_start_reward,
        kernels=dict(vars(kernels)),
        kernel_error=kernel_error,
        checkpointed_layers=checkpointed,
        over_long=over_long,
        held_out_over_long=held_over_long,
        final={name: float(value) for name, value in table.rows()[-1].items() if value},
    )


def load_policy(folder: Path, hardware: Hardware) -> tuple[Any, Any]:
    """Model (train mode, no dropout) and tokenizer from a folder in Hugging Face format."""
    if hardware.accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("hardware.accelerator=gpu needs a CUDA device: choose hardware=cpu.")
    disable_progress_bar()
    config = AutoConfig.from_pretrained(folder)
    for name, value in vars(config).items():
        if "dropout" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    dtype = DTYPES[hardware.precision]
    model: Any = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype)
    return model.to(hardware.device).train(), AutoTokenizer.from_pretrained(folder)


def _checkpoint(
    model: Any,
    pairs: Sequence[PairTokens],
    packing: PackingSettings,
    kernels: Kernels,
    hardware: Hardware,
) -> int:
    """Checkpoint the activations of as many layers as the setting means; returns how many.

    auto measures on a pair of about a thousand tokens: enough to drown what does not grow with them.
    """

    def sample() -> Pack:
        pair = min(pairs, key=lambda pair: abs(pair.tokens(packing) - 1024))
        return build_pack([pair], packing).to(model.device)

    setting, budget = hardware.checkpoint_layers, packing.token_budget
    count = plan_layers(setting, model, sample, kernels, budget, hardware.memory_gib)
    checkpoint_layers(model, count)
    return count


def tokenise(tokenizer: Any, pairs: Sequence[Pair], thinking: bool) -> list[PairTokens]:
    """Pairs in token ids, each response tokenised once."""

    def ids(pair: Pair) -> PairTokens:
        rejected = pair.rejected
        return PairTokens(
            pair.id,
            np.asarray(chat.prompt_ids(tokenizer, pair.question, thinking)),
            np.asarray(chat.response_ids(tokenizer, pair.chosen)),
            None if rejected is None else np.asarray(chat.response_ids(tokenizer, rejected)),
        )

    return [ids(pair) for pair in pairs]


def check_pairs(
    pairs: Sequence[PairTokens], over_long: Sequence[str], method: Method, packing: PackingSettings
) -> None:
    """Refuse pairs that this method cannot take; say how many a pack cannot take."""
    if over_long:
        advice = "raise hardware.tokens_per_pack to train on them"
        say(
            f"{len(over_long)} of {len(pairs) + len(over_long)} pairs are longer than a pack of "
            f"{packing.token_budget} tokens and are dropped: {advice}."
        )
        if not pairs:
            raise UserError(
                f"All {len(over_long)} pairs are longer than a pack of {packing.token_budget} tokens: "
                "raise hardware.tokens_per_pack."
            )
    if not pairs:
        raise UserError("There are no pairs to train on: elicit more or raise data.gamma.")
    if len({pair.id for pair in pairs}) < len(pairs):
        raise UserError("Two pairs have the same id: select the pairs again.")
    if method.loss.needs_rejected and any(pair.rejected is None for pair in pairs):
        raise UserError(
            f"loss={method.name} needs rejected responses and some pairs have none: use "
            "data.arm=rectified or direct, or loss=sft, dft or rwsft."
        )


def run_key(weights: str, pairs: Sequence[PairTokens], *settings: Any) -> str:
    """Names what the trained weights are determined by, so that no other run's state is resumed."""
    return hashlib.sha256(repr((weights, pairs_digest(pairs), settings)).encode()).hexdigest()


def fit(
    module: PairModule,
    plan: Sequence[Sequence[int]],
    checkpoints: Checkpoints,
    table: MetricsTable,
    options: RunOptions,
) -> int:
    """Run all steps of the plan, from the last checkpoint if there is one; returns where it began."""
    found = checkpoints.latest()
    if found:
        table.open_at(found[0])
        say(f"Training goes on after step {found[0]} of {len(plan)}.")

    def record(step: int, metrics: Mapping[str, Any]) -> None:
        if step == 0:
            table.begin(metrics)
        table.append({"step": step, **metrics})
        for logger in options.loggers:
            logger.log_metrics(dict(metrics), step=step)

    module.record, module.steps = record, len(plan)
    trainer = make_trainer(options, [SaveState(checkpoints, table, options.save_every)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        trainer.fit(module, train_dataloaders=Steps(plan), ckpt_path=found[1] if found else None)
    for logger in options.loggers:
        logger.finalize("success")
    return found[0] if found else 0


def make_trainer(options: RunOptions, callbacks: Sequence[pl.Callback]) -> pl.Trainer:
    """One process on one device; the schedule is one Lightning epoch."""
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return pl.Trainer(
        accelerator=options.hardware.accelerator,
        devices=1,
        max_epochs=1,
        logger=list(options.loggers) or False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


class SaveState(pl.Callback):
    """Keeps the last resumable state: weights, optimiser, schedule, δ, place in the data, RNG."""

    def __init__(self, checkpoints: Checkpoints, table: MetricsTable, every: int) -> None:
        self.checkpoints, self.table, self.every = checkpoints, table, every

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        step, last = batch[0], len(trainer.train_dataloader)  # type: ignore[arg-type]
        if step % self.every == 0 and step < last:
            sync(self.table.path)  # no state without the rows that led to it
            self.checkpoints.save(step, trainer.save_checkpoint)
