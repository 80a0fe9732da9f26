"""Chunked token log-probs against plain log-softmax."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch

from spot.training import kernel_checks, logprobs
from spot.training.kernel_checks import check_logprobs
from spot.training.logprobs import Shaping, token_logprobs
from spot.utils.errors import UserError


def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (hidden @ weight.T).log_softmax(-1).gather(-1, targets[:, None])[:, 0]


@pytest.mark.parametrize("tile", [(1, 1), (3, 11), (7, 4), (2, 5), (100, 100)])
def test_values_and_gradients_whatever_the_tile(tile: tuple[int, int]) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(7, 5, requires_grad=True)
    weight = torch.randn(11, 5, requires_grad=True)
    targets, upstream = torch.randint(0, 11, (7,)), torch.randn(7)
    got, entropy = token_logprobs(hidden, weight, targets, tile=tile)
    wanted = plain(hidden, weight, targets)
    assert entropy is None
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
    assert torch.autograd.gradcheck(
        lambda h, w: token_logprobs(h, w, targets, tile=(3, 4))[0], (hidden, weight)
    )


SHAPINGS = [Shaping(), Shaping(0.25), Shaping(cap=2.0), Shaping(3.0, 1.5)]


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shaping", SHAPINGS, ids=str)
def test_a_head_with_bias_scale_and_cap(shaping: Shaping, with_bias: bool) -> None:
    """Granite and Cohere scale their logits, Gemma caps them, Phi's head has a bias."""
    torch.manual_seed(0)
    hidden = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True) if with_bias else None
    inputs = (hidden, weight) if bias is None else (hidden, weight, bias)
    targets = torch.tensor([0, 6, 6, 2, 3])
    z = hidden @ weight.T + (0 if bias is None else bias)
    logits = shaping.scale * z
    if shaping.cap is not None:
        logits = shaping.cap * (logits / shaping.cap).tanh()
    wanted = torch.distributions.Categorical(logits=logits)

    def got(h: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
        return token_logprobs(h, w, targets, bias=b, shaping=shaping, tile=(3, 4))[0]

    torch.testing.assert_close(got(*inputs), wanted.log_prob(targets))
    entropy = token_logprobs(*inputs[:2], targets, entropy=True, bias=bias, shaping=shaping)[1]
    torch.testing.assert_close(entropy, wanted.entropy())
    assert torch.autograd.gradcheck(got, inputs)
    check_logprobs("torch", 16, torch.float32, "cpu", shaping)


def test_liger_refuses_a_head_that_is_more_than_a_matrix() -> None:
    some = torch.ones(2, 2), torch.ones(3, 2), torch.tensor([0, 1])
    for more in ({"bias": torch.ones(3)}, {"shaping": Shaping(2.0)}):
        with pytest.raises(UserError, match=r"logprobs=torch"):
            logprobs.KERNELS["liger"](*some, **more)


@pytest.mark.parametrize("tile", [(2, 7), (50, 50)])
def test_entropy_of_every_prediction(tile: tuple[int, int]) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(9, 4, requires_grad=True)
    weight, targets = torch.randn(30, 4), torch.randint(0, 30, (9,))
    logps, entropy = token_logprobs(hidden, weight, targets, entropy=True, tile=tile)
    assert entropy is not None
    wanted = torch.distributions.Categorical(logits=hidden @ weight.T).entropy()
    torch.testing.assert_close(entropy, wanted, atol=1e-5, rtol=0)
    assert not entropy.requires_grad
    (with_entropy,) = torch.autograd.grad(logps.sum(), hidden)
    (without,) = torch.autograd.grad(token_logprobs(hidden, weight, targets)[0].sum(), hidden)
    torch.testing.assert_close(with_entropy, without, atol=1e-6, rtol=1e-5)
    uniform = token_logprobs(torch.zeros(1, 4), weight, targets[:1], entropy=True)[1]
    assert uniform is not None
    assert uniform.item() == pytest.approx(torch.log(torch.tensor(30.0)).item())


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_a_frozen_side_gets_no_gradient(frozen: str) -> None:
    torch.manual_seed(0)
    tensors = {"hidden": torch.randn(6, 4), "weight": torch.randn(9, 4)}
    moving = tensors["weight" if frozen == "hidden" else "hidden"].requires_grad_()
    targets = torch.randint(0, 9, (6,))
    got = torch.autograd.grad(token_logprobs(**tensors, targets=targets)[0].sum(), moving)
    wanted = torch.autograd.grad(plain(**tensors, targets=targets).sum(), moving)
    torch.testing.assert_close(got, wanted)


def test_bf16_states_give_what_fp64_gives() -> None:
    """Logits are not rounded to bf16 on the way, nor is the head's gradient while it is added up."""
    torch.manual_seed(0)
    hidden = torch.randn(600, 64).bfloat16().requires_grad_()
    weight = (torch.randn(500, 64) / 4).bfloat16().requires_grad_()
    targets = torch.randint(0, 500, (600,))
    got, _ = token_logprobs(hidden, weight, targets, tile=(10, 90))
    assert got.dtype == torch.float32
    exact_inputs = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    exact = plain(*exact_inputs, targets)
    torch.testing.assert_close(got.double(), exact, atol=1e-5, rtol=0)
    in_bf16 = (hidden @ weight.T).detach().float().log_softmax(-1).gather(-1, targets[:, None])
    assert abs(in_bf16.double().sum() - exact.sum()) > 100 * abs(got.double().sum() - exact.sum())
    for a, b in zip(
        torch.autograd.grad(got.sum(), (hidden, weight)),
        torch.autograd.grad(exact.sum(), exact_inputs),
        strict=True,
    ):
        assert a.dtype == torch.bfloat16
        # no more than the rounding of the result itself
        assert (a.double() - b).norm() / b.norm() < 2**-8


def test_rewards_of_near_identical_pairs_from_bf16_states() -> None:
    """What differs by one token in 600, against another model's states: 1e-4 of fp64."""
    torch.manual_seed(0)
    weight = (torch.randn(800, 64) / 4).bfloat16()
    targets = torch.randint(0, 800, (600,))
    other = targets.clone()
    other[300] = (other[300] + 1) % 800
    states = torch.randn(600, 64)
    moved = states.clone()
    moved[300:] += 0.02 * torch.randn(300, 64)

    def rewards(dtype: torch.dtype) -> torch.Tensor:
        found = []
        for response in (targets, other):
            policy, reference = (
                token_logprobs(h.bfloat16().to(dtype), weight.to(dtype), response)[0]
                for h in (moved, states)
            )
            found.append(0.1 * (policy - reference).sum())
        return torch.stack(found)

    got, exact = rewards(torch.bfloat16), rewards(torch.float64)
    assert got.dtype == torch.float32
    assert exact.abs().max() > 0.01
    torch.testing.assert_close(got.double(), exact, atol=1e-4, rtol=0)
    torch.testing.assert_close((got[0] - got[1]).double(), exact[0] - exact[1], atol=1e-4, rtol=0)


def test_logits_far_apart_neither_overflow_nor_vanish() -> None:
    hidden = torch.tensor([[1.0], [-1.0]])
    weight = torch.tensor([[200.0], [0.0], [-200.0], [199.0]])
    got, entropy = token_logprobs(hidden, weight, torch.tensor([3, 0]), entropy=True, tile=(1, 1))
    wanted = (hidden @ weight.T).double().log_softmax(-1)
    exact = torch.stack([wanted[0, 3], wanted[1, 0]])
    torch.testing.assert_close(got.double(), exact, atol=1e-5, rtol=1e-6)
    exact = -(wanted.exp() * wanted).sum(-1)
    assert entropy is not None
    torch.testing.assert_close(entropy.double(), exact, atol=1e-4, rtol=0)


def test_no_tensor_beyond_one_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that forward and backward make has more elements than a tile or the head (8,000 each)."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, torch.Tensor):
                    self.elements = max(self.elements, tensor.numel())
            return out

    monkeypatch.setitem(logprobs.TILES, "cpu", (20, 400))
    hidden = torch.randn(400, 8, requires_grad=True)
    weight = torch.randn(1000, 8, requires_grad=True)
    targets = torch.randint(0, 1000, (400,))
    with Largest() as largest:
        logps, _ = token_logprobs(hidden, weight, targets, entropy=True)
        logps.sum().backward()
    assert largest.elements == 20 * 400


def test_liger_gives_the_same_numbers(needs: Callable[[object, str], None]) -> None:
    needs(importlib.util.find_spec("liger_kernel"), "liger-kernel, which is for Linux")
    check_logprobs("liger", 64, torch.float32, "cpu")
    hidden, weight = torch.randn(20, 8), torch.randn(50, 8)
    targets = torch.randint(0, 50, (20,))
    ours, liger = (k(hidden, weight, targets, entropy=True) for k in logprobs.KERNELS.values())
    for a, b in zip(ours, liger, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    # away from a GPU it rounds logits to bf16: the check must notice
    with pytest.raises(
        UserError, match=r"logprobs=liger does not give .* choose hardware.logprobs"
    ):
        check_logprobs("liger", 64, torch.bfloat16, "cpu")


def test_a_kernel_with_other_gradients_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(
        hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        logps, entropies = token_logprobs(hidden, weight, targets, **options)
        return 2 * logps - logps.detach(), entropies

    monkeypatch.setitem(logprobs.KERNELS, "doubled", doubled)
    with pytest.raises(UserError, match=r"doubled does not give .* gradients by 1\)"):
        check_logprobs("doubled", 16, torch.float32, "cpu")


@pytest.mark.parametrize("dtype", list(kernel_checks.LOGPROB_BOUNDS))
def test_ours_passes_its_own_check(dtype: torch.dtype) -> None:
    check_logprobs("torch", 64, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ours_passes_on_this_gpu(dtype: torch.dtype) -> None:
    check_logprobs("torch", 256, dtype, "cuda")


def test_liger_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "liger_kernel.ops.fused_linear_scaled_cross_entropy", None)
    with pytest.raises(UserError, match=r"liger does not run here .* hardware.logprobs=torch"):
        check_logprobs("liger", 16, torch.float32, "cpu")
