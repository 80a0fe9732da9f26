"""The whole way on one screen, gone once or, with `rounds`, again from the policy it has trained.

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
from spot.errors import UserError
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

    With several rounds, `until` is a stage of the last one; a later round starts with the policy that
    the one before it has trained, which is then also its reference. `scores` are the last policy's and
    `base_scores` the first's. Every product is reused, so a run that was killed goes on in its round.

    `folder` is the run's own; it gets `run.json` and the report, whose path is returned. `session`
    reaches the processes that torchrun or srun started beside this one, to train along.
    """
    _check(config, until, session)
    this = Run(config, folder, overrides, session)
    for end in this.rounds(until):
        attempts = stages.attempts(this)
        this.first = first = this.first or attempts  # its held-out questions watch all rounds
        if end == "elicit":
            return None

        corrections = stages.rectify(this, first, part="held_out", mode="rectified")
        stages.material(this, attempts, config.data.arm)
        if end == "rectify":
            return None

        base, policy = stages.policy(this, first), stages.policy(this, attempts)
        held_out = stages.select_held_out(this, base, corrections)
        pairs = stages.select(this, policy, attempts)
        if end == "select":
            return None

        if until is None:  # first, so that what cannot be measured is known before training
            stages.evaluate(this, "base_scores", base, first)
        this.start = checkpoint = stages.train(this, policy, pairs, held_out)

    if until == "train":
        return None
    stages.evaluate(this, "scores", checkpoint, first)
    this.complete()
    from spot import report, tracking

    page = report.build(folder)
    tracking.publish(folder)
    return page


def _check(config: Config, until: str | None, session: Session | None) -> None:
    """Refuse now, and not after hours of sampling, what could not be carried out."""
    if session is not None and config.rounds > 1:
        raise UserError(
            "rounds above 1 train several times, and torchrun and srun are there for one training: "
            "start it without them."
        )
    if config.hardware.accelerator == "gpu" and (until in (None, "train") or config.rounds > 1):
        from spot.training.loop import check_devices

        check_devices(config.hardware.devices)
    answering.check(config)
    if until is None:
        measuring.check(config)


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
