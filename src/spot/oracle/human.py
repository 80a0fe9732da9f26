"""Corrections that a person wrote: worked solutions in a file, one JSON object a line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spot.data.answers import scalar_text
from spot.data.chat import posed
from spot.data.jsonl import OWN_ID, Problem, chat_turns, read_objects, value_at
from spot.oracle import human_sheet
from spot.oracle.types import Task
from spot.utils.errors import UserError

_CALCULATION = re.compile(r"<<[^<>]*>>")  # GSM8K's calculator annotations: `= <<3+4=7>>7`


Correct = Callable[[Task], str | None]
Source = Callable[[Sequence[Task]], Correct]  # what corrects these tasks


def from_sheet(path: Path, tasks: Sequence[Task]) -> Correct:
    """Corrections out of a sheet of `spot correct`, by the attempt's id; its other rows are left out."""
    corrections = human_sheet.read(path, tasks, others=True)
    return lambda task: corrections.get(task.id)


def from_rows(solutions: Mapping[str, str]) -> Correct:
    """Worked solutions that came in the rows of the questions, by the question's id."""
    return lambda task: _in_its_style(solutions.get(task.question_id), task)


def _in_its_style(solution: str | None, task: Task) -> str | None:
    """A correction keeps the student's style: no calculator annotations it has not, its line ends."""
    if solution is None:
        return None
    if not _CALCULATION.search(task.response):
        solution = _CALCULATION.sub("", solution)
    return human_sheet.like_the_attempt(solution, task.response)


def _asked(key: Any, pose: Callable[[str], str]) -> str | None:
    """A question of the file, or a chat's transcript, as it was put to the student; None for neither."""
    if isinstance(key, (str, int)):
        return pose(str(key))
    found = chat_turns(key)
    if isinstance(found, Problem):
        return None
    return posed(found[0], pose)[0]


class Solutions:
    """Looks an attempt's correction up: by its id, its question's id, or the question's text.

    A row of the file names what it corrects in `id_field` or `question_field`; without `id_field`, a row
    that has no question names it in `id`. Rows without a
    solution correct nothing. pose: how a question of the file was put to the student.
    """

    def __init__(
        self,
        path: str | Path,
        solution_field: str = "solution",
        id_field: str | None = "id",
        question_field: str | None = "question",
        pose: Callable[[str], str] = str,
    ) -> None:
        self._by_id: dict[str, str] = {}
        self._by_question: dict[str, str] = {}
        lines: dict[tuple[str, str], int] = {}
        for number, row in read_objects(path):
            if isinstance(row, Problem):
                raise UserError(f"{path}, line {number}: {row.explanation}; fix the line.")
            solution = value_at(row, solution_field)
            if not isinstance(solution, str) or not scalar_text(solution):
                continue
            asked = None if question_field is None else value_at(row, question_field)
            own_id = id_field or (OWN_ID if asked is None else None)
            for table, field in ((self._by_id, own_id), (self._by_question, question_field)):
                key = None if field is None else value_at(row, field)
                name = _asked(key, pose if table is self._by_question else str)
                if name is None:
                    continue
                first = lines.setdefault((str(field), name), number)
                if table.setdefault(name, solution) != solution:
                    raise UserError(
                        f"{path}, lines {first} and {number}: two solutions for the same {field}; "
                        "keep one."
                    )
        if not lines:
            raise UserError(
                f"{path} holds no correction: each row needs {solution_field!r} and "
                f"{id_field or question_field!r} (data.fields)."
            )

    def correct(self, task: Task) -> str | None:
        """The worked solution, which does not look at the attempt; None where there is none."""
        by_question = self._by_question.get(task.question)
        solution = self._by_id.get(task.id, self._by_id.get(task.question_id, by_question))
        return _in_its_style(solution, task)
