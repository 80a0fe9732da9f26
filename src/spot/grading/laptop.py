"""The laptop world's benchmarks: sums (in-domain), word problems (OOD) and instructions (general).

Instructions are scored as IFEval scores them: every constraint of a question must hold, whatever the
sum. They ask for the very sums that are trained on, so that they compete with the training's style.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spot.data import laptop_world
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

DOMAINS = {"sums": "in_domain", "word_problems": "ood", "instructions": "general"}


def benchmark_questions(name: str, count: int, seed: int) -> list[Question]:
    """Questions of one benchmark, never asked in training or pretraining."""
    return laptop_world.questions(count, seed, f"benchmark/{name}")


def family() -> Family:
    """The laptop world's, from rows of id, task, text and answer."""
    return Family(read, pose, grade, trivial, make=benchmark_questions)


def read(row: Mapping[str, Any], row_id: str) -> Question:
    """A question as `records.Question` has it; only sums and word problems can be written down so."""
    for name in ("text", "answer"):
        if not isinstance(row.get(name), str):
            raise RowError(f"{name}: no text")
    return Question(str(row.get("id", row_id)), "sums", row["text"], row["answer"])


def grade(answers: Sequence[Answer]) -> list[Grade]:
    """What each response is worth; `reason` names the constraints that were broken."""
    return [_grade(answer.question, answer.response, answer.finish_reason) for answer in answers]


def _grade(question: Question, response: str, finish_reason: str) -> Grade:
    """A response cut at the limit is never correct."""
    extracted = extract(response, "boxed")
    if finish_reason == "length":
        return truncated(extracted)
    if question.task == "instructions":
        broken = [n for n in question.meta["constraints"] if not CHECKS[n](response)]
        return Grade(not broken, WRONG if broken else CORRECT, extracted, ", ".join(broken))
    if extracted is None:
        return Grade(False, UNPARSEABLE, None, "no box")
    correct = bool(equal(extracted, question.answer))
    return Grade(correct, CORRECT if correct else WRONG, extracted)


def trivial(questions: Sequence[Question]) -> tuple[float, str]:
    """Share in [0, 1] that the best constant response gets right without reading, and the response."""
    if questions[0].task != "instructions":
        return most_frequent_answer(questions)
    replies = ("48", "48. Done.", "Sure. THE ANSWER IS 48.", "SURE. THE ANSWER IS 48. DONE.")
    right = {r: sum(_grade(q, r, "stop").correct for q in questions) for r in replies}
    best = max(right, key=lambda reply: right[reply])
    return right[best] / len(questions), best


def _steps(response: str) -> int:
    return len(re.findall(r"=|to get", response, re.IGNORECASE))


def _one_step_a_line(response: str) -> bool:
    lines = response.strip().split("\n")
    return _steps(response) >= 2 and all(_steps(line) <= 1 for line in lines) and len(lines) >= 2


CHECKS: dict[str, Callable[[str], bool]] = {
    "number": lambda r: re.fullmatch(r"\s*\d+\.?\s*", r) is not None,
    "lines": _one_step_a_line,
    "capitals": lambda r: r.isupper(),
    "done": lambda r: re.search(r"\bdone\.?\s*$", r, re.IGNORECASE) is not None,
    "sure": lambda r: re.match(r"\s*sure\b", r, re.IGNORECASE) is not None,
    "plain": lambda r: "boxed" not in r and "answer" in r.lower(),
    "words": lambda r: _steps(r) >= 1 and not re.search(r"[-+=]", r),
    "numbered": lambda r: all(f"{n})" in r for n in range(1, _steps(r) + 1)) and _steps(r) >= 1,
    "stars": lambda r: _steps(r) >= 1 and r.count("*") == _steps(r),
}
