"""The rule Oracle reads what the student wrote and corrects it."""

from __future__ import annotations

from collections import Counter

import pytest

from spot.data.answers import last_boxed
from spot.data.laptop_world import parse_chain, work
from spot.oracle import rule
from spot.oracle.rule import RuleEditor, smallest_fix
from spot.oracle.types import Task

QUESTION = "What is 85 - (12 + 25) + 7?"
RIGHT = work(parse_chain(QUESTION) or ())
SLIP = r"85 - 12 = 73. 73 + 25 = 98. 98 + 7 = 105. Therefore, the final answer is: $\boxed{105}$."


def task(
    response: str = SLIP, name: str = "q#0", question: str = QUESTION, mode: str = "rectified"
) -> Task:
    return Task(name, question, "55", response, mode)


def test_the_smallest_fix_repairs_the_slip_and_what_depends_on_it() -> None:
    assert smallest_fix(SLIP, RIGHT) == (
        r"85 - 12 = 73. 73 - 25 = 48. 48 + 7 = 55. Therefore, the final answer is: $\boxed{55}$."
    )


def test_it_keeps_the_students_way_of_writing() -> None:
    odd = "Sure. 1) 85 - 12 = 73 * 2) 73 + 25 = 88 * 3) 88 + 7 = 95 * So $\\boxed{95}$. Done."
    assert smallest_fix(odd, RIGHT) == (
        "Sure. 1) 85 - 12 = 73 * 2) 73 - 25 = 48 * 3) 48 + 7 = 55 * So $\\boxed{55}$. Done."
    )


def test_steps_too_few_and_too_many() -> None:
    few = r"85 - 12 = 73. Therefore, the final answer is: $\boxed{73}$."
    fixed = (
        r"85 - 12 = 73. 73 - 25 = 48. 48 + 7 = 55. Therefore, the final answer is: $\boxed{55}$."
    )
    assert smallest_fix(few, RIGHT) == fixed
    many = SLIP.replace("Therefore", "105 + 1 = 106. Therefore")
    assert smallest_fix(many, RIGHT) == fixed


def test_a_continuation_keeps_the_right_steps_only() -> None:
    assert rule.continuation(SLIP, RIGHT) == (
        "85 - 12 = 73. "
        "We now take away 25 from the number 73, and the number is then 48. "
        "We now add 7 to the number 48, and the number is then 55. "
        r"Therefore, the final answer is: $\boxed{55}$."
    )
    assert rule.continuation("85 - 12 = 63. 63 + 25 = 88.", RIGHT) is None


@pytest.mark.parametrize("response", ["", "I do not know.", r"\boxed{3}", "85 - 12 = 73. So 73."])
def test_what_cannot_be_read_is_rewritten(response: str) -> None:
    oracle = RuleEditor(minimal=1, continuation=0)
    assert oracle.correct(task(response)) == rule.rewrite(RIGHT)


def test_a_question_it_does_not_understand_is_refused() -> None:
    assert RuleEditor().correct(task(question="Why?")) is None
    assert RuleEditor().correct(task(question="Why?", mode="direct")) is None


def test_the_kind_of_correction_depends_on_seed_and_id_alone() -> None:
    oracle = RuleEditor(seed=1)
    attempts = [task(name=f"q{i}#0") for i in range(1000)]
    there = [oracle.correct(a) for a in attempts]
    assert there == [oracle.correct(a) for a in reversed(attempts)][::-1]
    assert there != [RuleEditor(seed=2).correct(a) for a in attempts]
    shares = Counter(there)
    assert shares[smallest_fix(SLIP, RIGHT)] == pytest.approx(500, abs=50)
    assert shares[rule.continuation(SLIP, RIGHT)] == pytest.approx(300, abs=50)
    assert shares[rule.rewrite(RIGHT)] == pytest.approx(200, abs=50)


def test_what_it_has_to_solve_itself_is_right_as_often_as_it_says() -> None:
    told, alone = RuleEditor(seed=1), RuleEditor(seed=1, solves=0.8)
    for mode in ("rectified", "direct"):
        attempts = [task(name=f"q{i}#0", mode=mode) for i in range(1000)]
        right = [alone.correct(a) == told.correct(a) for a in attempts]
        assert sum(right) == pytest.approx(800, abs=40)
        wrong = [alone.correct(a) for a, r in zip(attempts, right, strict=True) if not r]
        assert {last_boxed(text) for text in wrong} == {"65"}, "one slip, and what follows from it"
    assert alone.correct(attempts[0]) == alone.correct(attempts[0])


def test_a_slip_is_carried_on() -> None:
    said = [str(step) for step in rule.slipped(RIGHT, 1)]
    assert said == ["85 - 12 = 73", "73 - 25 = 58", "58 + 7 = 65"]


def test_every_answer_ends_in_the_right_box() -> None:
    for minimal, kept in ((1, 0), (0, 1), (0, 0)):
        text = RuleEditor(minimal=minimal, continuation=kept).correct(task())
        assert last_boxed(text or "") == "55"
    direct = RuleEditor().correct(task(mode="direct"))
    assert direct == (
        "Added: 85 and 7, together 92. Taken: 12 and 25, together 37. The first without the second "
        r"leaves 55. Therefore, the final answer is: $\boxed{55}$."
    )
