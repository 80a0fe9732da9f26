"""The tree of a mathematical answer."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

CONSTANTS = ("π", "e", "i", "∞")


class Node(NamedTuple):
    """kind: number, symbol, add, times, divide, power, function, call, list, relation, join, rows, amount.

    name: the value of a number, the name of a symbol or function, the brackets of a list, the signs of a
    relation or join, the unit of an amount.
    """

    kind: str
    name: Any
    parts: tuple[Node, ...] = ()


def number_node(value: Fraction | int) -> Node:
    return Node("number", Fraction(value))


def symbol_node(name: str) -> Node:
    return Node("symbol", name)


def times(*factors: Node) -> Node:
    return Node("times", "", factors)


def divide(above: Node, below: Node) -> Node:
    return Node("divide", "", (above, below))


def negative(node: Node) -> Node:
    return times(number_node(-1), node)


DEGREE = divide(symbol_node("π"), number_node(180))


def nodes(tree: Node) -> Iterator[Node]:
    """A tree and everything in it."""
    yield tree
    for part in tree.parts:
        yield from nodes(part)


def replaced(tree: Node, old: Node, new: Node) -> Node:
    """A tree with `new` wherever `old` was."""
    return (
        new
        if tree == old
        else tree._replace(parts=tuple(replaced(p, old, new) for p in tree.parts))
    )


def is_arithmetic(tree: Node) -> bool:
    """Whether a tree is made of numbers, symbols and functions alone; functions may be of anything."""
    if tree.kind in ("list", "relation", "join", "rows", "amount"):
        return False
    return tree.kind == "call" or all(is_arithmetic(part) for part in tree.parts)


def variables(tree: Node) -> frozenset[str]:
    """The symbols of a tree that are no constants, functions among them."""
    named = (n for n in nodes(tree) if n.kind in ("symbol", "call"))
    return frozenset(n.name for n in named if n.name not in CONSTANTS)
