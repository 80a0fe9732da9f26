"""Connect4: the solver, the boards made from a seed, and what replies are worth."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections import Counter
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spot.errors import UserError
from spot.evaluation import connect4
from spot.evaluation.connect4_game import (
    Position,
    from_grid,
    generate,
    grid,
    parse,
    show,
    winning_drops,
    write,
)
from spot.evaluation.types import Answer, Grade, RowError
from spot.records import CORRECT, TRUNCATED, UNPARSEABLE, WRONG, Question

Cells = list[tuple[int, int]]

# name: rows from row 5 down, of which empty ones at the top are left out; whose turn; own; opponent
BOARDS: dict[str, tuple[str, str, Cells, Cells]] = {
    "nothing": ("...XO..", "X", [], []),
    "upright at the left": ("X...... XO..... XO...O.", "X", [(3, 0)], []),
    "up to the top": ("......X ......X ......X O.....O OX....O", "X", [(5, 6)], []),
    "across to the right": ("O...... OO..XXX", "X", [(0, 3)], []),
    "a gap": ("XX.XOO.", "O", [], [(0, 2)]),
    "a gap in the air": ("XX.XO.. OO.OX..", "X", [], [(0, 2)]),
    "rising": ("..XO... .XOX... XOXO...", "O", [], [(3, 3)]),
    "falling": ("O...... X...... OXO.... XXXO...", "O", [(2, 1)], []),
    "both ends": (".OO.... .XXX...", "O", [], [(0, 0), (0, 4)]),
    "a cell for both": ("XXX.OOO", "X", [(0, 3)], [(0, 3)]),
    "under the rim": ("X...... X...... X...... O...... O...... X.O.O..", "X", [], []),
    "full column": ("X...... O...... X...... O...... XOO.... OXXX...", "O", [], [(0, 4)]),
}


def board(rows: str) -> list[list[str]]:
    lines = rows.split()
    return [list(line) for line in ["......."] * (6 - len(lines)) + lines]


def drops_by_hand(rows: list[list[Any]], stone: str) -> Cells:
    """The slow and plain way: drop a stone into each column and walk from it in all directions."""
    found = []
    for column in range(7):
        place = max((r for r in range(6) if rows[r][column] not in "XO"), default=None)
        if place is not None and makes_four(rows, place, column, stone):
            found.append((5 - place, column))
    return found


def makes_four(rows: list[list[Any]], row: int, column: int, stone: str) -> bool:
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        length = 1
        for sign in (1, -1):
            r, c = row + sign * down, column + sign * right
            while 0 <= r < 6 and 0 <= c < 7 and rows[r][c] == stone:
                length += 1
                r, c = r + sign * down, c + sign * right
        if length >= 4:
            return True
    return False


def play(columns: list[int]) -> list[list[str]]:
    """The board after stones were dropped into these columns, as far as the rules and no win allow."""
    rows = [["_"] * 7 for _ in range(6)]
    stones = 0
    for column in columns:
        place = max((r for r in range(6) if rows[r][column] == "_"), default=None)
        if place is None or makes_four(rows, place, column, "XO"[stones % 2]):
            continue
        rows[place][column] = "XO"[stones % 2]
        stones += 1
    return rows


games = st.lists(st.integers(0, 6), max_size=60).map(play)


@pytest.mark.parametrize("name", BOARDS)
def test_winning_drops_of_boards_made_by_hand(name: str) -> None:
    rows, mover, own, opponent = BOARDS[name]
    position = from_grid(board(rows))
    assert position.mover == mover
    assert winning_drops(position) == (own, opponent)
    assert winning_drops(from_grid([row[::-1] for row in board(rows)])) == (
        sorted(((r, 6 - c) for r, c in own), key=lambda cell: cell[1]),
        sorted(((r, 6 - c) for r, c in opponent), key=lambda cell: cell[1]),
    )


def test_the_solver_agrees_with_plain_loops_on_fifty_thousand_positions() -> None:
    rng = random.Random(4)
    seen: set[Position] = set()
    wins = 0
    while len(seen) < 50_000:
        rows: list[list[Any]] = [["_"] * 7 for _ in range(6)]
        for stones in range(42):
            position = from_grid(rows)
            mover, other = "XO"[stones % 2], "OX"[stones % 2]
            expected = drops_by_hand(rows, mover), drops_by_hand(rows, other)
            assert winning_drops(position) == expected, show(position)
            seen.add(position)
            wins += any(expected)
            column = rng.choice([c for c in range(7) if rows[0][c] == "_"])
            place = max(r for r in range(6) if rows[r][column] == "_")
            rows[place][column] = mover
            if makes_four(rows, place, column, mover):
                break
    assert wins > 10_000


@settings(deadline=None)
@given(games)
def test_mirroring_the_board_mirrors_the_answers(rows: list[list[str]]) -> None:
    assume(any("_" in row for row in rows))
    plain = winning_drops(from_grid(rows))
    mirrored = winning_drops(from_grid([row[::-1] for row in rows]))
    for cells, reflected in zip(plain, mirrored, strict=True):
        assert [(row, 6 - column) for row, column in reversed(reflected)] == cells


@settings(deadline=None)
@given(games)
def test_swapping_sides_swaps_the_answers(rows: list[list[str]]) -> None:
    assume(any("_" in row for row in rows))
    position = from_grid(rows)
    other = "O" if position.mover == "X" else "X"
    own, opponent = winning_drops(position)
    assert winning_drops(Position(position.x, position.o, other)) == (opponent, own)
    assert winning_drops(Position(position.o, position.x, other)) == (own, opponent)


@settings(deadline=None)
@given(games)
def test_a_position_reads_back_from_all_its_forms(rows: list[list[str]]) -> None:
    assume(any("_" in row for row in rows))
    position = from_grid(rows)
    assert grid(position) == rows
    numbers = [[{"X": 1, "O": 2, "_": 0}[symbol] for symbol in row] for row in rows]
    text = "\n".join("| " + " | ".join(row).replace("_", ".") + " |" for row in rows)
    for form in (show(position), rows, numbers, text, f"{text}\n0 1 2 3 4 5 6"):
        assert parse(form) == position


def test_a_board_that_is_no_game_in_progress_is_refused() -> None:
    for rows, problem in {
        "X......": "hangs in the air",
        "XX.....": "2 X and 0 O cannot be with player O to move",
        "OOO.... XXXX...": "four in a row",
        "Z......": "holds 'Z'",
        "XO": "6 rows of 7",
    }.items():
        lines = board(rows)
        if problem == "hangs in the air":
            lines = [*lines[1:], ["_"] * 7]
        with pytest.raises(ValueError, match=problem):
            from_grid(lines)
    drawn = ["XXOOXXO", "OOXXOOX", "XXOOXXO", "OOXXOOX", "XXOOXXO", "OOXXOOX"]
    with pytest.raises(ValueError, match="the board is full"):
        from_grid(drawn)


def test_boards_made_from_a_seed() -> None:
    rows = generate(500, seed=3)
    assert rows == generate(500, seed=3)
    assert rows[:90] == generate(90, seed=3)
    assert rows != generate(500, seed=4)
    assert len({row["state"] for row in rows}) == 500
    empty = [row["answer"] == [[], []] for row in rows]
    assert sum(empty) == 100
    assert Counter(parse(row["state"]).mover for row in rows) == {"X": 250, "O": 250}
    stones = set()
    for row in rows:
        position = parse(row["state"])
        lines = grid(position)
        other = "O" if position.mover == "X" else "X"
        expected = drops_by_hand(lines, position.mover), drops_by_hand(lines, other)
        assert row["answer"] == [[list(cell) for cell in cells] for cells in expected]
        assert not any(
            lines[r][c] == stone and makes_four(lines, r, c, stone)
            for r in range(6)
            for c in range(7)
            for stone in "XO"
        )
        stones.add(sum(symbol != "_" for line in lines for symbol in line))
    assert len(stones) > 30, "early and late positions"


def test_a_seed_gives_the_same_bytes_on_every_python(tmp_path: Path) -> None:
    write(tmp_path / "new" / "boards.jsonl", generate(20, seed=0))
    written = (tmp_path / "new" / "boards.jsonl").read_bytes()
    assert hashlib.sha256(written).hexdigest()[:16] == "e809c031c78f162d"
    rows = [json.loads(line) for line in written.splitlines()]
    assert [connect4.read(row, "r").text for row in rows] == [row["state"] for row in rows]


def test_mistakes_in_making_boards(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="count=0 is out of range"):
        generate(0)
    with pytest.raises(UserError, match="is a folder: name a file"):
        write(tmp_path, [])


def public_row(rows: list[list[str]], mover: str, answer: Any) -> dict[str, Any]:
    """The layout of the paper's set: cells, a list of moves with other brackets, whose turn it is."""
    lines = "".join(
        "".join(f"({5 - r},{c}):{symbol.replace('.', '_')} " for c, symbol in enumerate(line))
        + "\n"
        for r, line in enumerate(rows)
    )
    moves = "['(0,0)', '(3,1)']"
    state = f"\nBoard now: \n{lines}\nMoves of player {mover}: {moves}\nYou are player {mover}, go on.\n"
    return {"state": state, "answer": answer}


FALLING = board(BOARDS["falling"][0])
FORM = r"answer: expected \[own, opponent\]"


@pytest.mark.parametrize(
    "answer",
    [
        [[[2, 1]], []],
        "[[[2, 1]], []]",
        {"own": [[2, 1]], "opponent": []},
        '{"opponent": [], "own": [[2, 1]]}',
        None,
    ],
)
def test_a_row_of_the_public_set_is_read(answer: Any) -> None:
    question = connect4.read(public_row(FALLING, "O", answer), "row-7")
    assert question.id == "row-7"
    assert question.task == "connect4"
    assert question.meta == {"own": [[2, 1]], "opponent": []}
    assert question.answer.splitlines() == [
        "[Intermediate Thinking Results 1: (2,1)]",
        "[Intermediate Thinking Results 2: None]",
    ]
    assert "(3,0):O (3,1):_" in question.text
    assert "You are player O. A stone dropped now can land on (4,0), (2,1), (2,2), (1,3)" in (
        question.text
    )
    named = connect4.read({"id": 12, "state": FALLING}, "row-7")
    assert (named.id, named.text) == ("12", question.text)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({}, "state: expected a board"),
        ({"state": "What is 2 + 2?"}, "state: the board is not 6 rows of 7 cells"),
        ({"state": [[0, 0], [1, 2]]}, "state: the board is not 6 rows of 7 cells"),
        (public_row(FALLING[1:], "O", None), "35 different cells, 35 in all, of 42"),
        ({"state": show(from_grid(FALLING)) + "\n(0,0):X"}, "42 different cells, 43 in all"),
        (public_row(FALLING, "X", None), "5 X and 4 O cannot be with player X to move"),
        (public_row(FALLING[::-1], "O", None), "hangs in the air"),
        (public_row(FALLING, "O", [[[3, 1]], []]), r"answer: the solver finds \(2,1\); None"),
        (public_row(FALLING, "O", [[], [[2, 1]]]), "answer: the solver finds"),
        (public_row(FALLING, "O", [[[2, 1]]]), FORM),
        (public_row(FALLING, "O", "(2,1)"), FORM),
        (public_row(FALLING, "O", [[["2", 1]], []]), FORM),
        (public_row(FALLING, "O", {"own": [[2, 1]]}), FORM),
        (public_row(FALLING, "O", 3), FORM),
    ],
)
def test_a_row_that_is_no_question_is_refused(row: dict[str, Any], problem: str) -> None:
    with pytest.raises(RowError, match=problem):
        connect4.read(row, "row-1")


def listed(found: tuple[connect4.Found, connect4.Found]) -> list[Cells | None]:
    return [cells if cells is None else list(cells) for cells in found]


L1, L2 = "Intermediate Thinking Results 1", "Intermediate Thinking Results 2"


@pytest.mark.parametrize(
    ("response", "own", "opponent"),
    [
        (f"[{L1}: (3,2), (0,3)]\n[{L2}: None]\nChosen Move: (3,2)", [(0, 3), (3, 2)], []),
        (f"[{L2}: (1, 1)]  [{L1}: none]", [], [(1, 1)]),
        (f"[{L1}: ( 3 , 2 ),(0, 3),]\n[{L2}: None.]", [(0, 3), (3, 2)], []),
        (f"[{L1}: (0,3), (3,2), (0,3)]\n[{L2}: []]", [(0, 3), (3, 2)], []),
        (f"[{L1}: [(3,2), (0,3)]]\n[{L2}: [ ]]", [(0, 3), (3, 2)], []),
        (f"[{L1}: [3,2], [0, 3]]\n[{L2}: ()]", [(0, 3), (3, 2)], []),
        (f"[{L1}: [[3,2], [0,3]]]\n[{L2}: {{}}]", [(0, 3), (3, 2)], []),
        (f"**[{L1}: (3,2)]**\n\n**[{L2}: None]**", [(3, 2)], []),
        (f"**{L1}:** (3,2)\n**{L2}:** none", [(3, 2)], []),
        (f"- __{L1}__: `(3,2)`\n- __{L2}__: _None_", [(3, 2)], []),
        (f"### [{L1}]: (3,2)\n### [{L2}]: No winning moves", [(3, 2)], []),
        (f"{L1} (own moves): (3,2)\n{L2} (the opponent's): N/A", [(3, 2)], []),
        (f"{L1}:\n- (3,2)\n- (0,3)\n\n{L2}:\nNothing", [(0, 3), (3, 2)], []),
        (f"[{L1}:\n(3,2),\n(0,3)\n]\n[{L2}:\nNone\n]", [(0, 3), (3, 2)], []),
        (f"\\[{L1}: $(3,2)$\\]\n\\[{L2}: \\text{{None}}\\]", [(3, 2)], []),
        (f"[{L1}: (row 3, column 2)]\n[{L2}: ∅]", [(3, 2)], []),
        (f"[{L1.lower()} : (3,2)]\n[{L2.upper()}: NONE]", [(3, 2)], []),
        (f"[{L1}: (3,2):X]\n[{L2}: None, since (0,3) is taken]", [(3, 2)], []),
        (f"[{L1}: (3,2)\n\nThat ends it [I hope].\n[{L2}: None]", [(3, 2)], []),
        (f"{L1}:\n(3,2)\n{L2}:\n(1,1)\nChosen Move: (0,0)", [(3, 2)], [(1, 1)]),
        (f"{L1}: (3,2), {L2}: None, chosen move: (0,0)", [(3, 2)], []),
        (
            f"[{L1}: (3,2)], next to (2,2)\n[{L2}: [1,1],\n[0,3]] (below (1,3))",
            [(3, 2)],
            [(0, 3), (1, 1)],
        ),
        # the last one counts
        (f"[{L1}: (0,0)] wait!\n[{L1}: (3,2)]\n[{L2}: (1,1)]\n[{L2}: None]", [(3, 2)], []),
        (f"[{L1}: (3,2)]\n[{L2}: None]\nIn {L1} above I took the gap.", [(3, 2)], []),
        (f"[{L1}: (3,2)]\n[{L2}: None]\nThe form was [{L1}: (X,X), ...].", [(3, 2)], []),
        # cells that do not exist are wrong, not unreadable
        (f"[{L1}: (9,9)]\n[{L2}: None]", [(9, 9)], []),
        # unreadable
        ("", None, None),
        ("I would play (3,2).", None, None),
        (f"[{L1}: (3,2)]", [(3, 2)], None),
        (f"[{L1}: 3,2]\n[{L2}: see above]", None, None),
        (f"[{L1}: ]\n[{L2}:", None, None),
        (f"[{L1}: the third column]\n[{L2}: (row,column), ...]", None, None),
        (f"{L1} and {L2}: None", None, []),
        ("[Intermediate Thinking Results 3: (3,2)]", None, None),
    ],
)
def test_the_tolerant_parser(response: str, own: Cells | None, opponent: Cells | None) -> None:
    assert listed(connect4.tolerant(response)) == [own, opponent]


@pytest.mark.parametrize(
    ("response", "own", "opponent"),
    [
        (f"[{L1}: (3,2), (0,3)]\n[{L2}: None]", [(3, 2), (0, 3)], []),
        (f"[{L1}: (0,0)]\n[{L1}: (3,2)]\n[{L2}: None]\n[{L2}: (1,1)]", [(0, 0)], []),
        (f"[{L1}: (3,2)] [{L2}: None] [or (1,1)]", [(3, 2)], []),
        (f"[{L1}: (3, 2)]\n[{L2}: (3, 2), (0,3)]", [], [(0, 3)]),
        (f"[{L1}: the middle]\n[{L2}: ?]", [], []),
        (f"[{L1}: (3,2), (3,2)]\n[{L2}: NONE]", [(3, 2), (3, 2)], []),
        (f"**{L1}:** (3,2)\n[{L2}:None]", None, None),
        (f"[{L1}:\n(3,2)]\n{L2}: (1,1) and no bracket\n[{L2}: (2,2)]", None, [(2, 2)]),
        ("", None, None),
    ],
)
def test_the_released_parser(response: str, own: Cells | None, opponent: Cells | None) -> None:
    assert listed(connect4.released(response)) == [own, opponent]


QUESTION = connect4.read({"state": FALLING}, "q")  # own (2,1), opponent None


def graded(response: str, parser: str = "tolerant", finish_reason: str = "stop") -> Grade:
    (grade,) = connect4.family(parser).grade([Answer(QUESTION, response, finish_reason)])
    return grade


def test_a_reply_is_correct_when_both_answers_are() -> None:
    both = graded(f"[{L1}: (2,1)]\n[{L2}: None]")
    assert both == Grade(
        correct=True,
        verdict=CORRECT,
        extracted="(2,1); None",
        details={"own": True, "opponent": True, "both": True, "format_error": False},
    )
    half = graded(f"[{L1}: (2,1)]\n[{L2}: (2,2)]")
    assert (half.correct, half.verdict, half.reason) == (False, WRONG, "wrong: opponent")
    assert half.details == {"own": True, "opponent": False, "both": False, "format_error": False}
    surplus = graded(f"[{L1}: (2,1), (2,2)]\n[{L2}: None]")
    assert (surplus.verdict, surplus.reason) == (WRONG, "wrong: own")


def test_a_reply_without_a_result_is_unparseable_and_one_that_was_cut_is_truncated() -> None:
    half = graded(f"[{L2}: None]")
    assert (half.correct, half.verdict) == (False, UNPARSEABLE)
    assert (half.extracted, half.reason) == ("?; None", "no result for own")
    assert half.details == {"own": False, "opponent": True, "both": False, "format_error": True}
    nothing = graded("I give up.")
    assert (nothing.extracted, nothing.reason) == (None, "no result for own and opponent")
    cut = graded(f"[{L1}: (2,1)]\n[{L2}: None]\nChosen", finish_reason="length")
    assert (cut.correct, cut.verdict, cut.details["both"]) == (False, TRUNCATED, True)


def test_the_parsers_differ_where_the_released_one_errs() -> None:
    spaced = f"[{L1}: (2, 1)]\n[{L2}: None]"
    assert graded(spaced).correct
    assert not graded(spaced, "released").correct
    garbage = f"[{L1}: (2,1)]\n[{L2}: whatever]"
    assert graded(garbage).verdict == UNPARSEABLE
    assert graded(garbage, "released").correct
    twice = f"[{L1}: (2,1), (2,1)]\n[{L2}: None]"
    assert graded(twice).correct
    assert not graded(twice, "released").correct


@pytest.mark.parametrize("parser", connect4.PARSERS)
def test_the_truth_is_right_and_the_prompt_asks_for_it(parser: str) -> None:
    template = resources.files("spot.evaluation").joinpath("prompts/connect4.md").read_text("utf-8")
    family = connect4.family(parser)
    asked = connect4.questions(50, seed=1)
    assert asked[0].id == "connect4-1-000000"
    posed = [family.pose(question, 5, template) for question in asked]
    for question, as_posed in zip(asked, posed, strict=True):
        assert question.text in as_posed.text
        assert "{" not in as_posed.text
        assert question.answer not in as_posed.text
    assert all(grade.correct for grade in family.grade([Answer(q, q.answer) for q in posed]))
    others = [Answer(q, other.answer) for q, other in pairwise(posed)]
    same = sum(answer.question.answer == answer.response for answer in others)
    assert sum(grade.correct for grade in family.grade(others)) == same
    if parser == "tolerant":  # the prompt's own lines are no answer
        assert {g.verdict for g in family.grade([Answer(q, q.text) for q in posed])} == {
            UNPARSEABLE
        }


def test_the_best_constant_answer() -> None:
    asked = connect4.questions(100, seed=2)
    shares = connect4.trivial_shares(asked)
    assert connect4.family().trivial(asked) == shares["both"] == (0.2, "None; None")
    for side in ("own", "opponent"):
        empty = sum(not question.meta[side] for question in asked) / 100
        assert shares[side] == (empty, "None")
        assert 0.2 < empty < 0.8
    none_to_both = f"[{L1}: None]\n[{L2}: None]"
    grades = connect4.family().grade([Answer(question, none_to_both) for question in asked])
    assert sum(grade.correct for grade in grades) == 20
    for side in ("own", "opponent"):
        assert sum(grade.details[side] for grade in grades) / 100 == shares[side][0]
    one_cell = [Question("a", "connect4", "", "", {"own": [[0, 1]], "opponent": []})] * 3
    other = Question("b", "connect4", "", "", {"own": [], "opponent": []})
    assert connect4.trivial_shares([*one_cell, other]) == {
        "own": (0.75, "(0,1)"),
        "opponent": (1.0, "None"),
        "both": (0.75, "(0,1); None"),
    }


@pytest.mark.parametrize("parser", connect4.PARSERS)
@pytest.mark.parametrize(
    "response",
    [
        "[" * 500_000,
        "[ " * 250_000,
        "(" + " " * 500_000,
        f"[{L1}: " * 15_000,
        f"[{L1}:\n" * 15_000,
        f"[{L1}:" + "\n " * 250_000,
        f"[{L1}: ({'9' * 100_000},1)]",
        f"{L1}" + " " * 500_000 + "#" * 500_000,
        "\0" * 500_000,
    ],
    ids=lambda response: repr(response[:12]),
)
def test_hostile_replies_are_graded_at_once(response: str, parser: str) -> None:
    began = time.monotonic()
    assert not graded(response, parser).correct
    assert time.monotonic() - began < 5
