"""Multiple choice: rows, shuffled options, and the letter that a response gives."""

import random
import time
from collections import Counter
from dataclasses import replace
from importlib import resources

import pytest

from spot.grading import choice
from spot.grading.choice import ChoiceFields, chosen_letter
from spot.grading.family import Answer, RowError

CITIES = ["Oslo", "Paris", "Rome", "New York"]
GPQA = ChoiceFields(question="Question", id="Record ID")
TEMPLATE = (resources.files("spot.data") / "prompts" / "benchmarks" / "choice.md").read_text(
    "utf-8"
)

READ = [
    # JSON, the last one wins
    ('{"answer": "C"}', "C"),
    ('I think so.\n\n{"answer": "C"}', "C"),
    ('{"Answer": "C"}', "C"),
    ('{"answer":"c"}', "C"),
    ("{'answer': 'C'}", "C"),
    ("{“answer”: “C”}".replace("“C”", '"C"'), "C"),
    ('{"answer": C}', "C"),
    ('{"answer": "(C)"}', "C"),
    ('{"answer": "C."}', "C"),
    ('{"answer": "C. Rome"}', "C"),
    ('{"answer": "Option C"}', "C"),
    ('{"answer": "Rome"}', "C"),
    ('{"answer": "new york"}', "D"),
    ('{"reasoning": "A is cold, B is wet.", "answer": "C"}', "C"),
    ('**{"answer": "C"}**', "C"),
    ('```json\n{\n  "answer": "C"\n}\n```', "C"),
    ('{"answer": "A"} no, wait: {"answer": "C"}', "C"),
    ('The answer is (A) at first sight. {"answer": "C"}', "C"),
    (r'\boxed{A} {"answer": "C"}', "C"),
    (r'{"answer": "\boxed{C}"}', "C"),
    ('{"answer": "C"} A ball, B movie.', "C"),
    ('{"answer": "C", "confidence": 0.4}', "C"),
    ('{"answer": "C"}, as asked for: {"answer": "LETTER"}', "C"),
    ('{"answer": "A"} no: {"answer": "C"} or {"answer": null}', "C"),
    ('{"answer": "E"}', None),  # there are four
    ('{"answer": "none of them"}', None),
    ('{"answer": null}', None),
    ('{"answer": "LETTER"}', None),
    ('{"answer": ""}', None),
    ('{"answer": "A and C"}', None),
    # a box
    (r"So it is \boxed{C}.", "C"),
    (r"\boxed{\text{C}}", "C"),
    (r"\boxed{\textbf{(C)}}", "C"),
    (r"\boxed{\mathrm{C}}", "C"),
    (r"\boxed{(C)}", "C"),
    (r"\boxed{c}", "C"),
    (r"\boxed{C. \text{ Rome}}", "C"),
    (r"\boxed{\text{Rome}}", "C"),
    (r"\boxed{A} or rather \boxed{C}", "C"),
    (r"$\boxed{C}$ because A and B are too cold", "C"),
    (r"In step 2 we get \boxed{42}. The answer is (C).", "C"),
    (r"\boxed{A} is wrong, as Oslo is cold. So the answer is C.", "C"),
    ("\\boxed{A} at first.\n\nOn reflection, (C) is the correct answer.", "C"),
    (r"The answer is A at first sight, but it rains: \boxed{C}", "C"),
    (r"\boxed{C} is right and the answer is not A.", "C"),
    # sentences at the end
    ("The answer is (C).", "C"),
    ("The answer is C.", "C"),
    ("The answer is C", "C"),
    ("the answer is c", "C"),
    ("The answer is: C", "C"),
    ("**The answer is C.**", "C"),
    ("The correct answer is **C**.", "C"),
    ("The correct answer is **C) Rome**.", "C"),
    ("The correct option is C: Rome.", "C"),
    ("The answer is option C.", "C"),
    ("The answer is Option (C), Rome.", "C"),
    ("The answer is Rome.", "C"),
    ("The correct answer is therefore New York.", "D"),
    ("Answer: C", "C"),
    ("Answer: (C) Rome", "C"),
    ("**Answer:** C", "C"),
    ("### Final answer\n\nC", "C"),
    ("Final Answer: $\\text{C}$", "C"),
    ("Answer: C\n\nExplanation: Oslo is colder.\nParis is wetter.\n1\n2\n3\n4\n5", "C"),
    ("A is too cold and B is too wet, so the answer is C.", "C"),
    ("Option A is wrong. Option B is wrong. Option C is correct.", "C"),
    ("Therefore, (C) is the correct answer.", "C"),
    ("C is right, since A is cold.", "C"),
    ("I choose C.", "C"),
    ("I would go with (C), although D is close.", "C"),
    ("The answer is C because A is cold.", "C"),
    ("The answer is A.\nOn reflection, the answer is C.", "C"),
    ("The answer must be C; D is too large.", "C"),
    ("The answer is (C). This answer is consistent with the map.", "C"),
    ("The answer is not A. The answer is C.", "C"),
    ("The answer is A.", "A"),
    ("The answer is (A) a city of fjords.", "A"),
    # nothing but the answer
    ("C", "C"),
    ("c", "C"),
    ("(C)", "C"),
    ("C.", "C"),
    ("**C**", "C"),
    ("C) Rome", "C"),
    ("Rome", "C"),
    ("Option C", "C"),
    ("It rains there.\n\nC", "C"),
    ("It rains there.\nTherefore, option C.", "C"),
    # no letter: never a guess
    ("", None),
    ("A ball is thrown upwards from a tower.", None),
    ("A city of fjords comes to mind, but I cannot say.", None),
    ("The answer is A ball.", None),
    ("The answer is a city in Italy.", None),
    ("The answer is a big one", None),
    ("The answer is either A or C.", None),
    ("The answer is A or C.", None),
    ("The answer is A, B or C", None),
    ("The answer is (A) and (C).", None),
    ("The answer is not A.", None),
    ("The answer is C. No, the answer is not C.", None),
    ("The answer is C's neighbour.", None),
    ("The answer is CO2.", None),
    ("The answer is E.", None),
    ("Which option is correct? I do not know.", None),
    ("A. Oslo\nB. Paris\nC. Rome\nD. New York", None),  # it repeats the question
    ("If the answer is A, then\n" + "it follows that\n" * 9 + "nothing is certain.", None),
    ("Vitamin C", None),
    ("Oslo and Rome are both cities.", None),
]


@pytest.mark.parametrize(("response", "letter"), READ)
def test_the_letter_of_a_response(response, letter):
    assert chosen_letter(response, CITIES) == letter


def test_options_that_look_like_answers_to_one_another():
    numbers = ["5", "50", r"$\frac{1}{2}$", "1.5"]
    assert chosen_letter(r"\boxed{50}", numbers) == "B"
    assert chosen_letter("The answer is 5.", numbers) == "A"
    assert chosen_letter('{"answer": "0.5"}', numbers) == "C"
    assert chosen_letter("The answer is 1.5.", numbers) == "D"
    articles = ["A ball", "A cube"]
    assert chosen_letter("The answer is A ball.", articles) == "A"
    assert chosen_letter("The answer is A cube.", articles) == "B"  # not its first word
    assert chosen_letter('{"answer": "A cube"}', articles) == "B"


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


@pytest.mark.parametrize(
    "response",
    [
        '"answer": ' * 100_000,
        "".join(f'"answer": "{n}" ' for n in range(60_000)),
        r"\boxed{E}" * 100_000 + "the answer is " * 9_000,
        '"answer": "' + "\\" * 999_999,
        '"answer"' + " " * 1_000_000,
        r"\boxed{" + "_" * 1_000_000 + "a}",
        r"\text{" * 150_000,
        "the answer is " * 70_000,
        "Answer: " * 100_000,
        "Answer:\n" * 100_000,
        "_" * 1_000_000 + "ab",
        "(" * 1_000_000,
        "A, " * 300_000,
        "C\x00" * 300_000,
        " " * 1_000_000,
    ],
    ids=lambda text: repr(text[:9]),
)
def test_hostile_responses_take_little_time(response):
    start = time.process_time()
    assert chosen_letter(response, CITIES) is None
    assert time.process_time() - start < 3
