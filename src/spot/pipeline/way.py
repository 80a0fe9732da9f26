"""The whole way on one screen, gone once or, with `rounds`, again from the policy it has trained.

questions ─respond→ responses ─grade→ attempts ─rectify→ rectifications ─select→ pairs ─train→ checkpoint ─evaluate→ scores ─report→ pages

Every arrow is a stage in a module of its own; every product is a folder named by what determines it, so
what exists is reused and only what is missing is made. The whole configuration stops here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from spot.config import Config
from spot.data import artifacts
from spot.pipeline import rectification, stages
from spot.pipeline.run import Run

STAGES = ("elicit", "rectify", "select", "train", "evaluate", "report")


def run(
    config: Config,
    folder: Path,
    overrides: Sequence[str] = (),
    until: str | None = None,
) -> Path:
    """Compute what is missing of the way that `config` describes, up to the stage `until`.

    With several rounds, `until` is a stage of the last one; a later round starts with the policy that
    the one before it has trained, which is then also its reference (`reference_round=first`: the base).
    `scores` are the last policy's and `base_scores` the first's; with `probe.ability=exports` or `all` the
    weights kept on the way follow. Every product is reused, so a run that was killed goes on in its round.

    `folder` is the run's own; it gets `run.json` and the report, whose path is returned; with `until`,
    that of the stage's product is.
    """
    new = Run(config, folder, overrides, until)
    new.holds_out = until != "elicit"
    new.trains = True
    way(new, until)
    if until is not None:
        return new.last(until).folder
    new.complete()
    from spot import report
    from spot.pipeline import exports, tracking

    if config.probe.afterwards and exports.read(folder).weights:
        exports.evaluate(folder, config.probe.domain)
    page = report.build(folder)
    tracking.publish(folder)
    return page


def way(run: Run, until: str | None) -> None:
    """Go the way up to the stage `until`: with a run, or with a preview of one."""
    with run.generators:
        _way(run, until)


def _way(run: Run, until: str | None) -> None:
    rounds = run.config.rounds
    for number in range(1, rounds + 1):
        run.round, end = number, until if number == rounds else None
        responses = stages.respond(run)
        attempts = stages.grade(run, responses)
        run.first = first = run.first or attempts  # its held-out questions watch all rounds
        if end == "elicit":
            return

        corrections = stages.rectify(run, first, part="held_out", mode="rectified")
        stages.material(run, attempts, run.config.data.arm)
        if end == "rectify":
            return

        base, policy = stages.policy(run, first), stages.policy(run, attempts)
        held_out = stages.select_held_out(run, base, corrections)
        pairs = stages.select(run, policy, attempts)
        if end == "select":
            return

        if until is None:  # first, so that what cannot be measured is known before training
            stages.evaluate(run, "base_scores", base, first)
        run.start = checkpoint = stages.train(run, base, policy, pairs, held_out)

    if until is None:
        stages.evaluate(run, "scores", checkpoint, first)


def evaluate(config: Config, folder: Path, overrides: Sequence[str] = ()) -> Path:
    """Measure the model that `config.model` names, trained by us or not; returns its scores' folder.

    `folder` is the run's own and gets `run.json`.
    """
    new = Run(config, folder, overrides, "evaluate")
    scores = measure(new)
    new.complete()
    return scores.folder


def measure(run: Run) -> artifacts.Product:
    """The scores of the model that the configuration names, after all they need; as in `way`."""
    with run.generators:
        attempts = stages.attempts(run) if stages.needs_attempts(run.config) else None
        return stages.evaluate(run, "scores", stages.policy(run, attempts), attempts)


def correct(config: Config, sheet: Path) -> None:
    """Have a person correct the policy's wrong attempts; the sheet is for `oracle.path`."""
    attempts = stages.attempts(Run(config, Path(os.devnull), until="elicit"))
    rectification.correct(config, attempts, sheet)


def pretrain(config: Config, folder: Path) -> Path:
    """Make the student that `model.pretrain` describes; returns its folder in Hugging Face format."""
    return stages.pretrain(Run(config, folder))
