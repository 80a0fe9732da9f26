"""Pairs and a policy in; a checkpoint in Hugging Face format and metrics.csv out.

The seed moves the order of the pairs, and of LoRA the first A and dropout: all else has none, and the
weights start where the reference is, so that all rewards begin at 0.
"""

from __future__ import annotations

import hashlib
import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from transformers import AutoTokenizer

from spot.config import LOSSES, HardwareConfig, LoraConfig, LossConfig, ProbeConfig, SaveConfig
from spot.config.hardware import too_few_gpus
from spot.data import artifacts, chat
from spot.data.rows import Pair
from spot.training import attention, collectives, fused_layers, lora
from spot.training.activation_checkpointing import recomputation
from spot.training.bin_packing import Cost
from spot.training.checkpoint_callback import CheckpointCallback
from spot.training.forward import Computing, Kernels
from spot.training.module import PairModule
from spot.training.monitoring import HeldOut, Monitoring
from spot.training.packing import PackingSettings, PairTokens, fitting, held_to, plan_steps
from spot.training.precision import DTYPES
from spot.training.probing import steps_between
from spot.training.reference import Weights, make_references, model_identity, pairs_digest
from spot.training.schedule import Steps
from spot.training.strategy import make_strategy, zero_config
from spot.training.weights import load, load_in_parts, model_config, skeleton
from spot.utils.errors import UserError
from spot.utils.progress import say


@dataclass(frozen=True)
class Base:
    """The first round's start, where a later round trains."""

    folder: Path
    weights: str  # a digest
    tethers: bool = False  # it is the reference of the loss, too


@dataclass(frozen=True)
class RunOptions:
    """How it is computed, monitored and kept.

    The weights depend on it in rounding, and in which pairs are too long for a pack.
    """

    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    share_prefix: bool = True
    reference: str = "cached"  # cached | copy | engine
    weights: str | None = None  # a digest of the policy's weights; None: hashed here
    base: Base | None = None  # None: the policy itself
    reference_folder: Path | None = None  # shared by a sweep's losses and seeds; None: not kept
    thinking: bool = False
    lora: LoraConfig = field(default_factory=LoraConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    ability_probe: Callable[[Any], Mapping[str, float]] | None = None
    save: SaveConfig = field(default_factory=SaveConfig)
    loggers: Sequence[Any] = ()  # Lightning loggers


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves for the manifest."""

    steps: int
    resumed_at: int  # 0: from the start
    seconds: float
    timings: dict[str, float]  # seconds by stage
    max_start_reward: (
        float  # max |r| at step 0, over held-out pairs and the first batch; 0 unchecked
    )
    kernels: dict[str, str]  # what computed packs
    kernel_error: float  # relative distance of the attention kernel to the dense one, at start-up
    model_error: float  # largest distance of a token's log-prob to the model's own forward pass
    checkpointed_layers: int  # of a full pack
    over_long: list[str]  # ids of pairs, dropped because they do not fit a pack
    held_out_over_long: list[str]
    final: dict[str, float]  # the last row of metrics.csv


def train(
    policy_folder: Path,
    out: Path,
    pairs: Sequence[Pair | PairTokens],
    held_out: Sequence[Pair | PairTokens],
    loss: LossConfig,
    seed: int,
    options: RunOptions,
) -> TrainResult:
    """Train the policy in `policy_folder` and write `<out>/model` and `<out>/metrics.csv`.

    `loss` has its β and learning rate (`config.resolved_loss`). A killed run started again with the
    same arguments goes on from its last checkpoint under `<out>/resume` and ends with the same weights,
    bit by bit on a CPU or with `hardware.deterministic`, else within rounding. `held_out` pairs are only
    measured: the first `probe.pairs` for curves, all in the middle and at the end. Ranks that train
    together each call this with the same arguments.
    """
    begin = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    hardware = options.hardware
    trainer = make_trainer(hardware, options.loggers, loss.clip)
    device = trainer.strategy.root_device
    if device.type == "cuda":
        torch.cuda.set_device(device)  # Lightning does so later; Triton launches on the current one
    config, tokenizer = model_config(policy_folder), AutoTokenizer.from_pretrained(policy_folder)
    computing = make_computing(config, tokenizer, loss, options, device)
    kernel_error = computing.kernels.check(config, DTYPES[hardware.precision], device)
    packing = computing.packing
    tokens, over_long = fitting(tokenise(tokenizer, pairs, options.thinking), packing)
    watched, held_over_long = fitting(tokenise(tokenizer, held_out, options.thinking), packing)
    check_pairs(tokens, over_long, loss, packing)
    if hardware.in_parts:  # the largest pack decides what all compute again
        packing = held_to(packing, tokens, watched, loss.batch_pairs / hardware.ranks)
        computing = replace(computing, packing=packing)
    lora.announce(options.lora, loss.learning_rate)
    plan = plan_steps(len(tokens), loss.batch_pairs, loss.epochs, seed)
    weights = options.weights or artifacts.model_digest(policy_folder)
    start = Weights(policy_folder, model_identity(weights, tokenizer, computing))
    tether, base = measured_against(start, options.base)
    named = [tether.identity["weights"]] if tether is base else []
    ways = (hardware.strategy, hardware.ranks, hardware.zero_stage, *named)
    file, layers = policy_folder / "config.json", config.num_hidden_layers
    recomputed = recomputation(file, layers, tokens, computing, options.reference, options.lora)
    module = PairModule(
        lambda: load_policy(policy_folder, options, device, loss.clip, seed),
        partial(
            make_references,
            options.reference,
            tokens if LOSSES[loss.name].reference else None,
            watched,
            options.reference_folder,
            tether,
            base,
            computing,
        ),
        tokens,
        loss,
        computing,
        recomputed,
        make_monitoring(watched, tokens, computing, options, loss.batch_pairs, len(plan)),
    )
    module.run_key = run_key(weights, tokens, loss, seed, ways, *options.lora.decisive().values())
    module.seconds["load"] = time.perf_counter() - begin
    adapters = None if options.lora.rank is None else lora.Adapters(options.lora, policy_folder)
    callback = CheckpointCallback(out, tokenizer, options.save, options.loggers, adapters)
    resumed_at = fit(trainer, module, plan, callback)
    return TrainResult(
        steps=len(plan),
        resumed_at=resumed_at,
        seconds=time.perf_counter() - begin,
        timings={name: round(value, 3) for name, value in module.seconds.items()},
        max_start_reward=module.max_start_reward,
        kernels=dict(vars(computing.kernels)),
        kernel_error=kernel_error,
        model_error=module.model_error,
        checkpointed_layers=recomputed.most,
        over_long=over_long,
        held_out_over_long=held_over_long,
        final=callback.last_row() if collectives.rank() == 0 else {},
    )


def measured_against(start: Weights, base: Base | None) -> tuple[Weights, Weights | None]:
    """The model that the loss is tethered to, and the first round's in a later one."""
    if base is None:
        return start, None
    first = Weights(base.folder, {**start.identity, "weights": base.weights})
    return first if base.tethers else start, first


def make_computing(
    config: Any, tokenizer: Any, loss: LossConfig, options: RunOptions, device: torch.device
) -> Computing:
    """How this model's forward passes are made; config: the model's."""
    hardware = options.hardware
    attending = attention.choose(hardware.attention, DTYPES[hardware.precision], device)
    packing = PackingSettings(
        hardware.tokens_per_pack,
        options.share_prefix,
        rejected=LOSSES[loss.name].rejected,
        cost=Cost.of(skeleton(config)),
        line_ends=line_ends(tokenizer) if loss.weights.by == "step" else None,
    )
    kernels = Kernels(attending, hardware.logprobs, fused_layers.choose(hardware, config))
    return Computing(hardware, packing, kernels)


def load_policy(
    folder: Path, options: RunOptions, device: torch.device, clip: float, seed: int
) -> Any:
    """The policy on `device`, or this rank's parts of it, with its adapters if it has some."""
    hardware = options.hardware
    if hardware.in_parts:
        model = load_in_parts(folder, hardware, zero_config(hardware, clip))
    else:
        model = load(folder, hardware, device)
    if options.lora.rank is None:
        return model
    return lora.attach(model, options.lora, seed)


def make_monitoring(
    held_out: Sequence[PairTokens],
    pairs: Sequence[PairTokens],
    computing: Computing,
    options: RunOptions,
    batch: int,
    steps: int,
) -> Monitoring:
    """What is measured besides the batch, and how often; a model in parts cannot be asked questions."""
    ability, packing, hardware = options.ability_probe, computing.packing, computing.hardware
    if ability is not None and hardware.in_parts:
        ability = None
        say(
            "No ability probe at ZeRO-3, where no rank has the whole model: choose probe.ability=exports "
            "and save.exports=<steps>, or run `spot evaluate <run folder>` afterwards."
        )
    curves = held_out[: options.probe.pairs]
    look = sum(pair.cost(replace(packing, rejected=True)) for pair in curves)
    mean = sum(pair.cost(packing) for pair in pairs) / len(pairs)
    every = steps_between(options.probe, hardware.accelerator, look, batch * mean, steps)
    of_curves, watched = (HeldOut(pairs, packing) for pairs in (curves, held_out))
    return Monitoring(of_curves, watched, replace(options.probe, every=every), ability)


def tokenise(
    tokenizer: Any, pairs: Sequence[Pair | PairTokens], thinking: bool
) -> list[PairTokens]:
    """Pairs in token ids, each response tokenised once; those that are in ids stay as they are."""

    def ids(pair: Pair) -> PairTokens:
        rejected = pair.rejected
        return PairTokens(
            pair.id,
            np.asarray(
                chat.chat_ids(tokenizer, chat.asked(pair.question, pair.messages), thinking)
            ),
            np.asarray(chat.response_ids(tokenizer, pair.chosen)),
            None if rejected is None else np.asarray(chat.response_ids(tokenizer, rejected)),
        )

    return [pair if isinstance(pair, PairTokens) else ids(pair) for pair in pairs]


def line_ends(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that have a line's end in them."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return tuple(token for token, text in enumerate(texts) if "\n" in text)


def check_pairs(
    pairs: Sequence[PairTokens],
    over_long: Sequence[str],
    loss: LossConfig,
    packing: PackingSettings,
) -> None:
    """Refuse pairs that this loss cannot take; say how many a pack cannot take."""
    budget = packing.token_budget
    if over_long and not pairs:
        raise UserError(
            f"No pair fits a pack of {budget} tokens ({len(over_long)} are longer): "
            "raise hardware.tokens_per_pack."
        )
    if over_long:
        say(
            f"Dropped {len(over_long)} of {len(pairs) + len(over_long)} pairs, longer than a pack of {budget} "
            "tokens: raise hardware.tokens_per_pack to train on them."
        )
    if not pairs:
        raise UserError("There are no pairs to train on: elicit more or raise data.gamma.")
    if len({pair.id for pair in pairs}) < len(pairs):
        raise UserError("Two pairs have the same id: select the pairs again.")
    if LOSSES[loss.name].rejected and any(pair.rejected is None for pair in pairs):
        raise UserError(
            f"loss={loss.name} needs rejected responses and some pairs have none: use "
            "data.arm=rectified or direct, or loss=sft, dft or rwsft."
        )


def run_key(weights: str, pairs: Sequence[PairTokens], *settings: Any) -> str:
    """Names what the trained weights are determined by, so that no other run's state is resumed."""
    return hashlib.sha256(repr((weights, pairs_digest(pairs), settings)).encode()).hexdigest()


def fit(
    trainer: pl.Trainer,
    module: PairModule,
    plan: Sequence[Sequence[int]],
    callback: CheckpointCallback,
) -> int:
    """Run all steps of the plan, from the last checkpoint if there is one; returns where it began."""
    step, path = callback.resume or (0, None)
    module.record, module.steps = callback.record, len(plan)
    trainer.callbacks.append(callback)  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)  # DeepSpeed's calls
        with interruptible():
            # DeepSpeed's states are its own to read: of them it knows no `weights_only`
            steps = Steps(plan)
            trainer.fit(module, train_dataloaders=steps, ckpt_path=path, weights_only=True)
    return step


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C through, for which Lightning would exit with 1, and leave SIGINT as it was."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from None


def make_trainer(hardware: HardwareConfig, loggers: Sequence[Any], clip: float) -> pl.Trainer:
    """The schedule is one Lightning epoch. Raises UserError where the machine lacks the GPUs."""
    if hardware.accelerator == "gpu" and torch.cuda.device_count() < hardware.devices:
        raise UserError(too_few_gpus(hardware.devices, torch.cuda.device_count()))
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # where SLURM is installed, but whoever starts this training, it has its ranks already
    warnings.filterwarnings("ignore", "The `srun` command is available")
    return pl.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=hardware.nodes,
        strategy=make_strategy(hardware, clip),
        max_epochs=1,
        logger=list(loggers) or False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        deterministic=hardware.deterministic,  # torch's algorithms, and cuBLAS's workspace
    )
