"""Inequalities as the sets of numbers that they say."""

from __future__ import annotations

from spot.grading.math_tree import Node, negative, symbol_node, variables

_INFINITY = symbol_node("∞")
REAL = Node("list", "()", (negative(_INFINITY), _INFINITY))
TURNED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤"}


def turned(relation: Node) -> Node:
    """The same from right to left."""
    signs = tuple(TURNED.get(sign, sign) for sign in reversed(relation.name))
    return Node("relation", signs, tuple(reversed(relation.parts)))


def interval(relation: Node) -> tuple[Node, Node] | None:
    """The symbol and the interval of `x > 2`, `-1 <= x < 3`."""
    signs, parts = relation.name, relation.parts
    if relation.kind != "relation" or not set(signs) <= set(TURNED) or len(parts) > 3:
        return None
    if ">" in signs or "≥" in signs:
        relation = turned(relation)
        signs, parts = relation.name, relation.parts
    if not set(signs) <= {"<", "≤"}:
        return None
    if len(parts) == 2:
        if parts[0].kind == "symbol" and not variables(parts[1]) & {parts[0].name}:
            return parts[0], Node(
                "list", "(" + (")" if signs[0] == "<" else "]"), (REAL.parts[0], parts[1])
            )
        if parts[1].kind == "symbol":
            return parts[1], Node(
                "list", ("(" if signs[0] == "<" else "[") + ")", (parts[0], _INFINITY)
            )
        return None
    if parts[1].kind != "symbol":
        return None
    brackets = ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")
    return parts[1], Node("list", brackets, (parts[0], parts[2]))


def builder_interval(relation: Node) -> Node | None:
    r"""The interval of `x \mid x > 2` and `x \in \mathbb{R} : 1 < x < 2`."""
    if "|" not in relation.name:
        return None
    place = relation.name.index("|")
    found = interval(Node("relation", relation.name[place + 1 :], relation.parts[place + 1 :]))
    real = relation.name[:place] in ((), ("∈",)) and all(
        part.kind == "symbol" and part.name in ("mathbb(R)", "R")
        for part in relation.parts[1 : place + 1]
    )
    return found[1] if found and real and found[0] == relation.parts[0] else None


def union(node: Node) -> Node | None:
    r"""The union of intervals that `x < 1 \text{ or } x > 3` says, of one variable."""
    if node.kind == "join":
        return node
    found = [interval(part) for part in (node.parts if node.kind == "list" else (node,))]
    if None in found or len({each[0] for each in found if each}) != 1:
        return None
    return Node("join", ("∪",) * (len(found) - 1), tuple(each[1] for each in found if each))
