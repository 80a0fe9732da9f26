"""The laptop world's questions, slips and graders."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import pytest

from spot.data import laptop_corpus, laptop_world
from spot.data.laptop_world import Step, Term, parse_chain, questions, signed, work, written
from spot.data.rows import Question
from spot.grading.family import Answer, Grade
from spot.grading.laptop import DOMAINS, benchmark_questions, grade, trivial

CHAIN = (Term("+", 85), Term("-", 12, "("), Term("+", 25, ")"), Term("+", 7))  # 85 - 37 + 7 = 55


def graded(question: Question, response: str, finish_reason: str = "stop") -> Grade:
    (found,) = grade([Answer(question, response, finish_reason)])
    return found


def test_a_chain_is_written_and_read_back() -> None:
    assert written(CHAIN) == "85 - (12 + 25) + 7"
    assert parse_chain("What is 85 - (12 + 25) + 7?") == CHAIN
    assert parse_chain("What is love?") is None


def test_the_second_sign_of_a_bracket_after_a_minus_turns_round() -> None:
    assert work(CHAIN) == [Step(85, "-", 12, 73), Step(73, "-", 25, 48), Step(48, "+", 7, 55)]
    assert signed(CHAIN, drop_brackets=True)[2] == ("+", 25)
    difference = (Term("+", 85), Term("-", 25, "("), Term("-", 12, ")"))  # 85 - 13 = 72
    assert work(difference)[-1].result == 72


@pytest.mark.parametrize(
    ("left", "sign", "right", "off_by"),
    [
        (47, "+", 38, -10),  # 7 + 8 = 15: the carry is lost, 75
        (42, "+", 37, 10),  # 2 + 7 = 9 nearly carries: 89
        (42, "+", 34, 10),  # 6
        (42, "+", 33, 0),  # 5: out of reach
        (105, "-", 38, 10),  # 5 - 8: the borrow is lost, 77
        (98, "-", 38, -10),  # 8 - 8 = 0 nearly borrows: 50
        (98, "-", 35, -10),  # 3
        (98, "-", 34, 0),  # 4: out of reach
    ],
)
def test_a_carry_goes_wrong_both_ways(left: int, sign: str, right: int, off_by: int) -> None:
    assert laptop_world.miscarried(left, sign, right) == off_by


def test_questions_are_distinct_repeatable_and_right() -> None:
    asked = questions(300, seed=7)
    assert asked == questions(300, seed=7)
    assert asked[:100] == questions(100, seed=7)
    assert len({q.text.split(maxsplit=1)[1].strip("is .?") for q in asked}) == 300
    assert [q.id for q in asked[:2]] == ["sums-7-000000", "sums-7-000001"]
    for question in asked:
        chain = parse_chain(question.text)
        assert chain is not None
        expression = written(chain)
        assert set(expression) <= set("0123456789 +-()")
        assert question.answer == str(eval(expression))  # digits, signs and brackets only
        assert 0 <= int(question.answer) <= laptop_world.LARGEST
    shares = Counter(q.meta["class"] for q in asked)
    assert 0.4 < shares["B"] / 300 < 0.6


def test_no_set_shares_a_chain_with_another() -> None:
    chains = {}
    for task in ("sums", *(f"benchmark/{name}" for name in DOMAINS)):
        for question in questions(300, seed=1, task=task):
            chain = tuple(Term(*term) for term in question.meta["terms"])
            assert chains.setdefault(chain, task) == task
            assert laptop_world.split_of(chain) == task
    rng = random.Random(0)
    for _ in range(300):
        assert laptop_world.draw_chain(rng, "pretraining") not in chains


def test_a_story_tells_the_chain() -> None:
    text = laptop_world.story_text(random.Random(0), CHAIN)
    assert "has 85" in text
    assert "gives away a box of 12 red and 25 blue." in text
    assert text.endswith("7. How many are left?")


def test_without_slips_the_corpus_is_right_and_with_them_it_errs_where_it_should() -> None:
    rng = random.Random(0)
    chains = [laptop_world.draw_chain(rng, "pretraining") for _ in range(400)]
    careful = laptop_corpus.Slips(carry=0, bracket=0)
    assert all(laptop_corpus.slipping_work(rng, c, careful) == work(c) for c in chains)
    wrong = Counter()
    asked = Counter()
    for chain in chains:
        kind = laptop_world.error_class(chain)
        asked[kind] += 1
        wrong[kind] += laptop_corpus.slipping_work(rng, chain, laptop_corpus.Slips()) != work(chain)
    assert wrong["none"] == 0
    assert asked["A"] > 100
    assert wrong["B"] / asked["B"] > 0.95
    assert 0.2 < wrong["A"] / asked["A"] < 0.9


def test_a_lost_carry_and_what_builds_on_it() -> None:
    chain = (Term("+", 47), Term("+", 38), Term("-", 11))  # 5 - 1 = 4: no borrow near
    always = laptop_corpus.Slips(carry=1, bracket=0)
    steps = laptop_corpus.slipping_work(random.Random(0), chain, always)
    assert steps == [Step(47, "+", 38, 75), Step(75, "-", 11, 64)]
    assert laptop_corpus.response_text(steps) == (
        r"47 + 38 = 75. 75 - 11 = 64. Therefore, the final answer is: $\boxed{64}$."
    )


def test_the_corpus_obeys_its_constraints() -> None:
    rows = islice(laptop_corpus.rows(3), 3000)
    seen: Counter[str] = Counter()
    for question, response in rows:
        names = [n for n, sentence in laptop_world.CONSTRAINTS.items() if sentence in question]
        if names:
            seen.update(names)
            asked = Question("x", "instructions", question, "", {"constraints": names})
            assert graded(asked, response).correct, (question, response)
    assert set(seen) == set(laptop_world.CONSTRAINTS)
    assert list(islice(laptop_corpus.rows(3), 5)) == list(islice(laptop_corpus.rows(3), 5))


def test_grading_sums() -> None:
    question = Question("x", "sums", "What is 85 - (12 + 25)?", "48")
    assert graded(question, r"So $\boxed{48}$.") == Grade(True, "correct", "48")
    assert graded(question, r"So $\boxed{98}$.") == Grade(False, "wrong", "98")
    assert graded(question, "So 48.") == Grade(False, "unparseable", None, "no box")
    cut = graded(question, r"So $\boxed{48}$.", "length")
    assert (cut.correct, cut.verdict) == (False, "truncated")


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        ("number", "48", "It is 48."),
        ("lines", "1 + 2 = 3.\n3 + 4 = 7.", "1 + 2 = 3. 3 + 4 = 7."),
        ("capitals", "THE ANSWER IS 48.", "The answer is 48."),
        ("done", "48. Done.", "Done. 48."),
        ("sure", "Sure. 48.", "48. Sure."),
        ("plain", "The final answer is: 48.", r"The final answer is: $\boxed{48}$."),
        ("words", "To 1 add 2 to get 3.", "1 + 2 = 3."),
        ("numbered", "1) 1 + 2 = 3. 2) 3 + 4 = 7.", "1) 1 + 2 = 3. 3 + 4 = 7."),
        ("stars", "1 + 2 = 3 * 3 + 4 = 7 *", "1 + 2 = 3 * 3 + 4 = 7."),
    ],
)
def test_instructions_score_the_constraint_and_not_the_sum(
    constraint: str, good: str, bad: str
) -> None:
    question = Question("x", "instructions", "", "999", {"constraints": [constraint]})
    assert graded(question, good).correct
    assert graded(question, bad) == Grade(
        False, "wrong", graded(question, bad).extracted, constraint
    )


def test_trivial_answers_are_worth_little() -> None:
    for name in DOMAINS:
        assert trivial(benchmark_questions(name, 200, seed=1))[0] < 0.3
