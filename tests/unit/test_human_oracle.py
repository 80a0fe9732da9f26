"""Corrections from a file: found by id or question, in the style of the attempt."""

import json

import pytest

from spot.grading.registry import Verifier
from spot.oracle.human import Solutions
from spot.oracle.local import LocalOracle
from spot.oracle.types import Task
from spot.utils.errors import UserError

SOLUTION = "He has 3 + 4 = <<3+4=7>>7 eggs.\n#### 7"


def task(
    question_id="q1", question="How many eggs?", response="3 + 4 = 8\n#### 8", mode="rectified"
):
    return Task(f"{question_id}#0", question, "7", response, mode, question_id)


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
    oracle = Solutions(path)
    assert oracle.correct(task()) == "by attempt"
    path = write(tmp_path, {"id": "q1", "solution": "by question id"})
    assert Solutions(path).correct(task()) == "by question id"
    oracle = Solutions(write(tmp_path, {"question": "How many eggs?", "solution": "by text"}))
    assert oracle.correct(task("other")) == "by text"
    assert oracle.correct(task("other", "How many hens?")) is None


def test_calculator_annotations_go_unless_the_attempt_has_them(tmp_path):
    oracle = Solutions(write(tmp_path, {"id": "q1", "a": {"b": SOLUTION}}), "a.b")
    assert oracle.correct(task()) == "He has 3 + 4 = 7 eggs.\n#### 7"
    assert oracle.correct(task(mode="direct")) == "He has 3 + 4 = 7 eggs.\n#### 7"
    annotated = task(response="3 + 4 = <<3+4=8>>8\n#### 8")
    assert oracle.correct(annotated) == SOLUTION


def test_corrections_are_verified_like_any_other(tmp_path):
    path = write(
        tmp_path,
        {"id": "q1", "solution": SOLUTION},
        {"id": "q2", "solution": "3 + 4 = 9\n#### 9"},
        {"id": "q3", "solution": "I do not know."},
    )
    tasks = [task(f"q{n}") for n in range(1, 5)]
    with Verifier() as verifier:
        oracle = LocalOracle("human", lambda _: Solutions(path).correct, verifier, "last")
        results = list(oracle.rectify(tasks))
    assert [result.outcome for result in results] == ["ok", "wrong", "unparseable", "not_corrected"]


def test_bad_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Solutions(tmp_path / "absent.jsonl")
    with pytest.raises(UserError, match="holds no correction"):
        Solutions(write(tmp_path, {"id": "q1", "answer": "7"}))
    twice = write(tmp_path, {"id": "q1", "solution": "a"}, {"id": "q1", "solution": "b"})
    with pytest.raises(UserError, match="lines 1 and 2: two solutions for the same id"):
        Solutions(twice)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": "q1", "solution": "a"}\n{oops\n', encoding="utf-8")
    with pytest.raises(UserError, match="line 2: malformed JSON"):
        Solutions(broken)
