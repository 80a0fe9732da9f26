"""`spot <command> …`: reads which command is meant and calls it; `arguments` lists them.

A mistake ends here, in one line and before anything heavy is imported.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
from pathlib import Path

from spot.cli import arguments
from spot.cli.arguments import COMMANDS, is_override
from spot.cli.errors import mistakes_in_one_line
from spot.config.arguments import short
from spot.utils.errors import UserError, guess

HELP = frozenset({"-h", "--help"})
COMPLETION = ("-sc", "--shell_completion")


def main(argv: list[str] | None = None) -> None:
    """The console script `spot`. Its exit codes are those of `arguments.EXIT_CODES`."""
    words = sys.argv[1:] if argv is None else argv
    with mistakes_in_one_line():
        name, rest = _command(words)
        if words[:1] and words[0] in COMPLETION:
            _complete(words)
        elif name == "help":
            print(arguments.overview())
        elif name == "version":
            print(f"spot {importlib.metadata.version('spot')}")
        elif HELP & set(rest):
            _help(name, [word for word in rest if word not in HELP])
        else:
            _call(name, rest)
        sys.stdout.flush()  # here, where a closed pipe is expected


def _command(words: list[str]) -> tuple[str, list[str]]:
    """The command and what follows it; without one (`spot loss=dpo`): run."""
    if not words or words[0] in (*HELP, "help"):
        wanted = next((word for word in words[1:] if not is_override(word)), None)
        return ("help", []) if wanted is None else (_command([wanted])[0], ["--help"])
    first = words[0]
    if first == "--version":
        return "version", []
    if first in COMMANDS:
        return first, words[1:]
    if is_override(first):
        return "run", words
    raise UserError(
        f"{short(first) or 'An empty word'} is not a command: {guess(first, COMMANDS)}choose one of {', '.join(COMMANDS)}."
    )


def _call(name: str, words: list[str]) -> None:
    command = COMMANDS[name]
    if command.configured:
        from spot.cli import notify

        words, at_end = notify.taken(words)
        if at_end and "--dry-run" not in words:
            with notify.told(at_end, name, words):
                return _call(name, words)
        words = arguments.spread_worlds(name, words)
    given = arguments.parse(name, words)
    module, _, function = command.call.partition(":")
    call = getattr(importlib.import_module(module), function)
    if name in arguments.TAKE_A_RUN:
        given.overrides = _folders(given.overrides)
    if command.configured:
        given.words = words
        call(name, given)
    elif getattr(given, "dry_run", False):
        call(given.overrides, dry=True)
    elif getattr(given, "watch", False):
        call(given.overrides, watch=True)
    else:
        call(given.overrides)


def _folders(words: list[str]) -> list[str]:
    """`newest` and numbers of `spot runs` as the folders of those runs, of output=<folder>."""
    from spot.pipeline import run_status

    if not any(map(run_status.named, words)):
        return words
    output = [word.partition("=")[2] for word in words if word.startswith("output=")]
    place = Path(output[-1] if output else "outputs")
    return [
        str(run_status.locate(word, place).folder) if run_status.named(word) else word
        for word in words
        if not word.startswith("output=")
    ]


def _help(name: str, words: list[str]) -> None:
    """A command's own page, and the keys of the configuration where it takes them."""
    text = arguments.parser(name).format_help()
    if COMMANDS[name].configured:
        from spot.cli import commands
        from spot.config import compose

        overrides = [word for word in words if "=" in word]
        _, config = compose.expand(overrides, "-m" in words, "elicit").jobs[0]
        text += "\n" + arguments.keys(compose.groups(), commands.as_yaml(config))
    print(text.rstrip())


def _complete(words: list[str]) -> None:
    """Let Hydra complete a line without its command, which it would take for an override.

    The command itself is completed here; behind one without a configuration, the shell offers files.
    """
    line = os.environ.get("COMP_LINE")
    if line is None:  # the script that asks is to be installed
        return _call("run", words)
    program, *typed = line.split()
    last = " " if line.endswith(" ") else ""
    done = typed if last else typed[:-1]
    if done and done[0] in COMMANDS:
        if not COMMANDS[done[0]].configured:
            return None
        typed = typed[1:]
    elif not done:
        print("\n".join(name for name in COMMANDS if name.startswith("".join(typed))))
    kept = [word for word in typed if word not in arguments.FLAGS]
    os.environ["COMP_LINE"] = " ".join([program, *kept]) + last
    return _call("run", words)


if __name__ == "__main__":
    main()
