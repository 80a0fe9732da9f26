"""Commands that run no stage: compare, grade, connect4, config, report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from spot.config import compose, origins
from spot.utils.errors import UserError


def compare(arguments: Sequence[str]) -> None:
    """Differences between two evaluations, or between a run's trained model and its base."""
    if len(arguments) not in (1, 2) or any(argument.startswith("-") for argument in arguments):
        raise UserError("name two folders: spot compare <A> <B>, or one run to see what it gained.")
    from spot.evaluation import compare as scoreboard

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

    from spot.evaluation import benchmarks, saved_responses
    from spot.evaluation import compare as scoreboard
    from spot.grading.registry import Verifier

    with Verifier() as verifier:
        family = benchmarks.family_of(task, verifier)
        pose = benchmarks.saved_question(task, family)
        graded = list(
            saved_responses.grade(saved_responses.read(responses, pose, task.name), family)
        )
        posed = {r.answer.question.id: r.answer.question for r, _ in graded}
        share, what = family.trivial(list(posed.values()))
    saved_responses.write(out, graded)
    scoreboard.show_shares(task.name, graded, (100 * share, what))
    print(f"graded: {out}")


def connect4(arguments: Sequence[str]) -> None:
    """Make boards in the fields of the public data set."""
    if not arguments or arguments[0] != "generate":
        raise UserError("say what to do: spot connect4 generate out=<file> [count=500] [seed=0].")
    given = _values(arguments[1:], "connect4 generate", ("out",), ("count", "seed"))
    from spot.grading import connect4_game

    numbers = {key: _whole(key, given.get(key, default)) for key, default in _BOARDS.items()}
    rows = connect4_game.generate(numbers["count"], numbers["seed"])
    out = Path(given["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    connect4_game.write(out, rows)
    print(f"boards: {out} ({len(rows)})")


def config(arguments: Sequence[str]) -> None:
    """The resolved configuration with the origin of every value: all of it, some parts, or a diff."""
    flags = {"--json", "--diff", "-m", "--multirun"}
    named = [a for a in arguments if "=" not in a and a not in flags and not a.startswith("~")]
    if wrong := [a for a in named if a.startswith("-")]:
        raise UserError(f"{wrong[0]} is unknown to spot config: it has --diff, --json and -m.")
    overrides = [a for a in arguments if a not in (*flags, *named)]
    asked = compose.expand(overrides, bool({"-m", "--multirun"} & set(arguments)))
    job, settings = asked.jobs[0]
    everything = origins.computed(compose.traced(job, asked.own), settings)
    shown, usual, lost = origins.parts(everything, named), None, []
    if "--diff" in arguments:
        (_, plain), *_ = compose.expand([]).jobs
        usual = origins.computed(compose.traced([]), plain)
        shown, lost = origins.different(shown, usual), origins.gone(everything, usual)
    if "--json" in arguments:
        sweep = {"jobs": len(asked.jobs), "first": job, "varies": asked.varies}
        said = origins.as_json(shown) | ({"sweep": sweep} if asked.sweep else {})
        said |= {} if usual is None else {"gone": lost}
        print(json.dumps(said, indent=1, ensure_ascii=False))
        return
    if asked.sweep:
        varies = "; ".join(f"{key}: {', '.join(values)}" for key, values in asked.varies.items())
        print(f"# job 0 of {len(asked.jobs)}: {' '.join(job)}\n# the sweep varies {varies}")
    print(origins.as_yaml(shown, usual) or "# nothing differs from `python train.py`")
    for key in lost:
        print(f"# not there, and usually is: {key}")


def report(arguments: Sequence[str], dry: bool = False) -> None:
    """The report of a run, a sweep, or an archive; or an archive of it. dry: only say so."""
    usage = "spot report <folder or archive.tar.gz> [out=<folder>] [archive=<file.tar.gz>]"
    # a sweep's folder may have = in its name
    sources = [a for a in arguments if not a.startswith(("out=", "archive=", "-"))]
    rest = [a for a in arguments if a not in sources]
    if len(sources) != 1 or not sources[0]:
        raise UserError(f"name one folder or archive: {usage}.")
    given = _values(rest, "report", (), ("out", "archive"))
    source = Path(sources[0])
    _check_report(source, given)
    into = Path(given["out"]) if "out" in given else None
    if dry:
        print(f"dry run of spot report: nothing is written. {source} would give")
        place = into or (source if source.is_dir() else source.parent)
        print(f"  report   report.html, report.md, scores.csv and figures/ in {place}")
        if "archive" in given:
            print(f"  archive  {given['archive']}")
        return
    from spot import report as pages

    if "archive" in given:
        from spot.report import archive

        print(f"archive: {archive.pack(source, Path(given['archive']))}")
    print(f"report: {pages.build(source) if into is None else pages.build(source, into)}")


def _check_report(source: Path, given: Mapping[str, str]) -> None:
    """Refuse what no report can be made of, or be written to."""
    if not source.exists():
        raise UserError(
            f"{source} does not exist: name the folder of a run or a sweep, with its run.json."
        )
    if source.is_file() and not source.name.endswith((".tar.gz", ".tgz")):
        raise UserError(f"{source} is a file: name the folder it is in, or an archive.tar.gz.")
    if (
        source.is_dir()
        and not (source / "run.json").exists()
        and not any(source.glob("*/run.json"))
    ):
        raise UserError(
            f"{source} holds no finished run: there is no run.json in it. Finish it with the command "
            "that began it; spot runs shows what there is."
        )
    if "archive" in given and not source.is_dir():
        raise UserError(
            f"archive={given['archive']} packs a folder, and {source} is packed already."
        )
    if "archive" in given and not given["archive"].endswith((".tar.gz", ".tgz")):
        raise UserError(
            f"archive={given['archive']} is no archive: give a name that ends in .tar.gz."
        )
    if "out" in given and Path(given["out"]).is_file():
        raise UserError(f"out={given['out']} is a file: give a folder.")


_BOARDS = {"count": "500", "seed": "0"}


def _values(
    arguments: Sequence[str], command: str, required: Sequence[str], optional: Sequence[str]
) -> dict[str, str]:
    """`key=value` arguments by key. An optional key that ends in a dot allows all that begin so."""
    values: dict[str, str] = {}
    usage = " ".join(f"{key}=…" for key in (*required, *(o for o in optional if o[-1] != ".")))
    for argument in arguments:
        key, equals, value = argument.partition("=")
        known = key in (*required, *optional) or any(
            key.startswith(prefix) for prefix in optional if prefix.endswith(".")
        )
        if not (equals and known):
            raise UserError(
                f"{compose.short(argument)} is unknown to spot {command}: write {usage}."
            )
        if not value:
            raise UserError(f"{key} is empty: give a value, {key}=…, or leave it out.")
        values[key] = value
    if missing := [key for key in required if not values.get(key)]:
        raise UserError(f"{missing[0]} is missing: spot {command} {usage}.")
    return values


def _whole(key: str, text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"{key}={text} is no whole number.")
    return int(text)
