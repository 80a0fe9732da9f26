r"""Multiple choice: GPQA, and any question with options of which one is right.

Options are shuffled anew for each trial, by its seed, so that neither a position nor a memorised letter
helps.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, takewhile
from string import ascii_uppercase
from typing import Any

from spot.data.answers import encodable, scalar_text
from spot.data.jsonl import value_at
from spot.data.rows import CORRECT, UNPARSEABLE, WRONG, Question
from spot.grading.choice_letter import chosen_letter
from spot.grading.family import Answer, Family, Grade, RowError, truncated


@dataclass(frozen=True)
class ChoiceFields:
    """Which field of a row holds what; dots reach into nested objects.

    A row has either `options` (a list) with `answer` (a letter, an index from 0, or an option's
    text), or `correct` with `incorrect 1`, `incorrect 2`, … as GPQA has them (there
    question="Question", id="Record ID").
    """

    question: str = "question"
    options: str = "options"
    answer: str = "answer"
    id: str = "id"
    correct: str = "Correct Answer"
    incorrect: str = "Incorrect Answer"


def family(fields: ChoiceFields = ChoiceFields()) -> Family:
    """Multiple choice, from rows of these fields."""
    return Family(partial(read, fields), pose, grade, trivial, repose=repose)


# ---------------------------------------------------------------- rows


def read(fields: ChoiceFields, row: Mapping[str, Any], row_id: str) -> Question:
    """The question of a row; its own id, if it has one, comes before `row_id`.

    `answer` is the right option's text; meta: `options` in the row's order and `right`, an index.
    Raises RowError when there is no question, fewer than two different options, or none is right.
    """
    text = scalar_text(value_at(row, fields.question))
    if not text:
        raise RowError(f"{fields.question}: no question")
    options = _options(fields, row)
    if not 2 <= len(options) <= len(ascii_uppercase):
        raise RowError(f"{fields.options}: {len(options)} options, 2 to 26 can be asked")
    if not all(options):
        raise RowError(f"{fields.options}: an option is empty")
    if len(set(options)) < len(options):
        raise RowError(f"{fields.options}: two options are the same")
    if not encodable(text + "".join(options)):
        raise RowError(f"{fields.question}: half a character (surrogate)")
    named = value_at(row, fields.correct) is None
    right = _right(fields, value_at(row, fields.answer), options) if named else 0
    own_id = scalar_text(value_at(row, fields.id))
    meta = {"options": options, "right": right}
    return Question(own_id or row_id, "choice", text, options[right], meta)


def _options(fields: ChoiceFields, row: Mapping[str, Any]) -> list[str]:
    """All options as text; the right one first where the row keeps it apart."""
    correct = value_at(row, fields.correct)
    if correct is not None:
        wrong = (value_at(row, f"{fields.incorrect} {n}") for n in count(1))
        return [
            scalar_text(correct),
            *map(scalar_text, takewhile(lambda option: option is not None, wrong)),
        ]
    options = value_at(row, fields.options)
    if not isinstance(options, list):
        raise RowError(f"{fields.options}: no list of options, and no {fields.correct}")
    return [scalar_text(option) for option in options]


def _right(fields: ChoiceFields, answer: Any, options: Sequence[str]) -> int:
    """The index that an answer names: an index itself, a letter, or the text of an option."""
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(options):
        return answer
    name = answer.strip() if isinstance(answer, str) else ""
    if len(name) == 1 and name.upper() in ascii_uppercase[: len(options)]:
        return ascii_uppercase.index(name.upper())
    if options.count(name) == 1:
        return options.index(name)
    raise RowError(f"{fields.answer}: {answer!r} names none of {len(options)} options")


# ---------------------------------------------------------------- asking and grading


def pose(question: Question, seed: int, template: str) -> Question:
    """The question with its options, shuffled by the seed and lettered, put at `{question}`."""
    order = list(range(len(question.meta["options"])))
    random.Random(seed).shuffle(order)
    return in_order(question, order, template)


def in_order(question: Question, order: Sequence[int], template: str) -> Question:
    """The question with its options in this order of their indices.

    `answer` becomes the letter that is right; meta gains `order`. Raises RowError for another order.
    """
    options: list[str] = question.meta["options"]
    if sorted(order) != list(range(len(options))):
        raise RowError(f"order: {order!r} is none of {len(options)} options")
    lines = [f"{ascii_uppercase[i]}. {options[o]}" for i, o in enumerate(order)]
    asked = question.text + "\n\n" + "\n".join(lines)
    return replace(
        question,
        text=template.replace("{question}", asked),
        answer=ascii_uppercase[list(order).index(question.meta["right"])],
        meta={**question.meta, "order": list(order)},
    )


def repose(question: Question, row: Mapping[str, Any], template: str) -> Question:
    """The question with its options as they were in `row`: by their `order`, or by the trial's `seed`.

    A row with its own options and neither has them in its own order. Raises RowError.
    """
    seed, order = row.get("seed"), row.get("order", value_at(row, "details.order"))
    if order is None and isinstance(seed, int):
        return pose(question, seed, template)
    if order is None and "options" in row:
        order = list(range(len(row["options"])))
    if not isinstance(order, list):
        raise RowError("order: no list of which option each letter stood for (or the trial's seed)")
    return in_order(question, order, template)


def trivial(questions: Sequence[Question]) -> tuple[float, str]:
    """Any one letter, always: options are shuffled, so it is right once in as many as there are."""
    return sum(1 / len(q.meta["options"]) for q in questions) / len(questions), "any one letter"


def grade(answers: Sequence[Answer]) -> list[Grade]:
    """What responses are worth. details: `order`, and `right`, the letter that was.

    Reasons: `no letter` (unparseable), `cut at the token limit` (truncated), `another option` (wrong).
    """
    return [_grade(answer) for answer in answers]


def _grade(answer: Answer) -> Grade:
    meta = answer.question.meta
    shown = [meta["options"][o] for o in meta["order"]]
    found = chosen_letter(answer.response, shown)
    details = {"order": meta["order"], "right": answer.question.answer}
    if answer.finish_reason == "length":
        return truncated(found, details)
    if found is None:
        return Grade(False, UNPARSEABLE, None, "no letter", details)
    if found == answer.question.answer:
        return Grade(True, CORRECT, found, "", details)
    return Grade(False, WRONG, found, "another option", details)
