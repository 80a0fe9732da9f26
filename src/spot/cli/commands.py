"""Commands that run no stage: compare, grade, connect4, config, report, push."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING

from spot.config import Config, compose, difference
from spot.config.arguments import read, short
from spot.data import run_record
from spot.utils.errors import UserError, guess
from spot.utils.files import check_output, notes


def compare(arguments: Sequence[str]) -> None:
    """Differences between two evaluations, or between a run's trained model and its base."""
    if len(arguments) not in (1, 2):
        raise UserError("name two folders: spot compare <A> <B>, or one run to see what it gained.")
    from spot.evaluation import compare as scoreboard

    folders = [Path(argument) for argument in arguments]
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise UserError(f"{missing[0]} is not a folder: name that of a run or an evaluation.")
    if len(folders) == 2:
        before, after = (scoreboard.read(folder) for folder in folders)
    else:
        before = scoreboard.read(folders[0], "base_scores", "base")
        after = scoreboard.read(folders[0], "scores", "trained")
    scoreboard.compare(before, after)


@dataclass
class GradeArguments:
    """Of `spot grade`; keys of the benchmark (`benchmark.<key>=…`) come beside them."""

    benchmark: str = MISSING
    responses: str = MISSING
    out: str = MISSING


def grade(arguments: Sequence[str]) -> None:
    """Grade saved responses to one benchmark and write a row for each."""
    own = [word.partition(".")[2] for word in arguments if word.startswith("benchmark.")]
    words = [word for word in arguments if not word.startswith("benchmark.")]
    _, given = read(GradeArguments, words, "grade")
    task = compose.benchmark(given.benchmark, own)
    if task.family == "data":
        raise UserError("benchmark=held_out is a run's own: spot grade takes one with questions.")
    responses, out = Path(given.responses), Path(given.out)
    if not responses.is_file():
        raise UserError(f"responses={responses} is not a file: give a JSON Lines file.")
    check_output(out, "out")
    if out.exists() and out.samefile(responses):
        raise UserError(f"out={out} holds the responses themselves: name another file.")

    from spot.evaluation import benchmarks, saved_responses
    from spot.evaluation import compare as scoreboard
    from spot.grading.registry import Verifier

    with Verifier() as verifier:
        family = benchmarks.family_of(task, verifier)
        pose = benchmarks.saved_question(task, family)
        graded = list(
            saved_responses.grade(
                saved_responses.read(responses, pose, task.name, task.fields), family
            )
        )
        posed = {r.answer.question.id: r.answer.question for r, _ in graded}
        share, what = family.trivial(list(posed.values()))
    saved_responses.write(out, graded)
    with redirect_stdout(notes(out)):
        scoreboard.show_shares(task.name, graded, (100 * share, what))
        print(f"graded: {out}")


@dataclass
class BoardArguments:
    """Of `spot connect4 generate`: a file, how many boards, and the seed."""

    out: str = MISSING
    count: int = 500
    seed: int = 0


def connect4(arguments: Sequence[str]) -> None:
    """Make boards in the fields of the public data set."""
    if [*arguments][:1] != ["generate"]:
        raise UserError("say what to do: spot connect4 generate out=<file> [count=500] [seed=0].")
    _, given = read(BoardArguments, arguments[1:], "connect4 generate")
    out = Path(given.out)
    check_output(out, "out")
    from spot.data.jsonl import write_objects
    from spot.grading import connect4_game

    rows = connect4_game.generate(given.count, given.seed)
    write_objects(out, rows)
    print(f"boards: {out} ({len(rows)})", file=notes(out))


# ---- config ------------------------------------------------------------------------------------


def config(name: str, given: argparse.Namespace) -> None:
    """The resolved configuration, all of it or some parts, or how it differs from the defaults."""
    parts = [word for word in given.overrides if "=" not in word and not word.startswith("~")]
    overrides = [word for word in given.overrides if word not in parts]
    asked = compose.expand(overrides, given.multirun)
    job, first = asked.jobs[0]
    whole = difference.resolved(first)
    shown, default = _parts(whole, parts), {}
    gone: list[str] = []
    if given.diff:
        usual = difference.resolved(compose.compose())
        gone = difference.absent(whole, usual)
        shown, default = difference.changed(shown, usual), difference.flat(usual)
    if given.json:
        result: dict[str, Any] = {"config": shown}
        if asked.sweep:
            result["sweep"] = {"jobs": len(asked.jobs), "first": job, "varies": asked.varies}
        if given.diff:
            result |= {"default": {k: default[k] for k in shown if k in default}, "absent": gone}
        print(json.dumps(result, indent=1, ensure_ascii=False))
        return
    if asked.sweep:
        varies = "; ".join(f"{key}: {', '.join(values)}" for key, values in asked.varies.items())
        print(f"# job 0 of {len(asked.jobs)}: {' '.join(job)}\n# the sweep varies {varies}")
    if not given.diff:
        print(_yaml(shown, flow=False))
        return
    for key, value in shown.items():
        line = f"{key}: {_yaml(value)}"
        print(f"{line:<44} # default: {_yaml(default[key]) if key in default else 'absent'}")
    for key in gone:
        print(f"# absent: {key}")
    if not (shown or gone):
        print("# nothing differs from `python train.py`")


def _parts(tree: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The parts under dotted keys, in their places; all without any name. Raises UserError."""
    if not names:
        return dict(tree)
    found: dict[str, Any] = {}
    for name in names:
        node, place = tree, found
        *above, last = name.split(".")
        for key in above:
            node, place = node.get(key) or {}, place.setdefault(key, {})
            if not isinstance(node, Mapping):
                break
        if not isinstance(node, Mapping) or last not in node:
            keys = [key for leaf in difference.flat(tree) for key in _prefixes(leaf)]
            raise UserError(
                f"{name or 'an empty word'} is not a part of the configuration: {guess(name, keys)}"
                f"parts: {', '.join(tree)}."
            )
        place[last] = node[last]
    return found


def _prefixes(key: str) -> list[str]:
    """`a.b.c` → `a`, `a.b`, `a.b.c`."""
    parts = key.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def as_yaml(settings: Config) -> str:
    """The resolved configuration as YAML."""
    return _yaml(difference.resolved(settings), flow=False)


def _yaml(value: Any, flow: bool = True) -> str:
    """A value as YAML; flow: on one line."""
    text = yaml.safe_dump(
        value, default_flow_style=flow, allow_unicode=True, width=10_000, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")


# ---- report ------------------------------------------------------------------------------------


@dataclass
class ReportArguments:
    """Of `spot report`: where the report goes, an archive of what it reads, the margin of verdicts."""

    out: str | None = None
    archive: str | None = None
    margin: float | None = None  # percent points that are too little to matter
    external: str | None = None  # models trained elsewhere: [name=…,model=…]


def report(arguments: Sequence[str], dry: bool = False) -> None:
    """The report of a run, a sweep, or an archive; or an archive of it. dry: only say so."""
    names, given = read(ReportArguments, arguments, "report", named=True)
    if len(names) != 1 or not names[0]:
        usage = "spot report <folder or archive.tar.gz> [out=<folder>] [archive=<file.tar.gz>] [external=[name=…,model=…]] [margin=1]"
        raise UserError(f"name one folder or archive: {usage}.")
    source = Path(names[0])
    _check_report(source, given)
    models = {} if given.external is None else _external(given.external)
    into = None if given.out is None else Path(given.out)
    if dry:
        print(f"dry run of spot report: nothing is written. {source} would give")
        place = into or (source if source.is_dir() else source.parent)
        print(f"  report   report.html, report.md, scores.csv and figures/ in {place}")
        if given.archive is not None:
            print(f"  archive  {given.archive}")
        for name, model in models.items():
            print(f"  scores   of {model}, as {name}, where they are not there yet")
        return
    if models:
        from spot.pipeline import external

        external.measure(source, models)
    from spot import report as pages

    if given.archive is not None:
        from spot.report import archive

        print(f"archive: {archive.pack(source, Path(given.archive))}")
    print(f"report: {pages.build(source, into, given.margin)}")


def _external(text: str) -> dict[str, str]:
    """Models by name, of `[name=grpo,model=<folder or hub id>,name=…]`."""
    parts = [part.strip().partition("=") for part in text.strip().strip("[]").split(",")]
    names, models = ([value for _, _, value in parts[n::2]] for n in (0, 1))
    keys = [key for key, _, _ in parts]
    if keys != ["name", "model"] * len(models) or not all((*names, *models)):
        raise UserError(
            f"external={short(text)} cannot be read: write external=[name=<word>,model=<folder or hub id>]."
        )
    if len(set(names)) < len(names):
        raise UserError(f"external={short(text)} gives a name twice: once is enough.")
    return dict(zip(names, models, strict=True))


def _check_report(source: Path, given: ReportArguments) -> None:
    """Refuse what no report can be made of, or be written to."""
    if given.margin is not None and not 0 < given.margin <= 100:
        raise UserError(f"margin={given.margin:g} must be above 0 and at most 100 percent points.")
    if not source.exists():
        raise UserError(
            f"{source} does not exist: name the folder of a run or a sweep, with its run.json."
        )
    if source.is_file() and not _packed(source.name):
        raise UserError(f"{source} is a file: name the folder it is in, or an archive.tar.gz.")
    if source.is_dir() and not any(map(run_record.is_finished, (source, *source.glob("*/")))):
        raise UserError(
            f"{source} holds no finished run: neither its run.json nor one of its jobs' is complete. "
            "Give a folder that spot runs lists as complete."
        )
    if given.external is not None and not source.is_dir():
        raise UserError(
            f"external= measures with what a study's folder holds, and {source} is packed: name its folder."
        )
    if given.archive is not None and not source.is_dir():
        raise UserError(f"archive={given.archive} packs a folder, and {source} is packed already.")
    if given.archive is not None and not _packed(given.archive):
        raise UserError(
            f"archive={given.archive} is not an archive: give a name that ends in .tar.gz."
        )
    if given.archive is not None:
        check_output(Path(given.archive), "archive")
    if given.out is not None:
        check_output(Path(given.out), "out", "folder")
    else:
        check_output(source if source.is_dir() else source.parent, "out", "folder")


def _packed(name: str) -> bool:
    return name.endswith((".tar.gz", ".tgz"))


# ---- push --------------------------------------------------------------------------------------


@dataclass
class PushArguments:
    """Of `spot push`: repositories of the model and of its pairs, who sees them, all weights of LoRA."""

    repo: str = MISSING
    pairs: str | None = None  # null: <repo>-pairs; none: they stay here
    public: bool = False
    merged: bool = False


def push(arguments: Sequence[str], dry: bool = False) -> None:
    """A finished run's model, card, scores and pairs to the hub. dry: only say which files go where."""
    names, given = read(PushArguments, arguments, "push", named=True)
    if len(names) != 1 or not names[0]:
        raise UserError("name one run: spot push <run> repo=<owner>/<name> [--dry-run].")
    pairs = None if given.pairs == "none" else given.pairs or f"{given.repo}-pairs"
    for key, repo in {"repo": given.repo, "pairs": pairs}.items():
        if repo is not None and not _is_repository(repo):
            raise UserError(f"{key}={short(repo)} is none of the hub: write {key}=<owner>/<name>.")
    source = Path(names[0])
    if not run_record.is_finished(source):
        raise UserError(
            f"{source} holds no finished run: give one that spot runs lists as complete."
        )
    if not dry:
        _check_access()
    from spot.report import push as pushing

    pushing.push(source, given.repo, pairs, public=given.public, merged=given.merged, dry=dry)


def _is_repository(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def _check_access() -> None:
    """Refuse what can be sent nowhere."""
    from huggingface_hub import constants, get_token

    if constants.is_offline_mode():
        raise UserError("HF_HUB_OFFLINE=1 forbids sending: unset it, or add --dry-run.")
    if not get_token():
        raise UserError(
            "the hub asks who sends: set HF_TOKEN to a token that may write, or hf auth login."
        )
