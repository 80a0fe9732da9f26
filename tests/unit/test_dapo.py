"""DAPO-Math-17k in both layouts: English, bare, each problem once; and the prompt put around one."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spot.data import templates
from spot.data.dapo import read_problems
from spot.data.hub import load_rows
from spot.data.jsonl import Source
from spot.utils.errors import UserError

BEFORE = (
    "Solve the following math problem step by step. The last line of your response should be of the "
    "form Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
AFTER = '\n\nRemember to put your answer on its own line after "Answer:".'


def original(problem, answer, index):
    """A row as the first release has it: the instruction around the problem, in a message."""
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": BEFORE + problem + AFTER, "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": index},
    }


def processed(problem, answer, index):
    """A row of the processed release: both, and the bare problem."""
    row = original(problem, answer, index)
    return row | {"prompt": problem, "solution": answer, "source_prompt": row["prompt"]}


LAYOUTS = pytest.mark.parametrize("layout", [original, processed])


def read(*rows, **options):
    return read_problems(Source("dapo", list(enumerate(rows, start=1))), **options)


@LAYOUTS
def test_the_problem_is_bare_and_the_answer_a_string(layout):
    problem = "Find $n$.\n\nGive it step by step. The original answer is in \\frac{k}{m} format."
    (question,), dropped = read(layout(problem, "-3", "28d1"))
    assert (question.id, question.text, question.answer) == ("28d1", problem, "-3")
    assert (question.task, dropped) == ("dapo", {})


@LAYOUTS
def test_every_row_is_kept_or_counted(layout):
    questions, dropped = read(
        layout("How many primes are below $10$?", "4", "a"),
        layout("求 $n$ 的值.", "7", "b"),
        layout("how many primes are  below 10 ?", "4", "c"),  # the first again
        layout("What is $x-1$?", "2", "d"),
        layout("What is $x+1$?", "2", "e"),  # other operators are another problem
        layout("Find $\\alpha$ for the café.", "5", "f"),
        layout("Find $m$.", "1", "g"),
        layout("Find $m$", "2", "h"),
        layout("Find $m$.", "1", "i"),
        layout("Сколько?", "2", "j"),
        layout("The last one?", "9", "k"),
        limit=4,
    )
    assert [q.id for q in questions] == ["a", "d", "e", "f"]
    assert dropped == {
        "not_english": 2,
        "duplicate": 1,
        "conflicting_answer": 3,
        "beyond_questions": 1,
    }
    assert len(questions) + sum(dropped.values()) == 11


@pytest.mark.parametrize(
    ("change", "message", "reason"),
    [
        (
            {"prompt": None, "source_prompt": None},
            "no question in the field 'prompt'",
            "no_question",
        ),
        ({"prompt": BEFORE + AFTER}, "no question in the field 'prompt'", "no_question"),
        ({"solution": ""}, "no answer in the field 'solution'", "no_answer"),
        ({"solution": None, "reward_model": None}, "no answer", "no_answer"),
        ({"extra_info": {"index": "a"}}, "the id 'a' is that of row 1 already", "duplicate_id"),
    ],
)
def test_bad_rows_stop_or_are_counted(change, message, reason):
    rows = [processed("One?", "1", "a"), processed("Two?", "2", "b") | change]
    with pytest.raises(UserError, match=rf"dapo, row 2: {message}"):
        read(*rows)
    questions, dropped = read(*rows, on_bad_row="drop")
    assert ([q.id for q in questions], dropped) == (["a"], {reason: 1})


def test_a_row_without_an_id_is_named_by_its_number():
    (question,), _ = read(processed("One?", 7, None))
    assert (question.id, question.answer) == ("row-000001", "7")


def test_nothing_in_english():
    with pytest.raises(UserError, match=r"holds no English problem \(not_english 1\)"):
        read(processed("求 $n$ 的值.", "7", "b"))
    with pytest.raises(UserError, match=r"holds no English problem \(it is empty\)"):
        read()


def test_both_layouts_come_out_of_files(tmp_path):
    rows = [("How many?", "4", "a"), ("How much?", "5", "b")]
    pq.write_table(pa.Table.from_pylist([original(*row) for row in rows]), tmp_path / "o.parquet")
    lines = "\n".join(json.dumps(processed(*row)) for row in rows)
    (tmp_path / "p.jsonl").write_text(lines)
    first, _ = read_problems(load_rows(path=tmp_path / "o.parquet"))
    second, _ = read_problems(load_rows(path=tmp_path / "p.jsonl"))
    assert [(q.id, q.text, q.answer) for q in first] == [
        ("a", "How many?", "4"),
        ("b", "How much?", "5"),
    ]
    assert first == second


def test_a_problem_that_is_there_a_hundred_times():
    rows = [
        original(f"Is it {n}?", str(n), f"{n}-{copy}") for copy in range(100) for n in range(50)
    ]
    questions, dropped = read(*rows)
    assert [q.id for q in questions] == [f"{n}-0" for n in range(50)]
    assert dropped == {"duplicate": 4950}


# ---- what is put around a problem --------------------------------------------------------------


def test_the_template_for_mathematics_asks_for_a_box():
    said = templates.load("math").fill({"question": r"What is $\frac{1}{2}+\{options\}$?"})
    assert said.startswith("What is $\\frac{1}{2}+\\{options\\}$?\n\n")
    assert said.endswith("Therefore, the final answer is: $\\boxed{ANSWER}$.")
    assert "step by step" in said


def test_without_a_template_a_question_stays_as_it_is():
    assert templates.load(None).fill({"question": " {question} "}) == " {question} "


def test_a_template_of_ones_own_with_other_placeholders(tmp_path):
    file = tmp_path / "choice.txt"
    file.write_text("{question}\n{options}\nAnswer with \\boxed{A} or {other}.\n")
    template = templates.load(file, ("question", "options"), "benchmarks.prompt")
    assert template.fill({"question": "{options}?", "options": "A) {question}"}) == (
        "{options}?\nA) {question}\nAnswer with \\boxed{A} or {other}."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Solve {qestion}.", r"data\.prompt=.* lacks \{question\}: add it"),
        (None, r"is neither a text file nor one of the package's templates: .* one of math"),
    ],
)
def test_a_template_that_cannot_be_used(tmp_path, content, message):
    if content is not None:
        (tmp_path / "mine.md").write_text(content)
    with pytest.raises(UserError, match=message):
        templates.load(tmp_path / "mine.md")
