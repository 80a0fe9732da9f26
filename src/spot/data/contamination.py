"""Training questions that a benchmark asks, too.

Texts are compared as tokens: words, numbers and operators, without case, spacing, punctuation and
LaTeX's way of writing them. Two questions are one when at least half of the windows of `n` tokens of
the one with fewer are also in the other, and all numbers of the shorter text are in the longer: a
shared phrase ("where m and n are relatively prime positive integers") is no evidence, and with other
numbers it is another question. n is 13 (Brown et al. 2020, arXiv 2005.14165, App. C) and less where
the shorter text is so short that one changed word would hide it. Texts of fewer than 14 tokens must
be equal.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spot.data.rows import Question

SHARE = 0.5  # of the windows of the question with fewer
SIZES = (13, 8, 5)  # tokens of a window, the largest that suits a text

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


def contaminated(questions: Iterable[Question], benchmarks: Mapping[str, str]) -> dict[str, str]:
    """The ids of questions that are also a benchmark's, each with the name of the closest one.

    `benchmarks` holds texts by any name. Time is linear in the length of all texts, as long as few of
    the benchmarks' windows are in many of them.
    """
    names = list(benchmarks)
    texts = [_text(text) for text in benchmarks.values()]
    index = _index(texts)
    found = {}
    for question in questions:
        closest = _closest(_text(question.text), texts, index)
        if closest is not None:
            found[question.id] = names[closest]
    return found


@dataclass(frozen=True)
class _Text:
    tokens: list[str]
    numbers: Counter[str]
    n: int  # tokens of a window, 0: only the whole text is one

    def windows(self, n: int) -> set[tuple[str, ...]]:
        """All runs of n tokens."""
        if n == 0:
            return {tuple(self.tokens)} if self.tokens else set()
        last = len(self.tokens) - n
        return {tuple(self.tokens[at : at + n]) for at in range(last + 1)}


# (n of the text, n of the windows) → window → the texts it is in. Of a long text a short one looks
# for short windows.
_Index = dict[tuple[int, int], dict[tuple[str, ...], list[int]]]


def _text(text: str) -> _Text:
    found = tokens(text)
    # One changed word breaks n windows: at most half of those of 3n - 1 tokens.
    n = next((n for n in SIZES if len(found) >= 3 * n - 1), 0)
    return _Text(found, Counter(t for t in found if t[0].isdecimal()), n)


def _index(texts: Sequence[_Text]) -> _Index:
    index: _Index = defaultdict(lambda: defaultdict(list))
    for at, text in enumerate(texts):
        for n in (n for n in (0, *SIZES) if n <= text.n):
            for window in text.windows(n):
                index[text.n, n][window].append(at)
    return index


def _closest(text: _Text, others: Sequence[_Text], index: _Index) -> int | None:
    """Which of the others shares most with the text, if it is enough to be the same question."""
    shared: Counter[int] = Counter()
    for (other_n, n), windows in index.items():
        if n == min(other_n, text.n):
            shared.update(at for window in text.windows(n) for at in windows.get(window, ()))
    for at, count in shared.most_common():
        other = others[at]
        fewer = min(len(one.windows(min(text.n, other.n))) for one in (text, other))
        shorter, longer = sorted((text, other), key=lambda one: len(one.tokens))
        if count >= SHARE * fewer and shorter.numbers <= longer.numbers:
            return at
    return None
