"""The cached reference: same numbers however rows fall into packs, and never a wrong file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from spot.config import HardwareConfig
from spot.data.artifacts import model_digest
from spot.training import forward, reference
from spot.training.forward import PLAIN, Computing, Kernels
from spot.training.loop import tokenise
from spot.training.packing import PackingSettings, PairTokens, build_pack

SETTINGS = PackingSettings(1000)


@pytest.fixture
def pairs(tiny_tokenizer: Any, build_pairs: Any) -> list[Any]:
    return tokenise(tiny_tokenizer, build_pairs(12), False)


def scores(
    model: Any, tokenizer: Any, pairs: list[Any], settings: PackingSettings, folder: Path | None
) -> reference.ReferenceScores:
    computing = Computing(HardwareConfig(), settings, PLAIN)
    identity = reference.model_identity("", tokenizer, computing)
    return reference.reference_scores(lambda: model, pairs, settings, PLAIN, folder, identity)


def no_scoring(*_: Any) -> None:
    raise AssertionError("scored again")


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_independent_of_packs(build_model: Any, pairs: list[Any]) -> None:
    model = build_model()
    lengths = [pair.scored(SETTINGS) for pair in pairs]
    one = reference.score(model, pairs, SETTINGS).split(lengths)
    many = reference.score(model, pairs[::-1], PackingSettings(60)).split(lengths[::-1])
    for a, b in zip(one, many[::-1], strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_chosen_only_rows_use_the_first_part(
    build_model: Any, tiny_tokenizer: Any, pairs: list[Any]
) -> None:
    model, alone = build_model(), PackingSettings(1000, rejected=False)
    full = scores(model, tiny_tokenizer, pairs, SETTINGS, None)
    lengths = [pair.scored(alone) for pair in pairs]
    parts = reference.score(model, pairs, alone).split(lengths)
    chosen = reference.ReferenceScores({p.id: v for p, v in zip(pairs, parts, strict=True)})
    pack = build_pack(pairs, alone)
    assert len(full.by_id[pairs[0].id]) > len(chosen.by_id[pairs[0].id])
    torch.testing.assert_close(full.of(pack), chosen.of(pack), atol=1e-5, rtol=0)


def test_a_second_run_reads_and_does_not_score(
    build_model: Any, tiny_tokenizer: Any, pairs: list[Any], tmp_path: Path, monkeypatch: Any
) -> None:
    model = build_model()
    first = scores(model, tiny_tokenizer, pairs, SETTINGS, tmp_path)
    monkeypatch.setattr(reference, "score", no_scoring)
    for settings in (SETTINGS, PackingSettings(77)):  # the size of packs does not matter
        second = scores(model, tiny_tokenizer, pairs, settings, tmp_path)
        assert all(torch.equal(first.by_id[p.id], second.by_id[p.id]) for p in pairs)
    assert [path.suffix for path in files(tmp_path)] == [".json", ".safetensors"]


def test_everything_it_depends_on_changes_the_key(
    build_model: Any, tiny_tokenizer: Any, pairs: list[Any], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(forward, "version", lambda package: "1.0")  # whatever is installed
    model, other = build_model(), build_model()
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight[3, 5] += 1e-6
    digests = []
    for name, made in (("one", model), ("same", build_model()), ("other", other)):
        made.save_pretrained(tmp_path / name)
        digests.append(model_digest(tmp_path / name))
    assert digests[0] == digests[1] != digests[2]

    def key(
        settings: PackingSettings = SETTINGS,
        kernels: Kernels = PLAIN,
        weights: str = digests[0],
        **hardware: Any,
    ) -> str:
        computing = Computing(HardwareConfig(**hardware), settings, kernels)
        return json.dumps(reference.model_identity(weights, tiny_tokenizer, computing))

    base = key()
    assert base == key()
    assert base != key(weights=digests[2])
    assert base != key(PackingSettings(1000, share_prefix=False))
    assert base != key(precision="bf16")
    assert base != key(accelerator="gpu")
    for kernels in (Kernels(attention="varlen"), Kernels(logprobs="liger")):
        assert base != key(kernels=kernels)
    assert reference.pairs_digest(pairs) != reference.pairs_digest(pairs[:-1])
    moved = PairTokens(pairs[0].id, pairs[0].prompt[:-1], pairs[0].chosen, pairs[0].rejected)
    assert reference.pairs_digest(pairs) != reference.pairs_digest([moved, *pairs[1:]])
    template = tiny_tokenizer.chat_template
    try:
        tiny_tokenizer.chat_template = template + " "
        assert base != key()
    finally:
        tiny_tokenizer.chat_template = template


def tear(manifest: Path, data: Path) -> None:
    data.write_bytes(data.read_bytes()[:-8])


def flip(manifest: Path, data: Path) -> None:
    content = bytearray(data.read_bytes())
    content[-3] ^= 1
    data.write_bytes(content)


def lose(manifest: Path, data: Path) -> None:
    data.unlink()


def garble(manifest: Path, data: Path) -> None:
    manifest.write_text(manifest.read_text()[:40])


def swap(manifest: Path, data: Path) -> None:
    said = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(said | {"key": "0" * 64}))


@pytest.mark.parametrize("damage", [tear, flip, lose, garble, swap])
def test_a_wrong_or_torn_file_is_scored_again(
    build_model: Any, tiny_tokenizer: Any, pairs: list[Any], tmp_path: Path, damage: Any
) -> None:
    model = build_model()
    first = scores(model, tiny_tokenizer, pairs, SETTINGS, tmp_path)
    before = [path.read_bytes() for path in files(tmp_path)]
    damage(*files(tmp_path))
    again = scores(model, tiny_tokenizer, pairs, SETTINGS, tmp_path)
    assert all(torch.equal(first.by_id[p.id], again.by_id[p.id]) for p in pairs)
    assert [path.read_bytes() for path in files(tmp_path)] == before
