"""`spot plan`: what it counts against models, autograd, DeepSpeed and real steps, and what it advises."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from rich.console import Console

from performance import common, plan_check
from spot.config import Config, HardwareConfig, LoraConfig, ModelConfig, ProbeConfig
from spot.config.compose import compose
from spot.pipeline import plan as planning
from spot.pipeline.plan import Plan
from spot.pipeline.plan.balance import simulated
from spot.pipeline.plan.minutes import spent, total
from spot.training import lora
from spot.training.bin_packing import Cost, Lengths
from spot.training.memory_model import Activations, Rows, standing
from spot.training.packing import PackingSettings, PairTokens, build_pack
from spot.training.probing import steps_between
from spot.training.shapes import KNOWN, Shape, read, shape_of
from spot.utils.errors import UserError

QWEN = KNOWN["Qwen/Qwen3-8B"]
GPUS = HardwareConfig(accelerator="gpu", devices=8, strategy="deepspeed", precision="bf16")
ONE_GPU = HardwareConfig(accelerator="gpu", precision="bf16")


def make(*overrides: str) -> Plan:
    return planning.plan(compose(overrides))


def text(plan: Plan) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    planning.show(plan, console)
    return console.export_text()


def minutes(plan: Plan) -> dict[str, Any]:
    return {row.what: row.minutes for row in spent(plan)}


def bytes_of(
    hardware: HardwareConfig, reference: str = "cached", shape: Shape = QWEN
) -> dict[str, float]:
    return {item.name: item.device for item in standing(shape, hardware, reference)}


# ---- shapes --------------------------------------------------------------------------------------


def test_known_models_have_their_published_number_of_parameters() -> None:
    """As the models' safetensors indices state them."""
    assert {name: shape.parameters for name, shape in KNOWN.items()} == {
        "Qwen/Qwen3-8B": 8_190_735_360,
        "Qwen/Qwen3-14B": 14_768_307_200,
        "Qwen/Qwen3-32B": 32_762_123_264,
        "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
        "meta-llama/Llama-3.3-70B-Instruct": 70_553_706_496,
    }


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_and_costs_are_the_models(
    build_model: Any, tmp_path: Path, kind: str, tied: bool
) -> None:
    model = build_model(kind, tied=tied)
    model.config.save_pretrained(tmp_path)
    shape = shape_of(ModelConfig(name="mine", path=str(tmp_path)))
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.cost == Cost.of(model)


def test_the_shipped_student_and_one_of_another_size() -> None:
    shipped = compose().model
    assert shape_of(shipped) == read(plan_check.TINY / "config.json")
    wider = shape_of(compose(["model.pretrain.width=256"]).model)
    assert (wider.hidden, wider.intermediate, wider.head_dim) == (256, 768, 64)


@pytest.mark.parametrize(
    ("path", "message"),
    [("nobody/knows-this", "not known here: give model.path=<folder>"), ("./nowhere", "not known")],
)
def test_unknown_models_end_in_one_line(path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        shape_of(ModelConfig(name="mine", path=path))


def test_models_that_are_planned_otherwise_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(UserError, match="describes a mamba"):
        shape_of(ModelConfig(name="mine", path=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8}))
    with pytest.raises(UserError, match="lacks num_attention_heads"):
        shape_of(ModelConfig(name="mine", path=str(tmp_path)))


# ---- memory that stands --------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "published"), [(1, 45.0), (2, 30.7), (3, 16.4)])
def test_zero_of_8b_against_published_arithmetic(stage: int, published: float) -> None:
    """GB (10⁹) a GPU of 8 by the ZeRO paper's 2 + 2 + 12 bytes a parameter.

    Ours add gradients up in fp32, 4 bytes instead of 2 where they lie; in stage 1 that is the whole
    model's, beside the reduced share of 4/8. Stage 3 gathers up to 10⁹ weights, which the paper leaves out.
    """
    found = bytes_of(dataclasses.replace(GPUS, zero_stage=stage))
    more = {1: 2 + 4 / 8, 2: 2 / 8, 3: 2 / 8}[stage] * QWEN.parameters
    state = ["parameters", "gradients", "reduced gradients", "master weights", "moments"]
    total = sum(found.get(name, 0.0) for name in state)
    assert (total - more) / 1e9 == pytest.approx(published, abs=0.1)
    assert found.get("gathered parameters", 0.0) == (2e9 if stage == 3 else 0.0)


def test_one_gpu_and_8b_by_hand() -> None:
    """18 bytes a parameter, 137 GiB: an H200 of 139 has no room for activations. The often quoted 16
    (122 GiB), and 10 with 8-bit moments (76 GiB), keep gradients in bf16; ours are fp32."""
    full, eight = ONE_GPU, dataclasses.replace(ONE_GPU, optimizer="adamw8bit")
    state = ["parameters", "gradients", "master weights", "moments"]
    whole, small = (sum(bytes_of(hardware)[name] for name in state) for hardware in (full, eight))
    assert whole == 18 * QWEN.parameters
    assert (whole - 2 * QWEN.parameters) / 2**30 == pytest.approx(122, abs=0.5)
    assert small / QWEN.parameters == pytest.approx(12.03, abs=0.01)
    assert (small - 2 * QWEN.parameters) / 2**30 == pytest.approx(76.3, abs=0.5)


def test_references_of_8b() -> None:
    """GB: nothing cached, 16.4 a copy, an eighth of it and what is gathered as an engine."""
    found = {kind: bytes_of(GPUS, kind)["reference"] / 1e9 for kind in ("cached", "copy", "engine")}
    assert found == pytest.approx({"cached": 0, "copy": 16.4, "engine": 2.05 + 2}, abs=0.05)


def test_offloading_moves_bytes_to_the_host() -> None:
    """Stage 3, 18/8 B a parameter: 16/8 of the optimiser's and 2/8 of the weights."""
    share = QWEN.parameters / 8
    hardware = dataclasses.replace(GPUS, zero_stage=3, offload_optimizer=True)
    assert sum(item.host for item in standing(QWEN, hardware, "cached")) == 16 * share
    hardware = dataclasses.replace(hardware, offload_parameters=True)
    assert sum(item.host for item in standing(QWEN, hardware, "cached")) == 18 * share
    assert bytes_of(hardware)["parameters"] == bytes_of(hardware)["moments"] == 0


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("stage", "precision"), [(1, "bf16"), (2, "bf16"), (3, "bf16"), (3, "fp32")]
)
def test_zero_keeps_what_is_planned(
    stage: int, precision: str, needs: Callable[[object, str], None]
) -> None:
    """Two processes under DeepSpeed: live bytes a parameter after a backward pass."""
    needs(shutil.which("g++"), "a C++ compiler")
    row = plan_check.check_zero(stage, precision)
    assert row["off %"] == pytest.approx(0, abs=3)


# ---- memory of a pack ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_are_what_autograd_saves(kind: str, dtype: torch.dtype) -> None:
    """But for the padding of sdpa's blocks, which depends on the lengths that happen to meet."""
    model = common.build_model(kind, **plan_check.MIDDLE, vocabulary=512, dtype=dtype)
    pairs = common.make_pairs(4, mean=150, cv=0, shared=0.4, prompt=30, vocabulary=512)
    row = plan_check.check_layers(model, pairs, kind)
    assert row["off %"] == pytest.approx(0, abs=3)
    assert row["off % of all"] == pytest.approx(0, abs=3)


@pytest.mark.parametrize(
    "adapters",
    [
        LoraConfig(rank=16),
        LoraConfig(rank=16, dropout=0.1),
        LoraConfig(rank=4, targets=["q_proj", "v_proj"]),
        LoraConfig(rank=4, targets=["q_proj", "down_proj"], dropout=0.1),
    ],
)
def test_activations_beside_frozen_weights(adapters: LoraConfig) -> None:
    """The first layer keeps a little less than others: nothing before it has a gradient."""
    model = common.build_model("qwen3", **plan_check.MIDDLE, vocabulary=512)
    lora.attach(model, adapters, 0)
    pairs = common.make_pairs(4, mean=150, cv=0, shared=0.4, prompt=30, vocabulary=512)
    row = plan_check.check_layers(model, pairs, "qwen3", lora=adapters)
    assert row["off %"] == pytest.approx(1.5, abs=1.5)


def test_a_checkpointed_layer_of_8b_keeps_295_kb_a_token() -> None:
    """Its input alone: 36 layers × 4,096 × 2 bytes."""
    rows = Rows.of([Lengths(150, 1800, 1800, 900)], QWEN, rejected=True, shared=True)
    found = Activations.of(QWEN, GPUS, rows)
    assert 36 * found.boundary == 294_912
    assert (
        Activations.of(QWEN, dataclasses.replace(GPUS, fused="none"), rows).layer
        > 20 * found.boundary
    )
    norms = 2 * (2 * 4096 + 4 + 2 * 4096) + 2 * 4096 + 4 * 32 + 2 * 1024 + 4 * 8
    attention = 2 * (2 * 4096 + 2 * 1024 * (1050 + 900 + 1050 + 900) / 2850) + 4 * 32
    assert found.layer == pytest.approx(norms + attention + 3 * 2 * 12288)


@pytest.mark.parametrize(
    ("loss", "layers"), [("bco", "none"), ("bco", "all"), ("bco", "1"), ("sft", "none")]
)
def test_the_peak_of_a_real_step(loss: str, layers: str) -> None:
    row = plan_check.check_step(plan_check.TINY, loss, 1024, layers, count=12)
    assert row["off %"] == pytest.approx(0, abs=15)
    assert row["measured MiB"] > 12 * 658_816 / 2**20 + 5  # more than weights and moments


def test_rows_are_those_of_packs() -> None:
    rng = np.random.default_rng(0)
    pairs = common.make_pairs(6, mean=60, shared=0.4, prompt=9, vocabulary=99)
    for shared in (True, False):
        settings = PackingSettings(10**6, share_prefix=shared, cost=QWEN.cost)
        rows = Rows.of([pair.lengths for pair in pairs], QWEN, True, shared)
        pack = build_pack(pairs, settings)
        assert (rows.tokens, rows.scored) == (pack.tokens, len(pack.targets))
        assert rows.forward == pytest.approx(sum(pair.cost(settings) for pair in pairs))
    alone = PairTokens("alone", rng.integers(5, 9, 7), rng.integers(5, 9, 11))
    assert alone.lengths == (7, 11, 0, 0)
    assert Rows.of([alone.lengths], QWEN, True, True).tokens == 18


# ---- the plan ------------------------------------------------------------------------------------


def test_the_papers_recipe_by_hand() -> None:
    """4,000 pairs, prompt 150, responses 1,800 with half of them shared, 2 epochs."""
    plan = make("model=qwen3_8b", "hardware=8xh800", "data.pairs=4000")
    assert plan.work.trained.tokens == 4000 * (150 + 900 + 2 * 900)
    assert plan.work.apart == 4000 * 2 * (150 + 1800)
    assert plan.work.trained.scored == 4000 * (900 + 2 * 900)
    assert plan.work.steps == 250
    c, a, b = 1050, 900, 900
    seen = c * (c + 1) / 2 + a * (c + (a + 1) / 2) + b * (c + (b + 1) / 2)
    body = 2 * 6.9458e9 * (c + a + b) + 4 * 36 * 4096 * seen
    head = 2 * 151936 * 4096 * 2700
    assert plan.flops["training"] == pytest.approx(3 * 2 * 4000 * (body + head), rel=1e-3)
    assert plan.flops["reference"] == pytest.approx(4000 * (body + head), rel=1e-3)
    # a rank's share of a step is 4 pairs in one pack, which needs less room than a full one
    assert 0 < plan.again < plan.memory.checkpointed
    fits = make("model=qwen3_8b", "hardware=8xh800", f"hardware.tokens_per_pack={4 * 2850}")
    assert plan.again == fits.memory.checkpointed
    again = plan.again / 36 * body + head
    assert plan.flops["computed again"] == pytest.approx(2 * 4000 * again, rel=1e-3)
    peak = 0.4 * 8 * 989e12 * 60
    assert minutes(plan)["reference"] == pytest.approx(plan.flops["reference"] / peak)
    passes = (plan.flops["training"] + plan.flops["computed again"]) / peak
    assert minutes(plan)["steps"] == pytest.approx(passes)
    waiting = (plan.balance.slowest - 1) * passes
    assert minutes(plan)["waiting for the slowest"] == pytest.approx(waiting)
    assert plan.fits
    assert plan.exit_code == 0
    files = {file.name: file.size for file in plan.files}
    assert files["reference scores"] == 4 * 4000 * 2700
    assert files["resumable checkpoints"] == 2 * 14 * QWEN.parameters
    assert files["trained model"] == 2 * QWEN.parameters


def test_layers_are_checkpointed_as_few_as_fit() -> None:
    plan = make("model=qwen3_8b", "hardware=8xh800")
    count = plan.memory.checkpointed
    assert 0 < count < 36
    fewer = make("model=qwen3_8b", "hardware=8xh800", f"hardware.checkpoint_layers={count - 1}")
    assert fewer.fits is False
    assert plan.memory.device < fewer.memory.device


@pytest.mark.parametrize(
    ("overrides", "first"),
    [
        (["hardware=8xh800", "hardware.checkpoint_layers=none"], "hardware.checkpoint_layers=all"),
        (["hardware=8xh800", "reference=copy", "hardware.memory_gib=48"], "reference=cached"),
        (
            ["hardware=8xh800", "hardware.zero_stage=1", "hardware.memory_gib=67"],
            "hardware.zero_stage=2",
        ),
        (["hardware=1xh200", "hardware.optimizer=adamw"], "hardware.optimizer=adamw8bit"),
    ],
)
def test_what_does_not_fit_is_told_what_would(overrides: list[str], first: str) -> None:
    plan = make("model=qwen3_8b", *overrides)
    assert plan.exit_code == 1
    assert plan.verdict.startswith("does NOT fit: needs ")
    assert plan.remedies[0] == first
    for remedy in plan.remedies:  # the advice is true
        assert make("model=qwen3_8b", *overrides, remedy).fits


def test_where_no_single_option_helps_the_verdict_says_so() -> None:
    hopeless = make("model=qwen3_8b", "hardware=1xgpu", "hardware.memory_gib=8")
    assert hopeless.verdict.endswith("take a smaller model, more memory or devices")


def test_measured_pairs_win_over_assumptions() -> None:
    config = compose(["model=qwen3_8b", "hardware=8xh800"])
    plan = planning.plan(config, [Lengths(10, 20, 30, 5)] * 7, wrong=9)
    assert plan.work.trained.tokens == 7 * (10 + 5 + 15 + 25)
    assert (plan.work.pairs, plan.work.lengths) == (7, "measured")
    assert plan.calls.count == 9


def test_rounds_are_worked_stored_and_paid_for_once_each() -> None:
    overrides = ["model=qwen3_8b", "data=dapo", "data.questions=1000", "data.pairs=200"]
    overrides += ["hardware=8xh800", "save.every=1", "save.exports=2"]
    one, two = make(*overrides), make(*overrides, "rounds=2")
    time, twice = minutes(one), minutes(two)
    for name in ("reference", "steps", "probes", "exports"):
        assert twice[name] == pytest.approx(2 * time[name]), name
    assert {k: v / 2 for k, v in two.flops.items()} == pytest.approx(one.flops)
    assert (one.calls.count, two.calls.count) == (300, 600)
    assert (one.memory, one.work.steps) == (two.memory, two.work.steps)
    before = {file.name: file.size for file in one.files}
    after = {file.name: file.size for file in two.files}
    assert before["products"] < after["products"] < 2 * before["products"], "two models' scores"
    for name in ("reference scores", "exports", "trained model"):
        assert after[name] == pytest.approx(2 * before[name]), name
    same = "resumable checkpoints"  # those of the first round are gone when the second begins
    assert after[same] == before[same]
    assert "rounds" not in text(one)
    assert "by the base" in text(make(*overrides, "rounds=2", "reference_round=first"))
    assert "by the base" not in text(two) + text(make(*overrides, "reference_round=first"))
    assert "as many assumed in each of 2 rounds" in text(two)
    dollars = [float(plan.calls.price.split()[1].replace(",", "")) for plan in (one, two)]
    assert dollars[1] == pytest.approx(2 * dollars[0], abs=0.02)
    counted = planning.plan(compose([*overrides, "rounds=3"]), [Lengths(10, 20, 30, 5)], wrong=9)
    assert counted.calls.count == 27
    own = [*overrides, "arm=rft", "rounds=2"]
    assert make(*own).calls.count == 64, "what is held out is corrected in the first round only"


def test_a_threshold_by_micro_batches_costs_a_forward_pass_of_every_step() -> None:
    once = ["hardware=8xh800", "data=dapo", "loss.delta.mode=cumulative"]
    each = [*once, "loss.delta.micro_batch=16"]
    assert make(*each).flops["training"] == pytest.approx(4 / 3 * make(*once).flops["training"])
    assert make("arm=sft_plus", *each).flops == make("arm=sft_plus", *once).flops


def test_losses_without_rewards_need_no_reference_and_no_rejected() -> None:
    plan = make("model=qwen3_8b", "hardware=8xh800", "data.pairs=10", "loss=sft")
    assert plan.work.trained.tokens == 10 * 1950
    assert plan.flops["reference"] == 0
    assert "reference scores" not in {file.name for file in plan.files}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["model=qwen3_8b", "hardware=8xh800"],
            ["40% (plan.utilisation, assumed)", "oracle=rule", "fits, "],
        ),
        (
            ["hardware.tflops=null"],
            ["set hardware.tflops", "0 of 3 layers", "cut to model.context"],
        ),
        (
            ["model=qwen3_8b", "hardware=1xgpu", "hardware.memory_gib=null"],
            ["set hardware.memory_gib"],
        ),
        (["model=qwen3_8b", "hardware=8xh800", "hardware.offload_optimizer=true"], ["host memory"]),
        (["hardware.tokens_per_pack=300"], ["over-long pairs", "the longest pair has 373 tokens"]),
        (["save.optimizer=false", "save.exports=25"], ["exports", "trained model"]),
        (
            ["data.pairs=null"],
            ["at most: 6,000 attempts, 30% of them wrong (assumed), less data.held_out=64"],
        ),
        (["data.pairs=null", "data.questions=200"], ["none: 200 attempts", "lower it or ask more"]),
        (["data.pairs=5000"], ["5,000", "data.pairs, but 6,000 attempts", "give 1,736"]),
    ],
)
def test_the_screen_states_figures_and_assumptions(overrides: list[str], said: list[str]) -> None:
    shown = text(make(*overrides))
    for words in said:
        assert words in shown


def test_a_file_that_is_not_here_is_the_papers_recipe(tmp_path: Path) -> None:
    overrides = ["data=jsonl", "data.fields.solution=solution", "model=qwen3_8b", "data.pairs=null"]
    plan = make(*overrides, f"data.path={tmp_path}/none.jsonl")
    assert (plan.work.pairs, plan.calls.count) == (4000, None)
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n" * 20)
    plan = make(*overrides, f"data.path={file}", "data.held_out=2")
    assert (plan.work.pairs, plan.calls.count) == (4, 6)


@pytest.mark.parametrize(
    "form", ["csv", "json", "jsonl.gz", "parquet", "arrow", "utf-16", "folder"]
)
def test_rows_are_counted_as_a_run_reads_them(tmp_path: Path, form: str) -> None:
    """Lines of the file are no rows: a header, a question of two lines, a list, packed and binary files."""
    table = pa.table({"question": ["one\nand one?"] * 20, "solution": ["2"] * 20})
    rows = [json.dumps(row) for row in table.to_pylist()]
    path = tmp_path / f"rows.{'jsonl' if form == 'utf-16' else form}"
    match form:
        case "csv":
            path.write_text("question,solution\n" + '"one\nand one?",2\n' * 20)
        case "json":
            path.write_text(json.dumps(table.to_pylist(), indent=1))
        case "jsonl.gz":
            path.write_bytes(gzip.compress("\n".join(rows).encode()))
        case "parquet":
            parquet.write_table(table, path)
        case "arrow":
            with pa.ipc.new_stream(path, table.schema) as stream:
                stream.write_table(table)
        case "utf-16":
            path.write_text("\n".join(rows), encoding="utf-16")
        case "folder":
            path.mkdir()
            (path / "train.jsonl").write_text("\n".join(rows))
    asked = ["data=jsonl", "data.fields.solution=solution", "model=qwen3_8b"]
    asked += ["data.pairs=null", "data.held_out=1"]
    plan = make(*asked, f"data.path={path}")
    assert (plan.work.pairs, plan.calls.count) == (5, 6)
    assert make(*asked, f"data.path={path}", "data.questions=10").work.pairs == 2
    assert make(*asked, f"data.path={path}", "data.questions=7500").work.pairs == 5


def test_planning_loads_no_torch() -> None:
    code = (
        "import sys; from spot.config.compose import compose; from spot.pipeline import plan\n"
        "plan.show(plan.plan(compose(['model=qwen3_8b', 'hardware=8xh800'])))\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ranks_without_a_pair_shorten_nothing() -> None:
    """32 pairs a step keep 32 ranks busy, however many there are."""
    wide = ["model=qwen3_8b", "hardware=8xh800_zero3", "hardware.checkpoint_layers=all"]
    four, eight = (make(*wide, f"hardware.nodes={nodes}") for nodes in (4, 8))
    for what in ("steps", "waiting for the slowest"):
        assert minutes(four)[what] > 0
    took = [minutes(p)["steps"] + minutes(p)["waiting for the slowest"] for p in (four, eight)]
    assert took[0] == pytest.approx(took[1])
    assert "idle ranks" in text(eight)
    assert "idle ranks" not in text(four)


def test_looking_at_held_out_pairs_takes_a_fiftieth_of_training() -> None:
    """A look is one pass over 16 pairs, a step three over 32: in 250 steps 0.02 × 250 × 3 × 32 / 16 = 30 looks."""
    null = ProbeConfig()
    assert steps_between(null, "gpu", 16, 32, 250) == 9  # ⌈250 / 28⌉, and the first and the last
    assert steps_between(null, "gpu", 16, 8, 1000) == 36
    assert steps_between(null, "gpu", 16, 32, 10) == 10  # the first and the last alone
    assert steps_between(null, "gpu", 0, 32, 250) == 1
    assert steps_between(null, "cpu", 16, 32, 250) == 1
    assert steps_between(ProbeConfig(every=3), "gpu", 16, 32, 250) == 3


def test_the_time_of_a_run_by_hand() -> None:
    """Every stage of the paper's recipe; what only a measurement tells is an assumption with a key."""
    recipe = [
        "model=qwen3_8b",
        "data=dapo",
        "data.questions=14116",
        "data.pairs=4000",
        "oracle=gemini",
    ]
    recipe += ["generator=vllm", "hardware=8xh800"]
    plan = make(*recipe)
    found = minutes(plan)
    weights, kept = 2 * QWEN.parameters, 256 * 2 * 2 * 36 * 1024 * (150 + 900)
    rate = 8 * 256 / ((weights + kept) / 2e12)
    assert found["sampling"] == pytest.approx(14116 * 1800 / rate / 60)
    answers = 16 * (30 + 30 + 40) + 5 * (500 + 272 + 675 + 198 + 500 + 541)
    assert found["evaluation, before"] == pytest.approx(answers * 1800 / rate / 60)
    assert found["evaluation, after"] == found["evaluation, before"]
    assert found["vLLM's starts"] == pytest.approx(2 * (60 + weights / 2e9) / 60)
    assert found["training's start"] == pytest.approx((60 + weights / 2e9) / 60)
    assert found["Oracle"] == pytest.approx(4235 * 60 / 16 / 60)
    one = plan.flops["reference"] / 4000
    assert found["probes"] == pytest.approx(
        (29 * 16 + 2 * 64) * one / (0.4 * 8 * 989e12) / 60
    )  # 16 every 9 steps, all 64 twice
    assert found["trained model"] == pytest.approx(weights / 2e9 / 60)
    assert total(spent(plan)) == (pytest.approx(sum(found.values())), [])
    kept = minutes(make(*recipe, "save.exports=25", "probe.ability=exports"))
    assert kept["evaluation of exports"] == pytest.approx(9 * 5 * 541 * 1800 / rate / 60)
    shown = text(plan)
    assert f"{sum(found.values()):,.1f}" in shown
    for key in (
        "plan.bandwidth",
        "plan.oracle_seconds",
        "plan.start_seconds",
        "plan.variation=0.7",
    ):
        assert key in shown
    slow = minutes(make(*recipe, "plan.tokens_per_second=1000", "oracle.requests_per_minute=10"))
    assert slow["sampling"] == pytest.approx(14116 * 1800 / 1000 / 60)
    assert slow["Oracle"] == pytest.approx(423.5)
    assert minutes(make(*recipe, "oracle.batch=true"))["Oracle"] is None


def test_what_is_unknown_is_named_beside_the_sum() -> None:
    plan = make("hardware.tflops=null")
    known, unknown = total(spent(plan))
    assert known == pytest.approx(1, abs=0.1)  # the start
    assert {"sampling", "steps", "evaluation, after"} <= set(unknown)
    assert "not among it: sampling; evaluation before; " in text(plan)
    assert "set plan.tokens_per_second" in text(plan)


def test_ranks_that_wait_are_counted_and_told_what_would_even_them_out() -> None:
    recipe = ["model=qwen3_8b", "data.pairs=4000"]
    wide = make(*recipe, "hardware=2x8xh800")
    assert wide.balance.slowest > 1.4  # 2 pairs a rank: one long pair is a rank's whole share
    assert wide.balance.remedies == ("loss.batch_pairs=64", "8 ranks")
    assert "1.45 × the mean rank's work: loss.batch_pairs=64 or 8 ranks would" in text(wide)
    for advice in (["hardware=2x8xh800", "loss.batch_pairs=64"], ["hardware=8xh800"]):
        even = make(*recipe, *advice)
        assert even.balance.slowest < 1.1
        assert "slowest rank" not in text(even)
    alike = make(*recipe, "hardware=2x8xh800", "plan.variation=0")
    assert alike.balance.slowest == pytest.approx(1)
    assert simulated((1.0,) * 3, (1,) * 3, 10, 1, 2) == pytest.approx(2)  # one pair, two ranks
    measured = planning.plan(wide.config, [Lengths(10, 20, 30, 5)] * 7)
    assert measured.balance.slowest == pytest.approx(1)
    assert "lengths measured" in measured.balance.source


def test_every_shipped_hardware_has_a_plan() -> None:
    folder = Path(__file__).parents[2] / "conf" / "hardware"
    for file in sorted(folder.glob("*.yaml")):
        config: Config = compose([f"hardware={file.stem}", "model=qwen3_8b"])
        assert planning.plan(config).memory.device > QWEN.parameters


def test_a_context_that_no_planned_pair_fits_is_planned_all_the_same() -> None:
    """The laptop's model reads fewer tokens than any response has that the plan draws."""
    made = planning.plan(compose(["hardware=8xh800", "model.context_length=256"]))
    assert made.balance.slowest == 1
    assert "none fits the context" in made.balance.source
