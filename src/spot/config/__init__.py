"""The typed schema of every config group.

YAML files under `conf/` hold choices; this package holds types, defaults and ranges. A misspelt key or a
wrong type is refused by OmegaConf while composing, a value out of range by `__post_init__` when
`typed()` turns the composed tree into these dataclasses. Nothing here imports torch, so a mistake is
reported before anything heavy is loaded. The whole `Config` stops at `spot.pipeline`; each room takes
its own group.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spot.config.benchmarks import BenchmarkConfig, BenchmarksConfig
from spot.config.generator import GeneratorConfig
from spot.config.groups import (
    LORA_RATE,
    MADE_SOURCES,
    DataConfig,
    FieldsConfig,
    LoggerConfig,
    LoraConfig,
    ModelConfig,
    PretrainConfig,
    ProbeConfig,
    Tuned,
)
from spot.config.hardware import HardwareConfig, PlanConfig, SaveConfig
from spot.config.loss import (
    ARMS,
    LOSSES,
    WEIGHTED_ARMS,
    LossConfig,
    SpanWeights,
    WeightsConfig,
    arm_name,
)
from spot.config.missing import MISSING
from spot.config.oracle import ASKED, PAID, OracleConfig
from spot.utils.errors import UserError, in_range, one_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = [
    "ARMS",
    "ASKED",
    "LOSSES",
    "MADE_SOURCES",
    "PAID",
    "WEIGHTED_ARMS",
    "WORLD_SEEDS",
    "BenchmarkConfig",
    "BenchmarksConfig",
    "Config",
    "DataConfig",
    "FieldsConfig",
    "GeneratorConfig",
    "HardwareConfig",
    "LoggerConfig",
    "LoraConfig",
    "LossConfig",
    "ModelConfig",
    "OracleConfig",
    "PlanConfig",
    "PretrainConfig",
    "ProbeConfig",
    "SaveConfig",
    "SpanWeights",
    "Tuned",
    "WeightsConfig",
    "arm_label",
    "arm_name",
    "check_combination",
    "from_plain",
    "plain",
    "resolved_loss",
    "typed",
]


# What a world draws anew. A composed configuration has them moved by `world`; world 0 is as it is written.
WORLD_SEEDS = ("data.seed", "benchmarks.seed", "oracle.seed", "model.pretrain.seed")


@dataclass
class Config:
    """Everything one run is determined by."""

    model: ModelConfig = MISSING
    data: DataConfig = field(default_factory=DataConfig)
    oracle: OracleConfig = field(default_factory=OracleConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    evaluator: GeneratorConfig | None = (
        None  # generates the answers to benchmarks; null: the generator
    )
    loss: LossConfig = MISSING
    hardware: HardwareConfig = MISSING
    benchmarks: BenchmarksConfig = MISSING
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    arm: str | None = None  # the paper's name for loss and data.arm together; `typed` fills it in
    study: str | None = None  # a sweep of experiments/paper, whose tables and claims are compared
    seed: int = 0  # moves the batch order; data.seed and benchmarks.seed stay
    world: int = 0  # moves the seeds of data, benchmarks, Oracle and student, WORLD_SEEDS
    rounds: int = 1  # times the loop runs, each from the policy that the last one trained
    reference: str = "cached"  # cached (scored once) | copy (a model per device) | engine (ZeRO-3)
    reference_round: str = "previous"  # whose start is a later round's reference: previous | first
    save: SaveConfig = field(default_factory=SaveConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    output: str = "outputs"  # products and runs go here

    def __post_init__(self) -> None:
        in_range("seed", self.seed, 0)
        in_range("world", self.world, 0)
        in_range("rounds", self.rounds, 1)
        one_of("reference", self.reference, ("cached", "copy", "engine"))
        one_of("reference_round", self.reference_round, ("previous", "first"))
        if not self.output.strip():
            raise UserError("output is empty: name a folder, output=outputs.")


def typed(config: DictConfig, until: str | None = None) -> Config:
    """The composed tree as checked dataclasses, for a run that ends after the stage `until`.

    Raises UserError on a bad value or an impossible combination.
    """
    from omegaconf import OmegaConf

    result = OmegaConf.to_object(config)
    assert isinstance(result, Config)
    result.arm = arm_name(result.loss, result.data.arm)
    check_combination(result, until)
    return result


def arm_label(arm: str | None, loss: str, data_arm: str) -> str:
    """What a run is called: the paper's name, else `bce on direct`."""
    return arm or f"{loss} on {data_arm}"


def resolved_loss(config: Config) -> LossConfig:
    """The loss with its β and learning rate: as given, else tuned for the arm or loss, else the default.

    The default rate is the model's for this kind of loss, the default β the loss's own. Adapters take ten
    times what was tuned for all weights, or is its default.
    """
    loss, model = config.loss, config.model
    times = 1.0 if model.lora.rank is None else LORA_RATE
    tuned = model.tuned.get(config.arm or "", model.tuned.get(loss.name, Tuned()))
    row = LOSSES[loss.name]
    default = model.learning_rate_sft if row.token else model.learning_rate_reward
    full = default if tuned.learning_rate is None else tuned.learning_rate
    rate = times * full if loss.learning_rate is None else loss.learning_rate
    beta = next(v for v in (loss.beta, tuned.beta, row.beta) if v is not None)
    return replace(loss, learning_rate=rate, beta=beta)


def plain(config: Config) -> dict[str, Any]:
    """The configuration as JSON holds it: what run.json records and a repeated sweep compares."""
    return dict(json.loads(json.dumps(asdict(config))))


def from_plain(values: Mapping[str, Any]) -> Config:
    """The configuration that `plain` wrote down, checked again."""
    from omegaconf import DictConfig, OmegaConf

    tree = OmegaConf.merge(OmegaConf.structured(Config), dict(values))
    assert isinstance(tree, DictConfig)
    return typed(tree)


def check_combination(config: Config, until: str | None = None) -> None:
    """Refuse choices that are each valid but impossible together, as far as the run gets."""
    data, oracle, model = config.data, config.oracle, config.model
    if config.reference == "engine" and config.hardware.strategy != "deepspeed":
        raise UserError(
            "reference=engine is a DeepSpeed engine: choose hardware.strategy=deepspeed."
        )
    if config.save.dtype == "fp32" and config.hardware.precision == "bf16":
        raise UserError(
            "save.dtype=fp32 needs hardware.precision=fp32: weights of bf16 have no more digits to save."
        )
    learns_from_data = model.path is None and model.pretrain and model.pretrain.corpus == "data"
    if learns_from_data and not data.fields.response:
        raise UserError(
            f"model={model.name} learns from the responses in the data: give data=jsonl with "
            "data.fields.response=<field>, or choose another model."
        )
    if learns_from_data and data.fields.messages:
        raise UserError(
            f"model={model.name} learns from single questions, and data.fields.messages names chats: give a "
            "chat model, model.path=<folder>."
        )
    if data.source in MADE_SOURCES and data.questions is None:
        raise UserError("data.questions is missing: say how many, data.questions=<number>.")
    if config.world and data.source not in MADE_SOURCES:
        raise UserError(
            f"world={config.world}: data.source={data.source} has no worlds, its questions are given: "
            "leave out world and worlds, or choose data=arithmetic."
        )
    if until in ("pretrain", "evaluate"):
        return
    if config.probe.afterwards:
        _check_exports(config)
    if config.rounds > 1:
        _check_rounds(config)
    if until == "elicit":
        return
    if until is None and (config.evaluator or config.generator).kind == "openai":
        raise UserError(
            "generator=openai answers with the weights its servers have, never with the trained ones: "
            "choose who evaluates, generator@evaluator=vllm, or stop before, spot elicit."
        )
    if data.arm == "direct" and oracle.kind == "human":
        raise UserError(
            "oracle=human only corrects: data.arm=direct needs an Oracle that answers (oracle=rule)."
        )
    if oracle.kind == "rule" and data.source != "arithmetic":
        raise UserError(
            "oracle=rule corrects data=arithmetic only: for other data use oracle=human with "
            "data.fields.solution=<field> or oracle.path=<file>."
        )
    if oracle.kind == "tutor" and data.source != "everyday":
        raise UserError(
            "oracle=tutor knows the paths of data=everyday only: for other data choose another Oracle."
        )
    if oracle.kind == "human" and not (oracle.path or data.fields.solution):
        raise UserError(
            "oracle=human needs corrections: data.fields.solution=<field> or oracle.path=<file>."
        )
    if oracle.kind == "human" and not (oracle.path or data.path or data.source == "hub"):
        raise UserError("oracle=human corrects from a file: give oracle.path=<file>.")
    if until not in ("rectify", "select") and data.arm == "self":
        _check_without_rejected(config.loss)


def _check_without_rejected(loss: LossConfig) -> None:
    """What correct samples cannot give."""
    if LOSSES[loss.name].rejected:
        raise UserError(
            f"loss={loss.name} needs rejected responses and data.arm=self has none: "
            "use data.arm=rectified or direct, or loss=sft, dft or rwsft."
        )
    if not loss.weights.plain:
        raise UserError(
            "loss.weights tell edits apart and data.arm=self has none: use data.arm=rectified, or "
            "leave every weight 1."
        )


def _check_exports(config: Config) -> None:
    """What is measured over steps must be kept, and be asked."""
    if not config.save.exports:
        raise UserError(
            f"probe.ability={config.probe.ability} measures weights that training keeps: set "
            "save.exports=<steps>."
        )
    tasks, domain = config.benchmarks.tasks.values(), config.probe.domain
    if domain is not None and not any(task.domain == domain for task in tasks):
        raise UserError(
            f"probe.ability=exports asks general benchmarks and benchmarks={config.benchmarks.name} has "
            "none: choose others, or probe.ability=training."
        )


def _check_rounds(config: Config) -> None:
    """A later round's attempts are the trained policy's own: nothing may stand for the first one's.

    It is trained in the same run, and torchrun or srun, which start the ranks of several machines, do
    so for one training.
    """
    rounds, nodes = config.rounds, config.hardware.nodes
    if nodes > 1:
        raise UserError(
            f"rounds={rounds} trains {rounds} times and hardware.nodes={nodes} starts one training "
            "only: take one machine, hardware.nodes=1, or rounds=1."
        )
    if config.generator.kind == "openai":
        raise UserError(
            "generator=openai answers with the weights its servers have, and rounds after the first "
            "ask the trained ones: choose generator=vllm or transformers, or rounds=1."
        )
    if config.oracle.kind == "human" and str(config.oracle.path).endswith((".csv", ".tsv")):
        raise UserError(
            f"oracle.path={config.oracle.path} corrects the first round's attempts only: use rounds=1, "
            "or solutions by question, oracle.path=<file.jsonl>."
        )
