"""One training, described so that any process can carry it out: this one, or each of many ranks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spot.config import Config, from_plain, plain
from spot.data import artifacts
from spot.data.rows import Pair
from spot.evaluation import benchmarks as measuring
from spot.generation import build
from spot.pipeline import tracking, unpack
from spot.utils import machine


@dataclass(frozen=True)
class TrainingJob:
    """What `stages.train` decided, by value: folders are absolute."""

    config: Config
    run_folder: Path  # logs go below it
    policy_folder: Path
    policy_digest: str
    pairs: Path  # product folders
    held_out: Path
    out: Path
    reference: Path  # where reference scores are kept

    def to_json(self) -> str:
        folders = {k: str(v) for k, v in vars(self).items() if k != "config"}
        return json.dumps(folders | {"config": plain(self.config)})

    @classmethod
    def from_json(cls, text: str) -> TrainingJob:
        values = json.loads(text)
        config, digest = from_plain(values.pop("config")), values.pop("policy_digest")
        folders = {name: Path(value) for name, value in values.items()}
        return cls(config=config, policy_digest=digest, **folders)


def carry_out(job: TrainingJob, rank: int = 0) -> dict[str, Any]:
    """Call the trainer with plain values; returns what the manifest tells of it."""
    from spot.training.loop import train

    config = job.config
    machine.set_threads(config.hardware.threads)
    with _loggers(job) if rank == 0 else nullcontext([]) as loggers:
        result = train(
            job.policy_folder,
            job.out,
            artifacts.read_rows(job.pairs, Pair),
            artifacts.read_rows(job.held_out, Pair)[: config.probe.pairs],
            _method(config),
            _optimisation(config),
            config.seed,
            _options(job, loggers),
        )
    return asdict(result)


def _method(config: Config) -> Any:
    from spot.training.losses import Method

    loss = config.loss
    return Method(
        loss.name,
        unpack.beta(config),
        loss.delta.mode,
        loss.delta.decay,
        loss.sft_reduction,
        loss.edit_weight,
    )


def _optimisation(config: Config) -> Any:
    from spot.training.schedule import Optimisation

    loss = config.loss
    return Optimisation(
        unpack.learning_rate(config),
        loss.epochs,
        loss.batch_pairs,
        loss.schedule,
        loss.warmup,
        loss.weight_decay,
        (loss.adam_beta1, loss.adam_beta2),
        loss.clip,
    )


def _options(job: TrainingJob, loggers: Sequence[Any]) -> Any:
    from spot.training.checkpoint import Saving
    from spot.training.hardware import Hardware
    from spot.training.loop import RunOptions
    from spot.training.packing import PackingSettings

    config, hardware = job.config, job.config.hardware
    return RunOptions(
        packing=PackingSettings(hardware.tokens_per_pack, config.data.share_prefix),
        hardware=Hardware(**{n: getattr(hardware, n) for n in Hardware.__dataclass_fields__}),
        reference=config.reference,
        weights=job.policy_digest,
        reference_folder=job.reference,
        thinking=config.model.thinking,
        probe_every=config.probe.every,
        ability_probe=_ability_probe(config, job.policy_folder),
        ability_every=config.probe.ability_every,
        saving=Saving(**asdict(config.save)),
        loggers=loggers,
    )


def _loggers(job: TrainingJob) -> AbstractContextManager[list[Any]]:
    names = unpack.logger_names(job.config)
    return tracking.loggers(names, job.run_folder, plain(job.config), job.out)


def _ability_probe(config: Config, folder: Path) -> Callable[[Any], dict[str, float]] | None:
    """A small run of the general benchmarks on the model in training (Figure 2); None without any."""
    tasks = measuring.probed(config)
    if not tasks:
        return None
    from transformers import AutoTokenizer

    from spot.evaluation.runner import accuracy
    from spot.evaluation.runner import evaluate as run_benchmarks
    from spot.generation.transformers import TransformersGenerator

    who = build.evaluator(config)
    benchmarks = [measuring.made(task, config.benchmarks.seed) for task in tasks]

    tokenizer = AutoTokenizer.from_pretrained(folder)

    def probe(model: Any) -> dict[str, float]:
        generator = TransformersGenerator(model, tokenizer, who.batch, config.model.thinking)
        sampling, seed = build.sampling(who), config.benchmarks.seed
        return accuracy(list(run_benchmarks(benchmarks, generator, sampling, seed=seed)))

    return probe
