"""Connect4: rows of the public set, and what replies are worth."""

from __future__ import annotations

import time
from importlib import resources
from itertools import pairwise
from typing import Any

import pytest

from spot.data.rows import CORRECT, TRUNCATED, UNPARSEABLE, WRONG, Question
from spot.grading import connect4
from spot.grading.connect4_game import from_grid, show
from spot.grading.family import Answer, Grade, RowError
from tests.unit.test_connect4_game import BOARDS, Cells, board


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
    assert connect4.read({"id": None, "state": FALLING}, "row-7").id == "row-7"


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
        (f"[{L1}: No. (3,2) wins]\n[{L2}: $\\emptyset$]", [(3, 2)], []),
        (f"[{L1}: No, but (3,2) does]\n[{L2}: $\\varnothing$]", [(3, 2)], []),
        (f"[{L1}: No winning cell, as (0,3) is taken]\n[{L2}: No.]", [], []),
        (f"[{L1}: There is no winning cell]\n[{L2}: There is no winning move.]", [], []),
        (f"[{L1}: There are none]\n[{L2}: The opponent has no winning drop]", [], []),
        (f"[{L1}: There is no winning drop but (3,2)]\n[{L2}: \\text{{no}}]", [(3, 2)], []),
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
        (f"[{L1}: Not sure]\n[{L2}: there is nobody to ask]", None, None),
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
    template = (
        resources.files("spot.data").joinpath("prompts/benchmarks/connect4.md").read_text("utf-8")
    )
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
