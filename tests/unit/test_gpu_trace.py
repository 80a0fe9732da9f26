"""performance/gpu_trace.py: what is counted is what a pass computes, and time follows from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from performance import common, gpu_trace, operations
from spot.config import HardwareConfig
from spot.training.bin_packing import Lengths
from spot.training.shapes import Shape

TOY = {
    "layers": 4, "hidden": 64, "intermediate": 192, "vocabulary": 512, "heads": 4, "kv_heads": 2,
    "head_dim": 16, "tied": False,
}  # fmt: skip
PAIRS = common.make_pairs(3, mean=40, cv=1e-4, shared=0.5, prompt=10, vocabulary=512)
LENGTHS = [pair.lengths for pair in PAIRS]


def _shape(kind: str) -> Shape:
    return common.config_shape(common.build_model(kind, **TOY, dtype=torch.bfloat16).config)  # type: ignore[arg-type]


def _work(**changes: Any) -> gpu_trace.Work:
    hardware = HardwareConfig(
        accelerator="gpu", devices=2, strategy="deepspeed", precision="bf16", tokens_per_pack=4096,
        checkpoint_layers="auto", memory_gib=79.0, attention="varlen",
    )  # fmt: skip
    lengths = [Lengths(10, 100, 100, 50)] * 8
    given: dict[str, Any] = {
        "shape": _shape("qwen3"), "lengths": lengths, "hardware": hardware, "rates": gpu_trace.Rates(),
        "batch": 4, "epochs": 1, "micro": 1, "probe_pairs": 2,
    }  # fmt: skip
    return gpu_trace.Work(**(given | changes))


NOTHING = operations.Moved(0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("again", [0, 1, 4])
def test_the_products_that_are_counted_are_those_that_are_predicted(kind: str, again: int) -> None:
    counted = operations.trace({"kind": kind, **TOY}, PAIRS, again, "packed").matmul
    predicted = _work(shape=_shape(kind)).packed(LENGTHS, NOTHING, again)
    assert counted == pytest.approx(predicted.matmul, rel=1e-9)


def test_the_products_of_a_padded_batch_are_those_that_are_predicted() -> None:
    counted = operations.trace({"kind": "qwen3", **TOY}, PAIRS, 4, "padded").matmul
    assert counted == pytest.approx(_work().padded(LENGTHS, NOTHING).matmul, rel=1e-9)


def test_fused_kernels_compute_the_same_and_move_less() -> None:
    plain, fused = (
        operations.trace({"kind": "qwen3", **TOY}, PAIRS, 2, way) for way in ("packed", "fused")
    )
    assert fused.matmul == plain.matmul
    assert fused.moved < plain.moved / 1.5
    assert fused.operations < plain.operations


def test_equal_pairs_leave_nobody_waiting_and_unequal_ones_do() -> None:
    even, uneven = [Lengths(10, 100, 100, 50)] * 8, [Lengths(10, 100, 100, 50)] * 7
    uneven.append(Lengths(10, 1000, 1000, 50))
    for padded in (False, True):
        way = gpu_trace.Way("", NOTHING, padded=padded)
        slowest, average = gpu_trace.steps(_work(lengths=even), way)
        assert slowest == pytest.approx(average)
        slowest, average = gpu_trace.steps(_work(lengths=uneven), way)
        assert slowest > 1.2 * average


def test_a_stage_adds_up_what_its_options_cost() -> None:
    work = _work(rates=gpu_trace.Rates(start=7.0))
    way = gpu_trace.Way("", NOTHING, probe_every=1, save_every=1)
    found = gpu_trace.stage(work, way)
    weights = work.shape.parameters
    assert found["start, weights read"] == pytest.approx(7.0 + 2 * weights / 2e9)
    assert found["resumable checkpoints"] == pytest.approx(2 * 14 * weights / 2e9)  # of 2 steps
    rare = gpu_trace.stage(work, gpu_trace.Way("", NOTHING, probe_every=2, save_every=None))
    assert rare["probes"] == pytest.approx(found["probes"] / 2)
    assert rare["resumable checkpoints"] == 0


def test_what_collectives_take_is_counted_where_passes_do_not_hide_it() -> None:
    """A step of ZeRO-2 sends gradients beside its passes and weights behind them; ZeRO-3 all three beside."""
    work = _work(rates=gpu_trace.Rates(link=1e6))
    sent = 2 * 2 * work.shape.parameters / 1e6  # of both steps, once
    for zero, beside, behind in ((2, sent, sent), (3, 3 * sent, 0.0)):
        found = gpu_trace.stage(work, gpu_trace.Way("", NOTHING, zero=zero))
        passes = found["passes, if all ranks were equal"]
        hidden = beside - found["collectives that passes do not hide"]
        assert hidden == pytest.approx(passes)
        assert found["update and its all-gather"] == pytest.approx(behind, abs=1e-3)


def test_pairs_beyond_the_context_are_left_out_and_the_mean_is_what_was_asked() -> None:
    drawn = gpu_trace.draw(4000, 1800, 0.7, 0.5, 150, 10**6)
    assert sum(p.chosen for p in drawn) / len(drawn) == pytest.approx(1800, rel=0.03)
    assert all(p.prefix == min(round(p.chosen / 2), p.chosen - 2) for p in drawn)
    cut = gpu_trace.draw(4000, 1800, 0.7, 0.5, 150, 4096)
    assert cut == [p for p in drawn if p.prompt + p.chosen <= 4096]


@pytest.mark.slow
def test_the_command_prints_every_part_of_every_way(capsys: pytest.CaptureFixture[str]) -> None:
    rows = gpu_trace.main(["--layers", "2", "--pairs", "256", "--ranks", "2"])
    said = capsys.readouterr().out
    *parts, total, faster = rows
    for way in list(total)[1:]:
        assert total[way] == pytest.approx(sum(row[way] for row in parts))
        assert 0 < faster[way] < total[way]
    assert total["padded"] > total["packed"] > total["+ fused"]
    assert total["+ fused"] > total["the defaults"]
    assert "computed again: 0 of 2 layers in a full pack" in said
    assert "| sum |" in said
