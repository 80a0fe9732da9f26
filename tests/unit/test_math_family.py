"""Mathematics as a benchmark: rows of the public sets' layouts, boxes, several answers, hostile text."""

import json
import time
from importlib import resources

import pytest

from spot.grading import math_family
from spot.grading.family import Answer, RowError
from spot.grading.math_family import MathFields
from spot.grading.registry import Verifier

TEMPLATE = (resources.files("spot.data") / "prompts" / "benchmarks" / "math.md").read_text("utf-8")
OLYMPIAD = MathFields(question="question", answer="final_answer")


@pytest.fixture(scope="module")
def verifier():
    with Verifier() as shared:
        yield shared


def olympiad(answer, **more):
    """A row of OlympiadBench's layout, about nothing."""
    row = {
        "id": 12, "question": "Find it.", "solution": ["Look."], "final_answer": [answer], "context": None,
        "is_multiple_answer": False, "unit": None, "answer_type": "Numerical", "error": None,
    }  # fmt: skip
    return math_family.read(OLYMPIAD, {**row, **more}, "row-1")


def plain(answer):
    return math_family.read(MathFields(), {"problem": "Find it.", "answer": answer}, "row-1")


def grades(verifier, question, *boxes):
    return math_family.grade(
        verifier.equals, [Answer(question, rf"So \boxed{{{box}}}.") for box in boxes]
    )


def verdicts(verifier, question, *boxes):
    return [grade.correct for grade in grades(verifier, question, *boxes)]


@pytest.mark.parametrize(
    ("fields", "row", "name", "answer"),
    [
        (MathFields(), {"id": 60, "problem": "P", "answer": "204"}, "60", "204"),
        (MathFields(), {"id": "I-1", "problem": "P", "answer": 70}, "I-1", "70"),
        (MathFields(question="question"), {"question": "P", "answer": 27.0, "id": 0}, "0", "27.0"),
        (
            MathFields(id="unique_id"),
            {"problem": "P", "solution": r"\boxed{p}", "answer": "p - q", "unique_id": "test/1.json"},
            "test/1.json",
            "p - q",
        ),
        (MathFields(), {"problem": "P", "solution": r"\boxed{1} is \boxed{\frac{1}{2}}."}, "row-1", r"\frac{1}{2}"),
        (MathFields(), {"problem": "P", "answer": r"We get \boxed{4.5e33} erg."}, "row-1", "4.5e33"),
        (OLYMPIAD, {"question": "P", "final_answer": [r"$\frac{1}{2 n}$"], "id": 7}, "7", r"$\frac{1}{2 n}$"),
        (MathFields(question="ask.text"), {"ask": {"text": "P"}, "answer": "5"}, "row-1", "5"),
    ],
)  # fmt: skip
def test_rows_of_the_public_layouts(fields, row, name, answer):
    question = math_family.read(fields, row, "row-1")
    assert (question.id, question.task, question.text) == (name, "math", "P")
    assert question.answer == answer
    assert question.meta == {}


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"answer": "5"}, "problem"),
        ({"problem": "  ", "answer": "5"}, "problem"),
        ({"problem": ["P"], "answer": "5"}, "problem"),
        ({"problem": "P"}, "answer"),
        ({"problem": "P", "answer": " ", "solution": "no box"}, "answer"),
        ({"problem": "P", "answer": True}, "answer"),
        ({"problem": "P", "answer": float("nan")}, "answer"),
        ({"problem": "P", "answer": []}, "answer"),
        ({"problem": "P", "answer": "5", "error": "small"}, "error"),
        ({"problem": "P \ud800", "answer": "5"}, "problem"),
    ],
)
def test_an_unusable_row_names_its_field(row, field):
    with pytest.raises(RowError, match=f"^{field}: "):
        math_family.read(MathFields(), row, "row-1")


def test_a_posed_question_asks_for_a_box():
    row = {"problem": r"What is {question} for $\frac{1}{2}$?", "answer": "5"}
    question = math_family.read(MathFields(), row, "row-1")
    posed = math_family.pose(question, 3, TEMPLATE)
    assert posed.text.endswith(f"{question.text}\n")
    assert r"$\boxed{ANSWER}$" in posed.text
    assert math_family.pose(question, 4, TEMPLATE) == posed  # nothing is drawn
    assert (posed.id, posed.answer) == (question.id, "5")


def test_the_trivial_answer_is_the_most_frequent_one():
    questions = [plain(answer) for answer in ("3", "$3$", "7", "9")]
    assert math_family.trivial(questions) == (0.5, "3")


def test_every_verdict_has_its_reason(verifier):
    question = plain(r"\frac{1}{2}")
    answers = [
        Answer(question, r"First \boxed{7}, then \boxed{\dfrac{1}{2}}."),
        Answer(question, r"\boxed{0.5} at first, but \boxed{7}."),
        Answer(question, r"\boxed{\frac{1}{2}} and on and on", "length"),
        Answer(question, "One half, 1/2."),
        Answer(question, r"\boxed{\frac{1}{2}"),
        Answer(question, ""),
    ]
    found = math_family.grade(verifier.equals, answers)
    assert [(g.correct, g.verdict, g.extracted, g.reason) for g in found] == [
        (True, "correct", r"\dfrac{1}{2}", ""),
        (False, "wrong", "7", "differs"),
        (False, "truncated", r"\frac{1}{2}", "cut at the token limit"),
        (False, "unparseable", None, "no box"),
        (False, "unparseable", None, "no box"),
        (False, "unparseable", None, "no box"),
    ]
    assert math_family.grade(verifier.equals, []) == []


def test_labelled_answers_are_graded_by_their_format(verifier):
    family = math_family.family(verifier.equals, MathFields(question="question"), "last")
    row = {"question": "How much?", "answer": "9 * 2 = <<9*2=18>>18 each day.\n#### 18"}
    question = family.read(row, "row-1")
    assert question.answer == "18"
    assert family.read({"question": "How much?", "solution": "A: 1,218"}, "r").answer == "1,218"
    responses = ["2 * 9\nA: 18", "So $18.00 in 1 day\n#### $18.00", r"\boxed{18} of 20", "none"]
    found = family.grade([Answer(question, response) for response in responses])
    assert [(g.verdict, g.extracted, g.reason) for g in found] == [
        ("correct", "18", ""),
        ("correct", "18.00", ""),
        ("wrong", "20", "differs"),
        ("unparseable", None, "no answer"),
    ]
    family = math_family.family(verifier.equals, MathFields(question="question"), "json")
    question = family.read({"question": "How much?", "answer": r"\frac{1}{2}"}, "row-1")
    found = family.grade(
        [Answer(question, r'{"answer": "\frac12"}'), Answer(question, r"\boxed{.5}")]
    )
    assert [(g.verdict, g.reason) for g in found] == [("correct", ""), ("unparseable", "no answer")]


SHAPES = [
    # truth; right; wrong
    ("204", ["204", "204.0", r"\text{204}"], ["205", "-204", "2,04", "204x"]),
    ("27.0", ["27", r"\frac{54}{2}"], ["27.1", "2.7"]),
    (r"90^\circ", ["90", r"90^{\circ}", r"90 \text{ degrees}"], ["91^\\circ"]),
    (r"\$32,\!348", ["32348", r"\$32,348", "32348 \\text{ dollars}"], ["32349", "32.348"]),
    (r"15\mbox{ cm}^2", ["15", r"15 \text{ cm}^2", r"15\text{ square centimeters}"], ["16", "225"]),
    (r"10\%", ["10", "0.1", r"10\%", "10 \\text{ percent}"], ["1", r"11\%"]),
    (r"(3,4]", [r"\left(3, 4\right]", "x \\in (3,4]"], ["[3,4]", "(3,4)", "(4,3]"]),
    (r"(-\infty, 2) \cup (3, \infty)", [r"(-\infty,2)\cup(3,+\infty)"], [r"(-\infty,2]\cup(3,\infty)"]),
    (r"\left( 3, \frac{\pi}{2} \right)", [r"(3, \pi/2)"], [r"(\frac{\pi}{2}, 3)", r"(3, \frac{\pi}{3})"]),
    (r"1 \pm \sqrt{19}", [r"1+\sqrt{19}, 1-\sqrt{19}", r"1 \pm \sqrt{19}"], [r"1+\sqrt{19}"]),
    ("1,-2", ["-2, 1", r"\{1,-2\}", r"x=1, x=-2"], ["1", "1, 2", "1,-2,3"]),
    (r"\text{(C)}", ["C", "(C)", r"\text{C}"], ["B", "D"]),
    (r"\text{east}", ["east", r"\text{East}"], [r"\text{seat}", "west"]),
    ("y = 2x + 3", ["2x+3", "y=3+2x"], ["2x-3", "y=2x"]),
    ("52_8", ["52_{8}", "52_8"], ["53_8", "42"]),
    ("6 - 5i", ["-5i+6"], ["6+5i", "6"]),
    (r"\begin{pmatrix} -2 \\ 3 \end{pmatrix}", [r"\begin{bmatrix}-2\\3\end{bmatrix}"], [r"\begin{pmatrix}3\\-2\end{pmatrix}"]),
    ("4.5e33", [r"4.5 \times 10^{33}", r"4.5\times10^{33}\ \text{erg/s}"], ["4.5", r"4.5 \times 10^{32}"]),
    ("2.26e-10", [r"2.26 \times 10^{-10} \mathrm{~m}"], ["0", r"2.27 \times 10^{-10}", "1e-12"]),
    (r"\frac{e^{t}}{3}+c e^{-2 t}", [r"ce^{-2t} + \frac{1}{3}e^t"], [r"\frac{e^{t}}{3}"]),
    (r"$f(x)=2 x$", ["2x", "f(x)=2x"], ["x", "3x"]),
    (r"$\frac{1}{2 n+2}$", [r"\frac{1}{2(n+1)}"], [r"\frac{1}{2n+1}"]),
]  # fmt: skip


@pytest.mark.parametrize(("truth", "right", "wrong"), SHAPES, ids=[s[0] for s in SHAPES])
def test_answers_of_every_shape(truth, right, wrong, verifier):
    found = verdicts(verifier, plain(truth), truth, *right, *wrong)
    assert found == [True] * (1 + len(right)) + [False] * len(wrong)


SETS = [
    ("1,3,5", ["5, 3, 1", r"\{1,3,5\}", r"1, 3 \text{ and } 5", "1;3;5", r"x=1, x=3, x=5", "1,3,5,5"],
     ["1,3", "1,3,5,7", "1,3,4", "9"]),
    ("2500,7500", ["7,500, 2,500", "2{,}500, 7{,}500", "7500,2500"], ["2500", "2500,7501"]),
    ("27,54,108", ["108,54,27"], ["27,54108", "27,54"]),
    ("1,200", ["200, 1"], ["1200", "1 200"]),
    ("$2$,$-2$", [r"\pm 2", "-2,2"], ["2", "-2"]),
    (r"$1+\sqrt{2}$, $1-\sqrt{2}$", [r"1 \pm \sqrt{2}", r"1-\sqrt2, 1+\sqrt2"], [r"1+\sqrt{2}"]),
    ("$221,$8$", ["8, 221"], ["8"]),
    ("$(1,8,19), (2,7,13)$", ["(2,7,13),(1,8,19)", r"\{(1,8,19),(2,7,13)\}"], ["(1,8,19)", "(8,1,19),(2,7,13)"]),
    ("$f(x)=x$,$f(x)=2-x$", ["2-x, x", "f(x)=2-x, f(x)=x"], ["f(x)=x"]),
    (r"$a=2$, $a=-6-4 \sqrt{2}$", [r"-6-4\sqrt{2}, 2"], ["2", r"2, -6+4\sqrt{2}"]),
    (r"$90^{\circ}$,$60^{\circ}$", ["60, 90", r"60^\circ \text{ or } 90^\circ"], ["60, 30"]),
]  # fmt: skip


@pytest.mark.parametrize(("truth", "right", "wrong"), SETS, ids=[s[0] for s in SETS])
def test_several_answers_are_a_set_where_the_row_says_so(truth, right, wrong, verifier):
    question = olympiad(truth, is_multiple_answer=True)
    found = verdicts(verifier, question, truth, *right, *wrong)
    assert found == [True] * (1 + len(right)) + [False] * len(wrong)


def test_several_entries_are_several_answers(verifier):
    question = olympiad("", final_answer=["$1$", "$3$"])
    assert question.meta["answers"] == ["1", "3"]
    assert verdicts(verifier, question, "3,1", "1") == [True, False]


def test_a_pair_stays_ordered_where_the_row_does_not_say_so(verifier):
    assert verdicts(verifier, olympiad("$(3,2)$"), "(3,2)", "(2,3)") == [True, False]


def test_a_tolerance_holds_for_the_row_that_names_it(verifier):
    question = olympiad("4.2", unit="%", error="1e-1")
    boxes = ("4.2", r"4.2\%", "0.042", "4.3", "4.25", "4.31", "5", r"\frac{43}{10}")
    assert verdicts(verifier, question, *boxes) == [True] * 5 + [False, False, True]
    assert verdicts(verifier, olympiad("4.2"), "4.3", "4.25") == [False, False]


def test_a_question_is_plain_json():
    question = olympiad("1,3", is_multiple_answer=True, error="0.5")
    assert json.loads(json.dumps(question.meta)) == question.meta == {
        "answers": ["1", "3"], "tolerance": "0.5",
    }  # fmt: skip


def test_hostile_responses_have_a_named_verdict(verifier):
    nested = "(" * 300 + "1" + ")" * 300
    single, several = plain("5"), olympiad("1,3", is_multiple_answer=True)
    boxes = [
        "10^{10^{10}}",
        nested,
        r"\frac{1}{2}+" * 90_000 + "1",  # a megabyte
        "1\x00+x",
        "\ud800",
        r"\{" * 300,
        "1," * 900 + "1",
        "3,1",
    ]
    answers = [
        Answer(question, rf"So \boxed{{{box}}}.") for question in (single, several) for box in boxes
    ]
    answers += [Answer(single, r"\boxed{" * 100_000), Answer(single, "{" * 1_000_000)]
    answers += [Answer(single, "\x00" * 1_000_000), Answer(single, r"\boxed{5}")]
    start = time.process_time()
    found = math_family.grade(verifier.equals, answers)
    assert time.process_time() - start < 5
    reasons = [grade.reason for grade in found]
    verdict = {"gave up": "unparseable", "box too long": "unparseable", "no box": "unparseable",
               "differs": "wrong", "": "correct"}  # fmt: skip
    assert [grade.verdict for grade in found] == [verdict[reason] for reason in reasons]
    assert reasons[0] == "gave up"
    assert [reasons[2], reasons[10]] == ["box too long"] * 2
    assert (found[7].correct, found[15].correct) == (False, True)
    assert reasons[-4:] == ["no box", "no box", "no box", ""]
    assert sum(grade.correct for grade in found) == 2
