r"""Mathematics with a final answer: AIME, AMC, MATH-500, Minerva, OlympiadBench and their like.

The last balanced `\boxed{…}` is the answer, or what another answer format names, compared with the truth by
spot.grading.math. Only what a row says of itself changes how it is graded: several
answers are compared as a set, and a tolerance holds for the row that names one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

from spot.data.answers import encodable, extract, final_truth, scalar_text
from spot.data.jsonl import value_at
from spot.data.rows import CORRECT, UNPARSEABLE, WRONG, Question
from spot.grading.family import (
    Answer,
    Family,
    Grade,
    RowError,
    most_frequent_answer,
    pose,
    truncated,
)
from spot.grading.math import LONGEST_ANSWER, Equals, number


@dataclass(frozen=True)
class MathFields:
    """Which field of a row holds what; dots reach into nested objects.

    Without an answer the last box of the solution is the truth. The last three are OlympiadBench's
    (there question="question", answer="final_answer"); rows may lack them.
    """

    question: str = "problem"
    answer: str = "answer"
    id: str = "id"
    solution: str = "solution"
    multiple: str = "is_multiple_answer"
    unit: str = "unit"
    tolerance: str = "error"  # absolute


def family(
    equals: Equals, fields: MathFields = MathFields(), answer_format: str = "boxed"
) -> Family:
    """Mathematics, from rows of these fields; responses give their answers as ANSWER_FORMATS has it."""
    return Family(
        read=partial(read, fields, answer_format=answer_format),
        pose=pose,
        grade=partial(grade, equals, answer_format=answer_format),
        trivial=trivial,
    )


# ---------------------------------------------------------------- rows


def read(
    fields: MathFields, row: Mapping[str, Any], row_id: str, answer_format: str = "boxed"
) -> Question:
    """The question of a row; its own id, if it has one, comes before `row_id`.

    An answer may be a worked solution: what it ends in (a box, or with `last` a number) is the truth.
    meta: `answers`, where several are to be found in any order; `tolerance`, where a row allows one.
    Raises RowError when the problem is missing, or both an answer and a solution that ends in one.
    """
    text = value_at(row, fields.question)
    if not isinstance(text, str) or not text.strip():
        raise RowError(f"{fields.question}: no problem")
    truths = _truths(fields, row, answer_format)
    meta: dict[str, Any] = {}
    if str(value_at(row, fields.multiple)) == "True" or len(truths) > 1:
        answers = [part for truth in truths for part in _listed(truth)]
        if len(answers) > 1:
            meta["answers"] = answers
    truth = ", ".join(truths)
    if value_at(row, fields.unit) == "%" and "%" not in truth:
        truth += r"\%"
    if (tolerance := value_at(row, fields.tolerance)) not in (None, "", "None"):
        meta["tolerance"] = _tolerance(tolerance, fields.tolerance)
    name = scalar_text(value_at(row, fields.id)) or row_id
    if not encodable(name + text + truth):
        raise RowError(f"{fields.question}: half a character (surrogate)")
    return Question(id=name, task="math", text=text.strip(), answer=truth, meta=meta)


def _truths(fields: MathFields, row: Mapping[str, Any], answer_format: str) -> list[str]:
    """The answers as written, at least one."""
    answer = value_at(row, fields.answer)
    given = [scalar_text(part) for part in (answer if isinstance(answer, list) else [answer])]
    if truths := [truth for part in given if (truth := final_truth(part, answer_format))]:
        return truths
    ending = "last" if answer_format == "last" else "boxed"
    solution = value_at(row, fields.solution)
    if isinstance(solution, str) and (final := extract(solution, ending)):
        return [final]
    raise RowError(f"{fields.answer}: no answer, and none at the end of {fields.solution}")


def _tolerance(value: Any, field: str) -> str:
    found = number(scalar_text(value))
    if found is None or found < 0:
        raise RowError(f"{field}: {value!r} is not a tolerance")
    return scalar_text(value)


# ---------------------------------------------------------------- asking and grading


def trivial(questions: Sequence[Question]) -> tuple[float, str]:
    """The most frequent answer: the share in [0, 1] of questions that it answers, and it."""
    return most_frequent_answer([replace(q, answer=q.answer.strip("$")) for q in questions])


def grade(equals: Equals, answers: Sequence[Answer], answer_format: str = "boxed") -> list[Grade]:
    """What responses are worth, the final answer of each (the last balanced box) against the truth.

    Reasons: `no box`, `box too long` and `gave up` (unparseable: neither right nor wrong),
    `cut at the token limit` (truncated), `differs` (wrong). What is no box is called an answer. Many
    answers at once are graded faster.
    """
    boxes = [extract(answer.response, answer_format) for answer in answers]
    name = "box" if answer_format == "boxed" else "answer"
    asked = [
        i
        for i, box in enumerate(boxes)
        if box and len(box) <= LONGEST_ANSWER and answers[i].finish_reason != "length"
    ]
    equal = _equal(equals, [(boxes[i] or "", answers[i].question) for i in asked])
    by_index = dict(zip(asked, equal, strict=True))
    return [_grade(a, boxes[i], by_index.get(i), name) for i, a in enumerate(answers)]


def _grade(answer: Answer, box: str | None, equal: bool | None, name: str) -> Grade:
    if answer.finish_reason == "length":
        return truncated(box)
    if box is None:
        return Grade(False, UNPARSEABLE, None, f"no {name}")
    if len(box) > LONGEST_ANSWER:
        return Grade(False, UNPARSEABLE, None, f"{name} too long")
    if equal is None:
        return Grade(False, UNPARSEABLE, box, "gave up")
    return Grade(True, CORRECT, box) if equal else Grade(False, WRONG, box, "differs")


def _equal(equals: Equals, pairs: Sequence[tuple[str, Question]]) -> list[bool | None]:
    """Whether each box answers its question; None where the comparison gave up."""
    equal = equals([(box, _truth(question)) for box, question in pairs])
    return [
        _within_tolerance(box, question) or same
        for same, (box, question) in zip(equal, pairs, strict=True)
    ]


def _truth(question: Question) -> str:
    """The truth in one piece: several answers are a set, in which 1, 200 are never 1,200."""
    answers = question.meta.get("answers")
    return question.answer if answers is None else r"\{" + ", ".join(answers) + r"\}"


def _within_tolerance(box: str, question: Question) -> bool:
    allowed, given = number(question.meta.get("tolerance", "")), number(box)
    truth = number(question.answer)
    if allowed is None or given is None or truth is None:
        return False
    return abs(given - truth) <= Fraction(allowed)


# ---------------------------------------------------------------- several answers to one question

_AND = re.compile(
    r"\\(?:text|mathrm|mbox)\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])"
)
_AROUND = [("$", "$"), (r"\(", r"\)"), (r"\left\{", r"\right\}"), (r"\{", r"\}")]


def _listed(text: str) -> list[str]:
    """The answers that a text lists, in brackets of a set or in none."""
    text = text.strip().rstrip(".").strip()
    for opening, closing in _AROUND:
        if text.startswith(opening) and text.endswith(closing):
            text = text[len(opening) : -len(closing)].strip()
    parts, depth = [""], 0
    for sign in _AND.sub(",", text.replace("$", "")):
        depth += (sign in "([{") - (sign in ")]}")
        if sign in ",;" and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts if part.strip()]
