"""Multiple choice: rows, shuffled options and grades."""

import random
from collections import Counter
from dataclasses import replace
from importlib import resources

import pytest

from spot.grading import choice
from spot.grading.choice import ChoiceFields
from spot.grading.choice_letter import chosen_letter
from spot.grading.family import Answer, RowError

CITIES = ["Oslo", "Paris", "Rome", "New York"]
GPQA = ChoiceFields(question="Question", id="Record ID")
TEMPLATE = (resources.files("spot.data") / "prompts" / "benchmarks" / "choice.md").read_text(
    "utf-8"
)


def test_a_row_of_gpqa():
    row = {
        "Record ID": "rec1",
        "Question": "Which is the largest?",
        "Correct Answer": "9",
        "Incorrect Answer 1": "1",
        "Incorrect Answer 2": "2",
        "Incorrect Answer 3": "3",
        "Subdomain": "Counting",
    }
    question = choice.read(GPQA, row, "row-000001")
    assert (question.id, question.task, question.answer) == ("rec1", "choice", "9")
    assert question.meta == {"options": ["9", "1", "2", "3"], "right": 0}
    del row["Record ID"]
    assert choice.read(GPQA, row, "row-000001").id == "row-000001"


@pytest.mark.parametrize("answer", [2, "C", "c", "Rome"])
def test_a_row_with_options(answer):
    row = {"question": "Where is the Forum?", "options": CITIES, "answer": answer}
    question = choice.read(ChoiceFields(), row, "row-7")
    assert (question.answer, question.meta["right"]) == ("Rome", 2)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"question": " "}, "question"),
        ({"question": 5.5, "options": None}, "options"),
        ({"options": ["only one"]}, "options"),
        ({"options": ["a", "a"]}, "options"),
        ({"options": ["a", ""]}, "options"),
        ({"options": [str(n) for n in range(27)]}, "options"),
        ({"answer": 4}, "answer"),
        ({"answer": -1}, "answer"),
        ({"answer": "E"}, "answer"),
        ({"answer": None}, "answer"),
        ({"answer": True}, "answer"),
        ({"question": "half \ud800"}, "question"),
    ],
)
def test_an_unusable_row_names_its_field(change, field):
    row = {"question": "Where is the Forum?", "options": CITIES, "answer": "C", **change}
    with pytest.raises(RowError, match=f"^{field}: "):
        choice.read(ChoiceFields(), row, "row-7")


def forum():
    row = {"question": "Where is the Forum?", "options": CITIES, "answer": "C"}
    return choice.read(ChoiceFields(), row, "row-7")


def test_options_are_shuffled_by_the_seed_alone():
    posed = choice.pose(forum(), 11, TEMPLATE)
    random.seed(99)
    assert choice.pose(forum(), 11, TEMPLATE) == posed
    order = posed.meta["order"]
    lines = posed.text.splitlines()
    start = lines.index("Where is the Forum?") + 2
    assert lines[start : start + 4] == [
        f"{letter}. {CITIES[o]}" for letter, o in zip("ABCD", order, strict=True)
    ]
    assert CITIES[order["ABCD".index(posed.answer)]] == "Rome"
    letters = Counter(choice.pose(forum(), seed, TEMPLATE).answer for seed in range(400))
    assert min(letters[letter] for letter in "ABCD") > 70  # 100 expected, sd 8.7


def test_the_template_asks_for_the_form_that_is_read():
    posed = choice.pose(forum(), 3, TEMPLATE)
    assert "{question}" not in posed.text
    assert '{"answer": "LETTER"}' in posed.text
    assert chosen_letter('{"answer": "LETTER"}'.replace("LETTER", "B"), CITIES) == "B"


def test_a_question_may_look_like_a_template():
    row = {"question": "What does {question} mean?", "options": ["x", "{question}"], "answer": 0}
    text = choice.pose(choice.read(ChoiceFields(), row, "q"), 1, "Q: {question}").text
    assert text.startswith("Q: What does {question} mean?\n")


def test_grades_and_what_is_recorded():
    posed = choice.pose(forum(), 5, TEMPLATE)
    wrong = next(letter for letter in "ABCD" if letter != posed.answer)
    answers = [
        Answer(posed, f'{{"answer": "{posed.answer}"}}'),
        Answer(posed, "It must be Rome, I think.\n\nRome"),
        Answer(posed, f"The answer is ({wrong})."),
        Answer(posed, "A ball is thrown."),
        Answer(posed, f'{{"answer": "{posed.answer}"}} and', "length"),
    ]
    grades = choice.family().grade(answers)
    assert [(g.correct, g.verdict, g.extracted, g.reason) for g in grades] == [
        (True, "correct", posed.answer, ""),
        (True, "correct", posed.answer, ""),
        (False, "wrong", wrong, "another option"),
        (False, "unparseable", None, "no letter"),
        (False, "truncated", posed.answer, "cut at the token limit"),
    ]
    for g in grades:
        assert g.details == {"order": posed.meta["order"], "right": posed.answer}


def test_the_trivial_answer_scores_one_in_as_many_as_there_are_options():
    four = forum()
    two = replace(four, meta={"options": ["yes", "no"], "right": 0})
    assert choice.trivial([four]) == (0.25, "any one letter")
    assert choice.trivial([four, two])[0] == pytest.approx(0.375)
    # and that is what a constant letter does score, over the shuffles of many trials
    hits = [choice.pose(four, seed, "{question}").answer == "B" for seed in range(4000)]
    assert sum(hits) / len(hits) == pytest.approx(0.25, abs=0.03)
