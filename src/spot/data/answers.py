"""The final answer out of a response: the last box, number or JSON answer. It is not judged here."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, NamedTuple


class Item(NamedTuple):
    """A response to grade."""

    response: str
    truth: str
    finish_reason: str = "stop"
    answer_format: str = "boxed"


_NO_VALUE = ("nan", "null", "<na>", "#n/a", "nat", "inf", "infinity")  # with or without a sign
# Responses are hostile input: no pattern here may take more than linear time.
_BRACE = re.compile(r"(\\{1,2}boxed\s*\{)|\\.|([{}])", re.DOTALL)
_NUMBER = r"(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
_LAST_NUMBER = re.compile(rf"(?:(?<![\w)\]])[-−]\s?)?\$?{_NUMBER}(?:\s?/\s?{_NUMBER})?%?")
_MARKER = "####"  # GSM8K's, before the answer
_EMPTY = re.compile(  # spacing, dots to be filled in
    r"(?:[\s{}$~.…]|\\[,;:! ]|\\(?:q?quad|[lc]?dots|text\w{0,2}|mathrm|mbox)(?![a-zA-Z]))*"
)
_JSON_ANSWER = re.compile(
    r'"answer"\s*:\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",{}][^",{}\n]*))', re.DOTALL
)
_JSON_ESCAPE = re.compile(r'\\(u[0-9a-fA-F]{4}|["\\/])')


def whole_characters(text: str) -> str:
    """A text with its pairs of surrogates joined, and U+FFFD for a lone one: it can be written."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def encodable(text: str) -> bool:
    """Whether a text can be written: JSON may escape half of a pair of surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def scalar_text(value: Any) -> str:
    """A text or a finite number of a row as text, without blanks around it; empty for all else.

    Empty as well: what tools write into text for no value and no number (nan, null, inf).
    """
    known = isinstance(value, str | int | float | Decimal) and not isinstance(value, bool)
    text = str(value).strip() if known else ""
    return "" if text.lower().lstrip("+-−") in _NO_VALUE else text


def boxes(text: str) -> list[tuple[int, int]]:
    r"""Where the content of each `\boxed{…}` whose braces balance begins and ends, in order.

    Braces nest and escaped ones (`\{`) do not count. `\boxed 5`, without braces, is no box: where
    such an answer ends is a guess.
    """
    found = []
    open_braces: list[int] = []  # where the content of an open box starts; -1 for a plain brace
    for match in _BRACE.finditer(text):
        if match[1]:
            open_braces.append(match.end())
        elif match[2] == "{":
            open_braces.append(-1)
        elif match[2] == "}" and open_braces and (start := open_braces.pop()) >= 0:
            found.append((start, match.start()))
    return sorted(found)


def last_boxed(text: str) -> str | None:
    """The content of the last box (of nested ones the innermost) that is not empty, or None."""
    contents = (text[start:end] for start, end in reversed(boxes(text)))
    return next((content for content in contents if not _EMPTY.fullmatch(content)), None)


def extract(text: str, answer_format: str) -> str | None:
    r"""The final answer as written, or None when there is none.

    boxed: the last balanced `\boxed{…}` that is not empty; last: the number after the last `####`,
    otherwise the last number; json: the last "answer" of an object, which may be broken around it.
    """
    return whole_characters(_READERS[answer_format](text) or "").strip() or None


def final_truth(answer: str, answer_format: str) -> str:
    """The truth that a data set's answer gives: itself, or what a worked solution ends in.

    Empty where that is no value.
    """
    reader = _last_number if answer_format == "last" else last_boxed
    whole = "" if boxes(answer) else answer.rpartition(_MARKER)[2]
    return scalar_text(reader(answer) or whole)


def _last_number(text: str) -> str | None:
    mark = text.rfind(_MARKER)
    numbers = _LAST_NUMBER.findall(text, mark + len(_MARKER) if mark >= 0 else 0)
    number = numbers[0 if mark >= 0 else -1] if numbers else ""
    return number.replace("$", "").replace("−", "-").rstrip(",")


def _json_answer(text: str) -> str | None:
    """Models write LaTeX into JSON with single backslashes, so `\\frac` is not a form feed here."""
    matches = list(_JSON_ANSWER.finditer(text))
    if not matches or matches[-1][2] == "null":
        return None
    quoted, bare = matches[-1].groups()
    if quoted is None:
        return str(bare)
    return _JSON_ESCAPE.sub(
        lambda m: m[1] if len(m[1]) == 1 else chr(int(m[1][1:], 16)), str(quoted)
    )


_READERS = {"boxed": last_boxed, "last": _last_number, "json": _json_answer}
ANSWER_FORMATS = tuple(_READERS)
