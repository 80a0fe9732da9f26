"""Connect4: positions, drops that win at once, and boards to ask about.

A board has 6 rows and 7 columns; cells are (row, column) from 0 and row 0 is the lowest. Each side is
an integer with one bit a cell, 7 bits a column, the lowest row first; the seventh stays empty, so that
a line cannot run on into the next column.

As text a board is a list of cells, `(2,3):X (2,4):_ …`, the top row first. That is how the public set
of the paper writes them, in rows `{"state": text, "answer": [own, opponent]}` whose text also says
"You are player X" and whose answers are lists of `[row, column]`, columns ascending.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from spot.utils.errors import in_range

ROWS, COLUMNS = 6, 7
HEIGHT = ROWS + 1  # bits a column takes
LOWEST = sum(1 << HEIGHT * column for column in range(COLUMNS))
BOARD = LOWEST * ((1 << ROWS) - 1)
LINES = (1, HEIGHT, HEIGHT - 1, HEIGHT + 1)  # up, right, right and down, right and up
EMPTY_EVERY = 5  # one board in five has no winning drop at all: 20%, the paper's limit

Cell = tuple[int, int]

_CELL = re.compile(r"\(\s*([0-5])\s*,\s*([0-6])\s*\)\s*:\s*([XO_])", re.IGNORECASE)
_MOVER = re.compile(r"\byou are (?:player )?([XO])\b", re.IGNORECASE)
_SYMBOLS: dict[Any, str] = {
    **dict.fromkeys(("X", "x", "1", 1), "X"),
    **dict.fromkeys(("O", "o", "2", 2), "O"),
    **dict.fromkeys(("_", ".", "-", " ", "", "0", 0, None), "_"),
}


@dataclass(frozen=True)
class Position:
    """A game in progress: the stones of both sides as bits, and whose turn it is (`X` | `O`)."""

    x: int
    o: int
    mover: str


def winning_drops(position: Position) -> tuple[list[Cell], list[Cell]]:
    """Where a drop makes four in a row at once, for the mover and, were it their turn, the opponent.

    Cells of each by column, left to right.
    """
    own, other = (position.x, position.o) if position.mover == "X" else (position.o, position.x)
    landings = _landings(own | other)
    return (
        [_cell(bit) for bit in landings if _has_four(own | bit)],
        [_cell(bit) for bit in landings if _has_four(other | bit)],
    )


def legal_drops(position: Position) -> list[Cell]:
    """The lowest free cell of each column that is not full, left to right."""
    return [_cell(bit) for bit in _landings(position.x | position.o)]


def grid(position: Position) -> list[list[str]]:
    """The board as rows of `X`, `O` and `_`, the top row first."""
    return [
        [_symbol(position, _bit(row, column)) for column in range(COLUMNS)]
        for row in reversed(range(ROWS))
    ]


def from_grid(rows: Sequence[Sequence[Any]], mover: str | None = None) -> Position:
    """The position of a board given as rows, the top row first.

    Stones are X and O or 1 and 2; `_`, `.`, `-`, blank, 0 and null are empty. Without a mover X moved
    first. Raises ValueError, naming what is wrong, unless it is a legal game in progress.
    """
    if len(rows) != ROWS or any(len(row) != COLUMNS for row in rows):
        raise ValueError(f"the board is not {ROWS} rows of {COLUMNS} cells")
    stones = {"X": 0, "O": 0, "_": 0}
    for row, symbols in zip(reversed(range(ROWS)), rows, strict=True):
        for column, symbol in enumerate(symbols):
            if not isinstance(symbol, str | int | None) or symbol not in _SYMBOLS:
                raise ValueError(f"cell ({row},{column}) holds {symbol!r}: neither X, O nor empty")
            stones[_SYMBOLS[symbol]] |= _bit(row, column)
    x, o = stones["X"], stones["O"]
    in_turn = "X" if x.bit_count() == o.bit_count() else "O"
    return _legal(Position(x, o, mover or in_turn))


def show(position: Position) -> str:
    """A position in words: the board, whose turn it is, and where stones can land."""
    cells = zip(reversed(range(ROWS)), grid(position), strict=True)
    lines = [
        " ".join(f"({row},{column}):{symbol}" for column, symbol in enumerate(symbols))
        for row, symbols in cells
    ]
    drops = listed(legal_drops(position))
    board = "\n".join(lines)
    return (
        f"The board, from row {ROWS - 1} down to row 0:\n{board}\n\n"
        f"You are player {position.mover}. A stone dropped now can land on {drops}."
    )


def parse(state: Any) -> Position:
    """The position that a row's `state` describes.

    It is a text of 42 cells such as `(5,0):_`, a text of 6 lines of 7 symbols, or nested lists; the
    last two have the top row first. A text may say whose turn it is ("You are player X"). Raises
    ValueError unless it is a legal game in progress.
    """
    if not isinstance(state, str):
        if isinstance(state, list) and all(isinstance(row, str | list) for row in state):
            return from_grid(state)
        raise ValueError("expected a board: a text, or 6 lists of 7 cells")
    named = _MOVER.search(state)
    mover = named[1].upper() if named else None
    if not (cells := _CELL.findall(state)):
        lines = [re.sub(r"[\s|]", "", line) for line in state.splitlines()]
        return from_grid([line for line in lines if re.fullmatch(r"[XOxo_.\-012]{7}", line)], mover)
    board = {(int(row), int(column)): symbol for row, column, symbol in cells}
    if len(cells) != len(board) or len(board) != ROWS * COLUMNS:
        raise ValueError(f"the text names {len(board)} different cells, {len(cells)} in all, of 42")
    order = reversed(range(ROWS))
    return from_grid([[board[row, column] for column in range(COLUMNS)] for row in order], mover)


def listed(cells: Sequence[Cell]) -> str:
    """Cells as they are asked for: `(3,2), (0,3)`, or `None`."""
    return ", ".join(f"({row},{column})" for row, column in cells) or "None"


def generate(count: int = 500, seed: int = 0) -> list[dict[str, Any]]:
    """Different positions of random games as rows of `state` and `answer`, the same for a seed.

    X and O take turns to be on the move, and every fifth board has no winning drop for either side; so
    any first part of the rows is balanced, too, and is what a smaller count gives.
    """
    in_range("count", count, 1)
    rng = random.Random(f"connect4 {seed}")
    seen: set[Position] = set()
    rows: list[dict[str, Any]] = []
    for i in range(count):
        position = _draw(rng, "XO"[i % 2], i % EMPTY_EVERY == EMPTY_EVERY - 1, seen)
        seen.add(position)
        rows.append({"state": show(position), "answer": _pairs(position)})
    return rows


def _draw(rng: random.Random, mover: str, empty: bool, seen: set[Position]) -> Position:
    """A new position of a random game: one a game, so that no two rows are moments of the same one."""
    while True:
        fitting = [
            position
            for position in _play(rng)
            if position.mover == mover
            and empty == (not any(winning_drops(position)))
            and position not in seen
        ]
        if fitting:
            return rng.choice(fitting)


def _play(rng: random.Random) -> Iterator[Position]:
    """The positions of one random game after each stone, as long as it is not over."""
    stones, mover = [0, 0], 0
    while landings := _landings(stones[0] | stones[1]):
        if any(stones):
            yield Position(stones[0], stones[1], "XO"[mover])
        stones[mover] |= rng.choice(landings)
        if _has_four(stones[mover]):
            return
        mover = 1 - mover


def _legal(position: Position) -> Position:
    x, o = position.x, position.o
    counts = x.bit_count(), o.bit_count()
    own, other = counts if position.mover == "X" else counts[::-1]
    if other - own not in (0, 1):
        raise ValueError(
            f"{counts[0]} X and {counts[1]} O cannot be with player {position.mover} to move"
        )
    if floating := (x | o) & ~(((x | o) << 1) | LOWEST):
        raise ValueError(f"the stone on {listed([_cell(floating & -floating)])} hangs in the air")
    if _has_four(x) or _has_four(o):
        raise ValueError("the game is over: there are four in a row")
    if x | o == BOARD:
        raise ValueError("the game is over: the board is full")
    return position


def _has_four(stones: int) -> bool:
    """Whether four stones lie in a row: pairs two steps apart, by shifting the board onto itself."""
    for step in LINES:
        pairs = stones & stones >> step
        if pairs & pairs >> 2 * step:
            return True
    return False


def _landings(occupied: int) -> list[int]:
    """The cell above each column's stones, as bits: adding 1 to a column carries through them."""
    free = (occupied + LOWEST) & BOARD
    columns = (free & ((1 << ROWS) - 1) << HEIGHT * column for column in range(COLUMNS))
    return [bit for bit in columns if bit]


def _bit(row: int, column: int) -> int:
    return 1 << HEIGHT * column + row


def _cell(bit: int) -> Cell:
    column, row = divmod(bit.bit_length() - 1, HEIGHT)
    return row, column


def _symbol(position: Position, bit: int) -> str:
    return "X" if position.x & bit else "O" if position.o & bit else "_"


def _pairs(position: Position) -> list[list[list[int]]]:
    return [[list(cell) for cell in cells] for cells in winning_drops(position)]
