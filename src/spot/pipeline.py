"""The whole way on one screen.

questions ─elicit→ attempts ─rectify→ rectifications ─select→ pairs ─train→ checkpoint ─evaluate→ scores ─report→ pages

Every arrow is a stage in a module of its own; every product is a folder named by what determines it, so
what exists is reused and only what is missing is made. Here, and only here, config becomes plain values.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spot import answering, measuring, stages, store
from spot.config import Config
from spot.policy import is_here
from spot.records import WRONG, Pair
from spot.run import EVALUATION, NotMadeError, Run

if TYPE_CHECKING:
    from spot.session import Session

STAGES = ("elicit", "rectify", "select", "train", "evaluate", "report")


def run(
    config: Config,
    folder: Path,
    overrides: Sequence[str] = (),
    until: str | None = None,
    session: Session | None = None,
) -> Path | None:
    """Compute what is missing of the way that `config` describes, up to the stage `until`.

    `folder` is the run's own; it gets `run.json` and the report, whose path is returned. `session`
    reaches the processes that torchrun or srun started beside this one, to train along.
    """
    if config.hardware.accelerator == "gpu" and until in (None, "train"):
        from spot.training.loop import check_devices

        check_devices(config.hardware.devices)  # now, and not after hours of sampling
    answering.check(config)
    if until is None:
        measuring.check(config)
    this = Run(config, folder, overrides, session)

    attempts = stages.attempts(this)
    if until == "elicit":
        return None

    corrections = stages.rectify(this, attempts, part="held_out", mode="rectified")
    stages.material(this, attempts, config.data.arm)
    if until == "rectify":
        return None

    policy = stages.policy(this, attempts)
    held_out = stages.select_held_out(this, policy, corrections)
    pairs = stages.select(this, policy, attempts)
    if until == "select":
        return None

    if until is None:  # first, so that what cannot be measured is known before training
        stages.evaluate(this, "base_scores", policy, attempts)
    checkpoint = stages.train(this, policy, pairs, held_out)
    if until == "train":
        return None

    stages.evaluate(this, "scores", checkpoint, attempts)
    this.complete()
    from spot import report

    return report.build(folder)


def evaluate(config: Config, folder: Path, overrides: Sequence[str] = ()) -> Path:
    """Measure the model that `config.model` names, trained by us or not; returns its scores' folder.

    `folder` is the run's own and gets `evaluation.json`.
    """
    answering.check(config)
    this = Run(config, folder, overrides)
    attempts = stages.attempts(this) if stages.needs_attempts(config) else None
    scores = stages.evaluate(this, "scores", stages.policy(this, attempts), attempts)
    this.record(EVALUATION)
    return scores.folder


def found(config: Config) -> tuple[list[Pair], int] | None:
    """The pairs that are there already and how many attempts were wrong; None before selection.

    Makes and fetches nothing: for weights that are not on this machine the answer is None.
    """
    this = Run(config, Path(os.devnull), looks=True)
    if not (this.root / "select").exists() or not is_here(config.model):
        return None
    try:
        attempts = stages.attempts(this)
        pairs = stages.select(this, stages.policy(this, attempts), attempts)
    except NotMadeError:
        return None
    return store.read_rows(pairs.folder, Pair), attempts.counts.get(WRONG, 0)


def correct(config: Config) -> Path:
    """Have a person correct the policy's wrong attempts; returns the sheet for `oracle.path`."""
    this = Run(config, Path(os.devnull))
    return stages.correct(this, stages.attempts(this))


def pretrain(config: Config, folder: Path) -> Path:
    """Make the student that `model.pretrain` describes; returns its folder in Hugging Face format."""
    return stages.pretrain(Run(config, folder))
