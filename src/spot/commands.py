"""Commands that take files instead of a whole configuration: compare, grade, connect4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spot import compose
from spot.errors import UserError


def compare(arguments: Sequence[str]) -> None:
    """Differences between two evaluations, or between a run's trained model and its base."""
    if len(arguments) not in (1, 2) or any(argument.startswith("-") for argument in arguments):
        raise UserError("name two folders: spot compare <A> <B>, or one run to see what it gained.")
    from spot import scoreboard

    folders = [Path(argument) for argument in arguments]
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise UserError(f"{missing[0]} is no folder: name that of a run or an evaluation.")
    if len(folders) == 2:
        before, after = (scoreboard.read(folder) for folder in folders)
    else:
        before = scoreboard.read(folders[0], "base_scores", "base")
        after = scoreboard.read(folders[0], "scores", "trained")
    scoreboard.compare(before, after)


def evaluated(arguments: Sequence[str]) -> list[str]:
    """`benchmark=<name> benchmark.<key>=<value>` spelt out as the configuration has it."""
    named = [a.partition("=")[2] for a in arguments if a.startswith("benchmark=")]
    if not named:
        return list(arguments)
    name = named[-1]
    kept = [a for a in arguments if not a.startswith(("benchmark=", "benchmark."))]
    own = [a.partition(".")[2] for a in arguments if a.startswith("benchmark.")]
    task = f"benchmarks.tasks.{name}"
    return ["benchmarks=one", f"+benchmark@{task}={name}", *kept, *(f"{task}.{a}" for a in own)]


def grade(arguments: Sequence[str]) -> None:
    """Grade saved responses to one benchmark and write a row for each."""
    given = _values(arguments, "grade", ("benchmark", "responses", "out"), ("benchmark.",))
    task = compose.benchmark(
        given["benchmark"],
        [f"{k.partition('.')[2]}={v}" for k, v in given.items() if k.startswith("benchmark.")],
    )
    if task.family == "data":
        raise UserError("benchmark=held_out is a run's own: spot grade takes one with questions.")
    responses, out = Path(given["responses"]), Path(given["out"])
    if not responses.is_file():
        raise UserError(f"responses={responses} is not a file: give a JSON Lines file.")
    if out.is_dir() or out.resolve() == responses.resolve():
        raise UserError(f"out={out} is a folder, or the responses themselves: name another file.")

    from spot import grading, measuring, scoreboard
    from spot.verification import Verifier

    with Verifier() as verifier:
        family = measuring.family(task, verifier, "boxed")
        pose = measuring.saved_question(task, family)
        graded = list(grading.grade(grading.read(responses, pose, task.name), family))
        posed = {r.answer.question.id: r.answer.question for r, _ in graded}
        share, what = family.trivial(list(posed.values()))
    grading.write(out, graded)
    scoreboard.show_shares(task.name, graded, (100 * share, what))
    print(f"graded: {out}")


def connect4(arguments: Sequence[str]) -> None:
    """Make boards in the fields of the public data set."""
    if not arguments or arguments[0] != "generate":
        raise UserError("say what to do: spot connect4 generate out=<file> [count=500] [seed=0].")
    given = _values(arguments[1:], "connect4 generate", ("out",), ("count", "seed"))
    from spot.evaluation import connect4_game

    numbers = {key: _whole(key, given.get(key, default)) for key, default in _BOARDS.items()}
    rows = connect4_game.generate(numbers["count"], numbers["seed"])
    out = Path(given["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    connect4_game.write(out, rows)
    print(f"boards: {out} ({len(rows)})")


_BOARDS = {"count": "500", "seed": "0"}


def _values(
    arguments: Sequence[str], command: str, required: Sequence[str], optional: Sequence[str]
) -> dict[str, str]:
    """`key=value` arguments by key. An optional key that ends in a dot allows all that begin so."""
    values: dict[str, str] = {}
    usage = " ".join(f"{key}=…" for key in required)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        known = key in (*required, *optional) or any(
            key.startswith(prefix) for prefix in optional if prefix.endswith(".")
        )
        if not (equals and known):
            raise UserError(f"{argument} is unknown to spot {command}: write {usage}.")
        values[key] = value
    if missing := [key for key in required if not values.get(key)]:
        raise UserError(f"{missing[0]} is missing: spot {command} {usage}.")
    return values


def _whole(key: str, text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"{key}={text} is no whole number.")
    return int(text)
