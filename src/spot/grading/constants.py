r"""The value of a constant such as `2\sqrt{3}` or `\frac{\pi}{6}`, by its digits.

Parsing it as algebra takes milliseconds; this takes microseconds.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal, DecimalException, localcontext

DIGITS = 50
_LONGEST_CONSTANT = 80  # tokens; bounds the depth of the recursion, too
_LARGEST_EXPONENT = 999
_PI = Decimal("3.1415926535897932384626433832795028841971693993751058209749445923")
_TOKEN = re.compile(
    r"\s*(\\(?:frac|sqrt|pi|cdot|times)(?![a-z])|\d+(?:\.\d*)?|\.\d+|[-+*/^(){}\[\]])"
)
_AS_SIGN = {r"\cdot": "*", r"\times": "*"}


class _UnclearError(ValueError):
    """No constant, or one whose reading is a guess."""


def constant(text: str) -> Decimal | None:
    r"""The value of numbers, `\frac`, `\sqrt`, `\pi`, powers and + - * / (), to about 50 digits.

    None for anything else, and where LaTeX leaves open what is meant: `1/2\sqrt{3}`, `2^10`, `3 4`.
    """
    tokens = _tokens(text)
    if not tokens:
        return None
    try:
        with localcontext(Context(prec=DIGITS)):
            value = _sum(tokens)
    except (_UnclearError, DecimalException):
        return None
    return None if tokens else value


def _tokens(text: str) -> list[str]:
    """The tokens, the first one last; [] if there are too many or unknown ones."""
    tokens: list[str] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) == _LONGEST_CONSTANT:
            return []
        tokens.append(_AS_SIGN.get(match[1], match[1]))
        position = match.end()
    return tokens[::-1]


def _sum(tokens: list[str]) -> Decimal:
    total = Decimal(0)
    while True:
        sign = 1
        if tokens and tokens[-1] in ("+", "-"):
            sign = -1 if tokens.pop() == "-" else 1
        total += sign * _product(tokens)
        if not tokens or tokens[-1] not in ("+", "-"):
            return total


def _product(tokens: list[str]) -> Decimal:
    """Factors with or without a sign between them; `3\\frac{1}{2}` may be 3.5, `1/2(3)` anything."""
    before, divided = tokens[-1:], False
    value = _power(tokens)
    while tokens:
        sign = tokens[-1]
        if sign in ("*", "/"):
            tokens.pop()
            divided = sign == "/"
        elif sign in ("(", r"\frac", r"\sqrt", r"\pi"):
            mixed = sign == r"\frac" and before[0][0].isdigit()
            if divided or mixed:
                raise _UnclearError
            sign = "*"
        elif sign in ("+", "-", ")", "}", "]"):
            return value
        else:
            raise _UnclearError
        before = tokens[-1:]
        factor = _power(tokens)
        value = value / factor if sign == "/" else value * factor
    return value


def _power(tokens: list[str]) -> Decimal:
    base = _atom(tokens)
    if not tokens or tokens[-1] != "^":
        return base
    tokens.pop()
    if len(tokens[-1:]) == 1 and len(tokens[-1]) > 1 and tokens[-1][0].isdigit():
        raise _UnclearError  # 2^10 is 2^1 times 0 in LaTeX, and means 2^{10}
    exponent = _argument(tokens)
    if abs(exponent) > _LARGEST_EXPONENT:
        raise _UnclearError
    return base**exponent


def _atom(tokens: list[str]) -> Decimal:
    token = tokens.pop() if tokens else ""
    if token[:1].isdigit() or token[:1] == ".":
        return Decimal(token)
    if token in ("(", "{"):
        return _until({"(": ")", "{": "}"}[token], tokens)
    if token == r"\pi":
        return _PI
    if token == r"\frac":
        numerator = _argument(tokens)
        return numerator / _argument(tokens)
    if token == r"\sqrt":
        degree = Decimal(2)
        if tokens and tokens[-1] == "[":
            tokens.pop()
            degree = _until("]", tokens)
        if tokens and len(tokens[-1]) > 1 and tokens[-1][0].isdigit():
            raise _UnclearError  # \sqrt13
        radicand = _argument(tokens)
        return radicand.sqrt() if degree == 2 else radicand ** (1 / degree)
    raise _UnclearError


def _argument(tokens: list[str]) -> Decimal:
    r"""What LaTeX takes for a command's argument: a group, or one digit or command: `\frac43`."""
    if tokens and tokens[-1].isdigit() and len(tokens[-1]) > 1:
        number = tokens.pop()
        tokens.append(number[1:])
        return Decimal(number[0])
    if not tokens or tokens[-1] == "(":
        raise _UnclearError
    return _atom(tokens)


def _until(closing: str, tokens: list[str]) -> Decimal:
    value = _sum(tokens)
    if not tokens or tokens.pop() != closing:
        raise _UnclearError
    return value
