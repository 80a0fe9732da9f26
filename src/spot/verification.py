"""The final answer out of a response, and whether it equals the truth.

Most answers are numbers and are decided here, exactly, with fractions. The rest takes algebra, in
processes that can be killed (`spot.algebra`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from spot.algebra import OUTER_SECONDS, AlgebraPool
from spot.records import CORRECT, TRUNCATED, UNPARSEABLE, WRONG

ANSWER_FORMATS = ("boxed", "last", "json")

LONGEST_ANSWER = 2_000  # characters; anything longer is no final answer


class Item(NamedTuple):
    """A response to grade."""

    response: str
    truth: str
    finish_reason: str = "stop"
    answer_format: str = "boxed"


# ---------------------------------------------------------------- the final answer out of a response

# Responses are hostile input: no pattern here may take more than linear time.
_BRACE = re.compile(r"(\\{1,2}boxed\s*\{)|\\.|([{}])", re.DOTALL)
_NUMBER = r"(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
_LAST_NUMBER = re.compile(rf"(?:(?<![\w)\]])[-−]\s?)?\$?{_NUMBER}(?:\s?/\s?{_NUMBER})?%?")
_MARKER = re.compile(r"####|^[ \t]*A:", re.MULTILINE)  # how GSM8K and models trained on it label it
_JSON_ANSWER = re.compile(
    r'"answer"\s*:\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",{}][^",{}\n]*))', re.DOTALL
)
_JSON_ESCAPE = re.compile(r'\\(u[0-9a-fA-F]{4}|["\\/])')


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}` whose braces balance, or None.

    Braces nest and escaped ones (`\{`) do not count. Of boxes in a box the innermost last one
    speaks. `\boxed 5`, without braces, is no box: where such an answer ends is a guess.
    """
    box: tuple[int, int] | None = None
    open_braces: list[int] = []  # where the content of an open box starts; -1 for a plain brace
    for match in _BRACE.finditer(text):
        if match[1]:
            open_braces.append(match.end())
        elif match[2] == "{":
            open_braces.append(-1)
        elif match[2] == "}" and open_braces:
            start = open_braces.pop()
            if start >= 0 and (box is None or start > box[0]):
                box = (start, match.start())
    return None if box is None else text[box[0] : box[1]]


def extract(text: str, answer_format: str) -> str | None:
    r"""The final answer as written, or None when there is none.

    boxed: the last balanced `\boxed{…}`; last: the number after the last `####` (or `A:` at the
    start of a line), otherwise the last number; json: the last "answer" of an object, which may be
    broken around it.
    """
    if answer_format == "boxed":
        found = last_boxed(text)
    elif answer_format == "last":
        found = _last_number(text)
    elif answer_format == "json":
        found = _json_answer(text)
    else:
        raise ValueError(f"unknown answer format {answer_format!r}: one of {ANSWER_FORMATS}")
    return (found or "").strip() or None


def _last_number(text: str) -> str | None:
    marks = list(_MARKER.finditer(text))
    numbers = _LAST_NUMBER.findall(text, marks[-1].end() if marks else 0)
    number = (numbers[0] if marks else numbers[-1]) if numbers else ""
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


# ---------------------------------------------------------------- equal to the truth, without SymPy

_WRAPPERS = [("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")]
_NAMED_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|mathit)\s*\{([^{}]*)\}")
_REMOVED = re.compile(
    r"\\left(?![a-z])|\\right(?![a-z])|\\[!,;:]|\{,\}|\\\$|(?:\^\s*(?:\{\s*)?\\circ(?:\s*\})?|°)"
)
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9,
           "trillion": 10**12, "dozen": 12}  # fmt: skip
_UNITS = frozenset(
    re.findall(
        r"\w+",
        """dollar cent euro pound degree percent unit second minute hour day week month year sec min hr
        cm mm km kg mg lb oz ml meter metre centimeter kilometer millimeter inch inches feet foot ft
        yard mile mph gram kilogram liter litre gallon ounce square cubic sq""",
    )
)
_PLAIN = r"\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+"
_VALUE = re.compile(
    rf"""([-+]?)\s*\$?\s*(?:
        (?:(\d+)\s+|(\d+)\s*(?=\\))?                     # the whole part of a mixed number
        (?:\\[dt]?frac\s*\{{\s*(-?\d+)\s*\}}\s*\{{\s*(\d+)\s*\}}|\\[dt]?frac\s*(\d)\s*(\d)|(\d+)\s*/\s*(\d+))
        |({_PLAIN})(?:[eE]([-+]?\d{{1,3}}))?
    )\s*(\\?%)?\s*([A-Za-z\s]*)\.?""",
    re.VERBOSE,
)


def quick_equal(extracted: str, truth: str) -> bool | None:
    """Whether two answers are equal as text or exact numbers; None when that takes algebra.

    18 = 18.00 = \\$18 = 18 dollars, 1/2 = 0.5 = \\frac{1}{2}, 2{,}125 = 2125. Where one side alone
    has a percent sign, 10% equals both 0.1 and 10: questions ask for either.
    """
    left, right = _plain(extracted), _plain(truth)
    if left == right:
        return bool(left)
    if min(len(left), len(right)) > 1 and left.isalpha() and right.isalpha():
        return left.casefold() == right.casefold()  # words: to algebra, anagrams are equal
    a, b = _value(left), _value(right)
    if a is None or b is None:
        return None
    factors = (Fraction(1), Fraction(1, 100)) if a[1] != b[1] else (Fraction(1),)
    pairs = [(a[0] * f, b[0]) if a[1] else (a[0], b[0] * f) for f in factors]
    if any(x == y for x, y in pairs):
        return True
    # As math-verify, which rounds to 6 decimals, would: 1/3 and 0.333333 are its to decide.
    return False if all(abs(x - y) > Fraction(1, 10**6) for x, y in pairs) else None


def _plain(answer: str) -> str:
    """An answer without dollar signs, boxes, text commands, spacing and a closing full stop."""
    text = "".join(c if c.isprintable() else " " for c in answer[: LONGEST_ANSWER + 1]).strip()
    text = text.replace("−", "-").rstrip(".").strip()
    for opening, closing in _WRAPPERS:
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening):
            text = text[len(opening) : -len(closing)].strip()
    if text.startswith(r"\boxed") and (inner := last_boxed(text)) is not None:
        text = inner
    text = _NAMED_TEXT.sub(r" \1 ", text)
    return " ".join(_REMOVED.sub("", text).rstrip(".").split())


def _value(text: str) -> tuple[Fraction, bool] | None:
    """The exact number an answer writes, and whether it writes a percent sign (not applied)."""
    match = _VALUE.fullmatch(text) if len(text) <= LONGEST_ANSWER else None
    if match is None:
        return None
    sign, whole1, whole2, n1, d1, n2, d2, n3, d3, plain, exponent, percent, words = match.groups()
    if plain is not None:
        value = Fraction(plain.replace(",", "").rstrip(".") + (f"e{exponent}" if exponent else ""))
    else:
        denominator = int(d1 or d2 or d3)
        if denominator == 0:
            return None
        value = int(whole1 or whole2 or 0) + Fraction(int(n1 or n2 or n3), denominator)
    for word in words.lower().split():
        if word in _SCALES:
            value *= _SCALES[word]
        elif word == "percent":
            percent = word
        elif word not in _UNITS and word.removesuffix("s") not in _UNITS:
            return None
    return (-value if sign == "-" else value), bool(percent)


# ---------------------------------------------------------------- equal to the truth, by algebra


class Verifier:
    """Grades responses; owns the worker processes, which are started only when algebra is needed.

    Use it as a context manager, from any thread. A comparison that exceeds its limits or kills its
    worker makes the verdict `unparseable`: such an answer is known neither right nor wrong.
    """

    def __init__(self, workers: int | None = None, seconds: float = OUTER_SECONDS) -> None:
        self.pool = AlgebraPool(workers, seconds)

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        self.pool.close()

    def equal(self, extracted: str, truth: str) -> bool:
        """Whether an extracted answer equals the truth; False when that cannot be found out."""
        return bool(self.equals([(extracted, truth)])[0])

    def equals(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """`equal` for each (extracted, truth), both cores at work; None where it gave up."""
        results: list[bool | None] = [None] * len(pairs)
        hard: list[int] = []
        for index, (extracted, truth) in enumerate(pairs):
            if len(extracted) > LONGEST_ANSWER or len(truth) > LONGEST_ANSWER:
                results[index] = extracted.strip() == truth.strip()
            elif (quick := quick_equal(extracted, truth)) is not None:
                results[index] = quick
            else:
                hard.append(index)
        judged = self.pool.equals([(_plain(pairs[i][0]), _plain(pairs[i][1])) for i in hard])
        for index, result in zip(hard, judged, strict=True):
            results[index] = result
        return results

    def verdict(
        self,
        response: str,
        truth: str,
        finish_reason: str = "stop",
        answer_format: str = "boxed",
    ) -> tuple[str, str | None]:
        """`(verdict, extracted)`: correct, wrong, truncated or unparseable, and the answer found."""
        return self.verdicts([Item(response, truth, finish_reason, answer_format)])[0]

    def verdicts(self, items: Sequence[Item]) -> list[tuple[str, str | None]]:
        """`verdict` for each item, in order. A truncated response is neither right nor wrong."""
        extracted = [extract(item.response, item.answer_format) for item in items]
        asked = [
            i
            for i, item in enumerate(items)
            if item.finish_reason != "length" and extracted[i] is not None
        ]
        equal = dict(
            zip(
                asked,
                self.equals([(extracted[i] or "", items[i].truth) for i in asked]),
                strict=True,
            )
        )
        name = {True: CORRECT, False: WRONG, None: UNPARSEABLE}
        return [
            (TRUNCATED if item.finish_reason == "length" else name[equal.get(i)], extracted[i])
            for i, item in enumerate(items)
        ]
