"""The group `benchmarks` → questions with the way they are posed and graded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spot.config import BenchmarkConfig, BenchmarksConfig, DataConfig, ProbeConfig
from spot.config.benchmarks import SIZES
from spot.data import artifacts, hub, templates
from spot.data.jsonl import Problem, value_at
from spot.data.rows import Attempt, Question
from spot.grading import registry
from spot.grading.family import Family, RowError
from spot.grading.registry import Options, Verifier
from spot.utils.errors import UserError
from spot.utils.progress import say

if TYPE_CHECKING:
    from spot.evaluation.runner import Benchmark
    from spot.evaluation.saved_responses import Find

GRADES = ("domain", "parser", "answer_format")  # keys of a task that no prompt depends on
LOCAL = (".jsonl", ".json", ".parquet", ".csv")  # what `benchmarks.folder` may hold of a benchmark


def asks_held_out(tasks: Mapping[str, BenchmarkConfig]) -> bool:
    """Whether a benchmark asks the run's own held-out questions."""
    return any(task.family == "data" for task in tasks.values())


def settings(tasks: Iterable[BenchmarkConfig], folder: str | None) -> dict[str, Any]:
    """What decides which questions are asked, how they are posed and how they are graded."""
    return {task.name: _task_settings(task, folder) for task in tasks}


def without_grading(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What of these settings decides the prompts."""
    return {n: {k: v for k, v in task.items() if k not in GRADES} for n, task in settings.items()}


def general(tasks: Mapping[str, BenchmarkConfig], probe: ProbeConfig) -> list[BenchmarkConfig]:
    """What the ability probe asks in training (Figure 2): a few questions of general benchmarks."""
    if not probe.ability_every or probe.afterwards:
        return []
    asked = [t for t in tasks.values() if t.domain == "general" and t.family == "arithmetic"]
    return [replace(task, questions=probe.questions, trials=1) for task in asked]


def _task_settings(task: BenchmarkConfig, folder: str | None) -> dict[str, Any]:
    """A task's own keys; of files their content, wherever they lie."""
    values = asdict(task) | {"prompt": template(task)}
    path = local_path(task, folder)
    if path is not None or task.hub is None:
        del values["hub"], values["subset"], values["split"], values["revision"]
    if path is not None:
        values["path"] = hub.identity(None, task.subset, task.split, None, path)
    if task.family != "connect4":
        del values["parser"]
    return values


def local_path(task: BenchmarkConfig, folder: str | None) -> Path | None:
    """The file or folder that a benchmark is read from, or None for one that is fetched or made."""
    key = f"benchmarks.tasks.{task.name}.path"
    if task.path is not None:
        found = Path(task.path).expanduser()
        if not found.exists():
            raise UserError(
                f"{key}={task.path} does not exist: give a file, or a data set's folder."
            )
        return found
    if folder is None or task.hub is None:
        return None
    files: list[Path] = [Path(folder).expanduser() / f"{task.name}{suffix}" for suffix in LOCAL]
    local = next((file for file in files if file.is_file()), None)
    if local is None:
        raise UserError(
            f"benchmarks.folder={folder} has no {task.name}.jsonl: put it there, or give {key}=<file>."
        )
    return local


def benchmarks(
    group: BenchmarksConfig,
    data: DataConfig,
    held_out: Sequence[Attempt],
    verifier: Verifier | None = None,
) -> list[Benchmark]:
    """Every task with its questions; those of the family `data` are the ones of `held_out`.

    verifier: grades them; without one they are only asked.
    """
    result = []
    for task in group.tasks.values():
        family = family_of(task, verifier, data.answer_format)
        family.ready()
        if task.family == "data":
            questions = _held_out(held_out)[: task.questions]
        else:
            questions = _questions(group, task, family)
            if len(questions) != (size := SIZES.get(task.name, len(questions))):
                say(f"{task.name}: {len(questions)} questions, the paper's benchmark has {size}.")
        result.append(_benchmark(task, family, questions))
    return result


def check(group: BenchmarksConfig) -> None:
    """Refuse, before anything is computed, benchmarks that could not be read or graded later."""
    for task in group.tasks.values():
        family = family_of(task)
        family.ready()
        template(task)
        if (path := local_path(task, group.folder)) is not None:
            list(read_questions(task, family, path))


def fetch(groups: Iterable[BenchmarksConfig]) -> None:
    """Have every data set of the hub that these benchmarks ask in its cache, its rows read once.

    Raises UserError for the first that cannot be had: one that is gated, or neither in the cache nor
    to be reached.
    """
    tasks = [
        (task, local_path(task, group.folder)) for group in groups for task in group.tasks.values()
    ]
    asked = {json.dumps(asdict(task)): task for task, path in tasks if path is None and task.hub}
    if asked:
        say(f"benchmarks: reading the questions of {', '.join(t.name for t in asked.values())} …")
    for task in asked.values():
        list(read_questions(task, family_of(task), None))


def made(task: BenchmarkConfig, seed: int) -> Benchmark:
    """A task whose questions are made, and graded without a verifier."""
    family = family_of(task)
    return _benchmark(task, family, _made(task, family, seed))


def _benchmark(task: BenchmarkConfig, family: Family, questions: list[Question]) -> Benchmark:
    from spot.evaluation.runner import Benchmark

    return Benchmark(
        task.name, task.domain, questions, task.trials, family, template(task), task.max_new_tokens
    )


def family_of(
    task: BenchmarkConfig, verifier: Verifier | None = None, data_format: str = "boxed"
) -> Family:
    """How the questions of a task are read, posed and graded."""
    options = Options(verifier or Verifier(), task.answer_format, data_format, task.parser)
    return registry.family(task.family, options)


def template(task: BenchmarkConfig) -> str:
    """What is said around each question: the user's file, else the family's own words."""
    key = f"benchmarks.tasks.{task.name}.prompt"
    if task.prompt is not None:
        return templates.load(task.prompt, key=key).text
    return templates.of_family(task.family).text


def _held_out(attempts: Sequence[Attempt]) -> list[Question]:
    rows = {row.question_id: row for row in attempts}
    return [row.asked for row in rows.values()]


def held_out_digest(held_out: Sequence[Attempt]) -> str:
    """Names these questions, whatever the verdicts that held them out."""
    asked = [[question.id, question.text] for question in _held_out(held_out)]
    return artifacts.hash_text(json.dumps(asked))


def _questions(group: BenchmarksConfig, task: BenchmarkConfig, family: Family) -> list[Question]:
    path = local_path(task, group.folder)
    if path is None and task.hub is None:
        return _made(task, family, group.seed)
    return list(read_questions(task, family, path))[: task.questions]


def question_settings(group: BenchmarksConfig) -> dict[str, Any]:
    """What decides which questions benchmarks ask, and nothing of how."""
    keys = ("family", "questions", "hub", "subset", "split", "revision", "path", "fields")
    every = settings((t for t in group.tasks.values() if t.family != "data"), group.folder)
    found = {n: {key: task.get(key) for key in keys} for n, task in every.items()}
    made = any(task["hub"] is None and task["path"] is None for task in found.values())
    return {"tasks": found, "seed": group.seed if made else None}


def texts(group: BenchmarksConfig) -> dict[str, str]:
    """What the benchmarks ask, but for a run's own questions: problems by `<benchmark>/<id>`."""
    found: dict[str, str] = {}
    with Verifier() as verifier:
        for task in group.tasks.values():
            if task.family != "data":
                for question in _questions(group, task, family_of(task, verifier)):
                    found[f"{task.name}/{question.id}"] = question.text
    return found


def _made(task: BenchmarkConfig, family: Family, seed: int) -> list[Question]:
    """The questions of a task that is made from a seed."""
    assert task.questions is not None  # checked with the configuration
    assert family.make is not None
    return family.make(task.name, task.questions, seed)


def read_questions(
    task: BenchmarkConfig, family: Family, path: Path | None, group: str = ""
) -> Iterator[Question]:
    """The questions of a data set. Raises UserError naming the first row that is none.

    group: of the configuration, for messages.
    """
    group = group or f"benchmarks.tasks.{task.name}"

    source = hub.load_rows(task.hub, task.subset, task.split, task.revision, path, group)
    seen: dict[str, int] = {}
    for number, row in source.rows:
        place = f"{source.name}, {source.unit} {number}"
        if isinstance(row, Problem):
            raise UserError(f"{place}: {row.explanation}; fix it.")
        try:
            question = read_row(task, family, row, f"row-{number:06d}")
        except RowError as error:
            raise UserError(
                f"{place}: {error}; fix it, or name its fields, {group}.fields.<role>=<field>."
            ) from None
        if (first := seen.setdefault(question.id, number)) != number:
            raise UserError(
                f"{place}: the id {question.id!r} is that of {source.unit} {first} already; fix it."
            )
        yield question


def read_row(
    task: BenchmarkConfig, family: Family, row: Mapping[str, Any], row_id: str
) -> Question:
    """The question of one row, its fields found under whichever name the row has. Raises RowError."""
    values = dict(row)
    for role, names in task.fields.items():
        if (value := _field(row, names)) is not None:
            values[role] = value
    question = family.read(values, row_id)
    own = values.get("id") if "id" in task.fields else None
    return question if own is None else replace(question, id=str(own))


def _field(row: Mapping[str, Any], names: str) -> Any:
    """The first of `a|b` that a row has, or None."""
    found = (value_at(row, name) for name in names.split("|"))
    return next((value for value in found if value is not None), None)


def saved_question(task: BenchmarkConfig, family: Family) -> Find:
    """How `spot grade` finds the question of a saved response, bare and as it was posed.

    A row holds the benchmark's own fields, or the `id` (`question_id`) of a question in
    `benchmark.path`. Where posing draws something, its `seed` or what was drawn is in the row.
    """
    known: dict[str, Question] = {}
    if task.path is not None:
        rows = read_questions(task, family, local_path(task, None), "benchmark")
        known = {question.id: question for question in rows}

    def find(row: Mapping[str, Any], row_id: str) -> tuple[Question, Question]:
        if not known:
            if "question_id" in row:
                raise RowError("a score without its question: give benchmark.path=<the questions>")
            question = read_row(task, family, row, row_id)
        else:
            field = task.fields.get("id", "id")
            name = row.get("question_id", _field(row, field))
            if name is None:
                raise RowError(
                    f"no {field}, which would name its question in {task.path}; a row that holds question "
                    "and answer itself needs no benchmark.path"
                )
            if str(name) not in known:
                raise RowError(f"no question {str(name)!r} in {task.path}")
            question = known[str(name)]
        return question, _posed_again(task, family, question, row)

    return find


def _posed_again(
    task: BenchmarkConfig, family: Family, question: Question, row: Mapping[str, Any]
) -> Question:
    """The question as the saved response in `row` had it."""
    if family.repose is not None:
        return family.repose(question, row, template(task))
    seed = row.get("seed")
    return family.pose(question, seed if isinstance(seed, int) else 0, template(task))


def details(benchmarks: Sequence[Benchmark]) -> dict[str, Any]:
    """For the manifest: what the best answer given without reading scores, in percent."""
    trivial = {benchmark.name: benchmark.trivial for benchmark in benchmarks}
    return {
        "trivial": {name: share for name, (share, _) in trivial.items()},
        "trivial_answers": {name: answer for name, (_, answer) in trivial.items()},
        "trivial_parts": {
            b.name: {part: 100 * share for part, share in parts(b.questions).items()}
            for b in benchmarks
            if (parts := b.family.trivial_parts) is not None
        },
    }
