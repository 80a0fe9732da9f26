r"""Whether a mathematical answer equals the true one.

Two answers are equal if they are the same text, or if both can be read to their end and have the same
parts: lists element by element, relations side by side, and arithmetic by its value, exactly. What cannot
be read is equal to nothing but its own text. Units and nouns behind a value are no part of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache, partial

from spot.data.answers import last_boxed
from spot.grading import math_value
from spot.grading.math_reader import read
from spot.grading.math_sets import REAL, TURNED, builder_interval, interval, turned, union
from spot.grading.math_tokens import UnreadableError, is_word, normalised
from spot.grading.math_tree import (
    DEGREE,
    Node,
    is_arithmetic,
    negative,
    nodes,
    number_node,
    replaced,
    symbol_node,
    times,
    variables,
)
from spot.grading.math_value import TooLargeError
from spot.grading.units import NO_UNIT, Unit, conflict

LONGEST_ANSWER = 2_000  # characters; anything longer is no final answer
LONGEST_SET = 40  # elements that are matched in any order
_INTERVALS = ("()", "(]", "[)", "[]")
_OPERATORS = ("int", "sum", "prod", "lim")  # what they make is named by its text
_COMPOSED = (("list", "()"), ("function", "abs"))
_DECIMAL = re.compile(r"[-+]?(\d*)\.(\d+)(?:[eE]([-+]?\d+))?")
_SQUEEZED = re.compile(r"(?<!\d)\s+|\s+(?!\d)|(?<=[_^])\{(\w)\}")
_SHORT_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,3}(?![A-Za-z])")  # `2 ab`, `3 men`
_NAMED_TEXT = re.compile(r"\\(?:text\w*|mbox|mathrm)\s*\{([^{}]*)\}")

# (extracted, truth) of each → equal, or None where that cannot be found out
Equals = Callable[[Sequence[tuple[str, str]]], list[bool | None]]


def equals(pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
    """`equal` for each (extracted, truth); trials of one question often end alike."""
    found = {pair: equal(*pair) for pair in dict.fromkeys(pairs)}
    return [found[pair] for pair in pairs]


def equal(extracted: str, truth: str) -> bool | None:
    r"""Whether an answer equals the truth; None where the numbers are too large to compute.

    18 = 18.00 = \$18 = 18 dollars, 1/2 = 0.5 = \frac{1}{2}, 2{,}125 = 2125, 4.5e3 = 4.5 \times 10^3,
    2\sqrt{2} = \sqrt{8}, x = 5 where 5 is asked. Where one side alone has a percent sign, 10% equals both
    0.1 and 10: questions ask for either. A truth of six digits and more with a decimal point equals what
    rounds to it; all else is exact.
    """
    if max(len(extracted), len(truth)) > LONGEST_ANSWER:
        return extracted.strip() == truth.strip()
    left, right = _plain(extracted), _plain(truth)
    if not left or not right:
        return False
    if _squeezed(left) == _squeezed(right) or _same_words(left, right):
        return True
    compare = partial(_same, within=_rounding(left, right))
    try:
        return any(compare(a, b) for a in _readings(left) for b in _readings(right))
    except (TooLargeError, MemoryError):
        return None
    except RecursionError:
        return False


def number(text: str) -> Fraction | None:
    """The number an answer writes, exactly (10% is 10), or None when it is no plain number."""
    for tree in _readings(_plain(text)):
        _, value = _amount(tree)
        if value.kind != "list" and is_arithmetic(value) and not variables(value):
            found = math_value.exact(value)
            if found is not None:
                return found
    return None


# ---------------------------------------------------------------- text


def _plain(answer: str) -> str:
    """An answer normalised, and out of its box."""
    text = answer[: LONGEST_ANSWER + 1].strip()
    if text.startswith(r"\boxed") and (inner := last_boxed(text)) is not None:
        text = inner
    for opening, closing in ((r"\(", r"\)"), (r"\[", r"\]")):
        if text.startswith(opening) and text.endswith(closing):
            text = text[2:-2]
    return normalised(text)


def _squeezed(plain: str) -> str:
    r"""Without the spaces and braces that mean nothing; `y^{\prime}` is `y'`."""
    return _SQUEEZED.sub(r"\1", plain.replace(r"^{\prime}", "'").replace(r"^\prime", "'"))


def _same_words(left: str, right: str) -> bool:
    r"""Whether both say the same words, in whichever letters: `\text{East}`, east."""
    words = [" ".join(_NAMED_TEXT.sub(r" \1 ", text).split()) for text in (left, right)]
    plain = all(re.fullmatch(r"[^\W\d_][^\W\d_ .,'()-]*(?:[ .,'-]+[^\W\d_]+)*", w) for w in words)
    spoken = words != [left, right] or all(len(word) > 3 for w in words for word in w.split())
    folded = [[w.casefold() if len(w) > 1 else w for w in text.split()] for text in words]
    return plain and spoken and len(words[0]) > 1 and folded[0] == folded[1]


def _rounding(given: str, truth: str) -> Fraction:
    """Half a unit of the last place of a decimal truth, or of a decimal with fewer digits; 0 below six digits."""
    written = [match for text in (truth, given) if (match := _DECIMAL.fullmatch(text))]
    if not written or written[0].string != truth:
        return Fraction(0)
    places = [len(match[2]) - int(match[3] or 0) for match in written]
    digits = [len((match[1] + match[2]).lstrip("0")) for match in written]
    if min(digits) < 6 or len(places) > len(set(places)):
        return Fraction(0)
    return Fraction(10) ** -min(places) / 2


@lru_cache(maxsize=4096)  # a truth is met again in every trial
def _readings(plain: str) -> tuple[Node, ...]:
    """The trees that a text may mean: 1,200 may be two numbers, and `2 ab` a product. None if it is unreadable."""
    found: dict[Node, None] = {}
    variants = [(True, True), (False, True)] if "," in plain else [(True, True)]
    if _SHORT_WORD.search(plain):
        variants.append((True, False))
    for grouped, nouns in variants:
        try:
            found[read(plain, grouped=grouped, nouns=nouns)] = None
        except (UnreadableError, RecursionError):
            continue
    return tuple(found)


# ---------------------------------------------------------------- amounts


def _amount(node: Node) -> tuple[Unit, Node]:
    return (node.name, node.parts[0]) if node.kind == "amount" else (NO_UNIT, node)


def _same_amounts(left: Node, right: Node, within: Fraction) -> bool:
    (unit, x), (other, y) = _amount(left), _amount(right)
    if unit.nouns != other.nouns and any(
        each.nouns and not (is_arithmetic(value) and not variables(value))
        for each, value in ((unit, x), (other, y))
    ):
        return False  # behind a variable a word may say anything: `n \text{ even}`
    compare = partial(_same, within=within)
    letters = [_with_letters(value, each) for each, value in ((unit, x), (other, y))]
    if letters != [x, y] and compare(*letters):
        return True  # \text{m} may be a variable
    x, y = _scaled(x, Fraction(unit.scale)), _scaled(y, Fraction(other.scale))
    if conflict(unit, other):
        angles = {frozenset({("degree", 1)}): True, frozenset({("radian", 1)}): False}
        if {unit.known, other.known} != set(angles):
            return False
        x, y = (
            times(value, DEGREE) if angles[each.known] else value
            for each, value in ((unit, x), (other, y))
        )
    if unit.percent != other.percent:
        hundredth = Fraction(1, 100)
        scaled = (_scaled(x, hundredth), y) if unit.percent else (x, _scaled(y, hundredth))
        return compare(x, y) or compare(*scaled)
    return compare(x, y)


def _scaled(node: Node, factor: Fraction) -> Node:
    return node if factor == 1 else times(number_node(factor), node)


def _with_letters(value: Node, unit: Unit) -> Node:
    return times(value, symbol_node(unit.letters)) if len(unit.letters) == 1 else value


# ---------------------------------------------------------------- same parts


def _same(left: Node, right: Node, within: Fraction = Fraction(0)) -> bool:
    """Whether two trees are the same answer. Raises TooLargeError."""
    left, right = _unwrapped(left), _unwrapped(right)
    if left == right:
        return True
    if is_arithmetic(left) and is_arithmetic(right):
        return math_value.equal(left, right, within)
    if "amount" in (left.kind, right.kind) and "relation" not in (left.kind, right.kind):
        return _same_amounts(left, right, within)
    if "relation" in (left.kind, right.kind):
        return _same_relations(left, right, within)
    if left.kind == right.kind == "list":
        return _same_lists(left, right)
    if left.kind != right.kind or len(left.parts) != len(right.parts):
        return _same_sets_written_otherwise(left, right)
    if left.kind == "rows" and left.name == right.name == "cases":
        return _match(left.parts, right.parts)
    if left.kind == "join" and left.name == right.name and set(left.name) in ({"∪"}, {"∩"}):
        return _match(left.parts, right.parts)
    return left.name == right.name and all(map(_same, left.parts, right.parts))


def _unwrapped(node: Node) -> Node:
    r"""A set of one number is the number, `t(0, 4]` wants a sign, and a set of what lies in one the interval."""
    if node.kind == "list" and node.name == "{}" and len(node.parts) == 1:
        inside = node.parts[0]
        if inside.kind != "relation":
            return inside
        return builder_interval(inside) or node
    if node.kind == "symbol" and node.name in ("mathbb(R)", "all real numbers"):
        return REAL
    if node.kind == "times" and node.parts[1].kind == "list" and node.parts[1].name in ("(]", "[)"):
        return Node("relation", ("∈",), node.parts)
    return node


def _same_lists(left: Node, right: Node) -> bool:
    """Tuples, intervals and sequences in order; sets and bare lists in any order."""
    names = {left.name, right.name}
    dots = symbol_node("…") in left.parts
    if names & {*_INTERVALS, "row"} or dots:
        ordered = len(left.parts) == len(right.parts) and all(map(_same, left.parts, right.parts))
        brackets = len(names) == 1 or "" in names or (names == {"()", "[]"} and len(left.parts) > 2)
        return ordered and (brackets or dots)
    if "or" in names and (sets := [union(node) for node in (left, right)]) and all(sets):
        return _match(*(each.parts for each in sets if each))
    return _match(left.parts, right.parts)


def _match(left: Sequence[Node], right: Sequence[Node]) -> bool:
    """Whether each has its equal on the other side."""
    if max(len(left), len(right)) > LONGEST_SET:
        return False
    rows = [[_same(x, y) for y in right] for x in left]
    return all(map(any, rows)) and all(map(any, zip(*rows, strict=True)))


# ---------------------------------------------------------------- relations and what they say as sets


def _same_relations(left: Node, right: Node, within: Fraction) -> bool:
    if left.kind != right.kind:
        relation, other = (left, right) if left.kind == "relation" else (right, left)
        return _states(relation, other, within, swap=relation is right) or (
            _same_sets_written_otherwise(left, right)
        )
    if left.name == right.name and len(left.parts) == len(right.parts):
        if all(map(_same, left.parts, right.parts)) or _congruent(left, right):
            return True
        if left.name == ("=",) and _names_agree(left.parts[0], right.parts[0]):
            return _same(left.parts[1], right.parts[1], within)
        if (renamed := _with_argument_of(left, right)) is not None:
            return _same_relations(renamed, right, within)
    for one, belongs in ((left, right), (right, left)):
        if belongs.name == ("∈",) and one.name != belongs.name:
            found = interval(one)
            return (
                found is not None
                and found[0] == belongs.parts[0]
                and _same(found[1], belongs.parts[1])
            )
    if not set(left.name) <= {"=", "≠", *TURNED}:
        return False
    back = turned(left)
    if back.name == right.name and all(map(_same, back.parts, right.parts)):
        return True
    return _same_equations(left, right) or _same_equations(back, right)


def _states(relation: Node, value: Node, within: Fraction, swap: bool) -> bool:
    r"""Whether `x = 5`, `x \in [0, 1]` or `\frac12 = 0.5` states this value: in all parts but a leading name."""
    signs, parts = relation.name, relation.parts
    if set(signs) == {"∈"} and _is_name(parts[0]):
        parts = parts[1:]
    elif set(signs) <= {"=", "≈"}:
        if _is_name(parts[0]):
            parts = parts[1:]
        elif _is_name(parts[-1]):
            parts = parts[:-1]
    else:
        return False
    found = [_same(value, p, within) if swap else _same(p, value, within) for p in parts]
    return any(found) if "≈" in signs and len(parts) < 3 else all(found)


def _is_name(node: Node) -> bool:
    r"""Whether this can be given a value: `I`, `m_{max}`, `f(x)`, `xy`, `(x, y)`, `|AB|`, an integral, words."""
    if node.kind in ("symbol", "call"):
        return True
    if any(n.kind == "symbol" and n.name.startswith(_OPERATORS) for n in nodes(node)):
        return is_arithmetic(node)
    composed = node.kind in ("times", "divide") or (node.kind, node.name) in _COMPOSED
    return composed and all(map(_is_name, node.parts))


def _names_agree(one: Node, other: Node) -> bool:
    """Whether two names may be of the same thing: `y` and `f(x)`, or one in words."""
    kinds = {one.kind, other.kind}
    if kinds in ({"symbol", "call"}, {"symbol", "divide"}):
        return True
    return kinds == {"symbol"} and is_word(one.name) != is_word(other.name)


def _with_argument_of(left: Node, right: Node) -> Node | None:
    """`f(t) = 2t` in the variable of `f(x) = 2x`."""
    one, other = left.parts[0], right.parts[0]
    arguments = [
        node.parts[0] for node in (one, other) if node.kind == "call" and len(node.parts) == 1
    ]
    if len(arguments) != 2 or one.name != other.name or arguments[0] == arguments[1]:
        return None
    old, new = arguments
    if (
        {old.kind, new.kind} != {"symbol"}
        or new.name in variables(left)
        or old.name not in variables(left.parts[1])
    ):
        return None
    return replaced(left, old, new)


def _same_equations(left: Node, right: Node) -> bool:
    r"""Whether one relation is a multiple of the other: `2x + 2y = 4` and `y = 2 - x`."""
    if left.name != right.name or len(left.name) != 1 or left.name[0] not in ("=", *TURNED, "≠"):
        return False
    if not variables(left) or not all(map(is_arithmetic, (*left.parts, *right.parts))):
        return False
    factor = math_value.ratio(_difference(left), _difference(right))
    return factor > 0 or (factor < 0 and left.name[0] in "=≠")


def _difference(relation: Node) -> Node:
    first, second = relation.parts
    return Node("add", "", (first, negative(second)))


def _congruent(left: Node, right: Node) -> bool:
    r"""Whether `n \equiv -1 \pmod 6` says what `n \equiv 5 \pmod 6` says."""
    if left.name != ("≡", "mod"):
        return False
    (name, x, modulus), (other, y, other_modulus) = left.parts, right.parts
    numbers = [math_value.exact(node) for node in (x, y, modulus)]
    if None in numbers or not _same(name, other) or not _same(modulus, other_modulus):
        return False
    a, b, m = (n for n in numbers if n is not None)
    return m != 0 and (a - b) % m == 0


def _same_sets_written_otherwise(left: Node, right: Node) -> bool:
    """A relation, or several with `or`, against an interval or a union of them."""
    for one, other in ((left, right), (right, left)):
        if one.kind == "relation" or (one.kind, one.name) == ("list", "or"):
            found = union(one)
            if found is None:
                return False
            if other.kind == "join":
                return set(other.name) <= {"∪"} and _match(found.parts, other.parts)
            return other.kind == "list" and len(found.parts) == 1 and _same(found.parts[0], other)
    return False
