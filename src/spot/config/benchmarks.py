"""The groups `benchmark` (one of them) and `benchmarks` (which are measured together)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from spot.config.missing import MISSING
from spot.utils.errors import UserError, in_range, one_of

FAMILIES = ("arithmetic", "everyday", "data", "math", "choice", "ifeval", "connect4", "code")
# Families whose questions can be made from a seed.
MADE = ("arithmetic", "everyday", "connect4", "code")
DOMAINS = ("in_domain", "ood", "general")
PARSERS = ("tolerant", "released")
SIZES = {  # questions of the paper's benchmarks
    "aime24": 30, "aime25": 30, "amc23": 40, "math500": 500, "minerva": 272, "olympiadbench": 675,
    "gpqa_diamond": 198, "connect4": 500, "ifeval": 541,
}  # fmt: skip


@dataclass
class BenchmarkConfig:
    """One benchmark: where its questions come from, how they are posed, and how often."""

    name: str = MISSING
    family: str = "arithmetic"  # FAMILIES; data: the run's own held-out questions
    domain: str = "in_domain"  # in_domain | ood | general: the report's groups and its averages
    questions: int | None = None  # how many are asked; null: all there are
    trials: int = 1  # how often each
    hub: str | None = None  # id of a data set
    subset: str | None = None  # its configuration, where it has several
    split: str = "test"
    revision: str | None = None  # of the hub; null: its main branch
    path: str | None = None  # a local file of the same fields, instead of the hub
    fields: dict[str, str] = field(default_factory=dict)  # role → name of the field
    prompt: str | None = None  # file of a template; null: the family's own
    parser: str = "tolerant"  # connect4: tolerant | released
    answer_format: str = "boxed"  # math: boxed | last | json
    max_new_tokens: int | None = None  # null: the generator's

    def __post_init__(self) -> None:
        one_of("benchmark.family", self.family, FAMILIES)
        one_of("benchmark.domain", self.domain, DOMAINS)
        one_of("benchmark.answer_format", self.answer_format, ("boxed", "last", "json"))
        one_of("benchmark.parser", self.parser, PARSERS)
        in_range(f"benchmarks.tasks.{self.name}.questions", self.questions, 2)
        in_range(f"benchmarks.tasks.{self.name}.trials", self.trials, 1)
        in_range(f"benchmarks.tasks.{self.name}.max_new_tokens", self.max_new_tokens, 1)
        if self.family in MADE and not (self.hub or self.path) and self.questions is None:
            raise UserError(
                f"benchmarks.tasks.{self.name}.questions is missing: say how many are made."
            )
        if self.family not in (*MADE, "data") and not (self.hub or self.path):
            raise UserError(
                f"benchmarks.tasks.{self.name} has neither a data set nor a file: give its hub or its path."
            )


@dataclass
class BenchmarksConfig:
    """What is measured before and after."""

    name: str = MISSING
    seed: int = 1000  # of questions and samples: not moved by `seed`
    folder: str | None = None  # with <benchmark>.jsonl for those of the hub: nothing is fetched
    prompts: str | None = None  # a folder with <benchmark>.md or <family>.md in place of our words
    parser: str = "tolerant"  # of connect4's replies: tolerant | released
    tasks: dict[str, BenchmarkConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, task in self.tasks.items():
            if task.name != key:  # scores are kept by name
                raise UserError(
                    f"benchmarks.tasks.{key}.name={task.name} is another name: "
                    f"write benchmarks.tasks.{key}.name={key}."
                )
        one_of("benchmarks.parser", self.parser, PARSERS)
        if self.prompts is not None:
            self._take_prompts(Path(self.prompts).expanduser())

    def _take_prompts(self, folder: Path) -> None:
        """Name the file in `folder` of each task that has no prompt of its own."""
        for task in self.tasks.values():
            files = (folder / f"{name}.md" for name in (task.name, task.family))
            found = next((str(file) for file in files if file.is_file()), None)
            task.prompt = task.prompt or found
        if self.tasks and not any(task.prompt for task in self.tasks.values()):
            raise UserError(
                f"benchmarks.prompts={self.prompts} has a prompt for none of {', '.join(self.tasks)}: put "
                "<benchmark>.md there, with {question} in it, or choose our words, benchmarks.prompts=null."
            )
