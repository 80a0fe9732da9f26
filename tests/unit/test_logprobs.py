"""Chunked token log-probs against plain log-softmax."""

from __future__ import annotations

import pytest
import torch

from spot.training.logprobs import chunk_rows, token_logprobs


def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (hidden @ weight.T).log_softmax(-1).gather(-1, targets[:, None])[:, 0]


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_values_and_gradients_whatever_the_chunk(rows: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(7, 5, requires_grad=True)
    weight = torch.randn(11, 5, requires_grad=True)
    targets, upstream = torch.randint(0, 11, (7,)), torch.randn(7)
    got = token_logprobs(hidden, weight, targets, rows)
    wanted = plain(hidden, weight, targets)
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)
    for a, b in zip(
        torch.autograd.grad(got, (hidden, weight), upstream),
        torch.autograd.grad(wanted, (hidden, weight), upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_gradients_against_finite_differences() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 5, 5, 2])
    assert torch.autograd.gradcheck(lambda h, w: token_logprobs(h, w, targets, 3), (hidden, weight))


def test_bf16_states_give_fp32_log_probs() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(64, 16).bfloat16(), torch.randn(50, 16).bfloat16()
    targets = torch.randint(0, 50, (64,))
    got = token_logprobs(hidden, weight, targets, 10)
    assert got.dtype == torch.float32
    exact = (hidden @ weight.T).double().log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(got.double(), exact, atol=1e-5, rtol=0)


def test_a_chunk_is_bounded_for_any_vocabulary() -> None:
    assert chunk_rows(151_936) * 151_936 <= 2**22
    assert chunk_rows(10**9) == 16
