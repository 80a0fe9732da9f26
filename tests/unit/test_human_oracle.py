"""Corrections from a file: found by id or question, in the style of the attempt."""

import json

import pytest

from spot.data.rows import Attempt
from spot.grading.registry import Verifier
from spot.oracle.human import HumanOracle
from spot.pipeline.rectification import rectify
from spot.utils.errors import UserError

SOLUTION = "He has 3 + 4 = <<3+4=7>>7 eggs.\n#### 7"


def attempt(question_id="q1", question="How many eggs?", response="3 + 4 = 8\n#### 8"):
    return Attempt(
        id=f"{question_id}#0",
        question_id=question_id,
        trial=0,
        task="data",
        question=question,
        answer="7",
        response=response,
        finish_reason="stop",
        tokens=0,
        extracted="8",
        verdict="wrong",
        model="small",
        seed=0,
    )


def write(tmp_path, *rows):
    path = tmp_path / "corrections.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_found_by_id_by_question_id_or_by_text(tmp_path):
    path = write(
        tmp_path,
        {"id": "q1#0", "solution": "by attempt"},
        {"id": "q1", "solution": "by question id"},
        {"question": "How many eggs?", "solution": "by text"},
    )
    oracle = HumanOracle(path)
    assert oracle.rectify(attempt()) == "by attempt"
    path = write(tmp_path, {"id": "q1", "solution": "by question id"})
    assert HumanOracle(path).rectify(attempt()) == "by question id"
    oracle = HumanOracle(write(tmp_path, {"question": "How many eggs?", "solution": "by text"}))
    assert oracle.rectify(attempt("other")) == "by text"
    assert oracle.rectify(attempt("other", "How many hens?")) is None
    assert oracle.name == "human"


def test_calculator_annotations_go_unless_the_attempt_has_them(tmp_path):
    oracle = HumanOracle(write(tmp_path, {"id": "q1", "a": {"b": SOLUTION}}), "a.b")
    assert oracle.rectify(attempt()) == "He has 3 + 4 = 7 eggs.\n#### 7"
    assert oracle.direct(attempt()) == "He has 3 + 4 = 7 eggs.\n#### 7"
    annotated = attempt(response="3 + 4 = <<3+4=8>>8\n#### 8")
    assert oracle.rectify(annotated) == SOLUTION


def test_corrections_are_verified_like_any_other(tmp_path):
    path = write(
        tmp_path,
        {"id": "q1", "solution": SOLUTION},
        {"id": "q2", "solution": "3 + 4 = 9\n#### 9"},
        {"id": "q3", "solution": "I do not know."},
    )
    attempts = [attempt(f"q{n}") for n in range(1, 5)]
    with Verifier() as verifier:
        rows = list(
            rectify(attempts, HumanOracle(path), verifier, mode="rectified", answer_format="last")
        )
    assert [row.outcome for row in rows] == ["ok", "wrong", "unparseable", "refused"]


def test_bad_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        HumanOracle(tmp_path / "absent.jsonl")
    with pytest.raises(UserError, match="holds no correction"):
        HumanOracle(write(tmp_path, {"id": "q1", "answer": "7"}))
    twice = write(tmp_path, {"id": "q1", "solution": "a"}, {"id": "q1", "solution": "b"})
    with pytest.raises(UserError, match="lines 1 and 2: two solutions for the same id"):
        HumanOracle(twice)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": "q1", "solution": "a"}\n{oops\n', encoding="utf-8")
    with pytest.raises(UserError, match="line 2: malformed JSON"):
        HumanOracle(broken)
