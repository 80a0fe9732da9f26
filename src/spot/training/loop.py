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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from spot import chat
from spot.errors import UserError
from spot.progress import say
from spot.records import Pair
from spot.training.losses import Method
from spot.training.module import HeldOut, Optimisation, PairModule, Steps, Watch
from spot.training.packing import (
    PackingSettings,
    PairTokens,
    plan_steps,
    row_tokens,
)
from spot.training.reference import ReferenceScores, reference_scores, weights_digest
from spot.training.saving import Checkpoints, MetricsTable, save_model, sync

COLUMNS = [
    "step", "loss",
    "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
    "logps/chosen", "logps/rejected",
    "delta", "tether/chosen", "tether/rejected",
    "gradient_norm", "learning_rate", "tokens_per_second",
    "held_out/rewards/chosen", "held_out/rewards/rejected",
    "held_out/rewards/margins", "held_out/rewards/accuracies", "held_out/kl",
]  # fmt: skip


@dataclass(frozen=True)
class RunOptions:
    """What does not change the trained weights: layout, watching, saving, where things are kept."""

    packing: PackingSettings = field(default_factory=PackingSettings)
    reference_folder: Path | None = (
        None  # shared by the losses and seeds of a sweep; None: not kept
    )
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
    model, tokenizer = load_policy(policy_folder)
    tokens = tokenise(tokenizer, pairs, method.loss.needs_rejected, options.thinking)
    watched = tokenise(tokenizer, held_out, True, options.thinking)
    check_pairs(tokens, method, options.packing)
    timings["load"] = time.perf_counter() - begin

    clock = time.perf_counter()
    reference, held_reference = _references(model, tokenizer, pairs, watched, method, options)
    timings["reference"] = time.perf_counter() - clock

    watch = Watch(
        HeldOut(watched, held_reference, options.packing),
        options.probe_every,
        options.ability_probe,
        options.ability_every,
    )
    module = PairModule(model, tokens, reference, method, optimisation, options.packing, watch)
    module.run_key = run_key(weights_digest(model), tokens, method, optimisation, seed)
    plan = plan_steps(len(tokens), optimisation.batch_pairs, optimisation.epochs, seed)
    checkpoints = Checkpoints(out / "resume")
    table = MetricsTable(out / "metrics.csv", COLUMNS)
    resumed_at = fit(module, plan, checkpoints, table, options)

    clock = time.perf_counter()
    save_model(model, tokenizer, out / "model")
    timings |= module.seconds | {"save": time.perf_counter() - clock}
    return TrainResult(
        steps=len(plan),
        resumed_at=resumed_at,
        seconds=time.perf_counter() - begin,
        timings={name: round(value, 3) for name, value in timings.items()},
        max_start_reward=module.max_start_reward,
        final={name: float(value) for name, value in table.rows()[-1].items() if value},
    )


def load_policy(folder: Path) -> tuple[Any, Any]:
    """Model (fp32, train mode, no dropout) and tokenizer from a folder in Hugging Face format."""
    disable_progress_bar()
    config = AutoConfig.from_pretrained(folder)
    for name, value in vars(config).items():
        if "dropout" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)
    return model.train(), AutoTokenizer.from_pretrained(folder)


def tokenise(
    tokenizer: Any, pairs: Sequence[Pair], with_rejected: bool, thinking: bool
) -> list[PairTokens]:
    """Pairs in token ids, each response tokenised once. Without y⁻ where it is not asked for."""

    def ids(pair: Pair) -> PairTokens:
        rejected = pair.rejected if with_rejected else None
        return PairTokens(
            pair.id,
            tuple(chat.prompt_ids(tokenizer, pair.question, thinking)),
            tuple(chat.response_ids(tokenizer, pair.chosen)),
            None if rejected is None else tuple(chat.response_ids(tokenizer, rejected)),
        )

    return [ids(pair) for pair in pairs]


def check_pairs(pairs: Sequence[PairTokens], method: Method, packing: PackingSettings) -> None:
    """Refuse pairs that this method or pack size cannot take."""
    if not pairs:
        raise UserError("There are no pairs to train on: elicit more or raise data.gamma.")
    if len({pair.id for pair in pairs}) < len(pairs):
        raise UserError("Two pairs have the same id: select the pairs again.")
    if method.loss.needs_rejected and any(pair.rejected is None for pair in pairs):
        raise UserError(
            f"loss={method.name} needs rejected responses and some pairs have none: use "
            "data.arm=rectified or direct, or loss=sft, dft or rwsft."
        )
    costs = {pair.id: row_tokens(pair, packing.share_prefix) for pair in pairs}
    longest = max(costs, key=costs.__getitem__)
    if costs[longest] > packing.token_budget:
        raise UserError(
            f"Pair {longest} takes {costs[longest]} tokens and a pack holds {packing.token_budget}: "
            "raise hardware.tokens_per_pack or lower model.context_length."
        )


def run_key(weights: str, pairs: Sequence[PairTokens], *settings: Any) -> str:
    """Names what the trained weights are determined by, so that no other run's state is resumed."""
    return hashlib.sha256(repr((weights, list(pairs), settings)).encode()).hexdigest()


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
    """One process on the CPU; the schedule is one Lightning epoch."""
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return pl.Trainer(
        accelerator="cpu",
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


def _references(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    watched: Sequence[PairTokens],
    method: Method,
    options: RunOptions,
) -> tuple[ReferenceScores | None, ReferenceScores]:
    """Scores of the training pairs, if the loss has rewards, and of the held-out pairs.

    Training pairs are scored with their y⁻ even for a loss that leaves it out: one file for all.
    """
    folder, packing = options.reference_folder, options.packing
    held_out = reference_scores(model, tokenizer, watched, packing, folder)
    if not method.loss.needs_reference:
        return None, held_out
    full = tokenise(tokenizer, pairs, True, options.thinking)
    return reference_scores(model, tokenizer, full, packing, folder), held_out
