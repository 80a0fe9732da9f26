"""The worked examples of docs/extending, put into a copy of the package as their pages say, and run."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spot.data.answers import last_boxed
from spot.data.edits import edited_spans

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs/examples"
SMALL = ["data.questions=120", "data.held_out=8", "loss.epochs=1", "probe.ability_every=0"]

pytestmark = [pytest.mark.docs, pytest.mark.slow]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with all examples in it."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("src", "conf", "experiments"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for patch in sorted(EXAMPLES.glob("*/*.patch")):
        environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(clone.parent)}
        command = ["git", "apply", "--verbose", str(patch)]
        done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{patch} does not apply any more:\n{done.stderr}"
    for group in ("loss", "oracle", "benchmark", "model"):
        for option in EXAMPLES.glob(f"{group}/*.yaml"):
            shutil.copy(option, clone / "conf" / group)
    shutil.copy(EXAMPLES / "oracle/final_answer.py", clone / "src/spot/oracle")
    (clone / "data").mkdir()
    shutil.copy(EXAMPLES / "benchmark/long_sums.jsonl", clone / "data")
    shutil.copytree(ROOT / "src/spot/training/assets/tiny", clone / "models/student")
    return clone


def spot(clone: Path, *arguments: str) -> str:
    """`spot …` of the copy; what it printed."""
    return python(clone, "-m", "spot.cli.main", *arguments)


def python(clone: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(clone / "src")}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def rows(clone: Path, stage: str) -> list[dict[str, object]]:
    """The rows of all products of a stage."""
    files = sorted(clone.glob(f"outputs/products/{stage}/*/rows.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_new_loss_has_its_own_test(clone: Path) -> None:
    test = EXAMPLES / "loss/test_hinge.py"
    assert "1 passed" in python(clone, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test))


def test_a_new_loss_trains(clone: Path) -> None:
    """It starts at 1, since all rewards start at 0, and its tether is whole while the margin is small."""
    spot(clone, "train", "loss=hinge", *SMALL)
    (metrics,) = clone.glob("outputs/products/train/*/metrics.csv")
    with metrics.open() as file:
        steps = [row for row in csv.DictReader(file) if row["loss"]]
    assert float(steps[0]["loss"]) == pytest.approx(1, abs=1e-3)
    assert float(steps[-1]["loss"]) < float(steps[0]["loss"])


def test_a_new_oracle_makes_pairs(clone: Path) -> None:
    """All its corrections are right, and differ from the attempt in the last box alone."""
    spot(clone, "select", "oracle=final_answer", *SMALL)
    corrected = [row for row in rows(clone, "rectify") if row["oracle"] == "final_answer"]
    assert corrected
    assert {row["outcome"] for row in corrected} == {"ok"}
    for row in corrected:
        chosen, rejected = str(row["chosen"]), str(row["rejected"])
        assert last_boxed(chosen) == row["answer"] != last_boxed(rejected)
        edits = [
            s for s in edited_spans([*map(ord, rejected)], [*map(ord, chosen)]) if s[0] != "equal"
        ]
        assert min(span[3] for span in edits) > chosen.rindex(r"\boxed{")


def test_a_new_benchmark_grades_saved_answers(clone: Path) -> None:
    """Of the twelve answers in the example every third is wrong by ten."""
    answers = EXAMPLES / "benchmark/answers.jsonl"
    spot(clone, "grade", "benchmark=long_sums", f"responses={answers}", "out=graded.jsonl")
    graded = [json.loads(line) for line in (clone / "graded.jsonl").read_text().splitlines()]
    assert [row["correct"] for row in graded] == [n % 3 != 0 for n in range(12)]


def test_a_new_model_answers_a_new_benchmark(clone: Path) -> None:
    printed = spot(clone, "evaluate", "model=student", "benchmark=long_sums", "benchmark.trials=2")
    assert "long_sums" in printed
    scored = rows(clone, "evaluate")
    assert len(scored) == 24
    assert {row["verdict"] for row in scored} <= {"correct", "wrong", "truncated", "unparseable"}
    assert any(row["extracted"] for row in scored)
