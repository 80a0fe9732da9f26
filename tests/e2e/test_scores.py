"""`spot evaluate`, `compare`, `grade` and `connect4`: the real commands, on the shipped student and on files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from rich.console import Console

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
    record = json.loads((before / "run.json").read_text())
    assert list(record["products"]) == ["benchmark_responses", "scores"]
    alone = spot(tmp_path, "compare", str(before), ok=False)
    assert "measured one model only" in alone.stderr

    # Fewer trials than asked for, as after a benchmark lost some, are never passed over.
    scores = compare.read(before)
    scores.manifest["settings"]["benchmarks"]["sums"]["trials"] = 3
    assert "sums: asked for 3 trials of each question, observed 1." in compare.notes(scores)
    scores.manifest["settings"]["graders"]["sums"] = "another"
    screen = Console(file=io.StringIO(), width=200)
    compare.compare(compare.read(before), scores, screen)
    (line,) = [
        line for line in screen.file.getvalue().splitlines() if "graded by different" in line
    ]
    assert line.startswith("sums: ")


def graded(
    folder: Path, benchmark: str, rows: list[dict[str, Any]], *more: str
) -> list[dict[str, Any]]:
    """What `spot grade` writes of these responses."""
    write(folder / "responses.jsonl", rows)
    files = ["responses=responses.jsonl", "out=out.jsonl"]
    spot(folder, "grade", f"benchmark={benchmark}", *files, *more)
    return read(folder / "out.jsonl")


def refused(folder: Path, benchmark: str, rows: list[dict[str, Any]], *more: str) -> str:
    """The one line in which `spot grade` refuses them."""
    write(folder / "responses.jsonl", rows)
    files = ["responses=responses.jsonl", "out=refused.jsonl"]
    line = spot(folder, "grade", f"benchmark={benchmark}", *files, *more, ok=False).stderr
    assert not (folder / "refused.jsonl").exists()
    return line


def solved(name: str, answer: str, response: str, **more: str) -> dict[str, Any]:
    return {"unique_id": name, "problem": name, "answer": answer, "response": response, **more}


def test_saved_responses_are_graded(tmp_path: Path) -> None:
    rows = [
        solved("a", "2", r"So $\boxed{2}$."),
        solved("a", "2", r"So $\boxed{3}$."),
        solved("b", r"\frac{1}{2}", r"$\boxed{0.5}$"),
        solved("c", "10", "ten"),
        solved("d", "7", r"<think>\boxed{7}</think> I see."),
        solved("e", "8", r"\boxed{8}", finish_reason="length"),
    ]
    verdicts = ["correct", "wrong", "correct", "unparseable", "unparseable", "truncated"]
    found = graded(tmp_path, "math500", rows)
    assert [(row["id"], row["trial"]) for row in found] == [
        *[("a", 0), ("a", 1), ("b", 0), ("c", 0), ("d", 0), ("e", 0)]
    ]
    assert [row["verdict"] for row in found] == verdicts
    assert found[2]["extracted"] == "0.5"

    before = (tmp_path / "responses.jsonl").read_bytes()
    arguments = ["grade", "benchmark=math500", "responses=responses.jsonl"]
    printed = spot(tmp_path, *arguments, "out=again.jsonl").stdout
    assert "5 questions × 1–2" in printed
    assert "30.0% correct" in printed  # (½ + 1 + 0 + 0 + 0) / 5
    for out in ("responses.jsonl", "."):
        assert "another" in spot(tmp_path, *arguments, f"out={out}", ok=False).stderr
    assert (tmp_path / "responses.jsonl").read_bytes() == before


def test_one_benchmark_alone_and_what_cannot_be_compared(tmp_path: Path) -> None:
    """The same ids in two files are two sets of questions."""
    folders = []
    for name, extra in (("one", 0), ("two", 100)):
        rows = [{"problem": f"{n}+{extra}?", "answer": str(n + extra)} for n in range(6)]
        file = write(tmp_path / f"{name}.jsonl", rows)
        short = ["benchmark=math500", f"benchmark.path={file}", "generator.max_new_tokens=30"]
        folders.append(evaluated(tmp_path, *short))
    done = spot(tmp_path, "compare", *map(str, folders), ok=False)
    assert "share no question" in done.stderr
    assert "its questions come from other places" in done.stdout


def test_connect4_is_made_and_graded(tmp_path: Path) -> None:
    for name in ("boards", "again"):
        arguments = ["connect4", "generate", f"out={name}.jsonl", "count=40", "seed=3"]
        assert "(40)" in spot(tmp_path, *arguments).stdout
    boards = read(tmp_path / "boards.jsonl")
    assert read(tmp_path / "again.jsonl") == boards
    assert all(board.keys() == {"state", "answer"} for board in boards)

    def result(number: int, cells: list[list[int]]) -> str:
        written = ", ".join(f"({r}, {c})" for r, c in cells) or "None"
        return f"[Intermediate Thinking Results {number}: {written}]"

    answers = [[result(n, cells) for n, cells in enumerate(b["answer"], 1)] for b in boards]
    right = [b | {"response": "\n".join(a)} for b, a in zip(boards, answers, strict=True)]
    right[0]["response"] = "I pass."
    rows = graded(tmp_path, "connect4", right)
    assert rows[0]["format_error"]
    assert not rows[0]["both"]
    assert all(r["own"] and r["opponent"] and r["both"] and r["correct"] for r in rows[1:])
    released = graded(tmp_path, "connect4", right, "benchmark.parser=released")
    with_cells = [r for r, board in zip(released, boards, strict=True) if board["answer"][0]]
    assert not any(r["own"] for r in with_cells), "a cell with a space is not seen"


def test_letters_are_graded_in_the_order_they_were_asked_in(tmp_path: Path) -> None:
    row = {"Record ID": "r1", "Question": "Which is a colour?", "Correct Answer": "red"}
    row |= {f"Incorrect Answer {n}": word for n, word in enumerate(("loud", "late", "dry"), 1)}
    row |= {"response": 'A is odd. {"answer": "B"}'}
    orders = ([2, 0, 3, 1], [0, 1, 2, 3])
    found = graded(tmp_path, "gpqa_diamond", [row | {"order": order} for order in orders])
    assert [each["correct"] for each in found] == [True, False]
    line = refused(tmp_path, "gpqa_diamond", [row])
    assert "line 1" in line
    assert "order" in line


@pytest.mark.usefixtures("contained")
def test_code_is_run(tmp_path: Path) -> None:
    tests = [{"args": [n], "expected": 2 * n} for n in (0, 3, -4)]
    task = {"id": "double", "prompt": "Return twice it.", "entry_point": "double", "tests": tests}
    programs = [f"```python\ndef double(n):\n    return n {it}\n```" for it in ("+ n", "** 2")]
    answers = [*programs, "I would rather not."]
    rows = graded(tmp_path, "code_tasks", [task | {"response": answer} for answer in answers])
    assert [row["verdict"] for row in rows] == ["correct", "wrong", "unparseable"]
    assert rows[1]["passed"] == 1


def test_an_evaluations_own_rows_are_graded_again(tmp_path: Path) -> None:
    """Without asking the model: the questions come from a file, the order of options from the seed."""
    options = ["one", "two", "six"]
    questions = [
        {"id": f"q{n}", "question": f"{n}?", "options": options, "answer": n} for n in range(3)
    ]
    write(tmp_path / "questions.jsonl", questions)
    score = {"benchmark": "gpqa_diamond", "trial": 1, "seed": 5, "response": "A"}
    scores = [score | {"question_id": f"q{n}"} for n in range(3)]
    scores.append({"benchmark": "ifeval", "question_id": "x"})
    path = "benchmark.path=questions.jsonl"
    rows = graded(tmp_path, "gpqa_diamond", scores, path)
    assert [row["trial"] for row in rows] == [1, 1, 1]
    assert all(row["order"] == rows[0]["order"] for row in rows), "the seed alone decides"
    assert "benchmark.path" in refused(tmp_path, "gpqa_diamond", scores)
    other = score | {"question_id": "other"}
    assert "no question 'other'" in refused(tmp_path, "gpqa_diamond", [other], path)


MISTAKES = {
    "no response": [{"problem": "1?", "answer": "1"}],
    "no answer": [{"problem": "1?", "response": "1"}],
    "problem": [{"answer": "1", "response": "1"}],
    "another question already": [solved("a", "1", "1"), solved("a", "1", "1") | {"problem": "2?"}],
    "found int": [{"problem": "1?", "answer": "1", "response": 1}],
    "is empty": [],
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_bad_row_is_named(tmp_path: Path, words: str) -> None:
    line = refused(tmp_path, "math500", MISTAKES[words])
    assert words in line
    assert "responses.jsonl" in line


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["benchmarks=paper", "benchmarks.folder=."], "has no aime24.jsonl"),
        (["benchmark=math500", "benchmark.path=no.jsonl"], "does not exist"),
        (["generator=vllm", "generator.executable=no/vllm"], "is not a program"),
    ],
)
def test_what_is_missing_is_said_first(tmp_path: Path, overrides: list[str], words: str) -> None:
    assert words in spot(tmp_path, "evaluate", *overrides, ok=False).stderr
