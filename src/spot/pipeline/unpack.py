"""Config → plain values: what a stage needs to work, and the settings that name its product.

Settings hold everything that can change a result and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spot.config import SFT_LIKE, Config, Tuned
from spot.data import artifacts
from spot.data.rows import WRONG, Attempt
from spot.pipeline.selection import split_held_out
from spot.utils.errors import UserError

if TYPE_CHECKING:
    from spot.oracle import Oracle


SHEETS = (".csv", ".tsv")  # what `spot correct` writes


def split_attempts(
    config: Config, attempts: artifacts.Product, first: artifacts.Product | None = None
) -> tuple[list[Attempt], list[Attempt]]:
    """The attempts to train on, and those whose questions are held out of training.

    first: the attempts of the first round; what they hold out stays held out in all rounds.
    """
    rows = artifacts.read_rows(attempts.folder, Attempt)
    if first is None or first.key == attempts.key:
        return split_held_out(rows, config.data.held_out, config.data.seed)
    held_out = {row.question for row in split_attempts(config, first)[1]}
    return (
        [row for row in rows if row.question not in held_out],
        [row for row in rows if row.question in held_out],
    )


def wrong_attempts(
    config: Config, attempts: artifacts.Product, part: str, first: artifacts.Product | None = None
) -> list[Attempt]:
    """The wrong attempts of a part, `train` or `held_out`; first: as in `split_attempts`."""
    train, held_out = split_attempts(config, attempts, first)
    return [row for row in (train if part == "train" else held_out) if row.verdict == WRONG]


def hardware_settings(config: Config) -> dict[str, Any]:
    """What decides numbers, if only their last bits, and what decides which pairs fit a pack."""
    idle = ["name", "memory_gib", "tflops"]
    if config.hardware.strategy == "single":
        idle += ["zero_stage", "offload_optimizer", "offload_parameters", "overlap_comm"]
        idle += ["contiguous_gradients", "reduce_bucket", "gather_bucket"]
    return {k: v for k, v in asdict(config.hardware).items() if k not in idle}


def logger_names(config: Config) -> list[str]:
    wanted = {"tensorboard": config.logger.tensorboard, "wandb": config.logger.wandb}
    return [name for name, on in wanted.items() if on]


def oracle_settings(config: Config) -> dict[str, Any]:
    """A rule Oracle is its shares and seed; a human one is the content of a file."""
    oracle = config.oracle
    if oracle.kind == "rule":
        blind = {} if oracle.ground_truth else {"solves": oracle.solves}
        return {
            "kind": "rule",
            "seed": oracle.seed,
            "minimal": oracle.minimal,
            "continuation": oracle.continuation,
        } | blind
    path = existing(oracle.path or config.data.path, "oracle.path")
    return {
        "kind": "human",
        "file": artifacts.hash_file(path),
        "fields": asdict(config.data.fields),
    }


def oracle(config: Config, attempts: Sequence[Attempt], said: Callable[[str], str]) -> Oracle:
    """Who corrects these attempts, without being asked over a wire. said: how problems were put."""
    settings, names = config.oracle, config.data.fields
    if settings.kind == "rule":
        from spot.oracle.rule import RuleOracle

        solves = 1.0 if settings.ground_truth else settings.solves
        return RuleOracle(settings.seed, settings.minimal, settings.continuation, solves)
    from spot.oracle.human import HumanOracle, SheetOracle

    path = existing(settings.path or config.data.path, "oracle.path")
    if path.suffix in SHEETS:
        return SheetOracle.read(path, attempts)
    return HumanOracle(path, names.solution or "solution", names.id, names.question, said)


def existing(path: str | None, key: str) -> Path:
    """The file a key names. Raises UserError when it is not there."""
    if path is None or not Path(path).expanduser().is_file():
        raise UserError(f"{key}={path} is not a file: give the path of a JSON Lines file.")
    return Path(path).expanduser()


def _tuned(config: Config) -> Tuned:
    """What was tuned for this arm, else for this loss, else nothing."""
    tuned = config.model.tuned
    return tuned.get(config.arm or "", tuned.get(config.loss.name, Tuned()))


def learning_rate(config: Config) -> float:
    """`loss.learning_rate`, else the tuned one, else the model's for this kind of loss."""
    sft_like = config.loss.name in SFT_LIKE
    default = config.model.learning_rate_sft if sft_like else config.model.learning_rate_reward
    return _first(config.loss.learning_rate, _tuned(config).learning_rate, default)


def beta(config: Config) -> float:
    """`loss.beta`, else the tuned one, else the paper's 0.1."""
    return _first(config.loss.beta, _tuned(config).beta, 0.1)


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
