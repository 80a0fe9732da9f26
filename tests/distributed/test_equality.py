"""Whatever trains - one process, two, two with several packs each, any ZeRO stage - trains the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from spot.config import HardwareConfig
from spot.training.loop import tokenise
from tests.distributed import cases
from tests.distributed.worlds import TWO, assert_same, case, columns, make_world, run_on_two
from tests.unit.conftest import build_pairs, build_tokenizer
from tests.unit.runs import distance, room_for, rows, weights

pytestmark = pytest.mark.distributed

METHODS = "sft", "psft", "rwsft", "dpo", "simpo", "bco"  # one for each way of computing
SMALL_PACKS = 100  # tokens: two or three packs a rank and step


@pytest.fixture(scope="module")
def world(tmp_path_factory: Any) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def runs(world: Path, prerequisites: None) -> Path:
    """Every loss on one rank, on two, and on two with small packs; one start of the two."""
    many = []
    for method in METHODS:
        cases.run(case(world, f"{method}-1", method))
        many.append(case(world, f"{method}-2", method, hardware=TWO))
        many.append(case(world, f"{method}-2x", method, hardware=TWO, budget=SMALL_PACKS))
    run_on_two(world, "losses", many)
    return world / "runs"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", ["2", "2x"])
def test_two_ranks_train_like_one(runs: Path, method: str, way: str) -> None:
    # measured: parts of simpo's rewards are 4e-7 apart, all others' 6e-8 at most
    floor = 0.1 if method == "simpo" else 1e-2
    assert_same(runs / f"{method}-{way}", runs / f"{method}-1", floor=floor)


def test_small_packs_were_several() -> None:
    from spot.training.packing import PackingSettings, step_packs

    pairs = tokenise(build_tokenizer(), build_pairs(24)[5:13], False)
    assert len(step_packs(pairs, PackingSettings(SMALL_PACKS), 1, 2)) >= 2


REFERENCES = ("cached", "copy", "engine")


@pytest.fixture(scope="module")
def stages(world: Path, runs: Path) -> Path:
    """BCO at every stage, with every kind of reference, with a last step of one pair, offloaded."""
    many = []
    for stage in (1, 2, 3):
        for reference in REFERENCES if stage > 1 else ("cached",):
            hardware = TWO | {"zero_stage": stage}
            for precision in ("fp32", "bf16"):
                many.append(
                    case(
                        world,
                        f"zero{stage}-{reference}-{precision}",
                        "bco",
                        "untied" if precision == "bf16" else "tied",
                        hardware=hardware | {"precision": precision},
                        reference=reference,
                    )
                )
    for stage in (1, 2, 3):
        hardware = TWO | {"zero_stage": stage}
        for precision in ("fp32", "bf16"):
            many.append(
                case(
                    world,
                    f"packs-{stage}-{precision}",
                    "bco",
                    "untied" if precision == "bf16" else "tied",
                    hardware=hardware | {"precision": precision},
                    budget=SMALL_PACKS,
                )
            )
        whole = hardware | {"checkpoint_layers": "all"}
        narrow = {"offload_optimizer": True, "precision": "bf16"}
        some = tokenise(build_tokenizer(), build_pairs(24), False)
        room = room_for(70, world / "tied", some, HardwareConfig(**hardware))  # type: ignore[arg-type]
        fewest = hardware | {"checkpoint_layers": "auto", "memory_gib": room}
        many += [
            case(world, f"fewest-{stage}", "bco", hardware=fewest, budget=SMALL_PACKS),
            case(world, f"checkpointed-{stage}", "bco", hardware=whole, budget=SMALL_PACKS),
            case(world, f"offload-{stage}-bf16", "bco", "untied", hardware=hardware | narrow),
            case(world, f"odd-{stage}", "sft", "untied", hardware=hardware, held_out=7, epochs=1),
            case(
                world,
                f"offload-{stage}",
                "bco",
                hardware=hardware | {"offload_optimizer": True, "offload_parameters": stage == 3},
                budget=SMALL_PACKS,
            ),
        ]
    for stage in (2, 3):
        hardware = TWO | {"zero_stage": stage}
        many.append(case(world, f"lora-{stage}", "bco", hardware=hardware, lora={"rank": 2}))
    cases.run(case(world, "lora-1", "bco", lora={"rank": 2}))
    parts, exports = TWO | {"zero_stage": 3}, {"optimizer": False, "exports": 1}
    many.append(case(world, "wide-3", "bco", "wide", hardware=parts, save=exports))
    cases.run(case(world, "wide-1", "bco", "wide", save=exports))
    cases.run(case(world, "odd-1", "sft", "untied", held_out=7, epochs=1))
    cases.run(case(world, "narrow-1", "bco", "untied", hardware={"precision": "bf16"}))
    run_on_two(world, "stages", many)
    return world / "runs"


@pytest.mark.parametrize(
    ("stage", "reference"), [(1, "cached"), *((s, r) for s in (2, 3) for r in REFERENCES)]
)
def test_stages_and_references_agree(stages: Path, stage: int, reference: str) -> None:
    assert_same(stages / f"zero{stage}-{reference}-fp32", stages / "bco-1")
    result = json.loads((stages / f"zero{stage}-{reference}-fp32" / "result.json").read_text())
    assert result["max_start_reward"] < 1e-5


def test_weights_in_parts_are_exported_after_every_step(stages: Path) -> None:
    """… without a state that would have gathered them before."""
    assert_same(stages / "wide-3", stages / "wide-1", 1e-4)
    steps = [path.name for path in sorted((stages / "wide-1" / "exports").iterdir())]
    assert len(steps) == len(rows(stages / "wide-1")) - 2  # rows 0 and of the last step
    for name in steps:
        got, wanted = (
            load_file(stages / way / "exports" / name / "model.safetensors")
            for way in ("wide-3", "wide-1")
        )
        assert distance(got, wanted) < 1e-4


@pytest.mark.parametrize("stage", [2, 3])
def test_adapters_train_the_same_where_ranks_share_them(stages: Path, stage: int) -> None:
    assert_same(stages / f"lora-{stage}", stages / "lora-1")
    got, wanted = (
        load_file(stages / name / "model" / "adapter" / "adapter_model.safetensors")
        for name in (f"lora-{stage}", "lora-1")
    )
    assert distance(got, wanted) < 1e-3


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_agrees_within_its_rounding(stages: Path, stage: int) -> None:
    """Numbers are near those of one process, and what keeps them there is what it should be."""
    ways = [f"zero{stage}-{reference}" for reference in (REFERENCES if stage > 1 else ("cached",))]
    for way in [*ways, f"packs-{stage}", f"offload-{stage}"]:
        got, wanted = stages / f"{way}-bf16", stages / "narrow-1"
        for name, bound in (("loss", 0.01), ("rewards/chosen", 0.05), ("held_out/kl", 0.05)):
            mine, theirs = columns(got)[name], columns(wanted)[name]
            scale = max(abs(v) for v in theirs if v is not None)
            off = max(
                abs(x - y)
                for x, y in zip(mine, theirs, strict=True)
                if x is not None and y is not None
            )
            assert off <= bound * scale, (got.name, name, off, scale)
        assert distance(weights(got), weights(wanted)) < 0.02
        result = json.loads((got / "result.json").read_text())
        assert result["rotary"] == "torch.float32 True"  # DeepSpeed rounds buffers at stage 3
        if stage > 1:
            assert result["gradients"] == result["masters"] == "torch.float32"


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_last_step_of_one_pair_several_packs_and_an_offloaded_optimiser(
    stages: Path, stage: int
) -> None:
    assert len(rows(stages / "odd-1")) == 1 + 3  # 17 pairs: 8, 8 and 1
    assert_same(stages / f"odd-{stage}", stages / "odd-1")
    assert_same(stages / f"packs-{stage}-fp32", stages / "bco-1")
    assert_same(stages / f"checkpointed-{stage}", stages / "bco-1")
    assert_same(stages / f"fewest-{stage}", stages / "bco-1")  # ranks and packs differ, but at 3
    assert_same(
        stages / f"offload-{stage}", stages / "bco-1", 1e-4
    )  # another implementation of Adam
