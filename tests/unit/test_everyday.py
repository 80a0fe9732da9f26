"""Everyday questions, and what a small model may forget."""

from __future__ import annotations

from typing import Any

import pytest

from spot.data import everyday, retention
from spot.data.everyday import Step, in_one, path_of
from spot.data.rows import Question
from spot.grading import everyday as grading
from spot.grading.family import Answer
from spot.utils.errors import UserError


def test_questions_are_seeded_distinct_and_kept_apart() -> None:
    trained, asked = everyday.questions(900, 0), everyday.questions(180, 1000, "everyday")
    other = everyday.questions(120, 1000, "everyday_other")
    assert everyday.questions(90, 0) == trained[:90]
    texts = [question.text for question in [*trained, *asked, *other]]
    assert len(set(texts)) == 1200
    assert {q.task for q in trained} == {q.task for q in asked}
    assert not {q.task for q in trained} & {q.task for q in other}
    for question in [*trained, *asked, *other]:
        path = path_of(f"Please read:\n{question.text}\nThank you.")
        assert path is not None
        assert str(path[-1].result) == question.answer
    with pytest.raises(UserError, match="ask for fewer"):
        retention.questions("one_digit", 1000, 0)


def test_paths() -> None:
    change = "A ball costs $8. Mia buys 3 balls and pays with $40. How much change does Mia get?"
    path = path_of(change)
    assert path == (Step(8, "*", 3, 24), Step(40, "-", 24, 16))
    assert in_one(path) == "40 - 8 * 3"
    assert everyday.leaves(path) == [8, 3, 40]
    assert everyday.ways(path) == [path]
    wins = "Sam has 12 coins, wins 6 more and then loses 4. How many coins does Sam have now?"
    first, second = everyday.ways(path_of(wins) or ())
    assert first == (Step(12, "+", 6, 18), Step(18, "-", 4, 14))
    assert second == (Step(12, "-", 4, 8), Step(8, "+", 6, 14))
    assert path_of("A ball costs $8. How much do 3 bats cost?") is None  # no question of ours


FACT = Question("f", "facts", "", "B", {"options": ["cat", "China", "hammer", "green"]})
DASHES = Question("l", "lists", "", "", {"mark": "-", "length": 2})
NUMBERED = Question("n", "lists", "", "", {"mark": "1.", "length": 2})
COPY = Question("c", "copying", "", "armchair mango white pink")
SUM = Question("s", "one_digit", "What is 7 + 6?", "13")


@pytest.mark.parametrize(
    ("question", "response", "verdict"),
    [
        (FACT, "B) China", "correct"),
        (FACT, "The country is China.", "correct"),
        (FACT, "b", "unparseable"),
        (FACT, "A) cat", "wrong"),
        (FACT, "cat, China or green", "unparseable"),
        (DASHES, "- dog\n- cat", "correct"),
        (DASHES, "Sure:\n\n- dog\n- cat", "correct"),
        (DASHES, "- dog\n- cat\n- cow", "wrong"),
        (DASHES, "1. dog\n2. cat", "wrong"),
        (NUMBERED, "1. dog\n2. cat", "correct"),
        (NUMBERED, "dog, cat", "wrong"),
        (COPY, "Armchair, mango, white, pink.", "correct"),
        (COPY, "armchair mango white pink and more", "wrong"),
        (SUM, "7 + 6 = 13", "correct"),
        (SUM, "It is 12.", "wrong"),
        (SUM, "thirteen", "unparseable"),
    ],
)
def test_grades(question: Question, response: str, verdict: str) -> None:
    (grade,) = grading.grade([Answer(question, response)])
    assert (grade.verdict, grade.correct) == (verdict, verdict == "correct")
    (cut,) = grading.grade([Answer(question, response, "length")])
    assert not cut.correct


@pytest.mark.parametrize("part", retention.PARTS)
def test_each_part_can_be_made_and_answered_and_has_a_trivial_baseline(part: str) -> None:
    made: list[Question] = grading.make(part, 60, 1000)
    assert len({question.text for question in made}) == 60
    share, best = grading.trivial(made)
    assert 0 <= share < 0.5
    graded = grading.grade([Answer(question, best) for question in made])
    assert sum(grade.correct for grade in graded) == round(60 * share)
    graded = grading.grade([Answer(question, answer(question)) for question in made])
    assert all(grade.correct for grade in graded)


def answer(question: Question) -> str:
    """What is right."""
    if question.task != "lists":
        return question.answer
    meta: dict[str, Any] = question.meta
    marks = ["-"] * meta["length"] if meta["mark"] == "-" else range(1, meta["length"] + 1)
    return "\n".join(f"- {n}" if n == "-" else f"{n}. word" for n in marks)
