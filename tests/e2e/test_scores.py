"""`spot evaluate`, `compare`, `grade` and `connect4`: the real commands, on the shipped student and on files."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from spot.evaluation import compare
from tests.support import command_line
from tests.support.laptop import SMALL, copy


def spot(folder: Path, *arguments: str, ok: bool = True) -> CompletedProcess[str]:
    done = command_line.spot(folder, *arguments)
    if ok:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 2, (done.stdout, done.stderr)
        assert done.stderr.count("\n") == 1, done.stderr
    return done


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def evaluated(folder: Path, *overrides: str) -> Path:
    done = spot(folder, "evaluate", *overrides)
    return folder / done.stdout.strip().splitlines()[-1].removeprefix("scores: ")


def test_a_model_is_measured_and_compared(laptop: Path, tmp_path: Path) -> None:
    copy(laptop, tmp_path)  # whose base is the model that is measured here
    first = spot(tmp_path, "evaluate", *SMALL)
    assert "sums" in first.stdout
    assert "20 × 1" in first.stdout
    assert "average" in first.stdout
    assert "reused" in first.stderr
    before = evaluated(tmp_path, *SMALL)
    greedy = evaluated(tmp_path, *SMALL, "generator.temperature=0")
    same = spot(tmp_path, "compare", str(before), str(before)).stdout
    assert same.count("+0.0") == 4, same  # three benchmarks and their mean
    other = spot(tmp_path, "compare", str(before), str(greedy)).stdout
    assert "p, corrected" in other
    assert "temperature was 0.7 for A and 0.0 for B." in other
    record = json.loads((before / "evaluation.json").read_text())
    assert list(record["products"]) == ["scores"]
    refused = spot(tmp_path, "compare", str(before), ok=False)
    assert "measured one model only" in refused.stderr

    # Fewer trials than asked for, as after a benchmark lost some, are never passed over.
    scores = compare.read(before)
    scores.manifest["settings"]["benchmarks"]["sums"]["trials"] = 3
    assert "sums: asked for 3 trials of each question, observed 1." in compare.notes(scores)


MATH = [
    {"unique_id": "a", "problem": "1+1?", "answer": "2", "response": r"So $\boxed{2}$."},
    {"unique_id": "a", "problem": "1+1?", "answer": "2", "response": r"So $\boxed{3}$."},
    {"unique_id": "b", "problem": "Half?", "answer": r"\frac{1}{2}", "response": r"$\boxed{0.5}$"},
    {"unique_id": "c", "problem": "10?", "answer": "10", "response": "ten"},
    {
        "unique_id": "d",
        "problem": "7?",
        "answer": "7",
        "response": r"<think>\boxed{7}</think> I see.",
    },
    {
        "unique_id": "e",
        "problem": "8?",
        "answer": "8",
        "response": r"\boxed{8}",
        "finish_reason": "length",
    },
]


def test_saved_responses_are_graded(tmp_path: Path) -> None:
    responses = write(tmp_path / "responses.jsonl", MATH)
    done = spot(
        tmp_path, "grade", "benchmark=math500", f"responses={responses}", "out=graded.jsonl"
    )
    rows = read(tmp_path / "graded.jsonl")
    assert [(row["id"], row["trial"], row["verdict"]) for row in rows] == [
        ("a", 0, "correct"),
        ("a", 1, "wrong"),
        ("b", 0, "correct"),
        ("c", 0, "unparseable"),
        ("d", 0, "unparseable"),
        ("e", 0, "truncated"),
    ]
    assert rows[2]["extracted"] == "0.5"
    assert "5 questions × 1–2" in done.stdout
    assert "30.0% correct" in done.stdout  # (½ + 1 + 0 + 0 + 0) / 5


def test_responses_are_not_overwritten(tmp_path: Path) -> None:
    responses = write(tmp_path / "responses.jsonl", MATH)
    before = responses.read_bytes()
    for out in (responses, tmp_path):
        arguments = ["benchmark=math500", f"responses={responses}", f"out={out}"]
        assert "name another file" in spot(tmp_path, "grade", *arguments, ok=False).stderr
    assert responses.read_bytes() == before


def test_one_benchmark_alone_and_what_cannot_be_compared(tmp_path: Path) -> None:
    """The same ids in two files are two sets of questions."""
    folders = []
    for name, extra in (("one", 0), ("two", 100)):
        rows = [{"problem": f"{n}+{extra}?", "answer": str(n + extra)} for n in range(6)]
        file = write(tmp_path / f"{name}.jsonl", rows)
        short = ["benchmark=math500", f"benchmark.path={file}", "generator.max_new_tokens=30"]
        folders.append(evaluated(tmp_path, *short))
    refused = spot(tmp_path, "compare", *map(str, folders), ok=False)
    assert "share no question" in refused.stderr
    assert "its questions come from other places" in refused.stdout


def test_connect4_is_made_and_graded(tmp_path: Path) -> None:
    done = spot(tmp_path, "connect4", "generate", "out=boards.jsonl", "count=40", "seed=3")
    assert "(40)" in done.stdout
    boards = read(tmp_path / "boards.jsonl")
    assert all(board.keys() == {"state", "answer"} for board in boards)
    spot(tmp_path, "connect4", "generate", "out=again.jsonl", "count=40", "seed=3")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "boards.jsonl").read_bytes()

    def said(cells: list[list[int]]) -> str:
        return ", ".join(f"({r}, {c})" for r, c in cells) or "None"

    right = [
        board
        | {
            "response": f"[Intermediate Thinking Results 1: {said(board['answer'][0])}]\n"
            f"[Intermediate Thinking Results 2: {said(board['answer'][1])}]"
        }
        for board in boards
    ]
    right[0]["response"] = "I pass."
    write(tmp_path / "responses.jsonl", right)
    spot(tmp_path, "grade", "benchmark=connect4", "responses=responses.jsonl", "out=out.jsonl")
    rows = read(tmp_path / "out.jsonl")
    assert rows[0]["format_error"]
    assert not rows[0]["both"]
    assert all(r["own"] and r["opponent"] and r["both"] and r["correct"] for r in rows[1:])
    spot(
        tmp_path,
        "grade",
        "benchmark=connect4",
        "benchmark.parser=released",
        "responses=responses.jsonl",
        "out=out.jsonl",
    )
    released = read(tmp_path / "out.jsonl")
    with_cells = [r for r, board in zip(released, boards, strict=True) if board["answer"][0]]
    assert not any(r["own"] for r in with_cells), "a cell with a space is not seen"


OPTIONS = {
    "Record ID": "r1",
    "Question": "Which of these is a colour?",
    "Correct Answer": "red",
    "Incorrect Answer 1": "loud",
    "Incorrect Answer 2": "heavy",
    "Incorrect Answer 3": "late",
}


def test_letters_are_graded_in_the_order_they_were_asked_in(tmp_path: Path) -> None:
    rows = [
        OPTIONS | {"order": [2, 0, 3, 1], "response": 'A is odd. {"answer": "B"}'},
        OPTIONS | {"order": [0, 1, 2, 3], "response": 'A is odd. {"answer": "B"}'},
    ]
    write(tmp_path / "responses.jsonl", rows)
    grade = ["grade", "benchmark=gpqa_diamond", "responses=responses.jsonl", "out=out.jsonl"]
    spot(tmp_path, *grade)
    assert [row["correct"] for row in read(tmp_path / "out.jsonl")] == [True, False]
    write(tmp_path / "responses.jsonl", [OPTIONS | {"response": "B"}])
    refused = spot(tmp_path, *grade, ok=False)
    assert "line 1" in refused.stderr
    assert "order" in refused.stderr


@pytest.mark.usefixtures("contained")
def test_code_is_run(tmp_path: Path) -> None:
    task = {
        "id": "double",
        "prompt": "Return twice the number.",
        "entry_point": "double",
        "tests": [{"args": [n], "expected": 2 * n} for n in (0, 3, -4)],
    }
    answers = [
        "```python\ndef double(n):\n    return n + n\n```",
        "```python\ndef double(n):\n    return n ** 2\n```",
        "I would rather not.",
    ]
    write(tmp_path / "responses.jsonl", [task | {"response": answer} for answer in answers])
    spot(tmp_path, "grade", "benchmark=code_tasks", "responses=responses.jsonl", "out=out.jsonl")
    rows = read(tmp_path / "out.jsonl")
    assert [row["verdict"] for row in rows] == ["correct", "wrong", "unparseable"]
    assert rows[1]["passed"] == 1


def test_an_evaluations_own_rows_are_graded_again(tmp_path: Path) -> None:
    """Without asking the model: the questions come from a file, the order of options from the seed."""
    questions = [
        {"id": f"q{n}", "question": f"{n}?", "options": ["one", "two", "six"], "answer": n % 3}
        for n in range(3)
    ]
    write(tmp_path / "questions.jsonl", questions)
    scores = [
        {
            "benchmark": "gpqa_diamond",
            "question_id": f"q{n}",
            "trial": 1,
            "seed": 5,
            "response": "A",
        }
        for n in range(3)
    ]
    write(tmp_path / "rows.jsonl", [*scores, {"benchmark": "ifeval", "question_id": "x"}])
    grade = ["grade", "benchmark=gpqa_diamond", "responses=rows.jsonl", "out=out.jsonl"]
    spot(tmp_path, *grade, "benchmark.path=questions.jsonl")
    rows = read(tmp_path / "out.jsonl")
    assert [row["trial"] for row in rows] == [1, 1, 1]
    order = rows[0]["order"]
    assert all(row["order"] == order for row in rows), "the seed alone decides"
    refused = spot(tmp_path, *grade, ok=False)
    assert "benchmark.path" in refused.stderr
    write(tmp_path / "rows.jsonl", [scores[0] | {"question_id": "other"}])
    refused = spot(tmp_path, *grade, "benchmark.path=questions.jsonl", ok=False)
    assert "no question 'other'" in refused.stderr


MISTAKES = {
    "no response": [{"problem": "1?", "answer": "1"}],
    "no answer": [{"problem": "1?", "response": "1"}],
    "problem": [{"answer": "1", "response": "1"}],
    "another question already": [
        {"unique_id": "a", "problem": "1?", "answer": "1", "response": "1"},
        {"unique_id": "a", "problem": "2?", "answer": "1", "response": "1"},
    ],
    "found int": [{"problem": "1?", "answer": "1", "response": 1}],
    "is empty": [],
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_bad_row_is_named(tmp_path: Path, words: str) -> None:
    write(tmp_path / "r.jsonl", MISTAKES[words])
    done = spot(
        tmp_path, "grade", "benchmark=math500", "responses=r.jsonl", "out=o.jsonl", ok=False
    )
    assert words in done.stderr
    assert "r.jsonl" in done.stderr
    assert not (tmp_path / "o.jsonl").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["benchmarks=paper", "benchmarks.folder=."], "has no aime24.jsonl"),
        (["benchmark=math500", "benchmark.path=no.jsonl"], "does not exist"),
        (["generator=vllm", "generator.executable=no/vllm"], "is no program"),
    ],
)
def test_what_is_missing_is_said_first(tmp_path: Path, overrides: list[str], words: str) -> None:
    assert words in spot(tmp_path, "evaluate", *overrides, ok=False).stderr
