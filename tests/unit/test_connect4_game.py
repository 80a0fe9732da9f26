"""Connect4: the solver and the boards made from a seed."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spot.data.jsonl import write_objects
from spot.grading import connect4
from spot.grading.connect4_game import (
    Position,
    from_grid,
    generate,
    grid,
    parse,
    show,
    winning_drops,
)
from spot.utils.errors import UserError

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
    write_objects(tmp_path / "new" / "boards.jsonl", generate(20, seed=0))
    written = (tmp_path / "new" / "boards.jsonl").read_bytes()
    assert hashlib.sha256(written).hexdigest()[:16] == "e809c031c78f162d"
    rows = [json.loads(line) for line in written.splitlines()]
    assert [connect4.read(row, "r").text for row in rows] == [row["state"] for row in rows]


def test_mistakes_in_making_boards(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="count=0 is out of range"):
        generate(0)
