"""Connect4 as a benchmark of reasoning far from mathematics: which drops win at once, for both sides.

A row has a `state` and an `answer`, `[own, opponent]` with cells `[row, column]`, as the public set of
the paper has them and as `connect4_game.generate` makes them. Answers are checked against our solver,
so a row whose labels are wrong or turned upside down is refused.

A reply gives its findings as `[Intermediate Thinking Results 1: …]` for the mover's own winning drops
and `… 2: …` for the opponent's. It is correct when both are. Two parsers read them: `tolerant`, which
forgives the writing but not the cells, and `released`, which scores like the code published with the
paper and is there to compare with its numbers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import index
from typing import Any

from spot.data.rows import CORRECT, UNPARSEABLE, WRONG, Question
from spot.grading.connect4_game import Cell, generate, listed, parse, show, winning_drops
from spot.grading.family import Answer, Family, Grade, RowError, pose, truncated

SIDES = ("own", "opponent")

# What a reply says of one side, None where that cannot be read.
Found = tuple[Cell, ...] | None
Parser = Callable[[str], tuple[Found, Found]]

# Nine digits at most: int() refuses thousands of them.
_TIGHT = re.compile(r"\((\d{1,9}),(\d{1,9})\)")
_LOOSE = re.compile(
    r"[(\[]\s*(?:row\s*)?(\d{1,9})\s*,\s*(?:col(?:umn)?\s*)?(\d{1,9})\s*[)\]]", re.IGNORECASE
)
_LABEL = re.compile(
    r"(?P<open>\[\s*)?intermediate\s*thinking\s*results?[\s#]*(?P<number>[12])"
    r"(?:\s*\([^()\n]*\))?(?P<close>\s*\])?\s*[:：]",
    re.IGNORECASE,
)
_OPENING = r"\W*(?:text\s*\{\s*)?"
_NONE = re.compile(rf"{_OPENING}(?:(?:none|null|nothing|n/a)\b|no\s+\w)", re.IGNORECASE)
_EMPTY = re.compile(  # where no cell is named
    rf"\[\s*\]|\(\s*\)|\{{\s*\}}|∅|\b(?:emptyset|varnothing)\b"
    rf"|\A{_OPENING}(?:there\s+(?:is|are)\s+)?(?:no|none|nothing)\b"
    r"|\bno\s+(?:immediate(?:ly)?\s+)?winning\s+(?:cell|drop|move)s?\b",
    re.IGNORECASE,
)
_MOVE = re.compile(r"chosen\s*move", re.IGNORECASE)  # where the results end
_MARKS = re.compile(r"[*_`$\\]")  # of Markdown and LaTeX


def family(parser: str = "tolerant") -> Family:
    """Connect4, its replies read by one of PARSERS."""
    return Family(
        read,
        pose,
        partial(grade, parser),
        trivial,
        trivial_parts=lambda asked: {side: best[0] for side, best in trivial_shares(asked).items()},
        make=lambda _, count, seed: questions(count, seed),
    )


def questions(count: int, seed: int) -> list[Question]:
    """Questions about boards made from a seed; fewer of them are the first of more."""
    rows = generate(count, seed)
    return [read(row, f"connect4-{seed}-{i:06d}") for i, row in enumerate(rows)]


def read(row: Mapping[str, Any], row_id: str) -> Question:
    """The question of a row; its own `id`, if it has one, comes before `row_id`.

    `state` may be any form that `connect4_game.parse` knows. `answer` may be left out: the solver
    knows it. Otherwise it is `[own, opponent]`, `{"own": …, "opponent": …}`, or one of these as JSON
    text. Raises RowError when the board is no game in progress or the answer is not the solver's.
    """
    try:
        position = parse(row.get("state"))
    except ValueError as error:
        raise RowError(f"state: {error}") from None
    truth = winning_drops(position)
    if (answer := row.get("answer")) is not None and _labels(answer) != tuple(map(set, truth)):
        expected = "; ".join(map(listed, truth))
        raise RowError(f"answer: the solver finds {expected} (own; opponent), not {answer!r}")
    return Question(
        id=row_id if row.get("id") is None else str(row["id"]),
        task="connect4",
        text=show(position),
        answer=expected_lines(truth),
        meta={
            side: [list(cell) for cell in cells] for side, cells in zip(SIDES, truth, strict=True)
        },
    )


def expected_lines(truth: Sequence[Sequence[Cell]]) -> str:
    """What a correct reply ends with, but for the move."""
    return "\n".join(
        f"[Intermediate Thinking Results {number}: {listed(cells)}]"
        for number, cells in enumerate(truth, start=1)
    )


def grade(parser: str, answers: Sequence[Answer]) -> list[Grade]:
    """What replies are worth by one of PARSERS; details: own, opponent, both, format_error (bools)."""
    return [_grade(PARSERS[parser], answer) for answer in answers]


def trivial(questions: Sequence[Question]) -> tuple[float, str]:
    """The best constant answer to both questions: its share of right replies, and the answer."""
    return trivial_shares(questions)["both"]


def trivial_shares(questions: Sequence[Question]) -> dict[str, tuple[float, str]]:
    """The best constant answer to own, opponent and both: the share in [0, 1] it gets right, and it."""
    truths = [_truth(question) for question in questions]
    pairs, share = Counter(truths).most_common(1)[0]
    best = {"both": (share / len(truths), "; ".join(map(listed, pairs)))}
    for place, side in enumerate(SIDES):
        cells, share = Counter(truth[place] for truth in truths).most_common(1)[0]
        best[side] = share / len(truths), listed(cells)
    return best


def tolerant(response: str) -> tuple[Found, Found]:
    """What a reply says of both sides, however it is written.

    Markdown and LaTeX marks, spaces, order, repeats, square brackets for round ones and missing outer
    brackets do not matter. Of several results with the same number the last that can be read counts. A
    result is all cells between its brackets, else on its line, or on the lines right below a label
    that stands alone. "None", "no …" and an empty list mean no cell, and so does "there is no …" if
    no cell is named; a result that names neither cells nor none is not read at all.
    """
    text = _MARKS.sub("", response)
    found: dict[str, Found] = {}
    for number, content in _results(text):
        if (cells := _cells(content)) is not None:
            found[number] = cells
    return found.get("1"), found.get("2")


def released(response: str) -> tuple[Found, Found]:
    """What the code published with the paper makes of a reply.

    The first result of each number counts, within one line and its brackets. Only the bare word none
    means no cell; anything else is searched for cells without spaces, so that `(3, 2)` is not seen and
    a text without a cell is right when there is no winning drop. A repeated cell is an error. That
    code also searched the reasoning block; here it is not part of the response.
    """
    lines = response.lower().split("\n")
    return _as_released(lines, "1"), _as_released(lines, "2")


PARSERS: dict[str, Parser] = {"tolerant": tolerant, "released": released}


def _as_released(lines: Sequence[str], number: str) -> Found:
    """The cells of the first result with this number; `none` holds none and needs no case of its own."""
    label = re.compile(f"intermediate thinking results {number}+: ")
    for line in lines:
        if (found := label.search(line)) and (end := line.find("]", found.end())) >= 0:
            cells = _TIGHT.findall(line, found.end(), end)
            return tuple((int(row), int(column)) for row, column in cells)
    return None


def _results(text: str) -> Iterator[tuple[str, str]]:
    """`(number, content)` of every result in a text, in order."""
    labels = list(_LABEL.finditer(text))
    borders = [*(label.start() for label in labels), len(text)]
    for label, end in zip(labels, borders[1:], strict=True):
        after = _MOVE.split(text[label.end() : end], maxsplit=1)[0]
        within = _bracketed(after) if label["open"] and not label["close"] else None
        yield label["number"], _below(after) if within is None else within


def _bracketed(after: str) -> str | None:
    """What comes before the bracket that closes the result; None when its paragraph has none."""
    depth = 1
    for place, character in enumerate(_paragraph(after)):
        depth += (character == "[") - (character == "]")
        if depth == 0:
            return after[:place]
    return None


def _below(after: str) -> str:
    """The rest of the label's line or, if that is blank, the lines up to the next blank one."""
    line, _, rest = after.partition("\n")
    return line if line.strip() else _paragraph(rest.strip())


def _paragraph(text: str) -> str:
    return re.split(r"\n\s*\n", text, maxsplit=1)[0]


def _cells(content: str) -> Found:
    """The cells a result names, sorted, none of them twice; None when it says nothing of cells.

    A bare `3,2` is not read: it may be a cell as well as two columns.
    """
    if _NONE.match(content):
        return ()
    cells = {(int(row), int(column)) for row, column in _LOOSE.findall(content)}
    if not cells and not _EMPTY.search(content):
        return None
    return tuple(sorted(cells))


def _grade(parser: Parser, answer: Answer) -> Grade:
    truth = _truth(answer.question)
    found = parser(answer.response)
    hits = [
        cells is not None and tuple(sorted(cells)) == right
        for cells, right in zip(found, truth, strict=True)
    ]
    unread = [side for side, cells in zip(SIDES, found, strict=True) if cells is None]
    details = {"own": hits[0], "opponent": hits[1], "both": all(hits), "format_error": bool(unread)}
    extracted = None if len(unread) == len(SIDES) else _listed(found)
    if answer.finish_reason == "length":
        return truncated(extracted, details)
    if unread:
        reason = f"no result for {' and '.join(unread)}"
        return Grade(False, UNPARSEABLE, extracted, reason, details)
    wrong = " and ".join(side for side, hit in zip(SIDES, hits, strict=True) if not hit)
    if wrong:
        return Grade(False, WRONG, extracted, f"wrong: {wrong}", details)
    return Grade(True, CORRECT, extracted, "", details)


def _listed(found: Sequence[Found]) -> str:
    return "; ".join("?" if cells is None else listed(cells) for cells in found)


def _truth(question: Question) -> tuple[tuple[Cell, ...], ...]:
    """The winning drops of both sides, sorted."""
    return tuple(
        tuple(sorted((row, column) for row, column in question.meta[side])) for side in SIDES
    )


def _labels(answer: Any) -> tuple[set[Cell], set[Cell]]:
    """The cells of a row's answer. Raises RowError when it has another form."""
    try:
        value = json.loads(answer) if isinstance(answer, str) else answer
        own, opponent = (value[s] for s in SIDES) if isinstance(value, Mapping) else value
        return _label(own), _label(opponent)
    except (TypeError, ValueError, KeyError):
        raise RowError(
            f"answer: expected [own, opponent] of [row, column], not {answer!r}"
        ) from None


def _label(cells: Any) -> set[Cell]:
    return {(index(row), index(column)) for row, column in cells}
