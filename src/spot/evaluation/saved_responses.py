"""`spot grade`: what any model's saved responses to a benchmark are worth, without asking it again.

A row of the input holds the benchmark's own fields and a `response`; a score that `spot evaluate` wrote
is such a row, too, once the benchmark's questions are at hand. One row comes out for each that goes in.
Samples of lm-eval and of Inspect are read as such rows (`elsewhere`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spot.data.answers import whole_characters
from spot.data.chat import final_part
from spot.data.jsonl import Problem, write_objects
from spot.data.rows import CORRECT, TRUNCATED, UNPARSEABLE, Question
from spot.evaluation import elsewhere
from spot.evaluation.runner import grades
from spot.generation.types import LENGTH, PROMPT_TOO_LONG, STOP
from spot.grading.family import Answer, Family, Grade, RowError
from spot.utils.errors import UserError
from spot.utils.finish import known

FINISHED = (STOP, LENGTH, PROMPT_TOO_LONG)


# (a row, an id for rows that bring none) → its question, and the same as it was posed
Find = Callable[[Mapping[str, Any], str], tuple[Question, Question]]


@dataclass(frozen=True)
class SavedResponse:
    """One line of the input: a saved response and the question as it was posed for it."""

    line: int
    trial: int
    answer: Answer


def read(
    path: Path, find: Find, benchmark: str, fields: Mapping[str, str] | None = None
) -> list[SavedResponse]:
    """The responses of a file, in its order. Raises UserError naming the first line that is unusable.

    find: the question of a row, or RowError.
    benchmark: rows that name another one (of an evaluation with several) are passed over.
    fields: names of the question and the answer in its data set, for files of others.

    Rows without a `trial` are numbered by their question. Half of a character becomes U+FFFD.
    """
    responses: list[SavedResponse] = []
    seen: dict[str, str] = {}
    lines: dict[tuple[str, int], int] = {}
    trials: Counter[str] = Counter()
    for line, row in elsewhere.rows(path, fields or {}):
        if isinstance(row, Problem):
            raise _bad(path, line, row.explanation)
        if row.get("benchmark", benchmark) != benchmark:
            continue
        try:
            question, posed = find(row, f"row-{line:06d}")
        except RowError as error:
            raise _bad(path, line, str(error)) from None
        text, said = row.get("response"), _given(row, "finish_reason", STOP)
        finish = said if said == PROMPT_TOO_LONG else known(said) or ""
        if not isinstance(text, str):
            raise _bad(path, line, f"no response in the field 'response', found {_kind(text)}")
        if finish not in FINISHED:
            raise _bad(path, line, f"finish_reason is {said!r}: write one of {FINISHED}")
        if seen.setdefault(posed.id, question.text) != question.text:
            raise _bad(path, line, f"the id {posed.id!r} belongs to another question already")
        if whole_characters(posed.id) != posed.id:
            raise _bad(path, line, f"half a character (surrogate) in the id {posed.id!r}")
        trial = _given(row, "trial", trials[posed.id])
        trials[posed.id] += 1
        if not isinstance(trial, int) or isinstance(trial, bool) or trial < 0:
            raise _bad(path, line, f"trial is {trial!r}: write a whole number from 0 on, or none")
        if (first := lines.setdefault((posed.id, trial), line)) != line:
            raise _bad(path, line, f"trial {trial} of {posed.id!r} is on line {first} already")
        text = whole_characters(final_part(text))
        responses.append(SavedResponse(line, trial, Answer(posed, text, finish)))
    if not responses:
        raise UserError(f"{path} holds no response to {benchmark}: is benchmark=<name> right?")
    return responses


def grade(
    responses: Sequence[SavedResponse], family: Family
) -> Iterator[tuple[SavedResponse, Grade]]:
    """Every response with what it is worth, in order."""
    return zip(responses, grades(family, [r.answer for r in responses]), strict=True)


def write(path: Path, graded: Sequence[tuple[SavedResponse, Grade]]) -> None:
    """One JSON object a line, in the order of the responses; the family's own findings beside."""
    write_objects(
        path,
        (
            {
                "id": response.answer.question.id,
                "trial": response.trial,
                "extracted": grade.extracted,
                "verdict": grade.verdict,
                "correct": grade.correct,
                "reason": grade.reason,
                **grade.details,
            }
            for response, grade in graded
        ),
    )


def _given(row: Mapping[str, Any], field: str, default: Any) -> Any:
    """A field's value; null counts as none."""
    return default if row.get(field) is None else row[field]


def _bad(path: Path, line: int, explanation: str) -> UserError:
    return UserError(f"{path}, line {line}: {explanation}; fix the line.")


def _kind(value: object) -> str:
    return "none" if value is None else type(value).__name__


def shares(graded: Sequence[tuple[SavedResponse, Grade]]) -> dict[str, float]:
    """Percent of responses by verdict, and of every yes-or-no finding of the family."""
    found = {
        CORRECT: sum(grade.correct for _, grade in graded),
        UNPARSEABLE: sum(grade.verdict == UNPARSEABLE for _, grade in graded),
        TRUNCATED: sum(grade.verdict == TRUNCATED for _, grade in graded),
    }
    shares = {key: 100 * value / len(graded) for key, value in found.items()}
    return shares | flag_shares([grade.details for _, grade in graded])


def flag_shares(details: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Percent of responses for which a yes-or-no finding holds, by its name; one without it counts as no.

    Of lists of such findings (one for each instruction) it is the percent of all their items.
    """
    hits: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for found in details:
        for key, value in found.items():
            items = value if isinstance(value, list) else [value]
            if items and all(isinstance(item, bool) for item in items):
                hits[key] += sum(items)
                counts[key] += len(items) if isinstance(value, list) else 0
    return {key: 100 * hits[key] / (counts[key] or len(details)) for key in hits}
