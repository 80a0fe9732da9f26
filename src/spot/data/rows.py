"""The rows of every product: one frozen dataclass each.

questions ─respond→ responses ─grade→ attempts ─rectify→ rectifications ─select→ pairs ─train→ checkpoint ─evaluate→ scores

Every row is readable on its own (it carries its question and the true answer) and has a key, `id`,
unique within its product. On disk a row is one JSON object on one line. Where a question is the last
turn of a chat, `messages` holds all turns before the response and the question's text is their transcript.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

from spot.data.chat import Message

SCHEMA = 2  # of the rows below; part of every product's name, so a change recomputes instead of misreading

CORRECT = "correct"
WRONG = "wrong"
TRUNCATED = "truncated"
UNPARSEABLE = "unparseable"


@dataclass(frozen=True)
class Question:
    """What is asked, and the ground truth."""

    id: str
    task: str
    text: str
    answer: str
    meta: dict[str, Any] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)


@dataclass(frozen=True)
class Response:
    """What a model answered, whatever it is worth. `id` is `<question_id>#<trial>`.

    Of a benchmark the id begins with its name. `prompt` is what was asked.
    """

    id: str
    prompt: str
    response: str
    finish_reason: str  # stop | length | prompt_too_long
    prompt_tokens: int
    tokens: int
    model: str
    seed: int


@dataclass(frozen=True)
class Attempt:
    """One graded response of the policy: y⁻ when its verdict is `wrong`. `id` is `<question_id>#<trial>`."""

    id: str
    question_id: str
    trial: int
    task: str
    question: str
    answer: str
    response: str
    finish_reason: str  # stop | length
    tokens: int
    extracted: str | None
    verdict: str  # correct | wrong | truncated | unparseable
    model: str
    seed: int
    messages: list[Message] = field(default_factory=list)

    @property
    def asked(self) -> Question:
        """The question that it answers."""
        return Question(
            self.question_id, self.task, self.question, self.answer, messages=self.messages
        )


@dataclass(frozen=True)
class Rectification:
    """What the Oracle made of an attempt; only an `ok` outcome may become a pair."""

    id: str  # the attempt's
    question_id: str
    task: str
    question: str
    answer: str
    mode: str  # rectified | direct
    rejected: str
    chosen: str
    extracted: str | None
    outcome: (
        str  # ok | wrong | empty | unchanged | unparseable | refused | truncated | rewritten | …
    )
    oracle: str
    detail: dict[str, Any] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)


@dataclass(frozen=True)
class Pair:
    """(x, y⁻, y⁺). `rejected` is None in the self arm, whose y⁺ is the policy's own correct response."""

    id: str
    question_id: str
    task: str
    arm: str  # rectified | direct | self
    question: str
    answer: str
    chosen: str
    rejected: str | None
    change_ratio: float | None  # R_LCS of eq. 1, in tokens
    common_prefix: int | None  # tokens of the response that y⁺ and y⁻ begin with alike
    chosen_tokens: int  # with the end-of-sequence token
    rejected_tokens: int | None
    messages: list[Message] = field(default_factory=list)


@dataclass(frozen=True)
class Score:
    """One graded completion of a benchmark. `id` is `<benchmark>/<question_id>#<trial>`."""

    id: str
    benchmark: str
    domain: str  # in_domain | ood | general
    question_id: str
    trial: int
    correct: bool
    verdict: str
    extracted: str | None
    response: str
    finish_reason: str
    tokens: int
    seed: int
    reason: str = ""
    details: dict[str, Any] = field(default_factory=dict)  # the family's own findings


Row = Question | Response | Attempt | Rectification | Pair | Score
RowT = TypeVar("RowT", Question, Response, Attempt, Rectification, Pair, Score)


def to_json(row: Row) -> str:
    """One line of canonical JSON (sorted keys, no newline): equal rows give equal bytes.

    `messages` is left out where it is empty, as in rows of before there were any.
    """
    values = dataclasses.asdict(row)
    if not values.get("messages", True):
        del values["messages"]
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


def from_json(row_type: type[RowT], line: str) -> RowT:
    """The row a line holds. Raises ValueError when it is torn or of another shape."""
    value = json.loads(line)
    names = {f.name for f in dataclasses.fields(row_type)}
    try:
        if unknown := sorted(value.keys() - names):
            raise ValueError(f"unknown fields {unknown} for {row_type.__name__}")
        return row_type(**value)
    except (
        TypeError,
        AttributeError,
    ) as error:  # a field is missing, or the line is no JSON object
        raise ValueError(f"not a {row_type.__name__}: {error}") from error
