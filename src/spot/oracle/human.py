"""Corrections that somebody wrote down: worked solutions in a file, one JSON object a line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spot.data.jsonl import Problem, read_objects, value_at
from spot.data.rows import Attempt
from spot.oracle import human_sheet
from spot.oracle.types import Task
from spot.utils.errors import UserError

_CALCULATION = re.compile(r"<<[^<>]*>>")  # GSM8K's calculator annotations: `= <<3+4=7>>7`


@dataclass(frozen=True)
class SheetOracle:
    """Corrections out of a sheet of `spot correct`, by the attempt's id."""

    corrections: Mapping[str, str]
    name: str = "human"

    @classmethod
    def read(cls, path: Path, attempts: Sequence[Attempt]) -> SheetOracle:
        """Rows that belong to none of these attempts belong to others, held out or not."""
        tasks = [Task(a.id, a.question, a.answer, a.response) for a in attempts]
        return cls(human_sheet.read(path, tasks, others=True))

    def rectify(self, attempt: Attempt) -> str | None:
        return self.corrections.get(attempt.id)

    def direct(self, attempt: Attempt) -> str | None:
        return self.rectify(attempt)


class HumanOracle:
    """Looks an attempt's correction up: by its id, its question's id, or the question's text.

    A row of the file names what it corrects in `id_field` or `question_field`. Rows without a
    solution correct nothing. Calculator annotations are taken out of a solution, unless the attempt
    is written with them too: a correction keeps the student's style. said: how a question of the file
    was put to the student.
    """

    name = "human"

    def __init__(
        self,
        path: str | Path,
        solution_field: str = "solution",
        id_field: str | None = "id",
        question_field: str | None = "question",
        said: Callable[[str], str] = str,
    ) -> None:
        self._by_id: dict[str, str] = {}
        self._by_question: dict[str, str] = {}
        lines: dict[tuple[str, str], int] = {}
        for number, row in read_objects(path):
            if isinstance(row, Problem):
                raise UserError(f"{path}, line {number}: {row.explanation}; mend the line.")
            solution = value_at(row, solution_field)
            if not isinstance(solution, str):
                continue
            for table, field in ((self._by_id, id_field), (self._by_question, question_field)):
                key = None if field is None else value_at(row, field)
                if not isinstance(key, (str, int)):
                    continue
                first = lines.setdefault((str(field), str(key)), number)
                name = said(str(key)) if table is self._by_question else str(key)
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

    def rectify(self, attempt: Attempt) -> str | None:
        """The human's solution, or None where there is none."""
        solution = self._by_id.get(
            attempt.id,
            self._by_id.get(attempt.question_id, self._by_question.get(attempt.question)),
        )
        if solution is None or _CALCULATION.search(attempt.response):
            return solution
        return _CALCULATION.sub("", solution)

    def direct(self, attempt: Attempt) -> str | None:
        """The same: a worked solution does not look at the attempt."""
        return self.rectify(attempt)
