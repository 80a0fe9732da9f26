"""What the command line says about itself: commands, their arguments and products, exit codes.

Text only, so that `spot --help` answers at once. Nothing here is wider than 80 columns.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

WIDTH = 80

EXIT_CODES = {
    0: "done; also: a dry run, a help text",
    1: "failed, or a job of the sweep did; spot plan: it does not fit",
    2: "a mistake in what was typed or given, said in one line",
    130: "interrupted (Ctrl-C); the same command goes on from there",
    141: "whoever read the output stopped (spot config | head)",
    143: "ended by SIGTERM; the same command goes on from there",
}


@dataclass(frozen=True)
class Command:
    """One command of `spot`.

    takes: how its arguments are written. products: what it leaves, and where. configured: it takes the
    keys of the configuration; staged: it takes --dry-run, too.
    """

    summary: str
    takes: str
    says: str
    products: str
    examples: tuple[str, ...]
    configured: bool = True
    staged: bool = False


KEYS = "[key=value …]"
REUSE = "What is there already is reused; what was interrupted goes on."
PRODUCTS = "<output>/products/"

GROUPS: Mapping[str, Mapping[str, Command]] = {
    "The loop, or one stage of it with all it needs before it": {
        "run": Command(
            "elicit, rectify, select, train, evaluate, report (as train.py)",
            f"{KEYS} [-m key=a,b …] [--dry-run]",
            f"The whole way. With -m, or a study, a sweep: one process for each job. {REUSE}",
            f"{PRODUCTS}<stage>/<key>/, and <output>/runs/<date>/<time>/ or <output>/sweeps/<name>/<n>/ "
            "with run.json and the report.",
            ("spot run arm=dpo seed=3", "spot run -m +paper=table2 --dry-run"),
            staged=True,
        ),
        "elicit": Command(
            "sample the policy's responses and grade them",
            f"{KEYS} [--dry-run]",
            f"Asks the policy every question of the data, or imports responses. {REUSE}",
            f"{PRODUCTS}elicit/<key>/rows.jsonl, an attempt a row; the last line names the folder.",
            ("spot elicit data=dapo generator=vllm",),
            staged=True,
        ),
        "rectify": Command(
            "… and let the Oracle correct the wrong ones",
            f"{KEYS} [--dry-run]",
            f"Wrong attempts go to the Oracle; every correction is verified. {REUSE}",
            f"{PRODUCTS}rectify/<key>/rows.jsonl, which the last line names; a paid Oracle's replies in "
            "<output>/oracle/.",
            ("spot rectify oracle=gemini oracle.max_cost=20",),
            staged=True,
        ),
        "select": Command(
            "… and keep the corrections that stay close",
            f"{KEYS} [--dry-run]",
            f"Drops and counts what cannot be used; keeps pairs with R_LCS up to γ. {REUSE}",
            f"{PRODUCTS}select/<key>/rows.jsonl, a pair a row; the last line names the folder, and spot "
            "pairs <folder> shows it.",
            ("spot select data.gamma=0.8",),
            staged=True,
        ),
        "train": Command(
            "… and train on them",
            f"{KEYS} [--dry-run]",
            f"Trains the policy on the pairs with the loss of the arm. {REUSE}",
            f"{PRODUCTS}train/<key>/model/, in Hugging Face format; the last line names <key>'s folder.",
            ("spot train arm=spot_bce loss.epochs=1",),
            staged=True,
        ),
        "evaluate": Command(
            "measure a model, or what a run exported on its way",
            f"{KEYS} [benchmark=<name>] [--dry-run], or: <run folder>",
            "With keys: the model that model.path names, on the benchmarks. With a run's folder: the "
            "weights that save.exports=<steps> kept.",
            f"{PRODUCTS}evaluate/<key>/rows.jsonl; with a folder: its exports.csv.",
            (
                "spot evaluate model.path=Qwen/Qwen3-8B benchmarks=paper generator=vllm",
                "spot evaluate benchmark=math500 benchmark.trials=4 model.path=<folder>",
                "spot evaluate outputs/runs/<date>/<time>",
            ),
            staged=True,
        ),
        "report": Command(
            "rebuild the report of a run or a sweep",
            "<folder or archive.tar.gz> [out=<folder>] [archive=<file.tar.gz>] [--dry-run]",
            "Reads finished runs. With archive=, packs what the report reads into one small file, "
            "which spot report reads as well as the folder.",
            "report.html, report.md, scores.csv and figures/ in the folder, or in out=.",
            ("spot report outputs/sweeps/table2", "spot report table2.tar.gz out=page"),
            configured=False,
            staged=True,
        ),
    },
    "Before a run": {
        "config": Command(
            "the resolved configuration, with the origin of every value",
            f"{KEYS} [part …] [--diff] [--json]",
            "Prints YAML; behind each value stands who set it: the command line, a file of conf/ or "
            "experiments/, a default of the schema, or a computation. A part is a key of any depth. "
            "--diff: only what differs from `python train.py`. Of a sweep: its first job.",
            "nothing but the text.",
            ("spot config arm=dpo loss", "spot config +paper=table2 --diff"),
        ),
        "plan": Command(
            "what a run would need of memory, time, disk and money",
            KEYS,
            "Counts from the configuration alone, with measured lengths where the pairs are there. "
            "Exit code 1: it does not fit, and what would make it fit.",
            "nothing but the text.",
            ("spot plan model=qwen3_8b hardware=8xh800",),
        ),
        "pretrain": Command(
            "make a student from its corpus",
            f"{KEYS} [--dry-run]",
            "Makes the model that model.pretrain describes; a run does so by itself.",
            f"{PRODUCTS}model/<key>/model/.",
            ("spot pretrain model.pretrain.steps=500",),
            staged=True,
        ),
        "correct": Command(
            "correct the wrong attempts by hand",
            f"oracle.path=<sheet.csv> {KEYS}",
            "Opens a page on this machine with every wrong attempt; what is saved there goes into the "
            "sheet.",
            "the sheet, for oracle=human oracle.path=<sheet.csv>.",
            ("spot correct oracle.path=mine.csv",),
        ),
        "completion": Command(
            "a script that completes commands, keys and values",
            "bash | zsh | fish",
            'Put `eval "$(spot completion bash)"` into ~/.bashrc (zsh: ~/.zshrc), or for fish '
            "`spot completion fish > ~/.config/fish/completions/spot.fish`. Make it again after adding "
            "an option to conf/.",
            "nothing but the text.",
            ("spot completion bash > ~/.local/share/bash-completion/completions/spot",),
            configured=False,
        ),
    },
    "What there is, and what it says": {
        "runs": Command(
            "a table of the runs and sweeps on this machine",
            "[output=outputs] [status=…]",
            "Finished, running, failed and interrupted ones, with their scores and age.",
            "nothing but the text.",
            ("spot runs", "spot runs status=failed"),
            configured=False,
        ),
        "show": Command(
            "everything about one run on one screen",
            "<run folder> | newest | <number from spot runs>",
            "Command, choices, products, scores, last metrics, and the next step.",
            "nothing but the text.",
            ("spot show newest",),
            configured=False,
        ),
        "dashboard": Command(
            "a page that refreshes while a sweep runs",
            "[<sweep or outputs folder>] [port=0] [once=<file.html>]",
            "Serves the page on this machine until Ctrl-C, or writes it once.",
            "with once=, the file.",
            ("spot dashboard outputs/sweeps/table2",),
            configured=False,
        ),
        "pairs": Command(
            "a page of responses beside their corrections",
            "<run, product or pairs.jsonl> [out=<file.html>]",
            "y⁻ beside y⁺ with the edits marked, filters and search; one file, no network.",
            "the page.",
            ("spot pairs outputs/runs/<date>/<time> out=pairs.html",),
            configured=False,
        ),
        "compare": Command(
            "differences paired by question",
            "<A> [<B>]",
            "Two evaluations, or what one run gained over its base, with intervals.",
            "nothing but the text.",
            ("spot compare outputs/runs/<date>/<time>",),
            configured=False,
        ),
        "workspace": Command(
            "a W&B workspace with the panels of the paper's figures",
            "entity=… project=… [out=<file.json>]",
            "Saves it in the project; without a key, or with out=, writes its definition.",
            "with out=, the file.",
            ("spot workspace entity=me project=spot out=workspace.json",),
            configured=False,
        ),
    },
    "Answers and boards of your own": {
        "grade": Command(
            "grade saved responses",
            "benchmark=<name> responses=<file> out=<file> [benchmark.<key>=…]",
            "Responses are JSON Lines with the fields of the benchmark and `response`.",
            "the file out=, a graded response a row.",
            ("spot grade benchmark=math500 responses=answers.jsonl out=graded.jsonl",),
            configured=False,
        ),
        "connect4": Command(
            "make a Connect4 data set",
            "generate out=<file> [count=500] [seed=0]",
            "Legal boards with their winning drops, in the fields of the public data set.",
            "the file out=.",
            ("spot connect4 generate out=boards.jsonl count=500",),
            configured=False,
        ),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def overview() -> str:
    """`spot --help`."""
    lines = [
        "spot <command> [arguments]       spot <command> --help       spot --version",
        "",
        *_wrapped(
            "Corrects a model's own mistakes and trains on the corrections. Keys choose what and how: "
            "key=value, as in `spot run loss=dpo data.gamma=0.8`; -m key=a,b makes a sweep.",
        ),
    ]
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:<12}{command.summary}" for name, command in commands.items()]
        lines.append(f"    e.g. {next(iter(commands.values())).examples[0]}")
    return "\n".join([*lines, "", *_exit_codes()])


def page(name: str) -> str:
    """`spot <name> --help`, up to the keys of the configuration."""
    command = COMMANDS[name]
    lines = _wrapped(f"spot {name} {command.takes}", hanging=len(f"spot {name} "))
    lines += ["", *_wrapped(command.says)]
    lines += ["", *_wrapped(f"Leaves {command.products}")]
    if command.staged:
        said = "--dry-run says what would be made and what reused, and makes nothing."
        lines += _wrapped(said)
    lines += ["", "For example:", *(f"  {example}" for example in command.examples)]
    return "\n".join([*lines, "", *_exit_codes()])


def keys(options: Mapping[str, Iterable[str]], values: str) -> str:
    """The options of every group, and all keys with their usual values."""
    lines = ["Groups and their options (group=option; +group=option where a plus stands):"]
    for group, names in options.items():
        lines += _wrapped(f"  {group:<14}{', '.join(names)}", hanging=16)
    lines += [
        "",
        "All keys, with the values of the configuration above (spot config says whose):",
        "",
    ]
    return "\n".join([*lines, *(f"  {line}" for line in values.splitlines())])


def _exit_codes() -> list[str]:
    return ["Exit codes:", *(f"  {code:>3}  {said}" for code, said in EXIT_CODES.items())]


def _wrapped(text: str, hanging: int = 0) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        subsequent_indent=" " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
