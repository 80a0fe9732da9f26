"""Saved responses: which rows are read, and what a file of them is worth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from spot.data.rows import Question
from spot.evaluation import saved_responses
from spot.grading import math_family
from spot.grading.family import Answer, Family, Grade
from spot.grading.registry import Verifier
from spot.utils.errors import UserError

PACKED = Path(__file__).parents[1] / "support" / "inspect.eval"


@pytest.fixture(scope="module")
def family() -> Iterator[Family]:
    with Verifier() as verifier:
        yield math_family.family(verifier.equals)


def row(response: str = r"\boxed{4}", **more: Any) -> dict[str, Any]:
    return {"id": "a", "problem": "2+2?", "answer": "4", "response": response, **more}


def read(path: Path, family: Family, *rows: dict[str, Any]) -> list[saved_responses.SavedResponse]:
    def find(row: Any, row_id: str) -> tuple[Question, Question]:
        question = family.read(row, row_id)
        return question, question

    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return saved_responses.read(path, find, "math")


def saved(path: Path, family: Family, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    """What `spot grade` writes of these rows."""
    graded = list(saved_responses.grade(read(path, family, *rows), family))
    saved_responses.write(path.with_suffix(".out"), graded)
    return [json.loads(line) for line in path.with_suffix(".out").read_text("utf-8").splitlines()]


def test_rows_without_a_trial_are_numbered_and_others_keep_theirs(
    tmp_path: Path, family: Family
) -> None:
    rows = (row(), row(trial=None), row(id="b", trial=7), row(id="b", trial=0), row(id="c"))
    found = saved(tmp_path / "r", family, *rows)
    assert [(r["id"], r["trial"]) for r in found] == [
        ("a", 0),
        ("a", 1),
        ("b", 7),
        ("b", 0),
        ("c", 0),
    ]


def test_samples_of_lm_eval_are_rows_each_once_whatever_its_filters(
    tmp_path: Path, family: Family
) -> None:
    """As `--log_samples` of lm-eval 0.4.13 writes them: two filters, two repeats, a doc without an id."""
    doc = {"problem": "2+2?", "answer": "4"}
    lines = [
        {"doc_id": n, "doc": {**doc, **own}, "target": "4", "filter": name,
         "resps": [[r"\boxed{4}", r"\boxed{5}"]], "filtered_resps": ["4"], "exact_match": 0.0}
        for name in ("strict", "flexible") for n, own in enumerate(({"id": "own"}, {}))
    ]  # fmt: skip
    found = saved(tmp_path / "samples_math_2026.jsonl", family, *lines)
    assert [(r["id"], r["trial"], r["correct"]) for r in found] == [
        ("own", 0, True), ("own", 1, False), ("doc-1", 0, True), ("doc-1", 1, False),
    ]  # fmt: skip
    likelihoods = {**lines[0], "resps": [[[-3.2, False]]]}
    with pytest.raises(UserError, match="line 1: no response in the field 'response', found list"):
        read(tmp_path / "samples.jsonl", family, likelihoods)


def sample(name: str, epoch: int, text: object, stop: str = "stop") -> dict[str, Any]:
    """As Inspect writes it."""
    message = {"role": "assistant", "content": text, "source": "generate"}
    output = {"model": "m", "choices": [{"message": message, "stop_reason": stop}]}
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    return {"id": name, "epoch": epoch, "input": asked, "target": "4", "metadata": {}, "output": output}  # fmt: skip


def posed(family: Family) -> saved_responses.Find:
    def find(row: Any, row_id: str) -> tuple[Question, Question]:
        question = family.read(row, row_id)
        return question, question

    return find


FIELDS = {"question": "problem|question"}


def graded(path: Path, family: Family) -> list[tuple[str, int, str]]:
    rows = saved_responses.read(path, posed(family), "math", FIELDS)
    return [
        (r.answer.question.id, r.trial, g.verdict) for r, g in saved_responses.grade(rows, family)
    ]


def test_a_log_of_inspect_is_read_by_sample_and_epoch(tmp_path: Path, family: Family) -> None:
    thought = [
        {"type": "reasoning", "reasoning": r"\boxed{9}"},
        {"type": "text", "text": r"\boxed{4}"},
    ]
    samples = [
        sample("b", 1, r"\boxed{4}", "max_tokens"),
        sample("a", 2, r"\boxed{5}", "unknown"),
        sample("a", 1, thought),
    ]
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"version": 2, "eval": {}, "samples": samples}))
    assert graded(path, family) == [
        ("a", 0, "correct"),
        ("a", 1, "wrong"),
        ("b", 0, "truncated"),
    ]


def test_a_log_as_inspect_packs_it(tmp_path: Path, family: Family) -> None:
    """Written by Inspect 0.3.285: three epochs of 1 + 1, the last one cut off."""
    verdicts = ["correct", "wrong", "truncated"]
    assert graded(PACKED, family) == [("q", n, verdict) for n, verdict in enumerate(verdicts)]
    (tmp_path / "log.eval").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"log\.eval cannot be read"):
        graded(tmp_path / "log.eval", family)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row(trial=3), row(id="b"), row(trial=3)], "line 3: trial 3 of 'a' is on line 1 already"),
        ([row(trial={"a": 1})], "line 1: trial is {'a': 1}: write a whole number"),
        ([row(trial=True)], "trial is True"),
        ([row(trial=1.0)], "trial is 1.0"),
        ([row(trial=-1)], "trial is -1"),
        ([row(finish_reason="error")], "line 1: finish_reason is 'error'"),
    ],
)
def test_a_row_that_is_no_response_is_named(
    rows: list[dict[str, Any]], words: str, tmp_path: Path, family: Family
) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path / "r", family, *rows)
    assert words in str(error.value)


def test_half_a_character_in_a_response_can_be_written(tmp_path: Path, family: Family) -> None:
    found = saved(tmp_path / "r", family, row("\\boxed{\ud800}"), row("\U0001f600 \\boxed{4}"))
    assert [(r["extracted"], r["correct"]) for r in found] == [("\ufffd", False), ("4", True)]


def test_half_a_character_in_an_id_is_refused(tmp_path: Path, family: Family) -> None:
    def find(row: Any, row_id: str) -> tuple[Question, Question]:
        question = Question(row["id"], "math", "2+2?", "4")
        return question, question

    (tmp_path / "r").write_text(json.dumps(row(id="\ud800")))
    with pytest.raises(UserError, match="line 1: half a character"):
        saved_responses.read(tmp_path / "r", find, "math")


def test_every_end_of_our_own_rows_is_read(tmp_path: Path, family: Family) -> None:
    rows = (
        row("", finish_reason="prompt_too_long"),
        row(finish_reason=None),
        row(finish_reason="length"),
        row(finish_reason="stop"),
        row(finish_reason="eos_token"),
        row(finish_reason="MAX_TOKENS"),
    )
    found = saved(tmp_path / "r", family, *rows)
    assert [(r["verdict"], r["reason"]) for r in found] == [
        ("unparseable", "the prompt was too long"),
        ("correct", ""),
        ("truncated", "cut at the token limit"),
        ("correct", ""),
        ("correct", ""),
        ("truncated", "cut at the token limit"),
    ]


def test_a_question_that_was_never_asked_does_not_reach_the_family(
    tmp_path: Path, family: Family
) -> None:
    asked: list[Answer] = []

    def grade(answers: Sequence[Answer]) -> list[Grade]:
        asked.extend(answers)
        return family.grade(answers)

    recording = Family(family.read, family.pose, grade, family.trivial)
    saved(tmp_path / "r", recording, row(finish_reason="prompt_too_long"), row())
    assert [answer.finish_reason for answer in asked] == ["stop"]


def test_findings_that_are_lists_are_counted_by_item() -> None:
    details = [
        {"strict": True, "each": [True, True, True], "order": [0, 1], "names": []},
        {"strict": False, "each": [False], "order": [1, 0], "names": []},
        {},  # never asked
        {"strict": True, "each": [True, False], "order": [1, 0], "names": []},
    ]
    assert saved_responses.flag_shares(details) == {
        "strict": 50.0,
        "each": pytest.approx(100 * 4 / 6),
    }
