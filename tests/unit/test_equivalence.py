"""The bounds of performance/equivalence.py hold: packing changes rounding and nothing else."""

from __future__ import annotations

import pytest
import torch

from performance import equivalence


@pytest.mark.parametrize("prefix", equivalence.PREFIXES)
@pytest.mark.parametrize("dtype", list(equivalence.BOUNDS))
@pytest.mark.parametrize("kind", equivalence.KINDS)
def test_packs_equal_separate_sequences(kind: str, dtype: torch.dtype, prefix: str) -> None:
    for count in equivalence.COUNTS:
        for row in equivalence.compare(kind, dtype, prefix, count):
            assert not equivalence.beyond(row), row
            assert row["gradients"] > 0  # two computations, not one compared with itself


def test_a_wrong_mask_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If tails were aligned to the left, the bounds would break by orders of magnitude."""
    from spot.training import attention

    def aligned_left(before: torch.Tensor, queries: int, keys: int) -> torch.Tensor:
        ones = torch.ones(queries, keys, dtype=torch.bool).tril()
        return ones.expand(len(before), queries, keys)

    monkeypatch.setattr(attention, "_aligned_right", aligned_left)
    shared, unshared = equivalence.compare("qwen3", torch.float32, "partial", 4)
    assert equivalence.beyond(shared)
    assert shared["gradients"] > 0.01
    assert not equivalence.beyond(unshared)


def test_in_bf16_packs_are_no_worse_than_separate_sequences() -> None:
    """Against fp64 on the same rounded weights; the worst of several cases, with room for luck."""
    rows = [
        row
        for prefix in ("partial", "mixed")
        for row in equivalence.compare("qwen3", torch.bfloat16, prefix, 16)
    ]
    ours = max(row["gradients, packed to fp64"] for row in rows)
    theirs = max(row["gradients, separate to fp64"] for row in rows)
    assert 0 < ours < 1.3 * theirs
