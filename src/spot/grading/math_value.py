"""What trees of arithmetic are worth: exactly where they are rational, else to as many digits as it takes.

Expressions with variables are the same if they are at random points: positive ones, since analytic
functions that agree on an open set agree everywhere; of both signs where an absolute value is taken;
whole numbers for factorials, binomials and rounding. What is computed is bounded.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

from spot.grading.math_tree import Node, is_arithmetic, nodes, number_node, variables

BITS = 100_000  # of the largest number that is computed
LARGEST_FACTORIAL = 5_000
MOST_DIGITS = 2_000  # before the point, of what is not rational
DIGITS = (50, 120, 200)  # in turn, until a difference is told from rounding
_WHOLE = frozenset(("factorial", "binomial", "floor", "ceiling"))
_TURNS = 29
_lock = threading.Lock()  # there is one precision of mpmath

Value = Any  # Fraction, or a real or complex number of mpmath


class TooLargeError(ArithmeticError):
    """This takes more digits than are computed."""


class NoValueError(ArithmeticError):
    """A division by zero, or something without a value."""


def equal(one: Node, other: Node, within: Fraction = Fraction(0)) -> bool:
    """Whether two trees of arithmetic have the same value, or constants that are not farther apart than `within`.

    Raises TooLargeError.
    """
    if one == other:
        return True
    with _lock:
        tried = 0
        for points in _kinds_of_points(one, other):
            agreed, worked = 0, False
            for point in points:
                try:
                    same, work = _same_at(point, one, other, within)
                except NoValueError:
                    continue
                except TooLargeError:
                    if not point.varies:
                        raise
                    continue
                if not same:
                    return False
                agreed, worked = agreed + 1, worked or work
            tried += agreed
            if worked:
                break
        return tried > 0


def exact(tree: Node) -> Fraction | None:
    """The value of a tree without variables if it is rational and computed as such."""
    if not is_arithmetic(tree) or variables(tree):
        return None
    with _lock, _mp().workdps(DIGITS[0]):
        try:
            value = _Evaluation(_Point(0, "real", frozenset())).value(tree)
        except ArithmeticError:
            return None
    return value if isinstance(value, Fraction) else None


def ratio(one: Node, other: Node) -> float:
    """The constant that `one` is times `other`; 0 where the quotient varies or there is none."""
    found: list[Value] = []
    with _lock:
        for point in next(_kinds_of_points(one, other)):
            with _mp().workdps(DIGITS[0]):
                try:
                    a, b = (_number(_Evaluation(point).value(tree)) for tree in (one, other))
                    found.append(a / b)
                except ArithmeticError:
                    continue
        if not found or any(abs(r - found[0]) > abs(found[0]) * 1e-30 for r in found):
            return 0.0
        return float(found[0].real)


# ---------------------------------------------------------------- points


class _Point:
    """Where expressions are evaluated: each name has a value of its own, the same in every evaluation.

    way: real, signed, whole (small numbers in turn, so that every remainder and many powers are met).
    """

    def __init__(self, turn: int, way: str, names: frozenset[str]) -> None:
        self.turn, self.way, self.varies = turn, way, bool(names)
        self.strides = dict(zip(sorted(names), (1, 5, 7, 11) * len(names), strict=False))

    def __call__(self, name: str) -> Fraction:
        if self.way == "whole" and name in self.strides:
            return Fraction(1 + (1 + self.turn) * self.strides[name] % _TURNS)
        drawn = _hash(f"{self.turn} {name}")
        value = Fraction(drawn % 2**20 + 2**18, 2**18)
        return -value if self.way == "signed" and drawn >> 40 & 1 else value


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big")


def _kinds_of_points(one: Node, other: Node) -> Iterator[list[_Point]]:
    """Points to compare at. Where nothing is rounded at whole numbers, these say nothing: others follow."""
    names = variables(one) | variables(other)
    if not names:
        yield [_Point(0, "real", names)]
        return
    used = {n.name for tree in (one, other) for n in nodes(tree) if n.kind == "function"}
    if used & _WHOLE or any(_alternates(n) for tree in (one, other) for n in nodes(tree)):
        yield [_Point(turn, "whole", names) for turn in range(_TURNS)]
    way = "signed" if used & {"abs", "norm"} else "real"
    yield [_Point(turn, way, names) for turn in range(6 if way == "signed" else 3)]


def _alternates(node: Node) -> bool:
    r"""Whether this is a power like `(-1)^n`."""
    if node.kind != "power" or not variables(node.parts[1]):
        return False
    base = node.parts[0]
    return base.kind == "times" and base.parts[0] == number_node(-1) and not variables(base)


def _same_at(point: _Point, one: Node, other: Node, within: Fraction) -> tuple[bool, bool]:
    """Whether both have the same value there, and whether something was rounded to whole numbers.

    A difference that is none shrinks with every digit more.
    """
    before: Value = None
    evaluation = _Evaluation(point)
    for more in DIGITS:
        digits = more + int(evaluation.bits * 0.302)
        with _mp().workdps(digits):
            a, b = evaluation.value(one), evaluation.value(other)
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return abs(a - b) <= within, evaluation.rounded
        size = evaluation.bits * 0.302
        if size > MOST_DIGITS:
            raise TooLargeError
        if more + size > digits + 10:  # more stands before the point than was known
            digits = more + int(size)
            with _mp().workdps(digits):
                a, b = evaluation.value(one), evaluation.value(other)
        with _mp().workdps(digits):
            gap = abs(_number(a) - _number(b))
            if within and gap <= _number(within):
                return True, evaluation.rounded
            if gap > _mp().mpf(10) ** (size - 20):
                return False, evaluation.rounded
            if before is not None and (gap == 0 or before > 0):
                return bool(gap <= before * _mp().mpf("1e-30")), evaluation.rounded
        before = gap
    return gap == 0, evaluation.rounded


# ---------------------------------------------------------------- evaluation


@lru_cache(maxsize=1)
def _mp() -> Any:
    from mpmath import MPContext

    return MPContext()


def _number(value: Value) -> Any:
    return _mp().mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


class _Evaluation:
    """The value of a tree at a point.

    bits: of the largest number met. rounded: something was met that only whole numbers give a meaning.
    """

    def __init__(self, point: Callable[[str], Fraction]) -> None:
        self.point = point
        self.bits = 0.0
        self.rounded = False

    def value(self, node: Node) -> Value:
        """Raises NoValueError, TooLargeError."""
        try:
            value = getattr(self, f"_{node.kind}")(node)
            if not isinstance(value, Fraction) and not _mp().isfinite(value):
                raise NoValueError
            self.bits = max(self.bits, _bits(value))
            return value
        except (ZeroDivisionError, ValueError, OverflowError, AttributeError) as error:
            raise NoValueError from error

    def _number(self, node: Node) -> Value:
        return node.name

    def _symbol(self, node: Node) -> Value:
        if node.name == "π":
            return +_mp().pi
        if node.name == "e":
            return +_mp().e
        if node.name == "i":
            return _mp().j
        return self.point(node.name)

    def _call(self, node: Node) -> Value:
        """An unknown function: another value for every argument."""
        given = [
            _mp().nstr(_number(self.value(part)), 15) if is_arithmetic(part) else repr(part)
            for part in node.parts
        ]
        return self.point(f"{node.name}({', '.join(given)})")

    def _add(self, node: Node) -> Value:
        total: Value = Fraction(0)
        for part in node.parts:
            total = self._exact(total, self.value(part), lambda a, b: a + b)
        return total

    def _times(self, node: Node) -> Value:
        return self._exact(self.value(node.parts[0]), self.value(node.parts[1]), lambda a, b: a * b)

    def _divide(self, node: Node) -> Value:
        return self._exact(self.value(node.parts[0]), self.value(node.parts[1]), lambda a, b: a / b)

    def _exact(self, a: Value, b: Value, operation: Callable[[Any, Any], Value]) -> Value:
        if isinstance(a, Fraction) and isinstance(b, Fraction) and _length(a) + _length(b) < BITS:
            return operation(a, b)
        return operation(_number(a), _number(b))

    def _power(self, node: Node) -> Value:
        base, exponent = map(self.value, node.parts)
        self.rounded |= _alternates(node)
        return self._raised(base, exponent)

    def _raised(self, base: Value, exponent: Value) -> Value:
        if base == 0:
            if _number(exponent).real <= 0:
                raise NoValueError
            return Fraction(0)
        with _mp().workdps(15):
            largest = abs(_mp().log(abs(_number(base)))) * abs(_number(exponent)) * 1.45
        if largest > BITS:
            raise TooLargeError
        if isinstance(base, Fraction) and isinstance(exponent, Fraction):
            if (
                exponent.denominator == 1
                and abs(exponent) * (base.denominator.bit_length() - 1) < BITS
            ):
                return base ** int(exponent)
            if exponent.denominator == 2 and (root := _square_root(base)) is not None:
                return self._raised(root, exponent * 2)
        if exponent == Fraction(1, 2):
            return _mp().sqrt(_number(base))
        return _number(base) ** _number(exponent)

    def _function(self, node: Node) -> Value:
        parts = [self.value(part) for part in node.parts]
        first = parts[0]
        if node.name in _WHOLE:
            return self._whole(node.name, parts)
        if node.name == "abs":
            return abs(first)
        if node.name == "norm":
            return self.point(f"norm of {_mp().nstr(_number(first), 15)}")
        if node.name == "root":
            if _mp().im(_number(first)) == 0 and first < 0 and _odd(parts[1]):
                return -self._raised(-first, 1 / parts[1])
            return self._raised(first, 1 / parts[1])
        if len(parts) > 1 and node.name != "log":
            raise NoValueError
        return _transcendental(node.name, [_number(part) for part in parts])

    def _whole(self, name: str, parts: list[Value]) -> Value:
        if name in ("floor", "ceiling"):
            exact = _snapped(parts[0])
            self.rounded |= not isinstance(exact, Fraction) or exact.denominator != 1
            return Fraction(int(_mp().floor(exact) if not isinstance(exact, Fraction) else math.floor(exact))
                            if name == "floor" else
                            int(_mp().ceil(exact) if not isinstance(exact, Fraction) else math.ceil(exact)))  # fmt: skip
        self.rounded = True
        if any(abs(_number(part)) > LARGEST_FACTORIAL for part in parts):
            raise TooLargeError
        if all(isinstance(part, Fraction) and part.denominator == 1 for part in parts):
            whole = [int(part) for part in parts]
            if min(whole) < 0:
                raise NoValueError
            return Fraction(math.factorial(*whole) if name == "factorial" else math.comb(*whole))
        numbers = [_number(part) for part in parts]
        return _mp().factorial(*numbers) if name == "factorial" else _mp().binomial(*numbers)


def _transcendental(name: str, parts: list[Any]) -> Any:
    mp = _mp()
    first = parts[0]
    if name in ("ln", "log", "lg"):
        if len(parts) == 1:
            return mp.log(first) if name != "lg" else mp.log(first, 10)
        return mp.log(first) / mp.log(parts[1])
    if abs(first) > BITS:
        raise TooLargeError
    short = name.replace("arc", "a")
    return getattr(mp, short)(first)


def _length(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def _bits(value: Value) -> float:
    """Of the whole part, at least 0."""
    if isinstance(value, Fraction):
        return max(0, value.numerator.bit_length() - value.denominator.bit_length())
    return max(0, int(_mp().mag(value))) if value != 0 else 0


def _square_root(value: Fraction) -> Fraction | None:
    if value < 0:
        return None
    above, below = math.isqrt(value.numerator), math.isqrt(value.denominator)
    exact = above**2 == value.numerator and below**2 == value.denominator
    return Fraction(above, below) if exact else None


def _odd(value: Value) -> bool:
    return isinstance(value, Fraction) and value.denominator == 1 and int(value) % 2 == 1


def _snapped(value: Value) -> Value:
    """The whole number that rounding has missed."""
    if isinstance(value, Fraction):
        return value
    if _mp().im(value) != 0:
        raise NoValueError
    near = _mp().nint(value)
    return Fraction(int(near)) if abs(value - near) < _mp().mpf(10) ** (10 - _mp().dps) else value
