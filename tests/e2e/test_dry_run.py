"""`--dry-run` tells what would be made and what is there, and leaves every file as it is."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spot.config.compose import compose, expand
from spot.pipeline import way
from spot.pipeline.preview import MAKE, REUSE, existing_pairs, preview
from tests.support.command_line import spot
from tests.support.laptop import SMALL, copy, products

STUDENT = [
    f"model.pretrain.{key}" for key in ("steps=1", "layers=1", "width=16", "heads=2", "batch=2")
]

ROOT = Path(__file__).resolve().parents[2]


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file below a folder, with its time and content."""
    return {
        str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file()
    } | {str(path): (0, "") for path in folder.rglob("*") if path.is_dir()}


@pytest.fixture(scope="module")
def selected(laptop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything up to the pairs of the small run is there."""
    folder = copy(laptop, tmp_path_factory.mktemp("dry"), without=("train", "evaluate"))
    for product in (folder / "outputs" / "products" / "respond").iterdir():
        if "benchmarks" in json.loads((product / "manifest.json").read_text())["settings"]:
            shutil.rmtree(product)
    return folder


def test_an_empty_folder_stays_empty(tmp_path: Path) -> None:
    exports = ["probe.ability=exports", "save.exports=2"]
    done = spot(tmp_path, "run", "--dry-run", "--dry-run", *SMALL, *exports)
    assert done.returncode == 0, done.stderr
    assert "general benchmarks on the weights kept every 2 steps" in done.stdout
    assert "  respond  responses                make   respond/" in done.stdout
    assert "(80 responses)" in done.stdout
    assert "unknown until respond" in done.stdout
    assert "unknown until elicit" in done.stdout
    assert "unknown until select" in done.stdout
    assert "0 of 11 products are there" in done.stdout
    assert not list(tmp_path.iterdir())


def test_train_py_has_it_too(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "loss=dpo", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("dry run of spot run")
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_reused_and_nothing_is_touched(selected: Path) -> None:
    before = tree(selected)
    done = spot(selected, "run", "--dry-run", *SMALL)
    assert done.returncode == 0, done.stderr
    assert tree(selected) == before
    assert sum(" reuse " in line for line in done.stdout.splitlines()) == 6
    assert "6 of 11 products are there" in done.stdout
    assert "24 pairs, 3 steps" in done.stdout
    assert "unknown until train" in done.stdout
    products = {path.name for path in (selected / "outputs" / "products").glob("*/*")}
    named = {word.partition("/")[2] for word in done.stdout.split() if "/" in word}
    assert products <= named, "every product on disk is named"


def test_a_plan_finds_the_pairs(selected: Path) -> None:
    known = existing_pairs(compose([*SMALL, f"output={selected}/outputs"]))
    assert known is not None
    pairs, wrong = known
    assert (len(pairs), wrong >= 24) == (24, True)
    assert existing_pairs(compose([*SMALL, "data.pairs=23", f"output={selected}/outputs"])) is None


def test_a_stage_names_its_product_last_and_pairs_shows_it(selected: Path) -> None:
    done = spot(selected, "select", *SMALL)
    assert done.returncode == 0, done.stderr
    name, _, folder = done.stdout.splitlines()[-1].partition(": ")
    assert (name, (selected / folder / "rows.jsonl").exists()) == ("pairs", True)
    shown = spot(selected, "pairs", folder, "out=page.html")
    assert shown.stdout == "pairs: page.html (24 shown)\n", shown.stderr


def test_it_names_what_the_run_then_makes(laptop: Path, selected: Path) -> None:
    expected = {
        seen.name: seen for seen in preview(compose([*SMALL, f"output={selected}/outputs"]))
    }
    assert [seen.action for seen in expected.values()].count(REUSE) == 6
    made = {name: folder.name for name, folder in products(laptop).items()}
    assert list(made) == list(expected)
    known = {name: seen.key for name, seen in expected.items() if seen.until is None}
    assert {name: made[name] for name in known} == known
    finished = preview(compose([*SMALL, f"output={laptop}/outputs"]))
    assert {seen.action for seen in finished} == {REUSE}


def test_a_paid_oracle_is_priced_and_not_asked(
    selected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    before = tree(selected)
    done = spot(selected, "rectify", "--dry-run", "oracle=gemini", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "attempts to correct, about" in done.stdout
    assert "USD" in done.stdout
    assert "not ready here: The Oracle needs a key" in done.stdout
    assert tree(selected) == before


def test_a_sweep_counts_what_its_jobs_share(tmp_path: Path) -> None:
    done = spot(tmp_path, "run", "--dry-run", "-m", "arm=dpo,sft", "seed=0,1", *SMALL)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "respond responses 1, for 4 jobs 1 to make" in lines
    assert "elicit attempts 1, for 4 jobs 1 to make" in lines
    assert "rectify rectifications 2, for 4 jobs 2 to make" in lines
    assert "evaluate base scores 1, for 4 jobs 1 to make" in lines
    assert "train checkpoint 4 4 to make" in lines
    assert any(line.startswith("4 jobs in outputs/sweeps/") for line in lines)
    assert not list(tmp_path.iterdir())


def test_matched_pairs_wait_for_the_poorest_arm(tmp_path: Path) -> None:
    config = compose(["data.matched=[rectified,direct]", f"output={tmp_path}", *SMALL])
    seen = {one.name: one for one in preview(config)}
    assert seen["rectified_pairs"].action == seen["direct_pairs"].action == MAKE
    assert seen["pairs"].until == "select"
    assert seen["checkpoint"].until == "select"
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_here_are_not_fetched(tmp_path: Path) -> None:
    config = compose(["model=qwen3_8b", f"output={tmp_path}"])
    seen = {one.name: one for one in preview(config)}
    assert {one.action for one in seen.values()} == {MAKE}
    assert seen["responses"].until == "Qwen/Qwen3-8B is downloaded"
    assert seen["base_benchmark_responses"].until == "Qwen/Qwen3-8B is downloaded"
    assert (seen["attempts"].until, seen["scores"].until) == ("respond", "respond")
    assert (seen["checkpoint"].until, seen["benchmark_responses"].until) == ("select", "train")
    names = "responses attempts held_out_rectifications rectifications held_out pairs"
    scores = "base_benchmark_responses base_scores checkpoint benchmark_responses scores"
    assert list(seen) == [*names.split(), *scores.split()]


def test_a_study_at_paper_scale_is_counted(tmp_path: Path) -> None:
    scale = "model=qwen3_8b data=dapo data.pairs=4000 oracle=gemini generator=vllm hardware=8xh800"
    study = expand(["+paper=table1", f"output={tmp_path}", *scale.split()], sweep=True)
    keys: dict[str, set[str]] = {}
    for _, config in study.jobs:
        for one in preview(config):
            keys.setdefault(one.stage, set()).add(
                f"{one.name if one.stage == 'elicit' else one.key}"
            )
    assert len(study.jobs) == 20
    counts = {stage: len(found) for stage, found in keys.items()}
    # 4 arms × 5 seeds; corrections held out, rectified and direct; one base
    expected = {"elicit": 1, "rectify": 3, "train": 20, "evaluate": 21}
    assert counts | expected == counts


def test_rounds_and_their_students_are_told_apart(tmp_path: Path) -> None:
    config = compose(["model=qwen3_8b", "rounds=2", f"output={tmp_path}"])
    seen = {one.name: one for one in preview(config)}
    assert seen["round1/responses"].until == "Qwen/Qwen3-8B is downloaded"
    assert seen["responses"].until == "train"
    assert seen["attempts"].key != seen["round1/attempts"].key
    assert seen["checkpoint"].key != seen["round1/checkpoint"].key


def test_a_student_is_the_product_that_pretraining_makes(tmp_path: Path) -> None:
    config = compose([*STUDENT, f"output={tmp_path}"], "pretrain")
    (before,) = preview(config, "pretrain")
    assert (before.action, list(tmp_path.iterdir())) == (MAKE, [])
    made = way.pretrain(config, tmp_path / "run")
    (after,) = preview(config, "pretrain")
    assert (after.action, after.key) == (REUSE, made.parent.name)


def test_what_a_student_has_answered_is_seen(tmp_path: Path) -> None:
    config = compose(["world=1", *STUDENT, "data.questions=2", f"output={tmp_path}"], "elicit")
    way.run(config, tmp_path / "run", until="elicit")
    assert {one.name: one.action for one in preview(config, "elicit")} == {
        "model": REUSE,
        "responses": REUSE,
        "attempts": REUSE,
    }
