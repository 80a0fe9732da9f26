"""Fused layers: bound to one model, exact in any of its layers, checked before they are trusted."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig
from transformers.models.llama import modeling_llama

from performance import common
from spot.config import HardwareConfig
from spot.training import fused_layers, kernel_checks
from spot.training.forward import PLAIN, Kernels, pack_logprobs
from spot.training.packing import PackingSettings, PairTokens, build_pack
from spot.training.shapes import PLANNED
from spot.utils.errors import UserError

SIZE = {"hidden": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "intermediate": 48, "layers": 2}
FUSED = Kernels(fused="liger")
GPU = HardwareConfig(accelerator="gpu", precision="bf16")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was called, with transformers' own operations in the place of Liger's kernels."""
    names: list[str] = []

    def rms_norm(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        names.append("norm")
        wide = states.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        return weight * wide.to(states.dtype)

    def swiglu(gate: Tensor, up: Tensor) -> Tensor:
        names.append("swiglu")
        return torch.nn.functional.silu(gate) * up

    def rotary(*given: Tensor) -> tuple[Tensor, Tensor]:
        names.append("rotary")
        turned: tuple[Tensor, Tensor] = modeling_llama.apply_rotary_pos_emb(*given)
        return turned

    for function in (rms_norm, swiglu, rotary):
        monkeypatch.setattr(fused_layers, function.__name__, function)
    return names


def gradient(model: Any, kernels: Kernels) -> Tensor:
    pack = build_pack([PairTokens("p", (2, 3), (4, 5, 6), (4, 7))], PackingSettings(99))
    model.zero_grad()
    with kernels.inside(model):
        pack_logprobs(model, pack, kernels).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("kind", PLANNED)
def test_every_norm_attention_and_mlp_of_one_model_is_bound(kind: str, called: list[str]) -> None:
    model, other = (common.build_model(kind, **SIZE, vocabulary=64, scale=0.2) for _ in range(2))
    plain = gradient(model, PLAIN)
    assert not called
    assert torch.equal(gradient(model, FUSED), plain), "the same operations, so no bit may move"
    norms = 4 if kind == "qwen3" else 2
    assert sorted(called) == ["norm"] * (2 * norms + 1) + ["rotary"] * 2 + ["swiglu"] * 2
    called.clear()
    with FUSED.inside(model):
        gradient(other, PLAIN)
        assert not called, "another model of this process computes as it did"
        with pytest.raises(IndexError):
            model(torch.tensor([[99]]))
    model(torch.tensor([[2, 3]]))
    assert not called, "outside of packs, whatever happened within, the model is its own again"
    assert not any("forward" in vars(module) for module in model.modules())


def test_an_attention_is_found_behind_a_decorator(
    called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers 5.24 wraps it, to rename an argument."""
    model = common.build_model("llama", **SIZE, vocabulary=64)
    own = modeling_llama.LlamaAttention.forward

    @functools.wraps(own)
    def wrapped(*given: Any, **more: Any) -> Any:
        return own(*given, **more)

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", wrapped)
    gradient(model, FUSED)
    assert called.count("rotary") == 2
    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", lambda self, states: states)
    with pytest.raises(UserError, match=r"know LlamaAttention of transformers .*fused=none"):
        gradient(model, FUSED)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    ("hardware", "kind", "chosen"),
    [
        (HardwareConfig(), "qwen3", "none"),
        (HardwareConfig(accelerator="gpu"), "qwen3", "none"),
        (HardwareConfig(precision="bf16"), "qwen3", "none"),
        (HardwareConfig(fused="liger"), "llama", "liger"),
        *((GPU, kind, "liger") for kind in PLANNED),
        (GPU, "gemma2", "none"),
    ],
)
def test_what_auto_means(hardware: HardwareConfig, kind: str, chosen: str) -> None:
    assert fused_layers.choose(hardware, AutoConfig.for_model(kind)) == chosen


def test_layers_that_are_not_known_are_refused_where_they_are_asked_for() -> None:
    asked = HardwareConfig(fused="liger")
    for config in (
        AutoConfig.for_model("gemma2"),
        AutoConfig.for_model("qwen3", hidden_act="gelu"),
    ):
        config.hidden_act = getattr(config, "hidden_act", "gelu")
        with pytest.raises(UserError, match=r"fused=liger knows qwen2, .*hardware.fused=none"):
            fused_layers.choose(asked, config)


def test_only_fused_trainings_have_a_name_of_their_own() -> None:
    """A product's name is its settings: those of trainings that do not fuse are what they were."""
    assert "fused" not in HardwareConfig().decisive()
    assert "fused" not in HardwareConfig(fused="none").decisive()
    assert GPU.decisive()["fused"] == "liger"
    assert set(PLAIN.versions()) == {"attention", "logprobs"}, "reference scores are found again"


def test_a_machine_that_cannot_run_the_kernels(needs: Callable[[object, str], None]) -> None:
    needs(importlib.util.find_spec("liger_kernel"), "liger-kernel, which is for Linux")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    config = common.build_model(**SIZE, vocabulary=64).config
    with pytest.raises(UserError, match=r"fused=liger does not run here .*hardware.fused=none"):
        FUSED.check(config, torch.float32, "cpu")


@pytest.mark.parametrize("wrong", ["rms_norm", "swiglu", "rotary"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_check_refuses_what_is_wrong(
    called: list[str], monkeypatch: pytest.MonkeyPatch, wrong: str, dtype: torch.dtype
) -> None:
    """Angles of the token before, a gradient that is left out, a factor that is rounded away."""
    config, real = common.build_model(**SIZE, vocabulary=64).config, vars(fused_layers).copy()
    kernel_checks.check_fused(config, dtype, "cpu")
    changed: dict[str, Any] = {
        "rms_norm": lambda states, weight, epsilon: (
            real["rms_norm"](states, weight.detach(), epsilon) + 0 * weight
        ),
        "swiglu": lambda gate, up: real["swiglu"](gate, up) + 0.1 * up,
        "rotary": lambda q, k, cos, sin: real["rotary"](q, k, cos.roll(1, 1), sin.roll(1, 1)),
    }
    monkeypatch.setattr(fused_layers, wrong, changed[wrong])
    with pytest.raises(UserError, match=r"is not exact here \(.*off by .*hardware.fused=none"):
        kernel_checks.check_fused(config, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", PLANNED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_on_this_gpu(kind: str, dtype: torch.dtype) -> None:
    shape = {"hidden": 1024, "heads": 16, "kv_heads": 8, "head_dim": 128, "intermediate": 3072}
    kernel_checks.check_fused(common.build_model(kind, **shape, layers=1).config, dtype, "cuda")


# ---- Liger's kernels, interpreted ----------------------------------------------------------------


@pytest.fixture(scope="module")
def interpreted(needs: Callable[[object, str], None]) -> dict[str, Any]:
    needs(importlib.util.find_spec("liger_kernel"), "liger-kernel, which is for Linux")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.interpreted"],
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_kernels_give_the_models_own_numbers(interpreted: dict[str, Any]) -> None:
    """In a pack whose positions repeat, with a layer that is computed again and without one, in fp32."""
    for (what, bound), kind in itertools.product(
        (("distances", 2e-6), ("adapters", 1e-5)), PLANNED
    ):
        plain, checkpointed = interpreted[what][kind]
        assert plain == checkpointed
        assert max(plain) < bound
    assert max(interpreted["many rows"]) < 5e-6


@pytest.mark.slow
def test_fused_layers_keep_what_is_planned(interpreted: dict[str, Any]) -> None:
    for kind in ("qwen3", "llama"):
        row = interpreted["kept"][kind]
        assert row["off %"] == pytest.approx(0, abs=2)
        assert row["off % of all"] == pytest.approx(0, abs=1)


@pytest.mark.slow
def test_the_check_passes_kernels_that_are_right_alone(interpreted: dict[str, Any]) -> None:
    said = interpreted["refusals"]
    assert [said[kind] for kind in PLANNED] == [""] * len(PLANNED)
    assert all("is not exact here" in said[name] for name in ("rotary", "rms_norm"))
