"""Where questions come from: the group `data` → questions, or the attempts that came with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from spot.config import MADE_SOURCES, Config, DataConfig
from spot.data import chat, hub, templates
from spot.data.jsonl import import_attempts, read_questions
from spot.data.rows import Attempt, Question
from spot.evaluation import benchmarks
from spot.grading.registry import Verifier
from spot.utils.errors import UserError

CONTAMINATED, BEYOND = "contaminated", "beyond_questions"


def settings(config: Config) -> dict[str, Any]:
    """What decides the questions: of files their content, of the hub the commit."""
    data = config.data
    if data.source in MADE_SOURCES:
        made = {"source": data.source, "count": data.questions, "seed": data.seed}
        return made | {"prompt": _template(config).text}
    decisive: dict[str, Any] = {
        "source": data.source,
        "rows": hub.identity_of(data),
        "fields": data.fields.decisive(),
        "count": data.questions,
        "on_bad_row": data.on_bad_row,
        "prompt": _template(config).text,
    }
    if data.decontaminate:
        decisive["decontaminated"] = benchmarks.question_settings(config.benchmarks)
    return decisive


def questions(config: Config) -> tuple[list[Question], dict[str, int]]:
    """What is asked, and how many rows were dropped by reason.

    A question's text is what the model reads: with `data.prompt`, the template around the problem.
    """
    data = config.data
    if data.source in MADE_SOURCES:
        assert data.questions is not None  # checked with the configuration
        return _posed(config, _made(data.source, data.questions, data.seed)), {}
    rows, dropped = _read(config)
    counts = Counter(dropped)
    if data.decontaminate:
        rows = _decontaminated(config, rows, counts)
    return _posed(config, rows), dict(counts)


def _read(config: Config) -> tuple[list[Question], dict[str, int]]:
    """The problems of a file or of the hub, and how many rows were dropped by reason."""
    data = config.data
    limit = None if data.decontaminate else data.questions
    if data.source == "dapo":
        from spot.data import dapo

        return dapo.read_problems(hub.rows_of(data), limit=limit, on_bad_row=data.on_bad_row)
    return read_questions(
        hub.rows_of(data),
        data.fields,
        data.answer_format,
        limit=limit,
        on_bad_row=data.on_bad_row,
    )


def check(config: Config, splits: bool) -> None:
    """Refuse, before anything is sampled, questions that cannot be read, or are too few to hold some out.

    Those of the hub are not fetched here. splits: whether the run gets as far as holding some out.
    """
    data, count = config.data, config.data.questions
    _template(config)
    if data.path is not None:
        count = len(_read(config)[0])
    if splits and count is not None:
        check_held_out(data, count)


def check_held_out(data: DataConfig, questions: int) -> None:
    """Raise UserError where holding out `data.held_out` wrong attempts leaves none to train on."""
    most = questions * (1 if data.fields.response else data.samples)
    if data.held_out >= most:
        raise UserError(
            f"data.held_out={data.held_out} takes all of at most {most} wrong attempts: lower it, or "
            f"ask more than data.questions={questions}."
        )


def attempts(config: Config, verifier: Verifier) -> tuple[list[Attempt], dict[str, int]]:
    """Responses that came with the data, graded here, and how many rows were dropped by reason."""
    data = config.data
    rows, dropped = import_attempts(
        hub.rows_of(data),
        data.fields,
        data.answer_format,
        verifier.verdicts,
        limit=None if data.decontaminate else data.questions,
        on_bad_row=data.on_bad_row,
    )
    counts = Counter(dropped)
    if data.decontaminate:
        asked = [row.asked for row in rows]
        clean = {question.id for question in _decontaminated(config, asked, counts)}
        rows = [row for row in rows if row.question_id in clean]
    pose = posed(config)
    found = []
    for row in rows:
        text, turns = chat.posed(chat.asked(row.question, row.messages), pose)
        found.append(replace(row, question=text, messages=turns))
    return found, dict(counts)


def posed(config: Config) -> Callable[[str], str]:
    """How a problem is put to the model."""
    template = _template(config)
    return lambda text: template.fill({"question": text})


def _posed(config: Config, questions: list[Question]) -> list[Question]:
    pose = posed(config)
    found = []
    for question in questions:
        text, turns = chat.posed(chat.asked(question.text, question.messages), pose)
        found.append(replace(question, text=text, messages=turns))
    return found


def _template(config: Config) -> templates.Template:
    if config.data.source == "code_tasks" and config.data.prompt is None:
        return templates.of_family("code")
    return templates.load(config.data.prompt)


def _made(source: str, count: int, seed: int) -> list[Question]:
    if source == "code_tasks":
        from spot.data import code_tasks
        from spot.grading.code import truth_of

        made = code_tasks.questions(count, seed, "train")
        return [replace(question, answer=truth_of(question)) for question in made]
    if source == "everyday":
        from spot.data import everyday

        return everyday.questions(count, seed)
    from spot.data import laptop_world

    return laptop_world.questions(count, seed)


def _decontaminated(config: Config, rows: list[Question], dropped: Counter[str]) -> list[Question]:
    """The first `data.questions` that no benchmark of the run asks as well; the others are counted."""
    from spot.data.contamination import contaminated

    # of a chat its last turn is what a benchmark may ask
    alone = [replace(q, text=q.messages[-1]["content"]) if q.messages else q for q in rows]
    hits = contaminated(alone, benchmarks.texts(config.benchmarks))
    clean = [question for question in rows if question.id not in hits]
    if not clean:
        raise UserError("every question is one of a benchmark's: choose other data or benchmarks.")
    kept = clean[: config.data.questions]
    dropped[CONTAMINATED] += len(hits)
    dropped[BEYOND] += len(clean) - len(kept)
    return kept
