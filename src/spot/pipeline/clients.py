"""Config → who answers and who corrects, with what they need of it."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

from spot.config import Config, GeneratorConfig
from spot.generation import build
from spot.generation.types import Generator
from spot.grading.registry import Verifier
from spot.oracle import Oracle
from spot.oracle import build as oracles
from spot.pipeline import questions
from spot.pipeline.policy import Policy


def evaluator(config: Config) -> GeneratorConfig:
    """Who answers benchmarks."""
    return config.evaluator or config.generator


def check(config: Config) -> None:
    """Refuse, before anything is computed, a generator that could not start later."""
    build.check(config.generator)
    if config.evaluator is not None:
        build.check(config.evaluator, "evaluator")


def generator(config: Config, settings: GeneratorConfig, policy: Policy) -> Generator:
    """What answers for `policy` as `settings` say. Servers write to `<output>/servers`."""
    started = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{os.getpid()}"
    return build.generator(
        settings,
        policy.folder,
        policy.name,
        thinking=config.model.thinking,
        threads=config.hardware.threads,
        logs=Path(config.output) / "servers" / started,
        group="evaluator" if settings is config.evaluator else "generator",
    )


def oracle(
    config: Config,
    verifier: Verifier,
    policy: Policy | None,
    *,
    mode: str,
    target: int | None,
    attempts: str,
) -> Oracle:
    """Who corrects the attempts with this digest; `policy` for the kinds that need it."""
    around = oracles.Surroundings(verifier, mode, target, pose=questions.posed(config))
    if policy is not None:
        around = oracles.Surroundings(
            verifier,
            mode,
            target,
            policy=policy.folder,
            journal=oracles.journal_path(config.oracle, attempts, Path(config.output)),
            start=partial(generator, config, config.generator, policy),
            sampling=build.sampling(config.generator),
        )
    return oracles.build(config.oracle, config.data, around)
