r"""Reads a final answer, LaTeX or plain, into a tree: all of it, or not at all.

Nothing is skipped that could carry meaning, so a number inside something unknown is never taken for the
answer. What has no arithmetic (`\ldots`, `\int_0^1`, words) becomes a symbol with a name of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from spot.grading.math_tokens import FUNCTIONS, Token, UnreadableError, is_word, tokens
from spot.grading.math_tree import DEGREE, Node, divide, negative, number_node, symbol_node, times
from spot.grading.units import CONDITIONS, NO_UNIT, Unit, unit_at

DEEPEST = 40  # brackets in brackets
_CLOSING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "|": "|", "⌊": "⌋", "⌈": "⌉", "‖": "‖"}
_PLAIN_FRACTION = re.compile(
    r"frac (?:\{ \d+ \} \{ \d+ \}|\d\d|\d \d)(?: |$)|\d+ / \d+(?! \^)(?: |$)"
)
_ENDS = (")", "]", "}", "\\}", "⌋", "⌉", "&", "newline", "end")


def read(text: str, *, grouped: bool = True, nouns: bool = True) -> Node:
    """The tree of a whole answer. Raises UnreadableError, or RecursionError on absurd input.

    grouped: 1,200 is one number, outside of brackets. nouns: `3 men` is 3, and not 3·m·e·n.
    """
    reader = _Reader(tokens(text, grouped=grouped, nouns=nouns))
    node = reader.items("")
    if reader.peek() is not None:
        raise UnreadableError
    return node


class _Reader:
    def __init__(self, found: list[Token]) -> None:
        self.tokens = found
        self.at = 0
        self.depth = self.bars = self.sets = self.in_function = 0
        self.degrees = False  # a degree sign was read outside of functions
        self.percent = False
        self.minus = False  # which sign of ± is read
        self.has_both = False

    def peek(self, ahead: int = 0) -> Token | None:
        place = self.at + ahead
        return self.tokens[place] if place < len(self.tokens) else None

    def next_is(self, *kinds: str) -> bool:
        token = self.peek()
        return token is not None and token.kind in kinds

    def take(self, kind: str | None = None) -> Token:
        token = self.peek()
        if token is None or (kind is not None and token.kind != kind):
            raise UnreadableError
        self.at += 1
        return token

    # ------------------------------------------------------------ lists and relations

    def items(self, brackets: str) -> Node:
        r"""What stands between commas; one thing alone outside of a set is itself. `3 \pm x` are two."""
        found: list[Node] = []
        signs = set()
        while True:
            while self.next_is(",", "or"):
                signs.add(self.take().kind)
            if self.peek() is None or self.next_is(*_ENDS):
                break
            start, outer, self.has_both = self.at, self.has_both, False
            found.append(self.relation())
            if self.has_both and not self.minus and (brackets == "{}" or self.depth == 0):
                self.at, self.minus = start, True
                found.append(self.relation())
                self.minus = self.has_both = False
            self.has_both |= outer
            if not self.next_is(",", "or"):
                break
        if not found:
            raise UnreadableError
        if len(found) == 1 and brackets == "":
            return found[0]
        return Node("list", "or" if "or" in signs and not brackets else brackets, tuple(found))

    def relation(self) -> Node:
        parts, signs = [self.operand()], []
        while self.next_is("relation") or (self.next_is("|") and self.sets and not self.bars):
            sign = self.take()
            signs.append(sign.text if sign.kind == "relation" else "|")
            parts.append(self.operand())
        return Node("relation", tuple(signs), tuple(parts)) if signs else parts[0]

    def operand(self) -> Node:
        outside = self.degrees, self.percent
        self.degrees = self.percent = False
        parts, signs = [self.sum()], []
        while self.next_is("join"):
            signs.append(self.take().text)
            parts.append(self.sum())
        node = Node("join", tuple(signs), tuple(parts)) if signs else parts[0]
        unit = self.unit()
        if self.degrees:
            unit = unit._replace(known=unit.known | {("degree", 1)})
        unit = unit._replace(percent=unit.percent or self.percent)
        self.degrees, self.percent = outside
        return node if unit == NO_UNIT else Node("amount", unit, (node,))

    # ------------------------------------------------------------ units

    def unit(self) -> Unit:
        found = unit_at(self.tokens, self.at)
        if found is None:
            return NO_UNIT
        self.at = found[1]
        return found[0]

    # ------------------------------------------------------------ arithmetic

    def sum(self) -> Node:
        terms: list[Node] = []
        while True:
            minus = False
            while self.next_is("+", "-", "±"):
                sign = self.take()
                if sign.kind == "±":
                    self.has_both = True
                    minus ^= self.minus == (sign.text == "+")
                else:
                    minus ^= sign.kind == "-"
            term = self.term()
            terms.append(negative(term) if minus else term)
            if not self.next_is("+", "-", "±"):
                break
        return terms[0] if len(terms) == 1 else Node("add", "", tuple(terms))

    def term(self) -> Node:
        value = self.factor()
        last = value
        while True:
            if unit_at(self.tokens, self.at):
                return value
            if self.next_is("*", "/"):
                sign = self.take().kind
                factor = self._signed() if self.next_is("+", "-") else self.factor()
            elif self.starts_factor():
                sign = "*"
                if value is last and self._mixed(last):
                    value = last = Node("add", "", (value, self._plain_fraction()))
                    continue
                if last.kind == "number" and self.next_is("number"):
                    raise UnreadableError  # 3 4
                factor = self.factor()
            else:
                return value
            value = divide(value, factor) if sign == "/" else times(value, factor)
            last = factor

    def _signed(self) -> Node:
        minus = self.take().kind == "-"
        factor = self.factor()
        return negative(factor) if minus else factor

    def _mixed(self, before: Node) -> bool:
        r"""Whether digits and a fraction of digits follow each other: `1\frac{1}{2}`, `1\frac12`, 1 1/2."""
        if before.kind != "number" or not self.tokens[self.at - 1].text.isdigit():
            return False
        ahead = self.tokens[self.at : self.at + 7]
        text = " ".join(t.text if t.kind == "number" else t.kind for t in ahead)
        return bool(_PLAIN_FRACTION.match(text))

    def _plain_fraction(self) -> Node:
        first = self.factor()
        if not self.next_is("/"):
            return first
        self.take()
        return divide(first, self.factor())

    def starts_factor(self) -> bool:
        token = self.peek()
        if token is None or token.text in CONDITIONS:
            return False
        return token.kind in _ATOMS and (token.kind != "|" or not (self.bars or self.sets))

    def factor(self) -> Node:
        node = self.atom()
        while self.next_is("^", "!", "°", "%"):
            kind = self.take().kind
            if kind == "^":
                node = Node("power", "", (node, self.exponent()))
            elif kind == "!":
                node = Node("function", "factorial", (node,))
            elif kind == "%":
                self.percent = True
            elif self.in_function:
                node = times(node, DEGREE)
            else:
                self.degrees = True
        return node

    def exponent(self) -> Node:
        if self.next_is("+", "-"):
            return self._signed()
        node = self.argument(whole_number=True)
        if self.next_is("^"):
            self.take()
            node = Node("power", "", (node, self.exponent()))
        return node

    def argument(self, whole_number: bool = False) -> Node:
        r"""A command's argument: a group, or one digit, letter or command: `\frac43`, `\sqrt x`."""
        if self.next_is("{"):
            return self.group()
        if not whole_number and self.next_is("number"):
            digits = self.take().text
            if len(digits) > 1 and digits.isdigit():
                self.tokens.insert(self.at, Token("number", digits[1:]))
                digits = digits[0]
            return number_node(Fraction(digits))
        return self.atom()

    def group(self) -> Node:
        self.take("{")
        node = self.inside("")
        self.take("}")
        return node

    def inside(self, brackets: str) -> Node:
        """What stands in brackets, whose bars are their own."""
        bars, sets = self.bars, self.sets
        self.bars, self.sets = 0, sets if not brackets else sets + 1
        self.depth += 1
        if self.depth > DEEPEST:
            raise UnreadableError
        node = self.items(brackets)
        self.depth -= 1
        self.bars, self.sets = bars, sets
        return node

    def atom(self) -> Node:
        token = self.peek()
        way = _ATOMS.get(token.kind) if token else None
        if way is None:
            raise UnreadableError
        return way(self)

    def number(self) -> Node:
        return number_node(Fraction(self.take().text))

    def binomial(self) -> Node:
        self.take()
        return Node("function", "binomial", (self.argument(), self.argument()))

    def named(self) -> Node:
        r"""A symbol, or a function of unknown values: `f(x+1)`, `y(0)`; `k(k+1)` is a product."""
        name = self.take().text
        if not self.next_is("(") or not self._is_call(name):
            return symbol_node(name)
        self.sets += 1  # P(A|B)
        inside = self.bracketed()
        self.sets -= 1
        return Node("call", name, inside.parts if inside.kind == "list" else (inside,))

    def _is_call(self, name: str) -> bool:
        if name in ("π", "e", "i", "∞"):
            return False
        depth, kinds = 0, []
        for token in self.tokens[self.at :]:
            depth += (token.kind in ("(", "[")) - (token.kind in (")", "]"))
            if depth == 0:
                if token.kind == "]":
                    return False  # t(0, 4]
                break
            kinds.append(token.kind if depth == 1 else "")
        alone = kinds in (["(", "symbol"], ["(", "number"])
        parted = "," in kinds or "relation" in kinds or "|" in kinds[2:]
        return alone or parted or name in ("f", "g") or is_word(name)

    def bracketed(self) -> Node:
        opening = self.take().kind
        if opening == "\\{" and self.next_is("\\}"):
            self.take()
            return symbol_node("∅")
        inside = self.inside("{}" if opening == "\\{" else "")
        closing = self.take().kind
        if opening == "\\{":
            if closing == "\\}":
                return inside
        elif inside.kind == "list" and inside.name == "" and closing in (")", "]"):
            return Node("list", opening + closing, inside.parts)
        elif closing == _CLOSING[opening]:
            return inside
        raise UnreadableError

    def between(self) -> Node:
        kind = self.take().kind
        self.bars += 1
        inside = self.sum()
        self.take(_CLOSING[kind])
        self.bars -= 1
        return Node("function", _BETWEEN[kind], (inside,))

    def fraction(self) -> Node:
        self.take()
        above, below = self.argument(), self.argument()
        first, name = _first_symbol(above), _first_symbol(below)
        if name in ("d", "∂") and first == name and below.kind != "symbol":
            below = _rename_first(below, name + " below")  # a derivative: its d does not cancel
        return divide(above, below)

    def root(self) -> Node:
        self.take()
        degree: Node = number_node(2)
        if self.next_is("["):
            self.take()
            degree = self.sum()
            self.take("]")
        return Node("function", "root", (self.argument(whole_number=True), degree))

    def function(self) -> Node:
        r"""`\sin^2 2x`, `\log_{10} 250`, `\ln(x)`: an argument in brackets is all of it."""
        name = self.take().text
        base = exponent = None
        while self.next_is("_", "^"):
            if self.take().kind == "_":
                base = self.argument(whole_number=True)
            else:
                exponent = self.exponent()
        if exponent == negative(number_node(1)) and "arc" + name in FUNCTIONS:
            name, exponent = "arc" + name, None
        self.in_function += 1
        if self.next_is("(", "{", "["):
            inside = self.bracketed() if not self.next_is("{") else self.group()
        else:
            inside = self._bare_argument()
        self.in_function -= 1
        parts = inside.parts if inside.kind == "list" else (inside,)
        node = Node("function", name, parts if base is None else (*parts, base))
        return node if exponent is None else Node("power", "", (node, exponent))

    def _bare_argument(self) -> Node:
        if self.next_is("+", "-"):
            return self._signed()
        node = self.factor()
        while self.starts_factor() and not self.next_is("function", "(", "[", "text"):
            node = times(node, self.factor())
        return node

    def rows(self) -> Node:
        """A matrix, or cases; a cell may hold several things, and words such as `if` part them."""
        name = self.take().text
        rows: list[Node] = []
        cells: list[Node] = []
        while True:
            token = self.peek()
            if token and (token.kind in ("&", ",") or token.text in CONDITIONS):
                self.take()
            elif self.next_is("newline", "end"):
                if cells:
                    rows.append(Node("list", "row", tuple(cells)))
                    cells = []
                if self.take().kind == "end":
                    return Node("rows", name, tuple(rows))
            else:
                cells.append(self.relation())


_BETWEEN = {"|": "abs", "‖": "norm", "⌊": "floor", "⌈": "ceiling"}
_ATOMS: dict[str, Callable[[_Reader], Node]] = {
    "number": _Reader.number, "symbol": _Reader.named, "text": _Reader.named, "(": _Reader.bracketed,
    "[": _Reader.bracketed, "\\{": _Reader.bracketed, "{": _Reader.group, "function": _Reader.function,
    "frac": _Reader.fraction, "sqrt": _Reader.root, "binom": _Reader.binomial, "rows": _Reader.rows,
} | dict.fromkeys(_BETWEEN, _Reader.between)  # fmt: skip


def _first_symbol(node: Node) -> str | None:
    while node.kind in ("times", "power"):
        node = node.parts[0]
    return node.name if node.kind == "symbol" else None


def _rename_first(node: Node, name: str) -> Node:
    if node.kind == "symbol":
        return symbol_node(name)
    return node._replace(parts=(_rename_first(node.parts[0], name), *node.parts[1:]))
