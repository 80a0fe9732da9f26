r"""Multiple choice: GPQA, and any question with options of which one is right.

Options are shuffled anew for each trial, by its seed, so that neither a position nor a memorised letter
helps. A letter is read only where the response states it as its answer: in `{"answer": "C"}`, in a box,
or in a closing sentence; never from a capital letter that happens to stand there.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, takewhile
from string import ascii_uppercase
from typing import Any

from spot.data.answers import encodable, last_boxed, scalar_text
from spot.data.jsonl import value_at
from spot.data.rows import CORRECT, UNPARSEABLE, WRONG, Question
from spot.grading.family import Answer, Family, Grade, RowError, truncated
from spot.grading.math import quick_equal


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


# ---------------------------------------------------------------- the letter out of a response

CLOSING_LINES, CLOSING_CHARACTERS = 5, 2_000  # where a sentence may state the answer
CLOSING_OBJECTS = 10  # of JSON, of which one may give it

_JSON = re.compile(
    r"""["'“”]answer["'“”]\s{0,9}:\s{0,9}
        (?: "((?:[^"\\\n]|\\.){0,999})" | '([^'\n]{0,999})' | ([^\s"',{}]{1,20}) )""",
    re.IGNORECASE | re.VERBOSE,
)
_COMMAND = re.compile(r"\\{1,2}(?:boxed|text|textbf|mathrm|mathbf|mathsf|bf|rm)\s*\{([^{}]*)\}")
_MARKS = re.compile(r"[*`$\"“”#>]|(?<!\w)_+|_+(?!\w)|\\[()\[\]]")  # of Markdown and LaTeX
_NOUN = r"(?:option|choice|answer|letter)"
_LETTER = r"(?:\(\s*([A-Za-z])\s*\)|\[\s*([A-Za-z])\s*\]|([A-Za-z])(?![\w'’]))"
_ALONE = re.compile(
    rf"(?:(?:so|thus|therefore|hence),?\s+)?(?:{_NOUN}\s*:?\s+)?{_LETTER}[\s.):,]*", re.IGNORECASE
)
_WITH_TEXT = re.compile(
    rf"(?:{_NOUN}\s+)?(?:\(\s*([A-Za-z])\s*\)|([A-Za-z])\s*[.):]|([A-Za-z])\s+[-–—])\s*\S",
    re.IGNORECASE,
)
_IS = r"(?:\s+(?:is|must\s+be|should\s+be|would\s+be|has\s+to\s+be)\b\s*:?|\s*[:=→])"
_STATED = re.compile(
    rf"\b(?:{_NOUN}(?:\s+to\s+(?:this|the)\s+(?:question|problem))?{_IS}"
    r"|(?:choose|select|pick|go\s+with|going\s+with))"
    rf"\s*(?:(?:therefore|thus|clearly|indeed|definitely|likely|probably|hence),?\s+)?(not\s+)?",
    re.IGNORECASE,
)
_IS_RIGHT = re.compile(
    rf"(?<![\w'’]){_LETTER}{_IS}\s*(?:therefore\s+|thus\s+|clearly\s+)?(?:the\s+)?(?:only\s+|most\s+|best\s+)?"
    r"(?:correct|right|accurate|answer|best)\b",
    re.IGNORECASE,
)
_LABEL = re.compile(rf"\s*(?:(?:final|correct|best|my)\s+)*{_NOUN}\s*(?:is\b)?\s*:", re.IGNORECASE)
# After a letter without brackets: the end, a stop, or a reason; "A ball" is no letter.
_FOLLOWS = re.compile(
    r"\s*(?:[.,;:)\]}!?\n–—]|-\s|$|(?:because|since|as|which|due|given|based|for)\b)", re.IGNORECASE
)
_ANOTHER = re.compile(r"\s*(?:,|/|&|\bor\b|\band\b)+\s*(?:\([A-Za-z]\)|[A-Z](?![\w'’]))")


def chosen_letter(response: str, options: Sequence[str]) -> str | None:
    r"""The letter that a response gives as its answer to these options (A first), or None.

    The last `"answer": …` of JSON that names an option counts. Without JSON it is the last box or a
    closing sentence after it, else the last line or the last closing sentence that states an answer.
    An option's full text stands for its letter.
    """
    if stated := list(_JSON.finditer(response)):
        said = (next(filter(None, s.groups()), "") for s in reversed(stated[-CLOSING_OBJECTS:]))
        return next(filter(None, (_read_alone(text, options) for text in said)), None)
    box = last_boxed(response)
    if box is not None and (letter := _read_alone(box, options)):
        return _closing(_last_lines(response.rpartition(r"\boxed")[2]), options) or letter
    lines = _last_lines(response)
    return _last_line(lines, options) or _closing(lines, options) or _labelled(response, options)


def _last_lines(text: str) -> list[str]:
    return [line for line in map(_clean, text[-CLOSING_CHARACTERS:].splitlines()) if line]


def _clean(text: str) -> str:
    for _ in range(3):
        text = _COMMAND.sub(r"\1", text)
    return " ".join(_MARKS.sub("", text).split())


def _read_alone(text: str, options: Sequence[str]) -> str | None:
    """The letter of a text that is nothing but an answer: `C`, `(C)`, `Option C`, `C. Paris`, `Paris`."""
    if len(text) > CLOSING_CHARACTERS:
        return None
    text = _clean(text)
    if match := _ALONE.fullmatch(text):
        return _in_range(match, options)
    if same := _same_text(text, options):
        return same
    match = _WITH_TEXT.match(text)
    return _in_range(match, options) if match else None


def _same_text(text: str, options: Sequence[str]) -> str | None:
    """The letter of the one option that a text repeats."""
    found = [i for i, option in enumerate(options) if _alike(text, _clean(option))]
    return ascii_uppercase[found[0]] if len(found) == 1 else None


def _alike(text: str, option: str) -> bool:
    return text.casefold().rstrip(". ") == option.casefold().rstrip(". ") or bool(
        quick_equal(text, option)
    )


def _in_range(match: re.Match[str], options: Sequence[str]) -> str | None:
    letter = next(filter(None, match.groups())).upper()
    return letter if letter in ascii_uppercase[: len(options)] else None


def _last_line(lines: Sequence[str], options: Sequence[str]) -> str | None:
    """The last line if it is an answer by itself, and not the end of a list of options."""
    if not lines or (
        len(lines) > 1 and _WITH_TEXT.match(lines[-2]) and _WITH_TEXT.match(lines[-1])
    ):
        return None
    return _read_alone(lines[-1], options)


def _closing(lines: Sequence[str], options: Sequence[str]) -> str | None:
    """What the last sentence of the closing lines that states an answer says."""
    text = "\n".join(lines[-CLOSING_LINES:])
    stated = [(m.start(), True, _in_range(m, options)) for m in _IS_RIGHT.finditer(text)]
    stated += [
        (match.start(), not match[1], _read_stated(text[match.end() :], options))
        for match in _STATED.finditer(text)
    ]
    answer = None
    for _, agreed, letter in sorted(entry for entry in stated if entry[2]):
        answer = letter if agreed else None if answer == letter else answer
    return answer


def _labelled(response: str, options: Sequence[str]) -> str | None:
    """The last line anywhere that begins with a label: `Answer: C`, before an explanation."""
    for line in reversed(response.splitlines()):
        cleaned = _clean(line[:CLOSING_CHARACTERS])
        if match := _LABEL.match(cleaned):
            return _read_stated(cleaned[match.end() :].lstrip(), options)
    return None


_OF_STATEMENT = re.compile(rf"(?:{_NOUN}\s+)?{_LETTER}", re.IGNORECASE)


def _read_stated(text: str, options: Sequence[str]) -> str | None:
    """The letter at the beginning of what follows "the answer is"; one, and not a word's."""
    sentence = re.split(r"\n|(?<=[.!?])\s", text, maxsplit=1)[0].rstrip(". ")
    single_letter = len(sentence) == 1 and sentence.isalpha()
    if not single_letter and (same := _same_text(sentence, options)):
        return same
    match = _OF_STATEMENT.match(text)
    if match is None or _ANOTHER.match(text, match.end()):
        return None
    if match[3] and not _FOLLOWS.match(text, match.end()):
        return None
    return _in_range(match, options)
