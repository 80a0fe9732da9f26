"""Training questions that a benchmark asks, too.

Texts are compared as tokens: words, numbers and operators, without case, spacing, punctuation and
LaTeX's way of writing them. Two questions are one when at least half of the windows of `n` tokens of
the one with fewer are also in the other (13 tokens: Brown et al. 2020, arXiv 2005.14165, App. C), and
all numbers of the shorter text are in the longer: a shared phrase ("where m and n are relatively
prime positive integers") is no evidence, and with other numbers it is another question. Texts of fewer
than `n` tokens must be equal.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spot.records import Question

SHARE = 0.5  # of the windows of the question with fewer

_FIGURE = re.compile(r"\[asy\].*?(?:\[/asy\]|$)", re.DOTALL)
_SPACING = re.compile(r"\\(?:[,;:! \\]|q?quad\b|hspace\*?\{[^}]*\}|vspace\*?\{[^}]*\})")
_BETWEEN_DIGITS = re.compile(r"(?<=\d)(?:,|\{,\}|\\[,!])+(?=\d{3}(?!\d))")
_SHORT_FRACTION = re.compile(r"\\[dt]?frac(\d)(\d)")
_STYLE = re.compile(
    r"\\(?:left|right|bigg?[lr]?|displaystyle|text(?:bf|it|rm)?|math(?:bf|it|rm|bb|cal|frak)|"
    r"operatorname|mbox|emph|begin\{[a-z*]+\}|end\{[a-z*]+\})(?![a-z])"
)
_SAME = {"dfrac": "frac", "tfrac": "frac", "leq": "le", "geq": "ge", "neq": "ne"} | {
    "≤": "le",
    "≥": "ge",
    "≠": "ne",
    "×": "times",
    "·": "cdot",
    "−": "-",
    "π": "pi",
    "∠": "angle",
    "∞": "infty",
}
_TOKEN = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+|(?<!_)_(?!_)|[-+*/=<>^|!()%]|[≤≥≠×·−∠∞√°∑∏∫]")


def tokens(text: str) -> list[str]:
    """The words, numbers and operators of a text, in one way of writing.

    `$\\dfrac12$ of 1,000.` and `\\frac{1}{2} of  1000` are both `frac 1 2 of 1000`.
    """
    text = unicodedata.normalize("NFKC", text).lower()
    text = _FIGURE.sub(" ", text)
    text = _BETWEEN_DIGITS.sub("", text)
    text = _SHORT_FRACTION.sub(r"\\frac \1 \2", text)
    text = _STYLE.sub(" ", _SPACING.sub(" ", text))
    return [_SAME.get(token, token) for token in _TOKEN.findall(text)]


def contaminated(
    questions: Iterable[Question], benchmarks: Mapping[str, str], n: int = 13
) -> dict[str, str]:
    """The ids of questions that are also a benchmark's, each with the name of the closest one.

    `benchmarks` holds texts by any name. Time is linear in the length of all texts, as long as few of
    the benchmarks' windows are in many of them.
    """
    if n < 1:
        raise ValueError("a window has at least one token")
    names = list(benchmarks)
    texts = [_text(text, n) for text in benchmarks.values()]
    index: dict[tuple[str, ...], list[int]] = {}
    for at, text in enumerate(texts):
        for window in text.windows:
            index.setdefault(window, []).append(at)
    found = {}
    for question in questions:
        closest = _closest(_text(question.text, n), texts, index)
        if closest is not None:
            found[question.id] = names[closest]
    return found


@dataclass(frozen=True)
class _Text:
    windows: frozenset[tuple[str, ...]]
    numbers: Counter[str]
    length: int


def _text(text: str, n: int) -> _Text:
    found = tokens(text)
    last = max(len(found) - n, 0)
    windows = (
        frozenset(tuple(found[at : at + n]) for at in range(last + 1)) if found else frozenset()
    )
    return _Text(windows, Counter(t for t in found if t[0].isdecimal()), len(found))


def _closest(
    text: _Text, others: Sequence[_Text], index: Mapping[tuple[str, ...], list[int]]
) -> int | None:
    """Which of the others shares most with the text, if it is enough to be the same question."""
    shared = Counter(at for window in text.windows for at in index.get(window, ()))
    for at, count in shared.most_common():
        other = others[at]
        fewer = min(len(text.windows), len(other.windows))
        shorter, longer = sorted((text, other), key=lambda one: one.length)
        if count >= SHARE * fewer and shorter.numbers <= longer.numbers:
            return at
    return None
