"""Every command line in the README and the documentation is one that exists and composes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from spot.cli import arguments as table
from spot.cli import notify, stages
from spot.config import compose
from spot.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
FILES += [path for path in ROOT.glob("*/**/README.md") if path.parts[-3] == "experiments"]
EXAMPLES = (
    "hinge",
    "final_answer",
    "long_sums",
    "student",
)  # of docs/examples: run by test_examples.py
COMMAND = re.compile(
    r"^(?:\$ )?(?:[A-Z_]+=\S+ )?"
    r"(?:(?:\.venv/bin/)?(spot)|(?:\.venv/bin/)?python train\.py|(?:torchrun|srun)\b.*\btrain\.py)"
    r"(?: (.*))?$"
)
STAGES = ("run", "elicit", "rectify", "select", "train", "evaluate", "pretrain", "plan", "config")
FLAGS = (
    "-m",
    "--multirun",
    "--dry-run",
    "--help",
    "--json",
    "--diff",
    "--watch",
    "--version",
    "--info",
    "-sc",
)

pytestmark = pytest.mark.docs


def is_override(argument: str) -> bool:
    return "=" in argument or argument.startswith(("-", "+", "~"))


def written(text: str) -> Iterator[str]:
    """The lines of all code blocks, continued ones joined, and the spans of inline code."""
    text = re.sub(r" *\\\n\s*", " ", text)
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield re.split(r"\s{2,}#|\s# ", line.strip())[0].strip()
        else:
            yield from re.findall(r"`([^`]+)`", line)


def command_lines() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(where, command, arguments) of every line that is a command of ours."""
    texts = {file.relative_to(ROOT).as_posix(): file.read_text("utf-8") for file in FILES}
    examples = [one.examples for group in table.GROUPS.values() for one in group.values()]
    texts["spot.cli.arguments"] = "".join(f"    {line}\n" for lines in examples for line in lines)
    for name, text in texts.items():
        for line in written(text):
            match = COMMAND.match(line)
            if match is None or "…" in line:
                continue
            given = re.sub(r"<[^<>]*>", "placeholder", match[2] or "")
            given = re.sub(r"\$\([^)]*\)", "http://node:8000/v1", given)
            arguments = shlex.split(given)
            if match[1] and arguments and not is_override(arguments[0]):
                command, *arguments = arguments
            else:
                command = "run"
            if command != "placeholder" and match[0] != "spot":  # spot <command>; the word itself
                yield name, command, tuple(arguments)


WHERE = {(command, given): where for where, command, given in command_lines()}  # each line once
MISTAKE = ("data.gama=0.4",)  # the one that is shown with its message


def test_there_are_command_lines() -> None:
    assert len(WHERE) > 60


@pytest.mark.parametrize("line", WHERE, ids=lambda line: " ".join([line[0], *line[1]])[:120])
def test_a_command_line_is_right(line: tuple[str, tuple[str, ...]]) -> None:
    """It composes; of a sweep its first job (tests/config composes all jobs of the studies)."""
    command, arguments = line
    assert command in table.COMMANDS, WHERE[line]
    flags = [each for each in arguments if each.startswith("-")]
    assert set(flags) <= set(FLAGS), WHERE[line]
    given = [each for each in arguments if is_override(each) and each not in flags]
    given = table.spread_worlds(command, notify.taken(given)[0])
    if arguments == MISTAKE:
        with pytest.raises(UserError, match=r"did you mean data\.gamma"):
            compose.compose(given)
    elif "-sc" in flags:
        return  # Hydra's completion: tests/unit/test_completion.py
    elif any(name in argument for argument in arguments for name in EXAMPLES):
        return
    elif command in STAGES:
        until = None if command in ("run", "plan", "config") else command
        overrides = stages.evaluated(given) if command == "evaluate" else given
        if {"-m", "--multirun"} & set(flags):
            overrides = [re.sub(r"=([^\[,]*),.*", r"=\1", each) for each in overrides]
        compose.compose(overrides, until)
    elif command == "grade" and given:
        values = dict(each.split("=", 1) for each in given)
        assert compose.benchmark(values["benchmark"], []).name == values["benchmark"]
