"""performance/gpu_step.py, gpu_day.py and scaling.py: small runs, and what must hold in any."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from performance import common, gpu_day, gpu_step, scaling
from spot.training.forward import PLAIN
from spot.training.kernel_checks import ATTENTION_BOUNDS

ROOT = Path(gpu_step.__file__).parents[1]
UNNEEDED = (
    "pytorch_lightning", "lightning", "hydra", "omegaconf", "rapidfuzz", "trl", "deepspeed",
    "liger_kernel", "datasets",
)  # fmt: skip
SIZES = {name: small for name, (_, small) in scaling.SIZES.items()}


# ---- gpu_step ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """`gpu_step --small` in a process that cannot import what a rented GPU machine may lack."""
    code = (
        f"import sys\nfor name in {UNNEEDED}:\n    sys.modules[name] = None\n"
        "from performance import gpu_step\ngpu_step.main(['--small'])"
    )
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=paths
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_the_report_says_everything(report: dict[str, Any]) -> None:
    assert {"conditions", "options", "attention", "peak TFLOP/s", "rows"} <= set(report)
    assert report["conditions"]["torch"] == torch.__version__
    assert report["used"] == "sdpa"
    assert report["attention"]["sdpa"] < ATTENTION_BOUNDS[torch.float32]
    assert "does not run here" in report["attention"]["varlen"]
    assert len(report["rows"]) == 4
    for row in report["rows"]:
        assert all(row[key] > 0 for key in row if key not in ("arm", "checkpointed layers"))


@pytest.mark.slow
def test_packs_compute_less_than_padded_batches(report: dict[str, Any]) -> None:
    padded, apart, shared, selective = report["rows"]
    assert padded["positions"] > apart["positions"] > shared["positions"]
    assert selective["positions"] == shared["positions"]
    assert padded["padding ratio"] == pytest.approx(padded["positions"] / apart["positions"])
    assert padded["padding ratio"] > 1 == apart["padding ratio"]
    assert [row["checkpointed layers"] for row in report["rows"]] == [2, 2, 2, 0]
    rates = [row["real tokens/s"] * row["seconds"] for row in report["rows"]]
    assert rates == pytest.approx([apart["positions"]] * 4)  # the same real tokens for all
    flops = [row["hardware FLOPs %"] * row["seconds"] for row in report["rows"]]
    assert flops == sorted(flops, reverse=True)
    assert len(set(flops)) == 4


def small(**changes: Any) -> tuple[Any, list[Any], Namespace]:
    """A toy model, pairs and options."""
    options = gpu_step.parse(["--small", "--pairs", "3"])
    shape = {name: getattr(options, name) for name in gpu_step.SHAPE}
    model = common.build_model(**shape, tied=False)
    pairs = common.make_pairs(3, mean=30, prompt=8, vocabulary=options.vocabulary, **changes)
    gpu_step.prepare(model, 0)
    return model, pairs, options


def test_arms_agree(capsys: pytest.CaptureFixture[str]) -> None:
    model, pairs, options = small()
    arms = gpu_step.make_arms(model, pairs, PLAIN, options)
    assert gpu_step.check_arms(model, arms, None) == arms
    assert capsys.readouterr().out.count("apart from padded by") == 3


def test_another_computation_ends_the_script() -> None:
    """If the positions of y⁻ did not go on where the shared prefix ends, nothing would be timed."""
    model, pairs, options = small()
    padded, _, shared, _ = gpu_step.make_arms(model, pairs, PLAIN, options)
    packs = [replace(p, position_ids=torch.arange(p.tokens)[None]) for p in shared.batches]
    with pytest.raises(SystemExit, match="prefixes shared is apart from padded"):
        gpu_step.check_arms(model, [padded, replace(shared, batches=packs)], None)


def test_an_arm_without_room_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs, options = small()
    arms = gpu_step.make_arms(model, pairs, PLAIN, options)
    real = gpu_step.first_step

    def first_step(model: Any, arm: Any, *reference: Any) -> Any:
        if arm is arms[-1]:
            raise torch.OutOfMemoryError
        return real(model, arm, *reference)

    monkeypatch.setattr(gpu_step, "first_step", first_step)
    assert gpu_step.check_arms(model, arms, None) == arms[:-1]


def test_a_padded_batch_by_hand() -> None:
    pairs = common.make_pairs(2, mean=6, cv=0.3, prompt=3, vocabulary=50)
    batch = gpu_step.pad(pairs, [1], "cpu")
    sides = [pairs[1].chosen, pairs[1].rejected]
    for ids, mask, response, side in zip(
        batch.input_ids, batch.mask, batch.response, sides, strict=True
    ):
        assert ids[mask].tolist() == [*pairs[1].prompt, *side]
        assert ids[response].tolist() == side.tolist()
    assert batch.pairs.tolist() == [1]


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for script in (gpu_step, gpu_day):
        with pytest.raises(SystemExit, match="no CUDA device"):
            script.main([])
    assert not (common.RESULTS / "gpu_day.json").exists()


# ---- gpu_day -------------------------------------------------------------------------------------


def test_a_part_that_fails_or_lasts_too_long_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(gpu_day.BUDGETS, "exactness", 0.01)
    monkeypatch.setattr(gpu_day, "PATIENCE", 1)
    out = tmp_path / "day.json"
    report = gpu_day.main(["--small", "--only", "exactness", "prediction", "--out", str(out)])
    assert json.loads(out.read_text()) == report
    assert report["parts"]["exactness"]["error"] == "stopped after 0.01 s"
    assert report["parts"]["prediction"]["error"] == "KeyError: 'step'"  # no arm was timed
    said = capsys.readouterr().out
    assert said.count("FAILED: ") == 2


@pytest.mark.slow
def test_a_gpu_day_in_small(tmp_path: Path) -> None:
    """On the CPU it measures a CPU, and says so; predictions stand beside every arm that was timed."""
    out = tmp_path / "day.json"
    command = [sys.executable, "-m", gpu_day.MODULE, "--small", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    report = json.loads(out.read_text())
    assert report["device"] == "cpu"
    assert report["conditions"]["machine"].endswith("no GPU")
    assert list(report["parts"]) == list(gpu_day.PARTS)
    found = {name: part["result"] for name, part in report["parts"].items()}
    shared = found["exactness"][0]
    assert shared["gradients, packed to fp64"] < 1.2 * shared["gradients, separate to fp64"]
    assert [row["arm"] for row in found["prediction"]] == [a["arm"] for a in found["step"]["rows"]]
    assert all(value > 0 for row in found["prediction"] for value in list(row.values())[1:])
    assert found["run"]["every step once"]
    assert 0 < found["run"]["resumed_at"] < found["run"]["steps"]
    assert {row["arm"] for row in found["run"]["scores"]} == {"base", "spot_bco"}


# ---- scaling -------------------------------------------------------------------------------------


def test_a_straight_line_is_fitted_exactly() -> None:
    x = [1.0, 2.0, 5.0, 9.0]
    assert scaling.linear_fit(x, [3 * v + 2 for v in x]) == pytest.approx((3, 2, 1))
    assert scaling.linear_fit(x, [1.0, -1.0, 1.0, -1.0])[2] < 0.5


@pytest.mark.slow
def test_step_times_are_measured() -> None:
    rows = scaling.scale_tokens(SIZES)
    assert [row["tokens"] > 0 and row["seconds"] > 0 for row in rows] == [True] * 3
    assert rows[0]["tokens"] < rows[1]["tokens"] < rows[2]["tokens"]
    words = [row["vocabulary"] for row in scaling.scale_vocabulary(SIZES)]
    assert words == list(SIZES["vocabularies"])


def test_planning_covers_every_pair() -> None:
    rows = scaling.scale_packing(SIZES)
    assert [row["steps"] for row in rows] == [2, 4]
    assert all(row["seconds to plan"] > 0 for row in rows)


def test_no_step_is_shorter_than_the_least_possible() -> None:
    for row in scaling.scale_ranks(SIZES):
        assert row["% over the mean"] >= row["% over the least possible"] >= -1e-9
        assert row["at most"] >= row["at most "] >= row["% over the least possible"]


def test_predicted_factors_multiply_and_help() -> None:
    rows = scaling.scale_prediction(SIZES)
    for row in rows:
        assert min(row["no padding"], row["balance"], row["sharing"]) >= 1
        parts = row["no padding"] * row["balance"] * row["sharing"]
        assert row["PREDICTED factor"] == pytest.approx(parts)
        assert row["PREDICTED with half"] == pytest.approx(parts * 4.5 / 4)
    assert rows[1]["sharing"] > rows[0]["sharing"]  # f = 0.5 and 0


def test_equal_lengths_gain_nothing_but_sharing() -> None:
    """No padding and no stragglers: what is left are prompt logits, and the prefixes."""
    pairs = [scaling.Lengths(1, 1000, 1000, 0)] * scaling.BATCH
    found = scaling.predict([pairs])
    assert found["no padding"] == pytest.approx(1, abs=1e-3)
    assert found["balance"] == pytest.approx(1)


def test_lengths_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"prompt": 100, "chosen": 500, "rejected": 400, "prefix": 200}
    large = row | {"chosen": 20_000}
    file = tmp_path / "lengths.jsonl"
    file.write_text("\n".join(json.dumps(r) for r in [row] * 40 + [large]))
    assert [len(step) for step in scaling.read_lengths(file)] == [scaling.BATCH]
    assert "40 of 41 pairs fit" in capsys.readouterr().out
    scaling.main(["--lengths", str(file)])
    assert "PREDICTED factor" in capsys.readouterr().out
    file.write_text(json.dumps(row))
    with pytest.raises(SystemExit, match="fewer than 32 pairs"):
        scaling.read_lengths(file)
