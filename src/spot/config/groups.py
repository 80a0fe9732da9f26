"""The groups of conf/, one dataclass each (the longer ones in files of their own)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from spot.config.loss import ARMS, LOSSES, WEIGHTED_ARMS
from spot.config.missing import MISSING
from spot.utils.errors import UserError, in_range, one_of

MADE_SOURCES = ("arithmetic", "everyday", "code_tasks")  # their questions are made from a seed
SOURCES = (*MADE_SOURCES, "jsonl", "hub", "dapo")
DATA_ARMS = ("rectified", "direct", "self")
ALL_LINEAR = "all-linear"  # PEFT's word
LORA_RATE = 10.0  # learning rates of adapters ÷ those of all weights


@dataclass
class PretrainConfig:
    """A student made on this machine: its architecture, its corpus and its schedule."""

    corpus: str = "arithmetic"  # arithmetic | data (learn everything from the data's own text)
    vocabulary: int = 2048  # size of a learned byte-pair vocabulary; the arithmetic one is fixed
    layers: int = 4  # of the transformer
    width: int = 160  # of its hidden states; a multiple of heads
    heads: int = 4  # of its attention
    steps: int = 3000  # of the optimiser
    batch: int = 64  # sequences of a step
    learning_rate: float = 2e-3  # at its peak
    seed: int = 0  # of weights, batches and the arithmetic corpus

    def __post_init__(self) -> None:
        one_of("model.pretrain.corpus", self.corpus, ("arithmetic", "data"))
        for name in ("vocabulary", "layers", "width", "heads", "steps", "batch"):
            in_range(f"model.pretrain.{name}", getattr(self, name), 1)
        in_range("model.pretrain.learning_rate", self.learning_rate, 0, 1, open_low=True)
        if self.width % self.heads:
            raise UserError(
                f"model.pretrain.width={self.width} is not divisible by "
                f"model.pretrain.heads={self.heads}."
            )


@dataclass
class Tuned:
    """A method's own learning rate and β for one model, where it was tuned on it."""

    learning_rate: float | None = None
    beta: float | None = None

    def __post_init__(self) -> None:
        in_range("model.tuned.<arm>.learning_rate", self.learning_rate, 0, 1, open_low=True)
        in_range("model.tuned.<arm>.beta", self.beta, 0, open_low=True)


@dataclass
class LoraConfig:
    """Adapters of low rank instead of all weights."""

    rank: int | None = None  # null: all weights are trained
    alpha: int = 32  # adapters count alpha ÷ rank
    dropout: float = 0.0  # of what goes into an adapter
    # names of matrices of a layer, such as q_proj
    targets: list[str] = field(default_factory=lambda: [ALL_LINEAR])

    def __post_init__(self) -> None:
        in_range("model.lora.rank", self.rank, 1)
        in_range("model.lora.alpha", self.alpha, 1)
        in_range("model.lora.dropout", self.dropout, 0, 0.99)
        if not self.targets:
            raise UserError(
                f"model.lora.targets is empty: name matrices of a layer, or [{ALL_LINEAR}]."
            )

    @property
    def everywhere(self) -> bool:
        """Whether all matrices of all layers get one."""
        return ALL_LINEAR in self.targets

    def decisive(self) -> dict[str, Any]:
        """What names a training; nothing where there are no adapters."""
        if self.rank is None:
            return {}
        targets = [ALL_LINEAR] if self.everywhere else sorted(self.targets)
        return {"lora": asdict(self) | {"targets": targets}}


@dataclass
class ModelConfig:
    """The policy, which is also the frozen reference."""

    name: str = MISSING
    path: str | None = None  # folder or hub id; null: the student that ships with the package
    revision: str | None = None
    thinking: bool = False  # what the chat template is told; false closes Qwen3's think block
    context_length: int = 8192  # tokens of prompt and response; longer pairs are dropped, never cut
    learning_rate_reward: float = 1e-6  # of losses of pairs (paper, App. C)
    learning_rate_sft: float = 5e-6  # of losses of tokens
    tuned: dict[str, Tuned] = field(default_factory=dict)  # by arm, or by loss; wins over both
    pretrain: PretrainConfig | None = None
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        in_range("model.context_length", self.context_length, 8)
        in_range("model.learning_rate_reward", self.learning_rate_reward, 0, 1, open_low=True)
        in_range("model.learning_rate_sft", self.learning_rate_sft, 0, 1, open_low=True)
        for name in self.tuned:
            one_of("model.tuned", name, tuple({**ARMS, **WEIGHTED_ARMS, **LOSSES}))


@dataclass
class FieldsConfig:
    """Which fields of an imported row hold what; dots reach into nested objects (`a.b`).

    Without `id` rows are named by their field `id` where each has one of its own, otherwise by their
    line: `row-000017`. Where `response` is the same field as `messages`, its last turn is the response.
    Question, response, solution and answer may be turns of a chat, too.
    """

    id: str | None = None
    question: str = "question"
    answer: str = "answer"
    response: str | None = None  # with it, rows enter the loop as attempts
    solution: str | None = None  # a worked solution, for oracle=human
    messages: str | None = None  # turns of a chat instead of the question

    def decisive(self) -> dict[str, Any]:
        """What names a product; chats only where there are some, so that older names stay."""
        return {k: v for k, v in asdict(self).items() if k != "messages" or v is not None}


@dataclass
class DataConfig:
    """Where questions come from, and which pairs are trained on."""

    source: str = "arithmetic"  # of SOURCES; those of MADE_SOURCES are made here
    hub: str | None = None  # id of a data set, for hub and dapo
    subset: str | None = None  # its configuration, where it has several
    split: str = "train"  # of the hub's data set
    revision: str | None = None  # commit of the hub
    path: str | None = None  # a local file or folder instead of the hub; required for jsonl
    fields: FieldsConfig = field(default_factory=FieldsConfig)
    answer_format: str = "boxed"  # boxed | last | json
    questions: int | None = None  # how many to ask; null: all of a file
    samples: int = 1  # responses per question
    seed: int = 0
    arm: str = "rectified"  # rectified (y⁻, y⁺) | direct (y⁻, the Oracle's own answer) | self (correct samples)
    gamma: float = 0.6  # keep pairs with R_LCS <= gamma (eq. 1); the rectified arm only
    # take no more pairs than this γ leaves of the corrections: every arm, those without a γ, too
    matched_gamma: float | None = None
    pairs: int | None = None  # at most so many; null: all
    # data arms that each train on as many pairs as the least of them has
    matched: list[str] = field(default_factory=list)
    held_out: int = 64  # wrong attempts kept out of training, for the reward curves of every arm
    share_prefix: bool = True
    on_bad_row: str = "error"  # error | drop (and count)
    prompt: str | None = (
        None  # template around a problem: a name or a file; null: the problem alone
    )
    decontaminate: bool = False  # drop what the run's benchmarks ask as well

    def __post_init__(self) -> None:
        one_of("data.source", self.source, SOURCES)
        one_of("data.arm", self.arm, DATA_ARMS)
        for arm in self.matched:
            one_of("data.matched", arm, DATA_ARMS)
        one_of("data.answer_format", self.answer_format, ("boxed", "last", "json", "code"))
        one_of("data.on_bad_row", self.on_bad_row, ("error", "drop"))
        in_range("data.gamma", self.gamma, 0, 1)
        in_range("data.matched_gamma", self.matched_gamma, 0, 1)
        in_range("data.questions", self.questions, 1)
        in_range("data.samples", self.samples, 1)
        in_range("data.pairs", self.pairs, 1)
        in_range("data.held_out", self.held_out, 1)
        if self.source == "jsonl" and not self.path:
            raise UserError("data.path is missing: give the JSON Lines file, data.path=<file>.")
        if self.source in ("hub", "dapo") and not (self.hub or self.path):
            raise UserError(
                "data.hub is missing: name a data set of the hub, or a local data.path=<file>."
            )


@dataclass
class ProbeConfig:
    """What is watched while training."""

    pairs: int = 16  # held-out pairs whose rewards and KL are logged …
    # … every so many steps; null: 1 on a CPU, else so many that it takes 2% of the training at most
    every: int | None = None
    # of Figure 2: training | exports (of save.exports, afterwards) | all (benchmarks of those)
    ability: str = "training"
    questions: int = 64  # of the general benchmark that training asks …
    ability_every: int = 25  # … every so many steps; 0: never

    def __post_init__(self) -> None:
        one_of("probe.ability", self.ability, ("training", "exports", "all"))
        in_range("probe.pairs", self.pairs, 1)
        in_range("probe.every", self.every, 1)
        in_range("probe.questions", self.questions, 1)
        in_range("probe.ability_every", self.ability_every, 0)

    @property
    def afterwards(self) -> bool:
        """Whether exported weights are asked, once the training is over."""
        return self.ability != "training"

    @property
    def domain(self) -> str | None:
        """The benchmarks that exported weights are asked; None: all."""
        return None if self.ability == "all" else "general"


@dataclass
class LoggerConfig:
    """Where metrics go besides metrics.csv."""

    tensorboard: bool = True
    wandb: bool = False
    wandb_mode: str = "offline"  # offline | online
    project: str = "spot"

    def __post_init__(self) -> None:
        one_of("logger.wandb_mode", self.wandb_mode, ("offline", "online"))
