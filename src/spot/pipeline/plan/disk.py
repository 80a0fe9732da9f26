"""Bytes that a run leaves on disk, and how long the large ones take to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spot.config import LOSSES, Config
from spot.pipeline.plan.work import Work, answers, attempts
from spot.training.memory_model import EIGHT_BIT
from spot.training.shapes import Shape

TEXT = 4.0  # bytes of text per token, roughly
SPEED = 2e9  # bytes a second: one NVMe disk, or a good share of a parallel file system


@dataclass(frozen=True)
class File:
    """What lies on disk, in bytes of all its copies."""

    name: str
    size: float
    note: str = ""
    own: bool = False  # of this training alone, and kept: a sweep has it once for every job


def for_jobs(jobs: Sequence[Sequence[File]]) -> list[File]:
    """What jobs that run one after the other leave, and the most that one of them takes besides."""
    every = [file for files in jobs for file in files]
    sizes: dict[str, list[float]] = {}
    for file in every:
        sizes.setdefault(file.name, []).append(file.size)
    own = {file.name for file in every if file.own}
    return [File(n, sum(found) if n in own else max(found)) for n, found in sizes.items()]


def files(config: Config, shape: Shape, work: Work) -> list[File]:
    """Products, reference scores, checkpoints, exports and trained models, those of all rounds.

    Resumable checkpoints go when their training is complete, so no two rounds have some at a time.
    """
    save, steps, rounds = config.save, work.steps, work.rounds
    exported = exported_bytes(config, shape)
    kept = [File("products", TEXT * _tokens(config, work), "text of attempts, pairs and scores")]
    if LOSSES[config.loss.name].reference and config.reference == "cached":
        scored = rounds * work.reference.scored  # every round has other pairs
        kept.append(
            File("reference scores", 4 * scored, f"fp32, {scored / 1e6:,.3g} million tokens")
        )
    # the last step has none; how many minutes a step takes is not known here
    copies = 2 if save.every is None else min(2, (steps - 1) // save.every)
    if save.optimizer and copies:
        one = checkpoint_bytes(config, shape)
        often = f"{save.minutes:g} minutes" if save.every is None else f"{save.every} steps"
        note = f"{one / shape.trained:.3g} B a parameter, every {often}"
        if copies == 2:
            note += "; the old one stays until the new one is whole"
        note += f"; {writing(one)} beside the steps, from a copy in the host's memory"
        kept.append(File("resumable checkpoints", copies * one, note))
    if save.exports:
        count = rounds * (steps // save.exports)
        note = f"{count}, {writing(exported)}"
        kept.append(File("exports", count * exported, note, own=True))
    note = (f"{rounds}, one a round, each " if rounds > 1 else "") + writing(exported)
    kept.append(File("trained model", rounds * exported, note, own=True))
    return kept


def checkpoint_bytes(config: Config, shape: Shape) -> float:
    """Weights, moments and, beside narrow weights or under ZeRO, masters: what resuming needs.

    fp32, one process: 4 + 8. bf16: 2 + 4 + 8. DeepSpeed writes the same, divided over the ranks.
    """
    hardware = config.hardware
    narrow, shared = hardware.precision == "bf16", hardware.strategy == "deepspeed"
    moments = EIGHT_BIT if hardware.optimizer == "adamw8bit" else 8
    masters = 4 if narrow or shared else 0
    return ((2 if narrow else 4) + masters + moments) * shape.trained


def exported_bytes(config: Config, shape: Shape) -> float:
    """Weights that can be evaluated, in the precision that is asked for."""
    precision = config.save.dtype or config.hardware.precision
    return (2.0 if precision == "bf16" else 4.0) * shape.parameters


def writing(size: float) -> str:
    """How long that takes at a stated speed."""
    seconds = size / SPEED
    if seconds < 1:
        return f"at once at {SPEED / 1e9:g} GB/s"
    took = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return f"{took} to write at {SPEED / 1e9:g} GB/s"


def _tokens(config: Config, work: Work) -> float:
    """Tokens of text in all rows: attempts, what the Oracle made of them, pairs, two models' scores.

    The first policy and the last are measured, whatever the number of rounds.
    """
    pairs = work.pairs or 1
    # a prompt and a response; losses with a y⁻ term forward two of them a pair
    response = work.apart / pairs / (2 if LOSSES[config.loss.name].rejected else 1)
    attempted = (attempts(config) or pairs) * response
    scores = 2 * answers(config)
    return work.rounds * (attempted + 2 * work.pairs * 2 * response) + scores * response
