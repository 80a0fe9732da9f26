"""Real input through the command line: a model's recorded answers, a human's corrections, and bad files."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from spot.data import artifacts
from spot.data.rows import Attempt, Pair, Rectification
from tests.support.command_line import spot
from tests.support.laptop import SMALL, copy, run


def refused(done: subprocess.CompletedProcess) -> str:
    """The one line a mistake ends in."""
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("spot: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def recorded(number: int, answer: int) -> dict:
    """A row in the layout of the recorded GSM8K answers; the truth is number + 7."""
    name = ("Ada", "Bo", "Cy", "Di")[number % 4]
    return {
        "question": f"{name} has {number} pears and picks 7 more. How many pears does {name} have?",
        "ground_truth": f"{name} has {number} + 7 = <<{number}+7={number + 7}>>{number + 7} pears.\nA: {number + 7}",
        "175b_verification": {
            "is_correct": answer == number + 7,
            "solution": f"{name} starts with {number}.\n{name} then has {number} + 7 = {answer}.\nA: {answer}",
        },
    }  # fmt: skip


def write(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def product(folder: Path, stage: str, row_type: type) -> list:
    """All rows of a stage's products."""
    found = (folder / "outputs" / "products" / stage).glob("*/manifest.json")
    return [row for manifest in found for row in artifacts.read_rows(manifest.parent, row_type)]


def test_recorded_answers_become_pairs_and_a_trained_model(tmp_path):
    right = [recorded(n, n + 7) for n in range(10, 20)]
    wrong = [recorded(n, n + 6) for n in range(20, 60)]
    silent = {**recorded(60, 0), "175b_verification": {"solution": "I do not know."}}
    path = write(tmp_path / "answers.jsonl", [*right, *wrong, silent])
    done = spot(
        tmp_path,
        "run",
        "data=gsm8k_attempts",
        f"data.path={path}",
        "data.held_out=8",
        "model.pretrain.steps=2",
        "model.pretrain.width=32",
        "model.pretrain.layers=1",
        "model.pretrain.vocabulary=300",
        "model.context_length=512",
        "data.gamma=1",
        "loss.epochs=1",
        "loss.batch_pairs=16",
        "generator.max_new_tokens=24",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    verdicts = [row.verdict for row in product(tmp_path, "elicit", Attempt)]
    assert {v: verdicts.count(v) for v in set(verdicts)} == {
        "correct": 10,
        "wrong": 40,
        "unparseable": 1,
    }
    corrections = product(tmp_path, "rectify", Rectification)
    assert len(corrections) == 40
    assert {row.outcome for row in corrections} == {"ok"}
    assert all("<<" not in row.chosen for row in corrections)
    assert len(product(tmp_path, "select", Pair)) == 40  # 8 of them held out
    (run,) = (tmp_path / "outputs" / "runs").glob("*/*/report.html")
    assert "Change ratio" in run.read_text()


GOOD = {"question": "1 + 1?", "answer": "2", "response": r"So \boxed{3}."}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ('{"question": "1 + 1?", "response": "\\\\boxed{2}"}\n', "line 1"),
        (json.dumps(GOOD) + "\n{oops\n", "line 2"),
        (json.dumps({**GOOD, "id": "a"}) + "\n" + json.dumps({**GOOD, "id": "a"}) + "\n", "line 2"),
    ],
    ids=["empty file", "no answer", "malformed", "duplicate id"],
)
def test_a_bad_file_is_one_line(tmp_path, text, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    fields = (
        "data.fields={id: id, response: response}"
        if '"id"' in text
        else "data.fields.response=response"
    )
    line = refused(
        spot(tmp_path, "elicit", "data=jsonl", f"data.path={path}", fields, "oracle.path=x")
    )  # fmt: skip
    assert "rows.jsonl" in line
    assert message in line


def test_bad_rows_can_be_dropped_and_are_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD) + "\n{oops\n" + json.dumps({"question": "?"}) + "\n")
    done = spot(
        tmp_path,
        "elicit",
        "data=jsonl",
        f"data.path={path}",
        "data.fields.response=response",
        "data.on_bad_row=drop",
    )
    assert done.returncode == 0, done.stderr
    (manifest,) = (tmp_path / "outputs" / "products" / "elicit").glob("*/manifest.json")
    counts = artifacts.read_manifest(manifest.parent)["counts"]
    assert counts.pop("wrong") == 1
    assert sum(counts.values()) == 2


def test_a_gamma_that_leaves_nothing_names_the_smallest_ratio(laptop, tmp_path):
    copy(laptop, tmp_path)
    line = refused(spot(tmp_path, "select", *SMALL, "data.gamma=0"))
    assert "data.gamma=0 leaves no pair" in line
    assert "smallest change ratio" in line


def test_over_long_pairs_are_dropped_and_counted(laptop, tmp_path):
    copy(laptop, tmp_path)
    done = spot(tmp_path, "select", *SMALL, "model.context_length=110", "data.gamma=1")
    assert done.returncode == 0, done.stderr
    assert "over long" in done.stderr


def test_a_damaged_product_is_named(laptop, tmp_path):
    copy(laptop, tmp_path)
    (rows,) = (tmp_path / "outputs" / "products" / "elicit").glob("*/rows.jsonl")
    rows.write_bytes(rows.read_bytes()[:-30] + b"\n")
    line = refused(spot(tmp_path, "select", *SMALL, "oracle.seed=1"))
    assert "does not match its manifest" in line
    assert str(rows.parent.name) in line


def test_a_full_disk_is_one_line_and_the_run_goes_on_afterwards(laptop, tmp_path, needs):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and not subprocess.call(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], stderr=subprocess.DEVNULL
    )
    needs(mounted, "the right to mount a small tmpfs")
    try:
        assert "disk is full" in refused(spot(tmp_path, "elicit", *SMALL, f"output={disk}"))
        subprocess.check_call(["mount", "-o", "remount,size=16m", str(disk)])
        run(tmp_path, "elicit", f"output={disk}")
        (rows,) = disk.glob("products/elicit/*/rows.jsonl")
        (expected,) = laptop.glob("outputs/products/elicit/*/rows.jsonl")
        assert rows.read_bytes() == expected.read_bytes()
    finally:
        subprocess.call(["umount", str(disk)])
