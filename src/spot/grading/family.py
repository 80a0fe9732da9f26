"""What a benchmark is made of: questions, how they are posed, and what a response is worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from spot.data.chat import asked, posed
from spot.data.rows import TRUNCATED, Question

TOGETHER = 256  # responses graded at once, so that a family may use all cores


@dataclass(frozen=True)
class Answer:
    """A response to grade. `response` begins after the reasoning block, if there was one."""

    question: Question  # as it was posed in this trial
    response: str
    finish_reason: str = "stop"


@dataclass(frozen=True)
class Grade:
    """What a response is worth. `reason` says in a few words why it is not correct.

    `verdict` is one of spot.data.rows: correct, wrong, truncated, unparseable. `details` are the
    family's own findings (JSON values), kept with the score.
    """

    correct: bool
    verdict: str
    extracted: str | None = None
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


def truncated(extracted: str | None = None, details: Mapping[str, Any] | None = None) -> Grade:
    """Of a response that ended at the token limit: neither right nor wrong, whatever it says."""
    return Grade(False, TRUNCATED, extracted, "cut at the token limit", details or {})


class RowError(ValueError):
    """A row of a data set that is no question of this family; says which field and why."""


def pose(question: Question, seed: int, template: str) -> Question:
    """The question put into the template at `{question}`. Nothing is drawn: the seed is not used."""
    turns = asked(question.text, question.messages)
    text, messages = posed(turns, lambda problem: template.replace("{question}", problem))
    return replace(question, text=text, messages=messages)


def most_frequent_answer(questions: Sequence[Question]) -> tuple[float, str]:
    """The share in [0, 1] of questions that the most frequent answer answers, and that answer."""
    answer, count = Counter(question.answer for question in questions).most_common(1)[0]
    return count / len(questions), answer


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Family:
    """How benchmarks of one kind are read, posed and graded. Every part is a function without state.

    read: (a row of the data set, an id for rows that bring none) → its question, whose `text` is the
        bare problem and whose `meta` holds what posing and grading need. Raises RowError.
    pose: (question, seed, prompt template) → the question as asked in one trial: `text` is what the
        model is told, `answer` the truth of this trial, `meta` also what the record keeps of it.
    grade: responses → what they are worth, in order.
    trivial: (questions) → share in [0, 1] that the best answer given without reading scores, and
        what that answer is.
    trivial_parts: the same share for each part of an answer, by its name.
    make: (benchmark, count, seed) → questions that are made and not read.
    repose: (question, row, template) → the question as the saved response in `row` had it.
    ready: raises UserError where nothing could be graded on this machine.
    """

    read: Callable[[Mapping[str, Any], str], Question]
    pose: Callable[[Question, int, str], Question]
    grade: Callable[[Sequence[Answer]], list[Grade]]
    trivial: Callable[[Sequence[Question]], tuple[float, str]]
    trivial_parts: Callable[[Sequence[Question]], dict[str, float]] | None = None
    make: Callable[[str, int, int], list[Question]] | None = None
    repose: Callable[[Question, Mapping[str, Any], str], Question] | None = None
    ready: Callable[[], None] = _nothing
