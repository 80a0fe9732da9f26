"""The packed attention function against dense attention over the whole pack."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from spot.training import attention
from spot.training.packing import PairTokens, build_pack

ROWS = [(3, 2, 4), (20, 5, 1), (1, 0, 3), (4, 4, 0), (19, 3, 3)]


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Softmax attention over all tokens at once, with a T x T mask built token by token."""
    total = q.shape[2]
    seen = torch.zeros(total, total, dtype=torch.bool)
    start = 0
    for c, a, b in ROWS:
        for i in range(c + a + b):
            for j in range(i + 1):
                if not (i >= c + a and c <= j < c + a):
                    seen[start + i, start + j] = True
        start += c + a + b
    groups = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(groups, 1) for t in (k, v))
    scores = (q @ k.transpose(2, 3)) * 0.3
    return (scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v).transpose(1, 2)


def test_packed_attention_equals_dense() -> None:
    torch.manual_seed(0)
    total = sum(map(sum, ROWS))
    q = torch.randn(1, 4, total, 8, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(1, 2, total, 8, dtype=torch.float64, requires_grad=True) for _ in "kv")
    layout = attention.make_layout(ROWS, torch.float64)
    assert len(layout.blocks) > 1
    got, _ = attention.packed_sdpa(torch.nn.Identity(), q, k, v, None, layout=layout, scaling=0.3)
    wanted = dense(q, k, v)
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=0)
    weights = torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad((got * weights).sum(), (q, k, v)),
        torch.autograd.grad((wanted * weights).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_work_is_the_sum_of_squares_not_the_square_of_the_sum() -> None:
    layout = attention.make_layout([(50, 25, 25)] * 30 + [(10, 0, 0)] * 5)
    elements = sum(block.mask.numel() for block in layout.blocks)
    assert elements == 30 * 100**2 + 5 * 10**2


def test_a_model_outside_the_context_is_untouched(build_model: Any) -> None:
    model = build_model()
    pack = build_pack([PairTokens("p", (2,), (3, 0), (4, 0))], True)
    with pytest.raises(RuntimeError, match="attention is sdpa"):
        attention.hidden_states(model, pack)
    with attention.packed(model):
        assert attention.hidden_states(model, pack).shape == (5, 32)
        with pytest.raises(IndexError):  # whatever happens inside, it is undone
            model(torch.tensor([[99]]))
    assert model.config._attn_implementation == "sdpa"
    assert model(torch.tensor([[2, 3]])).logits.shape == (1, 2, 45)
