"""The whole loop through its command line: once, again, interrupted in every stage, and resumed."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoTokenizer

from spot.data import artifacts
from spot.data.rows import Attempt, Pair, Rectification
from spot.pipeline.distributed.training_job import selected
from spot.pipeline.policy import SHIPPED
from spot.report import archive
from spot.training.loop import tokenise
from spot.training.packing import PairTokens
from spot.utils.errors import UserError
from tests.support.command_line import spot
from tests.support.laptop import PLANTED, SMALL, content, copy, last_run, products, run
from tests.support.processes import ended

TRAIN = Path(__file__).parents[2] / "train.py"


def test_every_question_is_accounted_for(laptop: Path) -> None:
    folder = products(laptop)
    attempts = artifacts.read_rows(folder["attempts"], Attempt)
    assert len(attempts) == len({row.question_id for row in attempts}) == 80
    wrong = {row.id for row in attempts if row.verdict == "wrong"}
    held_out = artifacts.read_rows(folder["held_out_rectifications"], Rectification)
    train = artifacts.read_rows(folder["rectifications"], Rectification)
    assert {row.id for row in held_out} | {row.id for row in train} == wrong
    assert len(held_out) == 8
    assert not {row.question_id for row in held_out} & {row.question_id for row in train}
    pairs = artifacts.read_manifest(folder["pairs"])["counts"]
    assert sum(pairs.values()) == len(train)
    assert pairs["rectified"] == 24


def test_the_report_and_the_checkpoint_are_there(laptop: Path) -> None:
    folder, _ = last_run(laptop)
    for name in ("report.html", "report.md", "scores.csv"):
        assert (folder / name).stat().st_size > 0
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = products(laptop)["checkpoint"] / "model"
    assert AutoModelForCausalLM.from_pretrained(model).config.model_type == "qwen3"
    assert AutoTokenizer.from_pretrained(model).chat_template


def test_pairs_are_trained_on_in_the_token_ids_that_were_selected(
    laptop: Path, tmp_path: Path
) -> None:
    """Checked by their digest, of this policy only; a product of before, without them, is as good."""
    made = products(copy(laptop, tmp_path))
    for folder in (made["pairs"], made["held_out"]):
        manifest = artifacts.read_manifest(folder)
        rows, policy = artifacts.read_rows(folder, Pair), manifest["inputs"]["policy"]
        expected = tokenise(AutoTokenizer.from_pretrained(SHIPPED), rows, thinking=False)
        kept = selected(folder, policy)
        for pair, other in zip(kept, expected, strict=True):
            assert isinstance(pair, PairTokens)
            assert (pair.id, pair.lengths) == (other.id, other.lengths)
            for name in ("prompt", "chosen", "rejected"):
                assert getattr(pair, name).tolist() == getattr(other, name).tolist()
        assert selected(folder, "of another policy") == rows
        ids = folder / "tokens" / "ids.npy"
        ids.write_bytes(ids.read_bytes()[:-1] + b"\1")
        with pytest.raises(UserError, match=r"tokens/ids\.npy"):
            selected(folder, policy)
        shutil.rmtree(folder / "tokens")
        assert selected(folder, policy) == rows
        del manifest["files"]["tokens/ids.npy"], manifest["files"]["tokens/names.npy"]
        del manifest["files"]["tokens/lengths.npy"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        key = {name: manifest[name] for name in ("stage", "settings", "inputs")}
        old = artifacts.product(folder.parents[1], *key.values(), "rows.jsonl")
        old.check()
        assert old.digest == manifest["digest"], "what is trained on them keeps its name"


def test_a_second_run_reuses_everything(laptop: Path, tmp_path: Path) -> None:
    printed = run(copy(laptop, tmp_path), "run")
    folder, record = last_run(tmp_path)
    assert printed.count("reused") == len(record["stages"])
    assert content(tmp_path) == content(laptop)
    events = EventAccumulator(str(folder / "logs" / "tensorboard" / "spot_bco-0")).Reload()
    with (products(tmp_path)["checkpoint"] / "metrics.csv").open() as file:
        assert [e.step for e in events.Scalars("loss")] == [
            int(row["step"]) for row in csv.DictReader(file) if row["loss"]
        ]


def test_a_change_of_gamma_selects_and_trains_again_and_nothing_before(
    laptop: Path, tmp_path: Path
) -> None:
    run(copy(laptop, tmp_path), "run", "data.gamma=1.0")
    made = {s["product"] for s in last_run(tmp_path)[1]["stages"] if not s["reused"]}
    assert made == {"pairs", "checkpoint", "benchmark_responses", "scores"}


@pytest.mark.slow
def test_a_sweep_shares_what_its_jobs_have_in_common(laptop: Path, tmp_path: Path) -> None:
    printed = run(copy(laptop, tmp_path), "-m", "arm=spot_bco,sft_plus", "seed=1")
    made = {name.split("/")[0] for name in set(content(tmp_path)) - set(content(laptop))}
    assert made == {"train", "respond", "evaluate"}
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    with (folder / "scores.csv").open() as file:
        rows = {(row["arm"], row["seed"]) for row in csv.DictReader(file)}
    assert rows == {("base", ""), ("spot_bco", "1"), ("sft_plus", "1")}
    assert "report.html" in printed


@pytest.mark.parametrize(
    ("stage", "later"),
    [
        ("respond", ()),
        ("elicit", ("rectify", "select", "train", "evaluate")),
        ("rectify", ("select", "train", "evaluate")),
        ("evaluate", ()),
    ],
)
def test_interrupted_in_a_stage_it_ends_the_same(
    laptop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    later: tuple[str, ...],
) -> None:
    """Rows that were written stay, and the others come out as they would have."""
    copy(laptop, tmp_path, without=(stage, *later))
    track = artifacts.track

    def some(rows: Iterator[Any], title: str, *rest: Any) -> Iterator[Any]:
        for count, row in enumerate(track(rows, title, *rest)):
            if title == stage and count == 5:
                raise OSError(28, "No space left on device", "rows")
            yield row

    command = "elicit" if stage == "elicit" else "rectify" if stage == "rectify" else "run"
    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "track", some)
        with pytest.raises(AssertionError, match="the disk is full"):
            run(tmp_path, command)
    (partial,) = tmp_path.glob(f"outputs/products/{stage}/*/rows.partial.jsonl")
    assert partial.read_bytes().count(b"\n") == 5
    run(tmp_path, command)
    found, expected = content(tmp_path), content(laptop)
    assert {name for name in expected if name.startswith(stage)} <= set(found)
    assert all(expected[name] == data for name, data in found.items())


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (signal.SIGKILL, -9, ""),
        pytest.param(signal.SIGINT, 130, "spot: interrupted", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "spot: ended by SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_ended_while_it_trains_it_ends_the_same(
    laptop: Path, tmp_path: Path, number: signal.Signals, code: int, says: str
) -> None:
    copy(laptop, tmp_path, without=("train",))
    train = tmp_path / "outputs" / "products" / "train"
    command = [sys.executable, str(TRAIN), *SMALL]
    trains = lambda: any(train.glob("*/resume/step_*/state.ckpt"))  # noqa: E731
    found, errors = ended(command, tmp_path, trains, number)
    assert not list(train.glob("*/manifest.json")), "the run ended before it was killed"
    assert found == code, errors
    lines = errors.splitlines()
    assert [line for line in lines if line.startswith("spot: ")] == [
        f"{says}; the same command goes on from here."
    ] * bool(says)
    assert not says or lines[-1].startswith(says)
    assert last_run(tmp_path)[1].get("exit") == (code if says else None)
    assert "interrupted train" in spot(tmp_path, "runs").stdout
    assert "Training goes on after step" in run(tmp_path, "run")
    assert content(tmp_path) == content(laptop)


def test_no_key_is_in_anything_that_a_run_leaves(laptop: Path, tmp_path: Path) -> None:
    """Nor in an archive of it, the page of its pairs, or what is exported: six planted keys."""
    folder, _ = last_run(laptop)
    with tarfile.open(archive.pack(folder, tmp_path / "study.tar.gz")) as packed:
        packed.extractall(tmp_path / "study", filter="data")
    for more in (["pairs", f"out={tmp_path / 'pairs.html'}"], ["export", "format=inspect", f"out={tmp_path}"]):  # fmt: skip
        assert spot(tmp_path, more[0], str(folder), *more[1:]).returncode == 0
    files = [file for root in (laptop, tmp_path) for file in root.rglob("*") if file.is_file()]
    names = {file.name for file in files}
    assert {"run.json", "report.html", "README.md", "pairs.html"} <= names
    for file in files:
        content = file.read_bytes()
        assert not any(key.encode() in content for key in PLANTED.values()), file
