"""Everyday questions (in-domain, and in another form out of domain) and what a small model may forget.

Numbers are graded as the run's own data with `answer_format=last`; copies, lists and facts by rules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from spot.data import everyday, retention
from spot.data.answers import extract
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
from spot.grading.math import equal


def family() -> Family:
    """Read from rows of id, task, text, answer and meta, or made."""
    return Family(read, pose, grade, trivial, make=make)


def make(name: str, count: int, seed: int) -> list[Question]:
    """Questions of the benchmark of this name, none of which training asks."""
    if name in retention.PARTS:
        return retention.questions(name, count, seed)
    return everyday.questions(count, seed, name)


def read(row: Mapping[str, Any], row_id: str) -> Question:
    """A question as `rows.Question` has it. Raises RowError."""
    for name in ("task", "text", "answer"):
        if not isinstance(row.get(name), str):
            raise RowError(f"{name}: no text")
    meta = row.get("meta") or {}
    needed = {"lists": "mark", "facts": "options"}.get(row["task"])
    if not isinstance(meta, Mapping) or (needed and needed not in meta):
        raise RowError(f"meta.{needed or 'names'}: missing")
    return Question(str(row.get("id", row_id)), row["task"], row["text"], row["answer"], dict(meta))


def grade(answers: Sequence[Answer]) -> list[Grade]:
    """What each response is worth; one that was cut is never correct."""
    return [_grade(answer.question, answer.response, answer.finish_reason) for answer in answers]


def _grade(question: Question, response: str, finish_reason: str) -> Grade:
    if finish_reason == "length":
        return truncated()
    if question.task == "copying":
        extracted, right = _words(response), _words(response) == _words(question.answer)
    elif question.task == "lists":
        extracted, right = None, _is_list(response, **question.meta)
    elif question.task == "facts":
        extracted = _option(response, question.meta["options"])
        right = extracted == question.answer
    else:
        extracted = extract(response, "last")
        right = extracted is not None and bool(equal(extracted, question.answer))
    if extracted is None and question.task != "lists":
        return Grade(False, UNPARSEABLE, None, "no answer")
    return Grade(right, CORRECT if right else WRONG, extracted)


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _is_list(response: str, mark: str, length: int) -> bool:
    """Whether there are just so many lines of a list, each with words behind its mark."""
    lines = [line.strip() for line in response.splitlines()]
    items = [line for line in lines if re.match(r"(-|\*|\d+[.)])\s", line)]
    wanted = [f"{n}." if mark == "1." else mark for n in range(1, length + 1)]
    return [line.split()[0] for line in items if len(line.split()) > 1] == wanted


def _option(response: str, options: Sequence[str]) -> str | None:
    """The letter of the only option that a response names, by letter or word; None otherwise."""
    letters = {m[1] for m in re.finditer(r"(?:^|[\s(*])([A-D])(?=[).:*\s,]|$)", response)}
    letters -= {"A"} if re.search(r"\bA [a-z]", response) and len(letters) > 1 else set()
    named = {
        letter
        for letter, option in zip("ABCD", options, strict=True)
        if re.search(rf"\b{re.escape(option)}s?\b", response, re.IGNORECASE)
    }
    found = named if len(named) == 1 else letters
    return found.pop() if len(found) == 1 else None


def trivial(questions: Sequence[Question]) -> tuple[float, str]:
    """Share in [0, 1] that the best constant response gets right without reading, and the response."""
    if questions[0].task == "copying":
        return 0.0, ""  # no two are alike
    if questions[0].task != "lists":
        return most_frequent_answer(questions)
    replies = ["\n".join(f"- word{n}" for n in range(k)) for k in range(2, 7)]
    replies += ["\n".join(f"{n}. word" for n in range(1, k + 1)) for k in range(2, 7)]
    right = {r: sum(_grade(q, r, "stop").correct for q in questions) for r in replies}
    best = max(right, key=lambda reply: right[reply])
    return right[best] / len(questions), best
