"""Adapters: what they begin as, what is trained, what is written, and what is said of mistakes."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM

from spot.config import HardwareConfig, LoraConfig, ProbeConfig, SaveConfig, resolved_loss
from spot.config.compose import compose
from spot.data.model_probe import check_targets, matrices
from spot.pipeline import policy
from spot.training import lora
from spot.training.loop import RunOptions, TrainResult, tokenise, train
from spot.training.memory_model import standing
from spot.training.packing import plan_steps
from spot.training.shapes import read
from spot.utils.errors import UserError
from tests.unit.conftest import build_model
from tests.unit.runs import distance, loss, rows, weights, without_timings
from tests.unit.test_resuming import StoppedError, stop_at
from tests.unit.test_training import first_loss, load

RANK = LoraConfig(rank=2, alpha=8)


def run(
    policy_folder: Path, out: Path, pairs: Any, held_out: Any, lora: LoraConfig, **more: Any
) -> TrainResult:
    options = RunOptions(lora=lora, **more)
    return train(policy_folder, out, pairs, held_out, loss("bco", learning_rate=3e-2), 0, options)


@pytest.fixture(scope="module")
def whole(tiny_policy: Path, pairs: Any, held_out: Any, tmp_path_factory: Any) -> Path:
    """A training of adapters, beside the scores of the base that one of all weights has left."""
    out = tmp_path_factory.mktemp("lora") / "whole"
    kept = out.parent / "reference"
    train(tiny_policy, out.parent / "full", pairs, held_out, loss("bco"), 0,
        RunOptions(reference_folder=kept))  # fmt: skip
    before = sorted(kept.iterdir())
    result = run(tiny_policy, out, pairs, held_out, RANK, reference_folder=kept)
    assert sorted(kept.iterdir()) == before  # the base is the reference, scored once for both
    assert result.max_start_reward < 1e-6
    return out


def test_the_first_step_is_that_of_plain_sequences(
    whole: Path, tiny_policy: Path, tiny_tokenizer: Any, pairs: Any
) -> None:
    """Loss and gradient norm, through packs, the fused head and shared prefixes."""
    tokens = tokenise(tiny_tokenizer, pairs, False)
    model = lora.attach(load(tiny_policy), RANK, 0)
    value = first_loss("bco", model, [tokens[i] for i in plan_steps(20, 8, 2, 0)[0]])
    value.backward()
    trained = [p for p in model.parameters() if p.grad is not None]
    assert len(trained) == 2 * 7 * 2  # A and B of 7 matrices in 2 layers
    first = rows(whole)[1]
    assert float(first["loss"]) == pytest.approx(value.item(), abs=1e-5)
    norm = torch.stack([p.grad.norm() for p in trained]).norm().item()
    assert float(first["gradient_norm"]) == pytest.approx(norm, rel=2e-5)


def test_adapter_and_merged_weights_are_the_same_model(whole: Path, tiny_policy: Path) -> None:
    words = torch.arange(4, 40)[None]
    with torch.no_grad():
        base, merged = (load(f).eval()(words).logits for f in (tiny_policy, whole / "model"))
        adapted = AutoPeftModelForCausalLM.from_pretrained(whole / "model" / "adapter")
        logits = adapted.eval()(words).logits
    assert torch.allclose(logits, merged, atol=1e-4)
    assert (logits - base).abs().max() > 0.1
    frozen, ours = load(tiny_policy).state_dict(), weights(whole)
    changed = {k for k in ours if not torch.equal(ours[k], frozen[k])}
    assert changed == {k for k in ours if k.endswith("_proj.weight")}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_layers_that_are_computed_again_and_stopped_runs_end_the_same(
    dropout: float, tiny_policy: Path, pairs: Any, held_out: Any, tmp_path: Path
) -> None:
    """Dropout draws the same again, and a state holds what is trained alone."""
    adapters = replace(RANK, dropout=dropout)
    often: dict[str, Any] = {"probe": ProbeConfig(ability_every=1), "save": SaveConfig(every=2)}
    run(
        tiny_policy,
        tmp_path / "whole",
        pairs,
        held_out,
        adapters,
        ability_probe=stop_at(-1),
        **often,
    )
    again = often | {"hardware": HardwareConfig(checkpoint_layers="all")}
    with pytest.raises(StoppedError):
        run(
            tiny_policy,
            tmp_path / "again",
            pairs,
            held_out,
            adapters,
            ability_probe=stop_at(3),
            **again,
        )
    (state,) = tmp_path.glob("again/resume/*/state.ckpt")
    kept = torch.load(state, weights_only=False)["state_dict"]
    assert len(kept) == 28
    assert all("lora_" in name for name in kept)
    result = run(
        tiny_policy,
        tmp_path / "again",
        pairs,
        held_out,
        adapters,
        ability_probe=stop_at(-1),
        **again,
    )
    assert result.resumed_at == 2
    assert without_timings(tmp_path / "again") == without_timings(tmp_path / "whole")
    assert distance(weights(tmp_path / "again"), weights(tmp_path / "whole")) == 0
    (*_, last) = sorted(
        (tmp_path / "whole" / "held_out").iterdir()
    )  # without dropout, as curves are
    with last.open() as file:
        chosen = [0.1 * float(row["chosen"]) for row in csv.DictReader(file)]
    logged = float(rows(tmp_path / "whole")[-1]["held_out/rewards/chosen"])
    assert sum(chosen) / len(chosen) == pytest.approx(logged, abs=1e-5)


def test_narrow_weights_get_their_update_in_fp32(
    tiny_policy: Path, pairs: Any, held_out: Any, tmp_path: Path, whole: Path
) -> None:
    """bf16 with fp32 masters of A and B: near the run in fp32, and written in bf16."""
    hardware = HardwareConfig(precision="bf16")
    run(tiny_policy, tmp_path, pairs, held_out, RANK, hardware=hardware)
    got = weights(tmp_path)
    assert {tensor.dtype for tensor in got.values()} == {torch.bfloat16}
    assert distance(got, weights(whole)) < 0.1


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("targets", [["all-linear"], ["q_proj", "down_proj"]])
def test_the_plan_counts_what_peft_trains(kind: str, targets: list[str], tmp_path: Path) -> None:
    adapters = LoraConfig(rank=3, targets=targets)
    model = build_model(kind)
    model.config.save_pretrained(tmp_path)
    shape = replace(read(tmp_path / "config.json"), lora=adapters)
    lora.attach(model, adapters, 0)
    assert shape.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert shape.held == sum(p.numel() for p in model.parameters())
    for hardware, bytes_each in (
        (HardwareConfig(precision="fp32"), 4 + 8),  # gradients and moments
        (HardwareConfig(precision="bf16"), 4 + 4 + 8),  # and masters
    ):
        items = {item.name: item.device for item in standing(shape, hardware, "cached")}
        width = items.pop("parameters") / shape.held
        assert width == (4 if hardware.precision == "fp32" else 2)
        assert sum(items.values()) == bytes_each * shape.trained


def test_rates_count_ten_times_unless_one_is_given() -> None:
    def rate(*overrides: str) -> float | None:
        return resolved_loss(compose([*overrides])).learning_rate

    assert rate("loss=sft", "model.lora.rank=8") == pytest.approx(10 * rate("loss=sft"))
    assert rate("loss=dpo", "model.lora.rank=8") == pytest.approx(1e-3)  # tuned: 1e-4
    assert rate("model.lora.rank=8", "loss.learning_rate=5e-4") == 5e-4


def test_adapters_name_a_training_and_their_absence_does_not() -> None:
    assert LoraConfig().decisive() == LoraConfig(alpha=9, targets=["q_proj"]).decisive() == {}
    one, other = (
        LoraConfig(rank=2, targets=t) for t in (["v_proj", "q_proj"], ["q_proj", "v_proj"])
    )
    assert one.decisive() == other.decisive()
    assert one.decisive()["lora"]["targets"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("q_prj", "q_prj, which this model has not: q_proj"),
        ("xyz", "which this model has not: down_proj or gate_proj"),
        (
            "embed_tokens",
            "embed_tokens, and words and the head get no adapter: choose from down_proj",
        ),
        ("lm_head", "lm_head, and words and the head get no adapter"),
        ("norm", "norm, which this model has not"),
    ],
)
def test_a_target_that_is_no_matrix_of_a_layer(target: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_targets([target], matrices(policy.SHIPPED))
    check_targets(["all-linear", "q_proj", "self_attn.k_proj"], matrices(policy.SHIPPED))


def test_an_adapter_is_no_model(whole: Path) -> None:
    with pytest.raises(UserError, match=r"is an adapter of .*policy.* merged"):
        policy._local(str(whole / "model" / "adapter"))
