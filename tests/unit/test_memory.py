"""Selective activation checkpointing: the same gradients, less kept, and no more layers than needed."""

from __future__ import annotations

import copy
import gc
import random
import weakref
from typing import Any

import pytest
import torch

from spot.training import attention, memory
from spot.training.forward import PLAIN, pack_logprobs
from spot.training.hardware import Hardware
from spot.training.memory import Activations, checkpoint_layers, fewest_layers, plan_layers
from spot.training.packing import Pack, PackingSettings, PairTokens, build_pack
from spot.utils.errors import UserError


def make_pack(pairs: int = 6, seed: int = 0) -> Pack:
    rng = random.Random(seed)
    made = [
        PairTokens(str(i), rng.choices(range(2, 45), k=5), [2, *rng.choices(range(4, 45), k=20)],
                   [3, *rng.choices(range(4, 45), k=20)])
        for i in range(pairs)
    ]  # fmt: skip
    return build_pack(made, PackingSettings(10**6))


def gradient(model: Any, pack: Pack) -> torch.Tensor:
    model.zero_grad()
    with attention.packed(model):
        pack_logprobs(model, pack).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("count", [1, 2])
def test_checkpointing_changes_no_bit(build_model: Any, kind: str, count: int) -> None:
    model, pack = build_model(kind), make_pack()
    plain = gradient(model, pack)
    forwards = []
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(lambda *_: forwards.append(1))
    checkpoint_layers(model, count)
    assert torch.equal(gradient(model, pack), plain)
    assert len(forwards) == 2 + count  # a checkpointed layer is computed twice
    checkpoint_layers(model, 0)
    assert torch.equal(gradient(model, pack), plain)
    assert len(forwards) == 4 + count


def test_measured_bytes_are_those_autograd_keeps(build_model: Any) -> None:
    """What is predicted for 0, 1 and 2 checkpointed layers against what autograd holds on to then."""
    model, pack = build_model(), make_pack(12)
    found = memory.measure(model, pack, PLAIN)
    assert found.layer > found.boundary == 32 * 4
    kept = []
    for count in range(3):
        checkpoint_layers(model, count)
        seen = {p.untyped_storage().data_ptr() for p in model.parameters()}
        held: list[torch.Tensor] = []

        def save(tensor: torch.Tensor, seen: Any = seen, held: Any = held) -> torch.Tensor:
            if tensor.untyped_storage().data_ptr() not in seen:
                seen.add(tensor.untyped_storage().data_ptr())
                held.append(tensor)
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
            attention.packed(model),
        ):
            pack_logprobs(model, pack)
        kept.append(sum(tensor.untyped_storage().nbytes() for tensor in held))
    layer = found.layer * pack.tokens
    assert kept[0] == pytest.approx((2 * found.layer + found.rest) * pack.tokens, rel=1e-6)
    # inputs of checkpointed layers are held outside of autograd's hooks
    assert kept[0] - kept[1] == pytest.approx(layer, rel=0.25)
    assert kept[1] - kept[2] == pytest.approx(layer, rel=0.25)


def test_measuring_leaves_nothing_behind(build_model: Any) -> None:
    model, pack, outputs = build_model(), make_pack(), []
    handle = model.model.layers[0].register_forward_hook(
        lambda *args: outputs.append(weakref.ref(args[2]))
    )
    memory.measure(model, pack, PLAIN)
    handle.remove()
    gc.collect()
    assert [output() for output in outputs] == [None]


def test_auto_takes_the_fewest_layers_that_fit() -> None:
    activations = Activations(layer=100, boundary=10, rest=50)
    # per token with k of 4 layers: the last one gains nothing, its layer has to be whole once anyway
    assert [activations.kept(4, k) for k in range(5)] == [450, 360, 270, 180, 190]
    budgets = {4500: 0, 4499: 1, 3600: 1, 3599: 2, 2699: 3, 1800: 3, 1799: None}
    assert {b: fewest_layers(activations, 4, 10, b) for b in budgets} == budgets


def test_settings() -> None:
    activations = Activations(layer=100, boundary=10, rest=50)

    def plan(setting: str, memory: float = 1e9, tokens: int = 10) -> int:
        return plan_layers(setting, 4, lambda: (activations, 1000.0), tokens, memory)

    assert [plan(s) for s in ("none", "all", "1", "7", "auto")] == [0, 4, 1, 4, 0]
    assert [plan("auto", 1000 + room) for room in (4500, 4499, 3599, 1800)] == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"10 tokens does not fit .* lower hardware.tokens_per"):
        plan("auto", 1000 + 1799)
    with pytest.raises(UserError, match=r"optimiser take .* GiB\): take a smaller model"):
        plan("auto", 999)


def test_two_layers_stand_for_all(build_model: Any) -> None:
    """What auto measures on a small model is what each layer of the whole one keeps."""
    model, pack = build_model(), make_pack(12)
    whole = copy.deepcopy(model.config)
    whole.num_hidden_layers, whole.layer_types = 5, ["full_attention"] * 5
    torch.manual_seed(0)
    large = type(model)(whole).train()
    small = memory.small_model(whole, torch.float32, torch.device("cpu"))
    assert len(memory.layers_of(small)) == 2
    found, wanted = (memory.measure(m, pack, PLAIN) for m in (small, large))
    assert found.layer == pytest.approx(wanted.layer, rel=0.03)
    assert found.rest == pytest.approx(wanted.rest, rel=0.03)


def test_standing_memory_by_hand(build_model: Any) -> None:
    model = build_model()
    count = sum(p.numel() for p in model.parameters())
    # weight, gradient, two moments
    assert memory.standing_bytes(model, Hardware(), "cached") == 16 * count
    # beside bf16 weights the optimiser's are fp32 copies, and so are the gradients
    narrow = Hardware(precision="bf16")
    assert memory.standing_bytes(model, narrow, "cached") == 18 * count
    assert memory.standing_bytes(model, narrow, "copy") == 20 * count
    assert memory.head_bytes(model) == 4 * (2 * 512 * 2048 + 3 * 45 * 32)
