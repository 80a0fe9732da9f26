"""Whether a mathematical answer equals the true one.

Most answers are numbers and are decided here, exactly, with fractions. The rest takes algebra, in
processes that can be killed (`spot.grading.math_pool`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction

from spot.data.answers import last_boxed
from spot.grading.constants import constant
from spot.grading.math_pool import Comparison
from spot.grading.process_pool import WorkerPool

LONGEST_ANSWER = 2_000  # characters; anything longer is no final answer
LONGEST_SET = 40  # elements that are matched in any order
_INTERVALS = ("()", "(]", "[)", "[]")

# (extracted, truth) of each → equal, or None where that cannot be found out
Equals = Callable[[Sequence[tuple[str, str]]], list[bool | None]]

# ---------------------------------------------------------------- equal to the truth, without SymPy

_WRAPPERS = [("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")]
_TEXT = r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox)\s*\{([^{}]*)\}"
_NAMED_TEXT = re.compile(_TEXT)
_REMOVED = re.compile(
    r"\\left(?![a-z])|\\right(?![a-z])|\\!\s*|(?<=\d)\\[,;:]\s*(?=\d{3}(?!\d))|\{,\}|\\\$"
    r"|(?:\^\s*(?:\{\s*)?\\circ(?:\s*\})?|°)"
)
_SPACES = re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad(?![a-z])")
_MEMBER = re.compile(  # x \in [0, 1], and t(0, 4] for want of a sign
    r"^[a-zA-Z]\s*(?:(?:\\in(?![a-z])|∈)\s*(?=[\[(\\])|(?=\([^()\[\]]*\]$))"
)
_EXTREME = re.compile(r"_\{\s*\\(max|min)\s*\}")  # math-verify takes it for a function
_NUMPY = re.compile(r"(?<![a-z])np\.(?=[a-z])")
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9,
           "trillion": 10**12, "dozen": 12}  # fmt: skip
_UNITS = frozenset(
    """dollar cent euro pound degree percent unit second minute hour day week month year sec min hr
    cm mm km kg mg lb oz ml meter metre centimeter kilometer millimeter inch inches feet foot ft
    yard mile mph gram kilogram liter litre gallon ounce square cubic sq""".split()
)
# Too short to be told from variables, unless they stand in a text command.
_SYMBOLS = frozenset(
    """m s h g t l k j n w v c a f in nm pm um µm fm ms ns ps gb mol mmol kmol cal kcal erg ergs ev
    kev mev gev hz khz mhz ghz pa kpa mpa atm bar torr kj mj kw mw gw ma mv kv ohm ohms farad joule
    kelvin newton watt volt amp ampere tesla coulomb rad radian steradian sr au pc kpc mpc ly yr gyr
    myr arcsec arcmin dyn dyne gauss amu molar per cc psi angstrom celsius fahrenheit""".split()
)
_UNIT_TAIL = re.compile(
    rf"(?:[\s~]*(?:{_TEXT}(?:\s*\^\s*(?:\{{\s*-?\d\s*\}}|-?\d))?|\\cdot|\\[,;: ]|[/*·]))+[\s.]*$"
)
_LETTER = re.compile(r"(?<![a-zA-Z\\])[a-zA-Z]+")  # outside of commands
_SQUEEZED = re.compile(r"(?<!\d)\s+|\s+(?!\d)|(?<=[_^])\{(\w)\}")

_PLAIN = r"\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+"
_VALUE = re.compile(
    rf"""([-+]?)\s*\$?\s*(?:
        (?:(\d+)\s+|(\d+)\s*(?=\\))?                     # the whole part of a mixed number
        (?:\\frac\s*\{{\s*(-?\d+)\s*\}}\s*\{{\s*(\d+)\s*\}}|\\frac\s*(\d)\s*(\d)|(\d+)\.?\s*/\s*(\d+))
        |({_PLAIN})(?:[eE]([-+]?\d{{1,3}})               # 4.5e33, 4.5 \times 10^{{33}}
            |\s*(?:\\times|\\cdot|[×*·x])\s*10\s*\^\s*(?:\{{\s*([-+]?\d{{1,3}})\s*\}}|([-+]?\d)(?!\d)))?
    )\s*(\\?%)?\s*([A-Za-z\s]*)\.?""",
    re.VERBOSE,
)
_ALMOST = Fraction(1, 10**6)  # math-verify rounds to 6 decimals
_FOUR_DIGITS = Fraction(1, 10**3)  # but of small numbers the first digits must count


def quick_equal(extracted: str, truth: str) -> bool | None:
    """Whether two answers are equal as text or exact numbers; None when that takes algebra.

    18 = 18.00 = \\$18 = 18 dollars, 1/2 = 0.5 = \\frac{1}{2}, 2{,}125 = 2125, 4.5e3 = 4.5 \\times 10^3,
    2\\sqrt{2} = \\sqrt{8}; tuples, intervals, lists and sets of such. Where one side alone has a percent
    sign, 10% equals both 0.1 and 10: questions ask for either.
    """
    return _quick(*_plain_pair(extracted, truth), levels=2)


def number(text: str) -> Fraction | None:
    """The number an answer writes, exactly (10% is 10), or None when it is no plain number."""
    found = _value(_plain(_without_unit(text)))
    return None if found is None else found[0]


def _quick(left: str, right: str, levels: int) -> bool | None:
    """`quick_equal` of plain answers; lists in lists are looked into `levels` deep."""
    if left == right or _squeezed(left) == _squeezed(right):
        return bool(left)
    if min(len(left), len(right)) > 1 and left.isalpha() and right.isalpha():
        return left.casefold() == right.casefold()  # words: to algebra, anagrams are equal
    a, b = _value(left), _value(right)
    if a is None or b is None:
        c, d = _constant(left, a), _constant(right, b)
        if c is not None and d is not None:
            return _equal_constants(c, d)
        return _equal_lists(left, right, levels - 1) if levels else None
    factors = (Fraction(1), Fraction(1, 100)) if a[1] != b[1] else (Fraction(1),)
    pairs = [(a[0] * f, b[0]) if a[1] else (a[0], b[0] * f) for f in factors]
    if any(x == y for x, y in pairs):
        return True
    # 1/3 and 0.333333 are math-verify's to decide.
    near = (abs(x - y) <= min(_ALMOST, _FOUR_DIGITS * max(abs(x), abs(y))) for x, y in pairs)
    return None if any(near) else False


def _constant(text: str, value: tuple[Fraction, bool] | None) -> Decimal | None:
    if value is None:
        return constant(text)
    return None if value[1] else Decimal(value[0].numerator) / value[0].denominator


def _equal_constants(a: Decimal, b: Decimal) -> bool | None:
    gap, size = abs(a - b), max(abs(a), abs(b))
    if gap <= size * Decimal("1e-25"):  # `constant` has 50 digits, a decimal fraction here has 28
        return True
    # What is left where all digits cancel says nothing.
    near = gap <= max(min(Decimal("1e-6"), size * Decimal("1e-3")), Decimal("1e-25"))
    return None if near else False


def _equal_lists(left: str, right: str, levels: int) -> bool | None:
    """Tuples and intervals element by element, sets and bare lists in any order."""
    a, b = _elements(left), _elements(right)
    if a is None or b is None or len(a[1]) != len(b[1]):
        return None
    if a[0] != b[0]:  # other ends, another interval
        return False if len(a[1]) == 2 and {a[0], b[0]} <= {*_INTERVALS} else None
    if a[0][:1] in ("(", "["):
        same = [_quick(x, y, levels) for x, y in zip(a[1], b[1], strict=True)]
        return False if False in same else None if None in same else True
    if len(a[1]) > LONGEST_SET:
        return None
    rows = [[_quick(x, y, levels) for y in b[1]] for x in a[1]]
    return same_sets(rows)


def same_sets(equal: Sequence[Sequence[bool | None]]) -> bool | None:
    """Whether two sets are the same, from a row for each element of one and a column for each of the other.

    Every element needs its equal on the other side; None where comparisons that gave up decide.
    """
    lines = [*equal, *zip(*equal, strict=True)]
    if all(True in line for line in lines):
        return bool(lines)
    return False if any(set(line) == {False} for line in lines) else None


def _elements(text: str) -> tuple[str, list[str]] | None:
    """`(brackets, elements)` of a list with two elements or more, None for anything else."""
    for opening, closing in (*map(tuple, _INTERVALS), (r"\{", r"\}"), ("", "")):
        if text.startswith(opening) and text.endswith(closing):
            parts = split_list(text[len(opening) : len(text) - len(closing)])
            if len(parts) > 1 and all(parts):
                return opening + closing, parts
    return None


def split_list(text: str) -> list[str]:
    """What stands between the commas (and semicolons) outside of brackets; [] if they do not balance."""
    parts, depth, start = [], 0, 0
    for position, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth < 0:
            return []
        if depth == 0 and sign in ",;" and text[position - 1 : position] != "\\":
            parts.append(text[start:position].strip())
            start = position + 1
    return [*parts, text[start:].strip()] if depth == 0 else []


def _plain_pair(extracted: str, truth: str) -> tuple[str, str]:
    """Both answers plain, and without their units unless the truth has letters of its own."""
    bare = _plain(_without_unit(truth))
    if _value(bare) is None and _LETTER.search(bare):
        return _plain(extracted), _plain(truth)
    return _plain(_without_unit(extracted)), bare


def _without_unit(answer: str) -> str:
    r"""`15\text{ cm}^2` → `15`, `4 \mathrm{~J} / \mathrm{mol}` → `4`; what is no unit stays."""
    text = answer[: LONGEST_ANSWER + 1].strip().strip("$").strip()
    tail = _UNIT_TAIL.search(text)
    if tail is None or not any(c.isdigit() for c in text[: tail.start()]):
        return answer
    named = " ".join(_NAMED_TEXT.findall(tail[0])).lower()
    words = re.findall(r"[^\W\d_]+", named)
    if not words or not all(
        w in _SYMBOLS or w in _UNITS or w.removesuffix("s") in _UNITS for w in words
    ):
        return answer
    return text[: tail.start()]


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
    text = _SPACES.sub(" ", _REMOVED.sub("", text))
    text = text.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac").replace("$", "")
    text = _EXTREME.sub(r"_{\1}", _NUMPY.sub(r"\\", text))
    return _MEMBER.sub("", " ".join(text.rstrip(". ").split()))


def _squeezed(plain: str) -> str:
    r"""Without the spaces and braces that mean nothing; `y^{\prime}` is `y'`."""
    return _SQUEEZED.sub(r"\1", plain.replace(r"^{\prime}", "'").replace(r"^\prime", "'"))


def _value(text: str) -> tuple[Fraction, bool] | None:
    """The exact number an answer writes, and whether it writes a percent sign (not applied)."""
    match = _VALUE.fullmatch(text) if len(text) <= LONGEST_ANSWER else None
    if match is None:
        return None
    sign, whole1, whole2, n1, d1, n2, d2, n3, d3, plain, e1, e2, e3, percent, words = match.groups()
    if plain is not None:
        value = Fraction(plain.replace(",", "").rstrip(".") + f"e{e1 or e2 or e3 or 0}")
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


def _decimals(truth: str) -> int:
    """Decimals to compare at: 6 as math-verify has it, more for a truth that would vanish in them."""
    value = _value(truth)
    if value is None or not 0 < abs(value[0]) < _FOUR_DIGITS:
        return 6
    return 3 - (Decimal(value[0].numerator) / value[0].denominator).adjusted()


# ---------------------------------------------------------------- equal to the truth, by algebra


def equals(pool: WorkerPool, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
    """Whether each (extracted, truth) is equal; None where algebra exceeded its limits or its worker died."""
    found: dict[tuple[str, str], bool | None] = {}
    hard: dict[tuple[str, str], Comparison] = {}
    for pair in dict.fromkeys(pairs):  # trials of one question often end alike
        extracted, truth = pair
        if len(extracted) > LONGEST_ANSWER or len(truth) > LONGEST_ANSWER:
            found[pair] = extracted.strip() == truth.strip()
        elif (quick := quick_equal(extracted, truth)) is not None:
            found[pair] = quick
        else:
            plain = _plain_pair(extracted, truth)
            hard[pair] = Comparison(*plain, _decimals(plain[1]))
    results = pool.map(list(hard.values()))
    equal = [None if isinstance(result, BaseException) else result for result in results]
    found.update(zip(hard, equal, strict=True))
    return [found[pair] for pair in pairs]
