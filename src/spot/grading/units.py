"""What stands behind a number and is not part of it: nouns, units of measure, percent signs.

A noun says nothing of the value. Units of measure are compared where both sides name some; scales
(million, dozen) multiply, and am and pm stay.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from spot.grading.math_tokens import Token

SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9,
          "trillion": 10**12, "dozen": 12, "dozens": 12}  # fmt: skip
_NOT_NOUNS = frozenset(  # at the start of a text these say something of the value
    """if for when where and or mod modulo not but minus plus times over half halves third thirds fourth
    fourths fifth fifths sixth sixths eighth eighths tenth tenths factorial choose base""".split()
)
CONDITIONS = ("if", "for", "when", "where", "otherwise", "else", "and", "mod", "or")  # no units
_ENDS = frozenset(
    (",", "or", "relation", "join", "&", "newline", "end", ")", "]", "}", "\\}", "|", "⌋", "⌉")
)
_TWO_WORDS = ["{", "text", "}", "{", "text", "}"]
_FILLING = frozenset("in of the per an each every total altogether for to on at by is".split())
_MARKS = frozenset(("am", "pm", "noon", "midnight", "bc", "ad", "bce", "ce"))
_POWERS = {"square": 2, "squared": 2, "sq": 2, "cubic": 3, "cubed": 3, "cu": 3}

# one measure a line: its names
_MEASURES = """
cm centimeter centimetre; mm millimeter millimetre; m meter metre; km kilometer kilometre; nm nanometer
inch inches in; foot feet ft; yard yd; mile mi; um micron micrometer; pm picometer; fm; au; pc parsec; kpc; mpc; ly lightyear
g gram gm; kg kilogram; mg milligram; lb pound lbs; oz ounce; ton tonne
ml milliliter; l liter litre; gallon gal; s sec second; min minute; h hr hour; day; week; month; year yr
ms millisecond; ns; ps; myr; gyr; dollar buck usd; cent; euro; percent; degree deg; radian rad; steradian
mph; n newton; j joule; kj; mj; w watt; kw; mw; gw; v volt; mv; kv; a amp ampere; ma; ohm; farad; tesla; coulomb
gauss; unit; k kelvin; celsius; fahrenheit; hz hertz; khz; mhz; ghz; pa pascal; kpa; mpa; gpa; atm; bar; torr; psi
mol mole; mmol; kmol; molar; cal; kcal; erg; ev; kev; mev; gev; dyn dyne; angstrom; arcsec arcsecond; arcmin; amu; gb
"""
_CANONICAL = {
    name: measure.split()[0]
    for line in _MEASURES.strip().splitlines()
    for measure in line.split(";")
    for name in measure.split()
}


class Unit(NamedTuple):
    """known: measures with their powers; marks: am, pm; scale: what multiplies; nouns: the other words."""

    known: frozenset[tuple[str, int]] = frozenset()
    marks: frozenset[str] = frozenset()
    scale: int = 1
    percent: bool = False
    nouns: tuple[str, ...] = ()
    letters: str = ""  # the whole, for units that may be variables: \text{m}


NO_UNIT = Unit()


def unit_at(tokens: Sequence[Token], start: int) -> tuple[Unit, int] | None:
    r"""The unit that begins here, if it is all that is left of its part, and its end: ` \text{m}/\text{s}^2`."""
    before = tokens[start - 1].kind if start else "("
    kinds = [token.kind for token in tokens[start : start + 2]]
    begins = kinds[:1] in (["text"], ["frac"]) or kinds in [[sign, "text"] for sign in "/*("]
    if not begins or before in (",", "or", "relation", "(", "+", "-", "*", "\\{", "["):
        return None
    place, words, opened = start, 0, 0
    while place < len(tokens) and not (tokens[place].kind in _ENDS and not opened):
        token = tokens[place]
        if token.kind == "text" and token.text.split()[0] not in _NOT_NOUNS:
            words += 1
        elif token.kind == "frac" and [t.kind for t in tokens[place + 1 : place + 7]] == _TWO_WORDS:
            words, place = words + 2, place + 6
        elif words and token.kind == "^" and (length := _exponent(tokens, place + 1)):
            place += length
        elif token.kind in ("(", ")") and (words or place == start):
            opened += 1 if token.kind == "(" else -1
        elif token.kind not in ("*", "/"):
            return None
        place += 1
    return (_unit_of(tokens[start:place]), place) if words and not opened else None


def _exponent(tokens: Sequence[Token], place: int) -> int:
    """How many tokens an integer exponent has: `2`, `-1`, `{-1}`; 0 for another one."""
    kinds = [token.kind for token in tokens[place : place + 4]]
    shapes = (["number"], ["-", "number"], ["{", "number", "}"], ["{", "-", "number", "}"])
    return next((len(shape) for shape in shapes if kinds[: len(shape)] == shape), 0)


def _unit_of(tokens: Sequence[Token]) -> Unit:
    """What these words, exponents and divisions write."""
    words: list[tuple[str, int]] = []  # with their powers
    power, scale, percent, marks = 1, 1, False, set()
    for token in tokens:
        if token.kind == "number" and words:
            words[-1] = words[-1][0], abs(round(float(token.text)))
        for word in re.findall(r"[^\W\d_]+", token.text.casefold()) if token.kind == "text" else ():
            if word in SCALES:
                scale *= SCALES[word]
            elif word == "percent":
                percent = True
            elif word in _MARKS:
                marks.add(word)
            elif word in ("squared", "cubed") and words:
                words[-1] = words[-1][0], _POWERS[word]
            elif word in _POWERS:
                power = _POWERS[word]
            else:
                words.append((word, power))
                power = 1
    ends = [("in", power) for word, power in words[-1:] if word == "in"]  # inches
    said = [(w, p) for w, p in words if w not in _FILLING] + ends
    known = frozenset((name, p) for w, p in said if (name := _canonical(w)))
    nouns = tuple(w for w, _ in said if not _canonical(w))
    letters = "".join(t.text for t in tokens if t.kind == "text")
    return Unit(known, frozenset(marks), scale, percent, nouns, letters)


def conflict(one: Unit, other: Unit) -> bool:
    """Whether two units cannot be of the same answer; where one side has none, only am and pm count."""
    return one.marks != other.marks or _excludes(one, other) or _excludes(other, one)


def _excludes(one: Unit, other: Unit) -> bool:
    if one.percent and not other.percent and (other.known or other.nouns):
        return True
    if not one.known or one.known == other.known:
        return False
    if not other.known:
        return bool(other.nouns)
    if one.known < other.known:  # dollars, dollars per hour
        return bool(one.nouns)
    return not other.known < one.known


def _canonical(word: str) -> str | None:
    for name in (word, word.removesuffix("s"), word.removesuffix("es")):
        if name in _CANONICAL:
            return _CANONICAL[name]
    return None
