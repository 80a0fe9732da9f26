"""Config → what answers, what corrects and what is asked, each with what it needs of the configuration."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from spot.config import BenchmarkConfig, Config, GeneratorConfig, HardwareConfig, resolved_loss
from spot.evaluation import benchmarks
from spot.generation import build
from spot.generation.types import Generator
from spot.grading import versions
from spot.grading.registry import Verifier
from spot.oracle import Oracle
from spot.oracle import build as oracles
from spot.pipeline import parts, questions
from spot.pipeline.policy import Policy


def evaluator(config: Config) -> GeneratorConfig:
    """Who answers benchmarks."""
    return config.evaluator or config.generator


def check(config: Config) -> None:
    """Refuse, before anything is computed, a generator that could not start later."""
    build.check(config.generator)
    if config.evaluator is not None:
        build.check(config.evaluator, "evaluator")


class Generators:
    """Starts what answers, one at a time.

    In a `with` block, servers stay for the next stage that asks the same weights in the same way; a stage
    that needs their GPUs calls `close`.
    """

    def __init__(self) -> None:
        self._keeps = False
        self._kept: _Kept | None = None
        self._what: tuple[GeneratorConfig, Policy] | None = None

    def start(self, config: Config, settings: GeneratorConfig, policy: Policy) -> Generator:
        """What answers for `policy` as `settings` say."""
        if self._kept is not None and self._what == (settings, policy):
            return self._kept
        self.close()
        made = generator(config, settings, policy)
        if not self._keeps or settings.kind != "vllm":
            return made
        self._kept, self._what = _Kept(made), (settings, policy)
        return self._kept

    def close(self) -> None:
        """End the servers that were kept; return when their memory is free."""
        if self._kept is not None:
            self._kept.generator.close()
        self._kept = None

    def __enter__(self) -> Generators:
        self._keeps = True
        return self

    def __exit__(self, *_: object) -> None:
        self._keeps = False
        self.close()


class _Kept:
    """A generator that does not end with the stage that asks it."""

    def __init__(self, kept: Generator) -> None:
        self.generator = kept
        self.ready, self.generate = kept.ready, kept.generate

    def close(self) -> None:
        """It is kept."""


def generator(config: Config, settings: GeneratorConfig, policy: Policy) -> Generator:
    """What answers for `policy` as `settings` say. Servers write to `<output>/servers`."""
    started = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{os.getpid()}"
    return build.generator(
        settings,
        policy.folder,
        policy.name,
        thinking=config.model.thinking,
        here=_in_process(config.hardware),
        logs=Path(config.output) / "servers" / started,
        group="evaluator" if settings is config.evaluator else "generator",
    )


def _in_process(hardware: HardwareConfig) -> build.InProcess:
    """On a GPU in the weights' precision, on a processor in that of the training."""
    if hardware.device != "cpu":
        return build.InProcess(hardware.device, "auto", hardware.threads)
    narrow = hardware.precision == "bf16"
    return build.InProcess("cpu", "bfloat16" if narrow else "float32", hardware.threads)


def generation(config: Config, who: GeneratorConfig) -> dict[str, Any]:
    """What decides responses of a generator, beside what is asked and the model."""
    return build.settings(who, config.model.thinking, _in_process(config.hardware))


def asked_settings(config: Config) -> dict[str, Any]:
    """What decides the responses to benchmarks, beside the model and its held-out questions."""
    group = config.benchmarks
    return {
        "benchmarks": benchmarks.without_grading(
            benchmarks.settings(group.tasks.values(), group.folder)
        ),
        "generation": generation(config, evaluator(config)),
        "seed": group.seed,
    }


def score_settings(config: Config) -> dict[str, Any]:
    """What decides scores: the questions, how they are posed and graded, and what answers."""
    group, data = config.benchmarks, config.data
    settings = _asked(config, group.tasks.values()) | {"seed": group.seed}
    if benchmarks.asks_held_out(group.tasks):
        settings |= {
            "held_out": data.held_out,
            "split_seed": data.seed,
            "answer_format": data.answer_format,
        } | parts.settings(config)
    return settings


def graders(config: Config) -> dict[str, str]:
    """Which version of which grader each benchmark is graded by."""
    tasks = config.benchmarks.tasks.items()
    return {
        name: versions.of_family(task.family, config.data.answer_format) for name, task in tasks
    }


def training_settings(config: Config) -> dict[str, Any]:
    """What decides a training beside its policy and pairs."""
    return {
        "loss": resolved_loss(config).settings(),
        "seed": config.seed,
        "hardware": config.hardware.decisive(),
        "reference": config.reference,
        "save": {"exports": config.save.exports, "dtype": config.save.dtype},
        "share_prefix": config.data.share_prefix,
        "thinking": config.model.thinking,
        "probe": probe_settings(config),
    } | config.model.lora.decisive()


def probe_settings(config: Config) -> dict[str, Any]:
    """What decides what is measured while training goes on; of the ability probe nothing where nothing is asked.

    `every` stays null where it follows from the pairs, which name the training, too.
    """
    settings = asdict(config.probe)
    if settings.pop("ability") != "training":
        settings["ability_every"] = 0
    if settings["every"] is None and config.hardware.accelerator == "cpu":
        settings["every"] = 1
    if tasks := benchmarks.general(config.benchmarks.tasks, config.probe):
        settings |= _asked(config, tasks) | {"benchmarks_seed": config.benchmarks.seed}
    return settings


def _asked(config: Config, tasks: Iterable[BenchmarkConfig]) -> dict[str, Any]:
    return {
        "benchmarks": benchmarks.settings(tasks, config.benchmarks.folder),
        "generation": generation(config, evaluator(config)),
    }


def oracle(
    config: Config,
    start: Callable[[Config, GeneratorConfig, Policy], Generator],
    verifier: Verifier,
    policy: Policy | None,
    *,
    mode: str,
    target: int | None,
    attempts: Sequence[str],
) -> Oracle:
    """Who corrects the attempts with these digests (`journal_path`).

    policy, and what starts a generator of it: for the kinds that ask.
    """
    around = oracles.Surroundings(verifier, mode, target, pose=questions.posed(config))
    if policy is not None:
        around = replace(
            around,
            policy=policy.folder,
            journal=oracles.journal_path(config.oracle, attempts, Path(config.output)),
            start=partial(start, config, config.generator, policy),
            sampling=build.sampling(config.generator),
        )
    return oracles.build(config.oracle, config.data, around)
