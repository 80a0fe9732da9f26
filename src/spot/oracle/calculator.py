"""Arithmetic that a text claims, in signs (`$3 × 5 = $15`) or in words (`3 times 5 gives you 15`).

Stands on its own: it knows nothing of questions. Whole numbers only; a claim with others is not found.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

NUMBER = r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?!\w)(?!\.\d)"
# A response is hostile input: words are taken whole, so that no text takes long.
_UNIT = r"(?:/[a-z]++)?(?:\s{1,2}[a-z][a-z/'-]*+){0,4}"  # `15 red marbles`, `$3 per pencil`
_SIGNS = {"+": "+", "-": "-", "−": "-", "–": "-", "*": "*", "×": "*", "x": "*", "·": "*"}
_SIGNS |= {"/": "/", "÷": "/", r"\times": "*", r"\cdot": "*", r"\div": "/"}
_WORDS = {"plus": "+", "minus": "-", "times": "*", "multiplied by": "*", "divided by": "/"}
_SIGN = r"(?:\\times|\\cdot|\\div|[-+*×÷−–·]|/(?!\s?[a-z])|x(?=[\s$\d]))"
_TERM = rf"(?:\(\s?)?(?:\\?\$\s?)?{NUMBER}{_UNIT}(?:\s?\))?"
_EQUALS = r"(?:=|≈|\b(?:is equal to|equals|is|gives?(?: you| us)?|results in|makes)\b)"
_CHAIN = re.compile(
    rf"{_TERM}(?:\s*{_SIGN}\s*{_TERM}){{1,8}}(?:\s*{_EQUALS}\s*{_TERM}(?:\s*{_SIGN}\s*{_TERM}){{0,8}}){{1,4}}",
    re.IGNORECASE,
)
_BARE = re.compile(rf"{_TERM}(?:\s*{_SIGN}\s*{_TERM}){{1,8}}", re.IGNORECASE)
_SAYS = (
    r"(?:\s*,)?(?:\s(?:which|that|this|it|and|we|you|will|then|would|should|so))*\s*(?:is equal to|are equal to|is|are|equals?"
    r"|gives?(?: (?:us|you|him|her|them))?|giv(?:es|ing)|makes?|leaves?|results? in|to get|gets?|=)"
    r"(?:\s(?:a|the|total|result|of|you|us|is|value|answer))*"
)
_IN_WORDS = re.compile(
    rf"(?P<left>{NUMBER}){_UNIT}\s(?P<sign>{'|'.join(_WORDS)})\s\$?(?P<right>{NUMBER}){_UNIT}{_SAYS}\s*\$?(?P<result>{NUMBER})",
    re.IGNORECASE,
)
_BETWEEN = r"[^.\d\n=]{0,40}?"
_VERBS = re.compile(
    rf"(?P<verb>\b(?:add(?:ing|ed)?|subtract(?:ing|ed)?|multipl(?:y|ying|ied)|divid(?:e|ing|ed)|the sum of|the product of"
    rf"|the difference between)\b){_BETWEEN}(?P<left>{NUMBER})(?P<between>{_BETWEEN}\b(?:and|to|from|by|with|among|between)\b{_BETWEEN})"
    rf"(?P<right>{NUMBER})(?:[^.\d\n=]{{0,40}}?)(?:is equal to|is|are|equals?|gives?(?: (?:us|you))?|giving|makes?|leaves?|results? in|to get"
    rf"|gets?|=)[^.\d\n=]{{0,25}}?(?P<result>{NUMBER})",
    re.IGNORECASE,
)
_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


@dataclass(frozen=True)
class Number:
    """A number as it stands in a text: where, and its value (None where it is no whole one)."""

    start: int
    end: int
    value: int | None


@dataclass(frozen=True)
class Claim:
    """A computation that a text claims.

    start, end: where it stands. numbers: of the computation, as written, of a difference what is taken
    from first. signs: + - * / between them. formula: what is computed. result: what the text says it is.
    kept: up to where the text before the result may stay; what stands between is a wrong way to it. verb:
    where the words stand that say the operation and its numbers, if words do. Where only a computation
    stands (`we compute 15 + 2`) the result is empty.
    """

    start: int
    end: int
    numbers: tuple[Number, ...]
    signs: tuple[str, ...]
    formula: str
    result: Number
    kept: int
    verb: tuple[int, int] | None = None
    places: tuple[tuple[int, int], ...] = ()  # of the signs

    @property
    def value(self) -> int | None:
        """What it really is; None where that is no whole number."""
        return evaluate(self.formula)


def numbers(text: str) -> list[Number]:
    """Every number of a text, in order; that of a list's item is none."""
    return [
        Number(match.start(), match.end(), whole(match[0]))
        for match in re.finditer(NUMBER, text)
        if not re.fullmatch(r"\s*(?:\*\*)?(?:[Ss]tep )?", _line_before(text, match.start()))
        or not re.match(r"[.):](?:\s|\*)", text[match.end() :])
    ]


def _line_before(text: str, at: int) -> str:
    return text[text.rfind("\n", 0, at) + 1 : at]


def whole(text: str) -> int | None:
    """`1,200` and `15.00` as whole numbers; None for others."""
    head, _, tail = text.replace(",", "").partition(".")
    return int(head) if head.isdecimal() and len(head) < 10 and not tail.strip("0") else None


def evaluate(formula: str) -> int | None:
    """The value of `(3 * 4) + 2`; None where it is no whole number."""
    try:
        return _value(ast.parse(formula, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, KeyError):
        return None


def _value(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if not isinstance(node, ast.BinOp):
        raise ValueError("no arithmetic")
    left, right = _value(node.left), _value(node.right)
    if isinstance(node.op, ast.Div):
        if left % right:
            raise ValueError("no whole number")
        return left // right
    return _OPERATORS[type(node.op)](left, right)


def claims(text: str) -> list[Claim]:
    """What a text claims to compute, in order, none inside another."""
    found: list[Claim] = []
    every = [*_chains(text), *_worded(text), *_computations(text)]
    for claim in sorted(every, key=lambda c: (c.result.start == c.result.end, c.start, -c.end)):
        if all(claim.start >= other.end or claim.end <= other.start for other in found):
            found.append(claim)
    return sorted(found, key=lambda claim: claim.start)


def corrected(text: str) -> str:
    """The text with every wrong result replaced by the right one."""
    pieces, at = [], 0
    for claim in claims(text):
        said = claim.result.start < claim.result.end
        if said and claim.value is not None and claim.value != claim.result.value:
            pieces += [text[at : claim.kept], str(claim.value)]
            at = claim.result.end
    return "".join([*pieces, text[at:]])


def _chains(text: str) -> Iterator[Claim]:
    """Of `3 × 4 + 2 = 12 + 2 = 14` the claim that the first equals the last."""
    for match in _CHAIN.finditer(text):
        parts = re.split(_EQUALS, match[0])
        offset = match.start() + len(match[0]) - len(parts[-1])
        last = numbers(" " * offset + text[offset : match.end()])
        if len(last) != 1:  # it ends in a computation
            continue
        claim = _formula(text, match.start(), match.start() + len(parts[0]), last[0])
        if claim is not None:
            between = [_alone(part) for part in parts[1:-1]]
            yield claim if all(value == claim.value for value in between) else _cut(text, claim)


def _computations(text: str) -> Iterator[Claim]:
    for match in _BARE.finditer(text):
        end = match.end() - len(match[0]) + len(match[0].rstrip())
        claim = _formula(text, match.start(), end, Number(end, end, None))
        if claim is not None:
            yield claim


def _alone(part: str) -> int | None:
    """The value of a computation, or of a number, that is all of a text."""
    found = numbers(part)
    claim = _formula(part, 0, len(part), Number(0, 0, None))
    return claim.value if claim else found[0].value if len(found) == 1 else None


def _cut(text: str, claim: Claim) -> Claim:
    """The claim without what stands between its first computation and its result."""
    first = re.search(_EQUALS, text[claim.numbers[-1].end :])
    dollar = "$" if text[claim.result.start - 1] == "$" else ""
    assert first is not None
    kept = claim.numbers[-1].end + first.end()
    kept += len(re.match(rf"\s*\{dollar or ' '}?", text[kept:])[0])  # type: ignore[index]
    return replace(claim, kept=kept)


def _formula(text: str, start: int, end: int, result: Number) -> Claim | None:
    """The computation between two places, which the text says is `result`."""
    items: list[Number] = []
    signs: list[str] = []
    places: list[tuple[int, int]] = []
    pieces: list[str] = []
    for token in re.finditer(rf"{NUMBER}|{_SIGN}|[()]", text[start:end], re.IGNORECASE):
        place = (start + token.start(), start + token.end())
        word = token[0].lower()
        if word[0].isdigit():
            items.append(Number(*place, whole(word)))
            pieces.append(str(items[-1].value))
        elif word in "()":
            pieces.append(word)
        elif len(signs) < len(items):  # not the hyphen of a word
            signs.append(_SIGNS[word])
            places.append(place)
            pieces.append(_SIGNS[word])
    if len(items) != len(signs) + 1 or any(item.value is None for item in items):
        return None
    formula = " ".join(pieces)
    if formula.count("(") != formula.count(")"):  # of the text around it
        formula = re.sub("[()]", "", formula).strip()
    shown, kept = (tuple(items), tuple(signs)), result.start
    return Claim(start, result.end, *shown, formula, result, kept, None, tuple(places))


def _worded(text: str) -> Iterator[Claim]:
    for match in _IN_WORDS.finditer(text):
        sign = _WORDS[match["sign"].lower()]
        place = match.span("sign")
        yield from _pair(match, sign, False, None, (place,))
    for match in _VERBS.finditer(text):
        sign = sign_of(match["verb"])
        taken = sign == "-" and "from" in match["between"].lower()
        yield from _pair(match, sign, taken, (match.start("verb"), match.end("right")), ())


def _pair(
    match: re.Match[str],
    sign: str,
    turned: bool,
    verb: tuple[int, int] | None,
    places: tuple[tuple[int, int], ...],
) -> Iterator[Claim]:
    """A claim about two numbers in words. turned: the second is what something is taken from."""
    left, right, result = (
        Number(*match.span(name), whole(match[name])) for name in ("left", "right", "result")
    )
    if left.value is None or right.value is None:
        return
    if turned:
        left, right = right, left
    formula = f"{left.value} {sign} {right.value}"
    place, kept = match.span(), result.start
    yield Claim(*place, (left, right), (sign,), formula, result, kept, verb, places)


def sign_of(verb: str) -> str:
    """The sign of `adding`, `the product of`, …"""
    word = verb.lower().removeprefix("the ")
    table = {"add": "+", "sum": "+", "sub": "-", "dif": "-", "mul": "*", "pro": "*", "div": "/"}
    return table[word[:3]]
