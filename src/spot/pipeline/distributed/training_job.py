"""One training, described so that any process can carry it out: this one, or each of many ranks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spot.config import Config, from_plain, plain, resolved_loss
from spot.data import artifacts, pair_tokens
from spot.data.rows import Pair
from spot.evaluation import benchmarks as measuring
from spot.generation import build
from spot.pipeline import clients
from spot.utils import machine

if TYPE_CHECKING:
    from spot.training.packing import PairTokens


@dataclass(frozen=True)
class TrainingJob:
    """What `stages.train` decided, by value."""

    config: Config
    policy_digest: str
    run_folder: Path  # logs go below it
    policy_folder: Path
    pairs: Path  # product folders
    held_out: Path
    out: Path
    reference: Path  # where reference scores are kept
    base: Path | None = None  # the first round's start, in a later round …
    base_digest: str | None = None  # … and its weights

    def absolute(self) -> TrainingJob:
        """The same for a process with another current directory."""
        folders: dict[str, Any] = {
            k: v.absolute() for k, v in vars(self).items() if isinstance(v, Path)
        }
        return replace(self, **folders)

    def to_json(self) -> str:
        return json.dumps(vars(self) | {"config": plain(self.config)}, default=str)

    @classmethod
    def from_json(cls, text: str) -> TrainingJob:
        values = json.loads(text)
        config, digest = from_plain(values.pop("config")), values.pop("policy_digest")
        base_digest = values.pop("base_digest")
        paths = {name: Path(value) for name, value in values.items() if value is not None}
        return cls(config, digest, **paths, base_digest=base_digest)


def carry_out(job: TrainingJob, rank: int = 0) -> dict[str, Any]:
    """Train in this process; returns what the manifest keeps of it."""
    from spot.training.loop import Base, RunOptions, train

    config, hardware = job.config, job.config.hardware
    base = None
    if job.base is not None and job.base_digest is not None:
        base = Base(job.base, job.base_digest, config.reference_round == "first")
    machine.set_threads(hardware.threads)
    with _loggers(job) if rank == 0 else nullcontext([]) as loggers:
        options = RunOptions(
            hardware=hardware,
            share_prefix=config.data.share_prefix,
            reference=config.reference,
            weights=job.policy_digest,
            base=base,
            reference_folder=job.reference,
            thinking=config.model.thinking,
            lora=config.model.lora,
            probe=config.probe,
            ability_probe=_ability_probe(config, job.policy_folder),
            save=config.save,
            loggers=loggers,
        )
        result = train(
            job.policy_folder,
            job.out,
            selected(job.pairs, job.policy_digest),
            selected(job.held_out, job.policy_digest),
            resolved_loss(config),
            config.seed,
            options,
        )
    return asdict(result)


def selected(folder: Path, policy: str) -> Sequence[Pair | PairTokens]:
    """The pairs of a product: in token ids where it was selected for this policy and has kept them.

    policy: its digest. Another one's tokenizer may not be the same.
    """
    from spot.training.packing import PairTokens

    same = artifacts.read_manifest(folder)["inputs"].get("policy") == policy
    if same and (kept := pair_tokens.read(folder)):
        return [PairTokens(name, *ids) for name, ids in sorted(kept.items())]
    return artifacts.read_rows(folder, Pair)


def _loggers(job: TrainingJob) -> AbstractContextManager[list[Any]]:
    from spot.pipeline import tracking  # imports torch

    logger = job.config.logger
    names = [name for name in ("tensorboard", "wandb") if getattr(logger, name)]
    return tracking.loggers(names, job.run_folder, plain(job.config), job.out)


def _ability_probe(config: Config, folder: Path) -> Callable[[Any], dict[str, float]] | None:
    """A small run of the general benchmarks on the model in training (Figure 2); None without any."""
    tasks = measuring.general(config.benchmarks.tasks, config.probe)
    if not tasks:
        return None
    from transformers import AutoTokenizer

    from spot.evaluation.runner import accuracy
    from spot.evaluation.runner import evaluate as run_benchmarks
    from spot.generation.transformers import TransformersGenerator

    evaluator = clients.evaluator(config)
    benchmarks = [measuring.made(task, config.benchmarks.seed) for task in tasks]

    tokenizer = AutoTokenizer.from_pretrained(folder)

    def probe(model: Any) -> dict[str, float]:
        generator = TransformersGenerator(model, tokenizer, evaluator.batch, config.model.thinking)
        sampling, seed = build.sampling(evaluator), config.benchmarks.seed
        return accuracy(run_benchmarks(benchmarks, generator, sampling, seed=seed))

    return probe
