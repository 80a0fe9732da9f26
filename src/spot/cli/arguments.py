"""The commands of `spot`, what each takes, and their help. Nothing printed is wider than 80 columns."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from spot.utils.errors import UserError

WIDTH = 80
EXIT_CODES = {
    0: "done; also: a dry run, a help text",
    1: "failed, or a job of the sweep did; spot plan: it does not fit",
    2: "a mistake in what was typed or given, said in one line",
    130: "interrupted (Ctrl-C); the same command goes on from there",
    141: "the reader of the output stopped (spot config | head)",
    143: "ended by SIGTERM; the same command goes on from there",
}
FLAGS = {
    "--dry-run": "say what would be made, reused or sent, and do nothing",
    "--diff": "only what differs from `python train.py`",
    "--json": "as JSON",
    "--watch": "look again every two seconds, until Ctrl-C",
}


# And show, which names jobs of a sweep, too.
TAKE_A_RUN = ("evaluate", "report", "pairs", "export", "push", "compare")
RUN = "A run is a folder, newest, or a number from spot runs."
UNKNOWN = "unrecognized arguments: "  # what argparse says of a flag
HYDRA = ("multirun", "cfg", "package", "resolve", "info", "hydra_help", "shell_completion")


@dataclass(frozen=True)
class Command:
    """One command: how it is written, what it does and leaves, and the function it calls.

    call: `module:function` for the parsed arguments of a command that takes the configuration's keys,
    for a list of words otherwise. hydra: those of Hydra's own flags that it heeds; None: all.
    """

    summary: str
    usage: str
    says: str
    examples: tuple[str, ...]
    call: str
    configured: bool = False
    flags: tuple[str, ...] = ()
    hydra: tuple[str, ...] | None = None


def _stage(summary: str, says: str, *examples: str, usage: str = "[key=value …]") -> Command:
    """A stage of the loop, which takes the whole configuration."""
    reuse = "What is there already is reused; what was interrupted goes on."
    return Command(
        summary,
        f"{usage} [--dry-run]",
        f"{says} {reuse}",
        examples,
        "spot.cli.stages:command",
        configured=True,
        flags=("--dry-run",),
    )


LOOP = {
    "run": _stage(
        "elicit, rectify, select, train, evaluate, report (as train.py)",
        "The whole loop. With -m, or a study, a sweep: one process for each job. Leaves "
        "<output>/products/<stage>/<key>/, and run.json and the report in <output>/runs/<date>/<time>/ "
        "or <output>/sweeps/<name>/<n>/. notify=<command> is a shell command for the end.",
        "spot run arm=dpo seed=3",
        "spot run -m +paper=table2 --dry-run",
        usage="[key=value …] [-m key=a,b …]",
    ),
    "elicit": _stage(
        "sample the policy's responses and grade them",
        "Asks the policy every question of the data, or imports responses. Leaves "
        "<output>/products/elicit/<key>/rows.jsonl, an attempt a row.",
        "spot elicit data=dapo generator=vllm",
    ),
    "rectify": _stage(
        "… and let the Oracle correct the wrong ones",
        "Wrong attempts go to the Oracle; every correction is verified. Leaves "
        "<output>/products/rectify/<key>/rows.jsonl, and a paid Oracle's replies in <output>/oracle/.",
        "spot rectify oracle=gemini oracle.max_cost=20",
    ),
    "select": _stage(
        "… and keep the corrections that stay close",
        "Drops and counts what cannot be used; keeps pairs with R_LCS up to γ. Leaves "
        "<output>/products/select/<key>/rows.jsonl, a pair a row; spot pairs <folder> shows it.",
        "spot select data.gamma=0.8",
    ),
    "train": _stage(
        "… and train on them",
        "Trains the policy on the pairs with the loss of the arm. Leaves "
        "<output>/products/train/<key>/model/, in Hugging Face format.",
        "spot train arm=spot_bce loss.epochs=1",
    ),
    "evaluate": _stage(
        "measure a model, or what a run trained",
        "With keys: the model that model.path names, on the benchmarks; leaves "
        "<output>/products/evaluate/<key>/rows.jsonl. With a run: the model that it trained, and the "
        f"weights that save.exports=<steps> kept; leaves its exports.csv. {RUN}",
        "spot evaluate model.path=Qwen/Qwen3-8B benchmarks=paper generator=vllm",
        "spot evaluate benchmark=math500 benchmark.trials=4 model.path=<folder>",
        "spot evaluate newest",
        usage="[key=value …] [benchmark=<name>], or: <run>",
    ),
    "report": Command(
        "rebuild the report of a run or a sweep",
        "<run, sweep or archive.tar.gz> [out=<folder>] [archive=<file.tar.gz>] [external=[name=…,model=…]] [--dry-run]",
        "Reads finished runs. Leaves report.html, report.md, scores.csv and figures/ in the folder, or in "
        "out=. archive= packs what the report reads into one small file, which spot report reads as well. "
        "external= measures a model that was trained elsewhere with the same questions and random numbers and puts it "
        "beside the arms. "
        f"margin= is how many percent points are too little to matter in a verdict (1). {RUN}",
        ("spot report outputs/sweeps/table2", "spot report table2.tar.gz out=page"),
        "spot.cli.commands:report",
        flags=("--dry-run",),
    ),
}
BEFORE = {
    "config": Command(
        "the resolved configuration, or how it differs from the defaults",
        "[key=value …] [part …] [--diff] [--json]",
        "Prints YAML; a part is a key of any depth. Of a sweep: its first job. Which file each option is "
        "from: spot run --info defaults-tree.",
        ("spot config arm=dpo loss", "spot config +paper=table2 --diff"),
        "spot.cli.commands:config",
        configured=True,
        flags=("--diff", "--json"),
        hydra=("multirun",),
    ),
    "plan": Command(
        "what a run would need of memory, time, disk and money",
        "[key=value …]",
        "Counts from the configuration alone, with measured lengths where the pairs are there. Exit code "
        "1: it does not fit, and what would make it fit.",
        ("spot plan model=qwen3_8b hardware=8xh800",),
        "spot.cli.stages:plan",
        configured=True,
        hydra=HYDRA,
    ),
    "sbatch": Command(
        "a script with which SLURM makes a run",
        "[key=value …]",
        "Prints it, to be read and changed: nodes and GPUs of hardware=, time, the signal before its end, srun. "
        "It holds no keys of services.",
        ("spot sbatch hardware=2x8xh800 model=qwen3_8b > job.sh && sbatch job.sh",),
        "spot.cli.stages:sbatch",
        configured=True,
        hydra=("multirun",),
    ),
    "pretrain": _stage(
        "make a student from its corpus",
        "Makes the model that model.pretrain describes; a run does so by itself. Leaves "
        "<output>/products/model/<key>/model/.",
        "spot pretrain model.pretrain.steps=500",
    ),
    "correct": Command(
        "correct the wrong attempts by hand",
        "oracle.path=<sheet.csv> [key=value …]",
        "Opens a page on this machine with every wrong attempt; what is saved there goes into the sheet, "
        "for oracle=human oracle.path=<sheet.csv>.",
        ("spot correct oracle.path=mine.csv",),
        "spot.cli.stages:correct",
        configured=True,
        hydra=(),
    ),
}
AFTER = {
    "runs": Command(
        "a table of the runs and sweeps on this machine",
        "[output=outputs] [status=…] [--watch]",
        "Complete, running, failed and interrupted ones, with their scores and age.",
        ("spot runs", "spot runs status=failed", "spot runs --watch"),
        "spot.cli.display:runs",
        flags=("--watch",),
    ),
    "show": Command(
        "everything about one run on one screen",
        "<run folder> | newest | <number from spot runs>",
        "Command, choices, products, scores, last metrics, and the next step.",
        ("spot show newest",),
        "spot.cli.display:show",
    ),
    "pairs": Command(
        "a page of responses beside their corrections",
        "<run, product or pairs.jsonl> [out=<file.html>]",
        f"{RUN} Writes one page, which needs no network: y⁻ beside y⁺ with the edits marked, filters and search.",
        ("spot pairs outputs/runs/<date>/<time> out=pairs.html",),
        "spot.report.pair_page:command",
    ),
    "export": Command(
        "pairs and questions as other trainers read them, scores as Inspect does",
        "<run> [format=trl|trl_sdft|verl|prime_rl|openrlhf|llama_factory|jsonl|inspect] [out=<folder>]",
        f"Pairs for trainers that learn from both responses, questions with their answers for those that sample. {RUN} "
        "Leaves pairs and questions in <run>/export/<format>/; with format=inspect a log of each benchmark.",
        ("spot export newest format=trl", "spot export outputs/runs/<date>/<time> format=verl"),
        "spot.report.trainers:command",
    ),
    "push": Command(
        "model, card, scores and pairs to the Hugging Face Hub",
        "<run> repo=<owner>/<name> [pairs=<owner>/<name>|none] [public=true] [merged=true] [--dry-run]",
        "Private, unless public=true. The model's repository gets the checkpoint (of LoRA on a base of the hub the adapter alone, "
        "or with merged=true all weights), its card and its scores; pairs= (<repo>-pairs) gets the pairs, which data=pairs reads. "
        f"The same command goes on after an interruption and sends what is missing. {RUN}",
        (
            "spot push newest repo=me/qwen3-spot --dry-run",
            "spot push 3 repo=me/qwen3-spot public=true",
        ),
        "spot.cli.commands:push",
        flags=("--dry-run",),
    ),
    "compare": Command(
        "differences paired by question",
        "<A> [<B>]",
        f"Two evaluations, or what one run gained over its base, with intervals. {RUN}",
        ("spot compare newest",),
        "spot.cli.commands:compare",
    ),
    "workspace": Command(
        "a W&B workspace with the panels of the paper's figures",
        "entity=… [project=…] [out=<file.json>]",
        "Saves it in the project; without a key, or with out=, writes its definition.",
        ("spot workspace entity=me project=spot out=workspace.json",),
        "spot.pipeline.workspace:command",
    ),
}
OWN = {
    "grade": Command(
        "grade saved responses",
        "benchmark=<name> responses=<file> out=<file> [benchmark.<key>=…]",
        "Responses are JSON Lines with the fields of the benchmark and `response`, lm-eval's "
        "samples_*.jsonl, or a log of Inspect. Leaves the file out=, a graded response a row.",
        ("spot grade benchmark=math500 responses=answers.jsonl out=graded.jsonl",),
        "spot.cli.commands:grade",
    ),
    "connect4": Command(
        "make a Connect4 data set",
        "generate out=<file> [count=500] [seed=0]",
        "Legal boards with their winning drops, in the fields of the public data set.",
        ("spot connect4 generate out=boards.jsonl count=500",),
        "spot.cli.commands:connect4",
    ),
}
GROUPS: Mapping[str, Mapping[str, Command]] = {
    "The loop, or one stage of it with all it needs before it": LOOP,
    "Before a run": BEFORE,
    "What there is, and what it says": AFTER,
    "Answers and boards of your own": OWN,
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def overview() -> str:
    """`spot --help`."""
    about = (
        "Corrects a model's own mistakes and trains on the corrections. Keys choose what and how: "
        "key=value, as in `spot run loss=dpo data.gamma=0.8`; -m key=a,b makes a sweep."
    )
    completion = 'Completion of keys and options, in bash: eval "$(spot -sc install=bash)"'
    usage = "%(prog)s <command> [arguments], spot <command> --help, spot --version"
    parser = _parser(usage, about, completion)
    for title, commands in GROUPS.items():
        group = parser.add_argument_group(title)
        for name, command in commands.items():
            group.add_argument(name, help=command.summary)
    return parser.format_help()


def parser(name: str) -> argparse.ArgumentParser:
    """The parser of a command: its flags, and whatever else was typed as `overrides`, in any order."""
    command = COMMANDS[name]
    examples = "\n".join(["For example:", *(f"  {example}" for example in command.examples)])
    result = _parser(f"%(prog)s {name} {command.usage}", command.says, examples)
    if command.configured:
        from hydra._internal.utils import get_args_parser

        for action in get_args_parser()._actions:
            if command.hydra is None or action.dest in ("overrides", "help", *command.hydra):
                action.help = argparse.SUPPRESS
                result._add_action(action)
    else:
        result.add_argument("overrides", nargs="*", help=argparse.SUPPRESS)
        result.add_argument("-h", "--help", action="store_true", help=argparse.SUPPRESS)
    for flag in command.flags:
        result.add_argument(flag, action="store_true", help=FLAGS[flag])

    def refuse(message: str) -> None:
        if command.configured and message.startswith(UNKNOWN):
            from spot.config import suggestions

            if step := suggestions.of_flag(message.removeprefix(UNKNOWN).split()[0]):
                raise UserError(f"{message}: {step}.")
        raise UserError(
            f"{message}: write spot {name} {command.usage}; --help shows what there is."
        )

    result.error = refuse  # type: ignore[method-assign, assignment]
    return result


def parse(name: str, words: list[str]) -> argparse.Namespace:
    """The flags and `overrides` of a command. Raises UserError for a flag it does not have."""
    if "--dry-run" in words and "--dry-run" not in COMMANDS[name].flags:
        having = ", ".join(each for each, one in COMMANDS.items() if "--dry-run" in one.flags)
        raise UserError(f"spot {name} has no --dry-run: it is for {having}.")
    return parser(name).parse_intermixed_args(words)


def spread_worlds(name: str, words: list[str]) -> list[str]:
    """`worlds=3` as what it stands for: `world=0,1,2`, and for `spot plan` how many there are.

    Raises UserError where it is no number of worlds.
    """
    spread = []
    for word in words:
        key, _, value = word.partition("=")
        if key == "worlds":
            if not (value.isdecimal() and int(value) > 0):
                raise UserError(f"{word}: say how many worlds are drawn, at least one: worlds=3.")
            each = ",".join(map(str, range(int(value))))
            word = f"plan.worlds={value}" if name == "plan" else f"world={each}"
        spread.append(word)
    return spread


def is_override(word: str) -> bool:
    """Whether it is `key=value`, or a flag; a folder may have = in its name, as a sweep's."""
    return word.startswith(("-", "+", "~")) or ("=" in word and not Path(word).is_dir())


def keys(options: Mapping[str, Iterable[str]], values: str) -> str:
    """The options of every group, and all keys with their usual values."""
    lines = ["Groups and their options (group=option; +group=option where a plus stands):"]
    for group, names in options.items():
        lines += textwrap.wrap(
            f"  {group:<14}{', '.join(names)}", WIDTH, subsequent_indent=" " * 16,
            break_on_hyphens=False,
        )  # fmt: skip
    lines += ["", "All keys, with the values of the configuration above:", ""]
    return "\n".join([*lines, textwrap.indent(values, "  ")])


def _parser(usage: str, about: str, examples: str = "") -> argparse.ArgumentParser:
    codes = "\n".join(
        ["Exit codes:", *(f"  {code:>3}  {says}" for code, says in EXIT_CODES.items())]
    )
    return argparse.ArgumentParser(
        prog="spot",
        usage=textwrap.fill(usage, WIDTH - 8, subsequent_indent=" " * 4, break_on_hyphens=False),
        description=textwrap.fill(about, WIDTH, break_on_hyphens=False),
        epilog=f"{examples}\n\n{codes}".strip(),
        formatter_class=_Formatter,
        add_help=False,
        allow_abbrev=False,
    )


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """As wide on every terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=14, width=WIDTH)
