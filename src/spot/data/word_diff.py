"""Which words of y⁻ and y⁺ an edit touched, by their longest common subsequence in words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from spot.data.edits import common_prefix, edited_spans, numbered

# With the blanks before it (and those at the end of the text), so that words join to the text.
_WORD = re.compile(r"\s*\S+(?:\s+\Z)?")


class Piece(NamedTuple):
    """Some words of a response, and whether the other response lacks them."""

    text: str
    edited: bool


@dataclass(frozen=True)
class Alignment:
    """y⁻ and y⁺ in pieces that join to the texts, kept and edited in turn, beginning with kept.

    Both have as many edited pieces; where y⁺ only inserts or only deletes, the other's is empty.
    """

    before: list[Piece]
    after: list[Piece]
    words: int  # of y⁺
    kept: int  # of these, words of the LCS
    prefix: int  # words that both begin with alike

    @property
    def change_ratio(self) -> float | None:
        """R_LCS of eq. 1, in words; None when y⁺ has none."""
        return (self.words - self.kept) / self.words if self.words else None


def align(before: str, after: str) -> Alignment:
    """The alignment of two texts. Blanks count for nothing, and those before an edit are not part of it."""
    ids = numbered(before.split(), after.split())
    spans = edited_spans(*ids)
    return Alignment(
        _pieces(before, [(i2 - i1, tag) for tag, i1, i2, _, _ in spans]),
        _pieces(after, [(j2 - j1, tag) for tag, _, _, j1, j2 in spans]),
        words=len(ids[1]),
        kept=sum(j2 - j1 for tag, _, _, j1, j2 in spans if tag == "equal"),
        prefix=common_prefix(*ids),
    )


def marked(before: str | None, after: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces that are not empty, the edited words marked; without y⁻ all of y⁺ is."""
    found = align(before or "", after)
    return [p for p in found.before if p.text], [p for p in found.after if p.text]


def inline(before: str, after: str) -> str:
    """Both in one text: what they share as it is, and around it [-removed-] and {+added+} words."""
    found = align(before, after)
    parts: list[str] = []
    for old, new in zip(found.before, found.after, strict=True):
        removed, added = (" ".join(piece.text.split()) for piece in (old, new))
        marks = (f"[-{removed}-]" if removed else "", f"{{+{added}+}}" if added else "")
        parts += marks if old.edited else (added,)
    return " ".join(filter(None, parts))


def _pieces(text: str, spans: list[tuple[int, str]]) -> list[Piece]:
    """A text in kept and edited pieces, from `(words, tag)`."""
    words = _WORD.findall(text)
    if not words:  # blanks alone, or nothing
        return [Piece(text, False), *(Piece("", i % 2 == 0) for i in range(2 * len(spans)))]
    pieces: list[Piece] = []
    kept, at = "", 0
    for count, tag in spans:
        part = "".join(words[at : at + count])
        at += count
        blanks = part if tag == "equal" else part[: len(part) - len(part.lstrip())]
        kept += blanks
        if tag != "equal":
            pieces += [Piece(kept, False), Piece(part[len(blanks) :], True)]
            kept = ""
    return [*pieces, Piece(kept, False)]
