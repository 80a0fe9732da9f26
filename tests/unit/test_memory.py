"""Selective activation checkpointing: the same gradients, less kept, and no more layers than needed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from spot.config import HardwareConfig
from spot.training import activation_checkpointing, attention
from spot.training.activation_checkpointing import (
    Recomputation,
    checkpoint_layers,
    recomputation,
)
from spot.training.forward import PLAIN, Computing, pack_logprobs
from spot.training.memory_model import RESERVE, Rows, footprint
from spot.training.packing import Pack, PackingSettings, PairTokens, build_pack
from spot.training.shapes import read
from spot.utils.errors import UserError


def make_pairs(pairs: int = 6) -> list[PairTokens]:
    rng = random.Random(0)
    return [
        PairTokens(str(i), rng.choices(range(2, 45), k=5), [2, *rng.choices(range(4, 45), k=20)],
                   [3, *rng.choices(range(4, 45), k=20)])
        for i in range(pairs)
    ]  # fmt: skip


def make_pack(pairs: int = 6) -> Pack:
    return build_pack(make_pairs(pairs), PackingSettings(10**6))


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


def auto(tmp_path: Path, pairs: list[PairTokens], model: Any, **hardware: Any) -> Recomputation:
    model.config.save_pretrained(tmp_path)
    config = HardwareConfig(**{"checkpoint_layers": "auto", "tokens_per_pack": 1024} | hardware)
    computing = Computing(config, PackingSettings(config.tokens_per_pack), PLAIN)
    return recomputation(tmp_path / "config.json", 2, pairs, computing, "cached")


def test_auto_takes_the_fewest_layers_that_fit(build_model: Any, tmp_path: Path) -> None:
    """… by the memory model of `spot plan`; the last layer that is needed decides each border."""
    model, pairs = build_model(), make_pairs()
    for setting, count in {"none": 0, "all": 2, "1": 1, "7": 2}.items():
        fixed = auto(tmp_path, pairs, model, checkpoint_layers=setting)
        assert fixed.most == fixed.of(make_pack()) == count
    shape = read(tmp_path / "config.json")
    rows = Rows.of([pair.lengths for pair in pairs], shape, rejected=True, shared=True)
    needs = [
        footprint(shape, HardwareConfig(checkpoint_layers=n), "cached", rows, 1024, None).device
        for n in "012"
    ]
    assert needs[0] > needs[1]

    def with_bytes(size: float, **more: Any) -> Recomputation:
        return auto(tmp_path, pairs, model, memory_gib=size / RESERVE / 2**30, **more)

    assert with_bytes(needs[0] + 1).most == 0
    assert with_bytes(needs[0] - 1).most == 1
    pack = make_pack(3)
    assert pack.tokens < 1024 / 2
    assert with_bytes(needs[0] - 1).of(pack) == 0, "a pack that needs no room takes none"
    shared = {"strategy": "deepspeed", "devices": 2}
    for stage, count in ((2, 0), (3, 1)):
        hardware = HardwareConfig(checkpoint_layers="0", zero_stage=stage, **shared)  # type: ignore[arg-type]
        room = footprint(shape, hardware, "cached", rows, 1024, None).device - 1
        found = with_bytes(room, zero_stage=stage, **shared)
        assert (found.most, found.of(pack)) == (1, count), "ZeRO-3 gathers alike on all ranks"
    with pytest.raises(UserError, match=r"pack of 1024 tokens needs .* lower hardware.tokens_per"):
        with_bytes(min(needs) - 1)


def test_auto_takes_all_layers_of_an_architecture_that_is_not_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training works with more models than the memory model knows, and may begin after hours."""
    said: list[str] = []
    monkeypatch.setattr(activation_checkpointing, "say", said.append)
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "gemma3_text"}')
    computing = Computing(HardwareConfig(checkpoint_layers="auto"), PackingSettings(1024), PLAIN)
    assert recomputation(file, 2, make_pairs(), computing, "cached").of(make_pack()) == 2
    assert "takes all 2 layers" in said[0]
