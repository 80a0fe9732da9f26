"""How far a correction strays from what the policy wrote, measured on token ids (§3, eq. 1).

Everything here rests on the longest common subsequence (LCS): the most tokens of y⁻ that survive,
in order, in y⁺. RapidFuzz finds it bit-parallel, in milliseconds for thousands of tokens; it is
imported where it is used, so that packs can be built with torch and transformers alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EditedSpan = tuple[str, int, int, int, int]

SHARED, EDITED, AFTER, NO_PART = range(4)  # parts of a response, as `align` tells them apart


def change_ratio(rejected: Sequence[int], chosen: Sequence[int]) -> float:
    """The share of y⁺'s tokens that do not come from y⁻, between 0 and 1 (eq. 1).

        R_LCS(y⁻, y⁺) = 1 − |LCS(y⁻, y⁺)| / |y⁺|

    0 when y⁺ only deletes from y⁻; 1 when they share nothing. An empty y⁺ raises ValueError.
    """
    from rapidfuzz.distance import LCSseq

    if not chosen:
        raise ValueError("the change ratio of an empty correction is undefined")
    return (len(chosen) - LCSseq.similarity(rejected, chosen)) / len(chosen)


def common_prefix(a: Sequence[int] | np.ndarray, b: Sequence[int] | np.ndarray) -> int:
    """How many tokens `a` and `b` begin with alike."""
    length = min(len(a), len(b))
    unlike = np.flatnonzero(np.asarray(a[:length]) != np.asarray(b[:length]))
    return int(unlike[0]) if len(unlike) else length


def edited_spans(rejected: Sequence[int], chosen: Sequence[int]) -> list[EditedSpan]:
    """An LCS alignment as `(tag, i1, i2, j1, j2)`: what `rejected[i1:i2]` became in `chosen[j1:j2]`.

    The tag is equal, delete, insert or replace. Spans cover both sequences in order, without gaps,
    and neighbours differ in being equal or edited, so each edit is one span.
    """
    from rapidfuzz.distance import LCSseq

    spans: list[EditedSpan] = []
    i = j = 0
    for block in LCSseq.editops(rejected, chosen).as_matching_blocks():
        if edit := _edit_tag(block.a - i, block.b - j):
            spans.append((edit, i, block.a, j, block.b))
        i, j = block.a + block.size, block.b + block.size
        if block.size:
            spans.append(("equal", block.a, i, block.b, j))
    return spans


def numbered(before: Sequence[str], after: Sequence[str]) -> tuple[list[int], list[int]]:
    """The words of two texts as numbers, equal where the words are."""
    numbers: dict[str, int] = {}
    first, second = (
        [numbers.setdefault(word, len(numbers)) for word in side] for side in (before, after)
    )
    return first, second


def align(chosen: np.ndarray, rejected: np.ndarray, prefix: int) -> tuple[np.ndarray, np.ndarray]:
    """The part that every token of y⁺ and of y⁻ belongs to, as two arrays of uint8.

    SHARED: the common prefix, of this many tokens. EDITED: what the LCS alignment deletes, inserts or
    replaces. AFTER: what it keeps beyond the first edit.
    """
    parts = tuple(np.full(len(ids), AFTER, dtype=np.uint8) for ids in (chosen, rejected))
    for tag, i1, i2, j1, j2 in edited_spans(rejected[prefix:].tolist(), chosen[prefix:].tolist()):
        if tag != "equal":
            parts[0][prefix + j1 : prefix + j2] = EDITED
            parts[1][prefix + i1 : prefix + i2] = EDITED
    for part in parts:
        part[:prefix] = SHARED
    return parts[0], parts[1]


def first_step(
    chosen: np.ndarray, rejected: np.ndarray, prefix: int, line_ends: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """As `align`, where the edit is the first step that differs, whole, and all behind it is AFTER.

    A step reaches from the first difference to the end of its line: the next token of `line_ends`.
    """
    parts = tuple(np.full(len(ids), AFTER, dtype=np.uint8) for ids in (chosen, rejected))
    for part, ids in zip(parts, (chosen, rejected), strict=True):
        ends = np.flatnonzero(np.isin(ids[prefix:], line_ends))
        part[:prefix] = SHARED
        part[prefix : prefix + int(ends[0]) + 1 if len(ends) else len(ids)] = EDITED
    return parts[0], parts[1]


def _edit_tag(deleted: int, inserted: int) -> str:
    if deleted and inserted:
        return "replace"
    return "delete" if deleted else "insert" if inserted else ""
