"""The whole loop through its command line: once, again, killed in every stage, and resumed."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spot.data import artifacts
from spot.data.rows import Attempt, Pair, Rectification, Score
from tests.e2e.killing import killed

ROOT = Path(__file__).parents[2]
SMALL = [
    "data.questions=160",
    "data.pairs=40",
    "data.held_out=12",
    "benchmarks=quick",
    "loss.epochs=1",
    "loss.batch_pairs=8",
    "probe.pairs=4",
    "probe.questions=4",
    "probe.ability_every=2",
    "generator.batch=64",
    "generator.max_new_tokens=128",
    "save.every=1",
]
ROWS = {"elicit": Attempt, "rectify": Rectification, "select": Pair, "evaluate": Score}


def command(*overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *SMALL, *overrides]


def spot(folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    done = subprocess.run(command(*overrides), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def products(folder: Path) -> dict[str, bytes]:
    """Rows and weights of every product, by path below the store."""
    base = folder / "outputs" / "products"
    files = [*base.glob("*/*/rows.jsonl"), *base.glob("train/*/model/*.safetensors")]
    assert {p.relative_to(base).parts[0] for p in files} == {*ROWS, "train"}
    return {str(p.relative_to(base)): p.read_bytes() for p in files}


def last_run(folder: Path) -> tuple[Path, dict]:
    file = max((folder / "outputs" / "runs").glob("*/*/run.json"), key=os.path.getmtime)
    return file.parent, json.loads(file.read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with one uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    spot(folder)
    return folder


def test_every_question_is_accounted_for(finished):
    run, record = last_run(finished)
    folder = {name: (run / path).resolve() for name, path in record["products"].items()}
    attempts = artifacts.read_rows(folder["attempts"], Attempt)
    assert len(attempts) == len({row.question_id for row in attempts}) == 160
    wrong = {row.id for row in attempts if row.verdict == "wrong"}
    held_out = artifacts.read_rows(folder["held_out_rectifications"], Rectification)
    train = artifacts.read_rows(folder["rectifications"], Rectification)
    assert {row.id for row in held_out} | {row.id for row in train} == wrong
    assert len(held_out) == 12
    assert not {row.question_id for row in held_out} & {row.question_id for row in train}
    pairs = artifacts.read_manifest(folder["pairs"])["counts"]
    assert sum(pairs.values()) == len(train)
    assert pairs["rectified"] <= 40


def test_the_report_and_the_checkpoint_are_there(finished):
    run, record = last_run(finished)
    for name in ("report.html", "report.md", "scores.csv"):
        assert (run / name).stat().st_size > 0
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = (run / record["products"]["checkpoint"] / "model").resolve()
    assert AutoModelForCausalLM.from_pretrained(model).config.model_type == "qwen3"
    assert AutoTokenizer.from_pretrained(model).chat_template


def test_a_second_run_reuses_everything(finished):
    before = products(finished)
    again = spot(finished)
    assert again.stderr.count("reused") == len(last_run(finished)[1]["stages"])
    assert products(finished) == before


def test_a_change_of_gamma_selects_and_trains_again_and_nothing_before(finished):
    spot(finished, "data.gamma=1.0")
    made = {s["product"] for s in last_run(finished)[1]["stages"] if not s["reused"]}
    assert made == {"pairs", "checkpoint", "scores"}


def test_a_sweep_shares_what_its_jobs_have_in_common(finished):
    before = set(products(finished))
    sweep = spot(finished, "-m", "arm=spot_bco,sft_plus", "seed=0,1")
    made = {name.split("/")[0] for name in set(products(finished)) - before}
    assert made == {"train", "evaluate"}
    (folder,) = (finished / "outputs" / "sweeps").iterdir()
    with (folder / "scores.csv").open() as file:
        rows = [(row["arm"], row["seed"]) for row in csv.DictReader(file)]
    assert set(rows) == {("base", "")} | {(a, s) for a in ("spot_bco", "sft_plus") for s in "01"}
    assert "report.html" in sweep.stdout


def lines_of(folder: Path, stage: str, count: int) -> bool:
    partial = (folder / "outputs" / "products" / stage).glob("*/rows.partial.jsonl")
    return any(file.read_bytes().count(b"\n") >= count for file in partial)


def checkpointed(folder: Path) -> bool:
    return any((folder / "outputs" / "products" / "train").glob("*/resume/*"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_in_every_stage_it_ends_the_same(finished, tmp_path):
    moments = {
        "elicit": lambda: lines_of(tmp_path, "elicit", 64),
        "rectify": lambda: lines_of(tmp_path, "rectify", 1),
        "train": lambda: checkpointed(tmp_path),
        "evaluate": lambda: lines_of(tmp_path, "evaluate", 1),
    }
    for stage, moment in moments.items():
        assert killed(command(), tmp_path, moment), f"the run ended before it was killed in {stage}"
    spot(tmp_path)
    expected = products(finished)
    for name, data in products(tmp_path).items():
        assert data == expected[name], f"{name} differs from the uninterrupted run's"
