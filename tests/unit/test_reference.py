"""The cached reference: same numbers however rows fall into packs, and never a wrong file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from spot.training import reference
from spot.training.loop import tokenise
from spot.training.packing import PackingSettings, PairTokens, build_pack
from spot.training.scoring import PLAIN, Kernels

SETTINGS = PackingSettings(1000)


@pytest.fixture
def pairs(tiny_tokenizer: Any, build_pairs: Any) -> list[Any]:
    return tokenise(tiny_tokenizer, build_pairs(12), False)


def scores(
    model: Any, tokenizer: Any, pairs: list[Any], settings: PackingSettings, folder: Path
) -> reference.ReferenceScores:
    identity = reference.model_identity(model, tokenizer, settings, PLAIN)
    return reference.reference_scores(model, pairs, settings, PLAIN, folder, identity)


def no_scoring(*_: Any) -> None:
    raise AssertionError("scored again")


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_independent_of_packs(build_model: Any, pairs: list[Any]) -> None:
    model = build_model()
    one = reference.score(model, pairs, SETTINGS)
    many = reference.score(model, pairs[::-1], PackingSettings(60))
    for pair in pairs:
        assert one[pair.id].dtype == torch.float32
        assert one[pair.id].shape == (pair.scored(SETTINGS),)
        torch.testing.assert_close(one[pair.id], many[pair.id], atol=1e-5, rtol=0)


def test_chosen_only_rows_use_the_first_part(build_model: Any, pairs: list[Any]) -> None:
    model, alone = build_model(), PackingSettings(1000, rejected=False)
    full = reference.ReferenceScores(reference.score(model, pairs, SETTINGS))
    chosen = reference.ReferenceScores(reference.score(model, pairs, alone))
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
    build_model: Any, tiny_tokenizer: Any, pairs: list[Any]
) -> None:
    model, other = build_model(), build_model()
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight[3, 5] += 1e-6

    def key(model: Any, tokenizer: Any, settings: PackingSettings, kernels: Kernels = PLAIN) -> str:
        return json.dumps(reference.model_identity(model, tokenizer, settings, kernels))

    base = key(model, tiny_tokenizer, SETTINGS)
    assert base == key(build_model(), tiny_tokenizer, SETTINGS)
    assert base != key(other, tiny_tokenizer, SETTINGS)
    assert reference.pairs_digest(pairs) != reference.pairs_digest(pairs[:-1])
    moved = PairTokens(pairs[0].id, pairs[0].prompt[:-1], pairs[0].chosen, pairs[0].rejected)
    assert reference.pairs_digest(pairs) != reference.pairs_digest([moved, *pairs[1:]])
    assert base != key(model, tiny_tokenizer, PackingSettings(1000, share_prefix=False))
    assert base != key(model.double(), tiny_tokenizer, SETTINGS)
    model.float()
    for kernels in (Kernels(attention="varlen"), Kernels(logprobs="liger")):
        assert base != key(model, tiny_tokenizer, SETTINGS, kernels)
    template = tiny_tokenizer.chat_template
    try:
        tiny_tokenizer.chat_template = template + " "
        assert base != key(model, tiny_tokenizer, SETTINGS)
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
