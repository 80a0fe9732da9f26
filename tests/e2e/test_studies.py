"""A study from the command line: what its jobs share is made once, and a run of two rounds goes on."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from spot.config import LOSSES
from spot.data import artifacts
from spot.data.rows import Attempt, Pair, Rectification
from spot.report.load import metrics
from tests.support.command_line import spot
from tests.support.laptop import SMALL, content, copy, last_run, run
from tests.support.processes import killed

TRAIN = Path(__file__).parents[2] / "train.py"
LITTLE = [
    *("probe.ability_every=0", "save.optimizer=false", "logger=none"),
    *(f"benchmarks.tasks.{name}.questions=2" for name in ("sums", "word_problems", "instructions")),
]
ARMS = ("sft", "rft", "sft_plus", "spot_bco")


def read(file: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """A run.json, and the folders of its products by name."""
    record = json.loads(file.read_text())
    paths = record["products"].items()
    return record, {name: (file.parent / path).resolve() for name, path in paths}


def made(folder: Path, stage: str) -> int:
    """Finished products of a stage."""
    return len(list((folder / "outputs" / "products" / stage).glob("*/manifest.json")))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_jobs_of_table_1_share_all_that_is_dear(tmp_path: Path) -> None:
    printed = run(tmp_path, "-m", "+paper=table1", "seed=0")
    files = tmp_path.glob("outputs/sweeps/*/*/run.json")
    found = {record["arm"]: (record, folders) for record, folders in map(read, files)}
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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_loss_is_an_option_that_trains(laptop: Path, tmp_path: Path) -> None:
    """All in one process: `loss=glob(*)` means every file of conf/loss."""
    folder = copy(laptop, tmp_path)
    done = spot(folder, "-m", "loss=glob(*)", "hydra/launcher=basic", *SMALL, *LITTLE)
    assert done.returncode == 0, done.stderr[-3000:]
    files = list(folder.glob("outputs/sweeps/*/*/run.json"))
    steps = {}
    for record, folders in map(read, files):
        assert record["status"] == "complete"
        with (folders["checkpoint"] / "metrics.csv").open() as table:
            losses = [float(row["loss"]) for row in csv.DictReader(table) if row["loss"]]
        assert all(map(math.isfinite, losses))
        steps[record["config"]["loss"]["name"]] = len(losses)
    assert steps == dict.fromkeys(LOSSES, 3)
    assert made(folder, "rectify") == made(laptop, "rectify"), "every loss has the same pairs"


@pytest.fixture(scope="module")
def two_rounds(laptop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one uninterrupted run of two rounds, of which the first is there already."""
    folder = copy(laptop, tmp_path_factory.mktemp("rounds"))
    run(folder, "run", "rounds=2")
    return folder


def test_the_second_round_starts_where_the_first_one_ended(two_rounds: Path) -> None:
    record, folders = read(last_run(two_rounds)[0] / "run.json")
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

    before, after = (metrics(folders[n]) for n in ("round1/checkpoint", "checkpoint"))
    for name in ("kl", "rewards/chosen", "rewards/rejected"):
        ended, start = before[-1][f"held_out/{name}"], after[0][f"held_out_to_base/{name}"]
        assert start == pytest.approx(ended, abs=1e-5), "the distance to the base goes on"
        assert after[0][f"held_out/{name}"] == pytest.approx(0, abs=1e-5), (
            "that to the start does not"
        )
    assert after[-1]["held_out_to_base/kl"] > 1e-4


def test_one_round_is_the_first_of_two(laptop: Path, two_rounds: Path) -> None:
    new = {name.split("/")[0] for name in set(content(two_rounds)) - set(content(laptop))}
    assert new == {"respond", "elicit", "rectify", "select", "train", "evaluate"}
    first = [s for s in last_run(two_rounds)[1]["stages"] if s["round"] == 1]
    assert all(stage["reused"] for stage in first)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_in_its_second_round_it_ends_the_same(
    laptop: Path, two_rounds: Path, tmp_path: Path
) -> None:
    copy(laptop, tmp_path)
    products = tmp_path / "outputs" / "products"

    asked = len(list((products / "respond").glob("*")))

    def asking_again() -> bool:
        return len(list((products / "respond").glob("*"))) == asked + 1

    def training_again() -> bool:
        return any(
            not (checkpoint.parents[1] / "manifest.json").exists()
            for checkpoint in products.glob("train/*/resume/*")
        )

    command = [sys.executable, str(TRAIN), *SMALL, "rounds=2"]
    for moment in (asking_again, training_again):
        assert killed(command, tmp_path, moment), f"it ended before it was killed when {moment}"
    run(tmp_path, "run", "rounds=2")
    assert content(tmp_path) == content(two_rounds)
