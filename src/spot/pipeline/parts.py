"""Which of a run's attempts are trained on, and which are held out; of a person's, only corrected ones are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spot.config import Config
from spot.data import artifacts
from spot.data.held_out import Corrected, split_attempts
from spot.data.rows import WRONG, Attempt
from spot.oracle import build as oracles
from spot.oracle.types import Task
from spot.pipeline import questions


def split(
    config: Config, attempts: artifacts.Product, first: artifacts.Product | None = None
) -> tuple[list[Attempt], list[Attempt]]:
    """`(train, held_out)`; first: the attempts of the first round."""
    return split_attempts(config.data, attempts, first, _corrected(config))


def wrong(
    config: Config, attempts: artifacts.Product, part: str, first: artifacts.Product | None = None
) -> list[Attempt]:
    """The wrong attempts of a part, `train` or `held_out`."""
    train, held_out = split(config, attempts, first)
    return [row for row in (train if part == "train" else held_out) if row.verdict == WRONG]


def settings(config: Config) -> dict[str, Any]:
    """What decides the parts besides `data.held_out` and `data.seed`."""
    if config.oracle.kind != "human":
        return {}
    return {"corrected": oracles.corrections_digest(config.oracle, config.data)}


def task(attempt: Attempt, mode: str) -> Task:
    """What an Oracle is asked about an attempt."""
    a = attempt
    return Task(a.id, a.question, a.answer, a.response, mode, a.question_id, a.messages)


def _corrected(config: Config) -> Corrected | None:
    """Whom a person has corrected; other Oracles are asked and answer for all."""
    if config.oracle.kind != "human":
        return None
    source = oracles.written(config.oracle, config.data, questions.posed(config))

    def ids(attempts: Sequence[Attempt]) -> set[str]:
        tasks = [task(attempt, "rectified") for attempt in attempts]
        correct = source(tasks)
        return {task.id for task in tasks if correct(task) is not None}

    return ids
