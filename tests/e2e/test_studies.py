"""A study from the command line: what its jobs share is made once, and a run of two rounds goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spot.data import artifacts
from spot.data.rows import Attempt, Pair, Rectification
from tests.e2e.killing import killed

TRAIN = Path(__file__).parents[2] / "train.py"
FEW = [
    "data.questions=120",
    "data.held_out=8",
    "benchmarks=quick",
    "loss.epochs=1",
    "loss.batch_pairs=8",
    "probe.pairs=4",
    "probe.ability_every=0",
    "generator.max_new_tokens=128",
    "save.every=1",
    "logger=none",
]
TWICE = [*FEW, "rounds=2", "data.pairs=24"]
ARMS = ("sft", "rft", "sft_plus", "spot_bco")


def command(*overrides: str) -> list[str]:
    return [sys.executable, str(TRAIN), *overrides]


def spot(folder: Path, *overrides: str) -> str:
    """Run to the end; what it printed."""
    done = subprocess.run(command(*overrides), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def records(folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, Path]]]:
    """Every finished run's run.json, and the folders of its products by name."""
    for file in sorted((folder / "outputs").glob("*/*/*/run.json")):
        record = json.loads(file.read_text())
        paths = record["products"].items()
        yield record, {name: (file.parent / path).resolve() for name, path in paths}


def made(folder: Path, stage: str) -> int:
    """Finished products of a stage."""
    return len(list((folder / "outputs" / "products" / stage).glob("*/manifest.json")))


def content(folder: Path) -> dict[str, bytes]:
    """Rows and weights of every product, by path below the store."""
    base = folder / "outputs" / "products"
    files = [*base.glob("*/*/rows.jsonl"), *base.glob("train/*/model/*.safetensors")]
    return {str(path.relative_to(base)): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_jobs_of_table_1_share_all_that_is_dear(tmp_path: Path) -> None:
    printed = spot(tmp_path, "-m", "+paper=table1", "seed=0", *FEW)
    found = {record["arm"]: (record, folders) for record, folders in records(tmp_path)}
    assert tuple(sorted(found)) == tuple(sorted(ARMS))

    assert made(tmp_path, "elicit") == 1
    assert made(tmp_path, "rectify") == 3, "held out, corrected, answered directly"
    assert made(tmp_path, "evaluate") == 1 + len(ARMS), "the base's scores, and every arm's"
    assert made(tmp_path, "train") == len(ARMS)
    shared = ("attempts", "held_out_rectifications", "held_out", "base_scores")
    for name in shared:
        assert len({folders[name] for _, folders in found.values()}) == 1
        reused = [
            stage["reused"]
            for record, _ in found.values()
            for stage in record["stages"]
            if stage["product"] == name
        ]
        assert sorted(reused) == [False, True, True, True], f"{name} is made by one job"

    sizes = {len(artifacts.read_rows(folders["pairs"], Pair)) for _, folders in found.values()}
    poorest = min(
        len(artifacts.read_rows(folders[f"{arm}_pairs"], Pair))
        for _, folders in found.values()
        for arm in ("rectified", "direct", "self")
    )
    assert sizes == {poorest}, "every arm trains on as many pairs as the poorest has"
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    for name in ("report.html", "report.md", "scores.csv"):
        assert (sweep / name).stat().st_size > 0
    assert "report.html" in printed


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one uninterrupted run of two rounds."""
    folder = tmp_path_factory.mktemp("rounds")
    spot(folder, *TWICE)
    return folder


def test_the_second_round_starts_where_the_first_one_ended(two_rounds: Path) -> None:
    ((record, folders),) = records(two_rounds)
    first = artifacts.read_manifest(folders["round1/checkpoint"])
    last = artifacts.read_manifest(folders["checkpoint"])
    asked = artifacts.read_manifest(folders["attempts"])
    assert last["inputs"]["policy"] == asked["inputs"]["policy"] == first["digest"]
    assert artifacts.read_manifest(folders["scores"])["inputs"]["policy"] == last["digest"]
    base = first["inputs"]["policy"]
    assert artifacts.read_manifest(folders["base_scores"])["inputs"]["policy"] == base

    old, new = (artifacts.read_rows(folders[n], Attempt) for n in ("round1/attempts", "attempts"))
    assert [row.question for row in old] == [row.question for row in new], "the same questions"
    assert not {row.seed for row in old} & {row.seed for row in new}, "other random numbers"
    for name in ("held_out", "held_out_rectifications", "base_scores"):
        assert folders[name] == folders[f"round1/{name}"]
    held_out = {row.question for row in artifacts.read_rows(folders["held_out"], Pair)}
    corrected = artifacts.read_rows(folders["rectifications"], Rectification)
    assert {row.id for row in corrected} == {
        row.id for row in new if row.verdict == "wrong" and row.question not in held_out
    }
    assert {stage["round"] for stage in record["stages"]} == {1, 2}


def test_one_round_is_the_first_of_two(two_rounds: Path) -> None:
    before = set(content(two_rounds))
    spot(two_rounds, *FEW, "data.pairs=24")
    assert {name.split("/")[0] for name in set(content(two_rounds)) - before} == {"evaluate"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_in_its_second_round_it_ends_the_same(two_rounds: Path, tmp_path: Path) -> None:
    products = tmp_path / "outputs" / "products"

    def asking_again() -> bool:
        return made(tmp_path, "train") == 1 and len(list((products / "elicit").glob("*"))) == 2

    def training_again() -> bool:
        return made(tmp_path, "train") == 1 and any(
            not (checkpoint.parents[1] / "manifest.json").exists()
            for checkpoint in products.glob("train/*/resume/*")
        )

    for moment in (asking_again, training_again):
        assert killed(command(*TWICE), tmp_path, moment), (
            f"the run ended before it was killed when {moment}"
        )
    spot(tmp_path, *TWICE)
    found, expected = content(tmp_path), content(two_rounds)
    assert len(found) >= 12
    for name, data in found.items():
        assert data == expected[name], f"{name} differs from the uninterrupted run's"
