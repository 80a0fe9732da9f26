"""Questions and existing responses from a file; what bad input gets."""

import json

import pytest

from spot.config import FieldsConfig
from spot.data.jsonl import import_attempts, read_questions, value_at
from spot.grading.registry import Verifier
from spot.utils.errors import UserError

ATTEMPTS = FieldsConfig(answer="truth", response="small model.solution")


@pytest.fixture(scope="module")
def verifier():
    with Verifier() as shared:
        yield shared


def write(tmp_path, *lines):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n",
        encoding="utf-8",
    )
    return path


def row(question="How many?", answer="4", **more):
    return {"question": question, "answer": answer, **more}


def test_questions_in_their_order_with_stable_ids(tmp_path):
    path = write(tmp_path, row("a"), "", row("b", 5), row("c", r"so \boxed{\frac{1}{2}}"))
    questions, dropped = read_questions(path, FieldsConfig(), task="mine")
    assert [(q.id, q.text, q.answer, q.task) for q in questions] == [
        ("row-000001", "a", "4", "mine"),
        ("row-000003", "b", "5", "mine"),  # the blank line keeps its number
        ("row-000004", "c", r"\frac{1}{2}", "mine"),
    ]
    assert dropped == {}


def test_fields_may_be_nested_and_ids_given(tmp_path):
    path = write(tmp_path, {"prompt": "p", "reward": {"truth": "34"}, "meta": {"index": 7}})
    (question,), _ = read_questions(
        path, FieldsConfig(question="prompt", answer="reward.truth", id="meta.index")
    )
    assert (question.id, question.text, question.answer) == ("7", "p", "34")


def test_a_field_named_with_a_dot_comes_before_the_path():
    assert value_at({"a.b": 1, "a": {"b": 2}}, "a.b") == 1
    assert value_at({"a": {"b": {"c": 3}}}, "a.b.c") == 3
    assert value_at({"a": 1}, "a.b") is None


@pytest.mark.parametrize(
    ("answer", "answer_format", "truth"),
    [
        ("3 + 4 = <<3+4=7>>7 eggs\n#### 7", "last", "7"),
        ("3 + 4 = 7 eggs\nA: 7", "last", "7"),
        ("2,125", "last", "2,125"),
        (r"two \boxed{1} and \boxed{2}", "boxed", "2"),
        ("18", "json", "18"),
    ],
)
def test_the_truth_may_end_a_worked_solution(tmp_path, answer, answer_format, truth):
    (question,), _ = read_questions(
        write(tmp_path, row(answer=answer)), FieldsConfig(), answer_format
    )
    assert question.answer == truth


def test_a_limit_takes_the_first_and_counts_the_rest(tmp_path):
    path = write(tmp_path, *[row(f"q{n}") for n in range(5)])
    questions, dropped = read_questions(path, FieldsConfig(), limit=2)
    assert [q.text for q in questions] == ["q0", "q1"]
    assert dropped == {"beyond_questions": 3}


def test_existing_responses_are_graded_and_all_accounted_for(tmp_path, verifier):
    responses = ["4 + 0 = 4\nA: 4", "A: 5", "no idea", "", "A: 4.0"]
    lines = [
        {"question": f"q{n}", "truth": "2+2\nA: 4", "small model": {"solution": response}}
        for n, response in enumerate(responses)
    ]
    path = write(tmp_path, *lines)
    attempts, dropped = import_attempts(path, ATTEMPTS, "last", verifier.verdicts, model="small")
    assert [a.verdict for a in attempts] == [
        "correct",
        "wrong",
        "unparseable",
        "unparseable",
        "correct",
    ]
    assert dropped == {}
    first = attempts[0]
    assert (first.id, first.question_id, first.trial) == ("row-000001#0", "row-000001", 0)
    assert (first.extracted, first.answer, first.model) == ("4", "4", "small")
    assert (first.response, first.finish_reason) == (responses[0], "stop")


def test_json_responses_are_read_as_models_write_them(tmp_path, verifier):
    broken = '{"reasoning": "first\nsecond \\frac", "answer": "\\frac{8}{2}"}'
    fields = FieldsConfig(response="output")
    path = write(tmp_path, row(output=broken), row(output='{"reasoning": "cut of'))
    attempts, _ = import_attempts(path, fields, "json", verifier.verdicts)
    assert [(a.verdict, a.extracted) for a in attempts] == [
        ("correct", r"\frac{8}{2}"),
        ("unparseable", None),
    ]


GOOD = row("fine")
BAD_ROWS = [
    ("malformed_json", '{"question": "a", ', "malformed JSON"),
    ("not_an_object", "[1, 2]", "expected a JSON object, found list"),
    ("no_question", {"answer": "4"}, "no question in the field 'question'"),
    ("no_question", row(" "), "no question in the field 'question'"),
    ("no_question", row(["a"]), "no question in the field 'question'"),
    ("no_answer", {"question": "a"}, "no answer in the field 'answer'"),
    ("no_answer", row(answer=""), "no answer in the field 'answer'"),
    ("no_answer", row(answer=True), "no answer in the field 'answer'"),
]


@pytest.mark.parametrize(("reason", "line", "message"), BAD_ROWS)
def test_a_bad_row_stops_with_its_line_or_is_counted(tmp_path, reason, line, message):
    path = write(tmp_path, GOOD, line, row("fine too"))
    with pytest.raises(UserError) as error:
        read_questions(path, FieldsConfig())
    assert message in str(error.value)
    assert "line 2" in str(error.value)
    assert "\n" not in str(error.value)
    questions, dropped = read_questions(path, FieldsConfig(), on_bad_row="drop")
    assert [q.text for q in questions] == ["fine", "fine too"]
    assert dropped == {reason: 1}


def test_a_row_without_a_response(tmp_path, verifier):
    path = write(tmp_path, row(), row(output="A: 4"))
    fields = FieldsConfig(response="output")
    with pytest.raises(UserError, match=r"line 1: no response in the field 'output'"):
        import_attempts(path, fields, "last", verifier.verdicts)
    attempts, dropped = import_attempts(path, fields, "last", verifier.verdicts, on_bad_row="drop")
    assert (len(attempts), dropped) == (1, {"no_response": 1})


def test_duplicate_ids_name_both_lines(tmp_path):
    path = write(tmp_path, row("a", id="x"), row("b", id="y"), row("c", id="x"))
    with pytest.raises(UserError, match=r"line 3: the id 'x' is that of line 1"):
        read_questions(path, FieldsConfig(id="id"))
    questions, dropped = read_questions(path, FieldsConfig(id="id"), on_bad_row="drop")
    assert [q.text for q in questions] == ["a", "b"]
    assert dropped == {"duplicate_id": 1}


def test_a_missing_id(tmp_path):
    with pytest.raises(UserError, match="no id in the field 'id'"):
        read_questions(write(tmp_path, row()), FieldsConfig(id="id"))


def test_files_that_hold_nothing(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_questions(tmp_path / "absent.jsonl", FieldsConfig())
    with pytest.raises(UserError, match="cannot be read"):
        read_questions(tmp_path, FieldsConfig())
    with pytest.raises(UserError, match="is empty"):
        read_questions(write(tmp_path, "", "  "), FieldsConfig())
    with pytest.raises(UserError, match=r"no usable row \(malformed_json 2\)"):
        read_questions(write(tmp_path, "{", "}"), FieldsConfig(), on_bad_row="drop")


def test_odd_bytes(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = json.dumps(row("é")).encode()
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n\xff\xfe\n" + b"[" * 100_000 + b"\n")
    questions, dropped = read_questions(path, FieldsConfig(), on_bad_row="drop")
    assert [q.text for q in questions] == ["é"]
    assert dropped == {"not_utf8": 1, "malformed_json": 1}
