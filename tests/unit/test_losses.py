"""Losses against numbers worked out by hand, finite differences, identities and TRL."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spot.training.losses import LOSSES, bce, bco, dft, dpo, rwsft, sft, tether_coefficients

CHOSEN = torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64)
REJECTED = torch.tensor([0.0, -1.0, 3.0], dtype=torch.float64)


def log1pexp(x: float) -> float:
    """−log σ(−x)"""
    return math.log1p(math.exp(x))


def close(got: torch.Tensor, wanted: list[float]) -> None:
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=got.dtype), atol=1e-12, rtol=1e-12)


def test_losses_by_hand() -> None:
    close(dpo(CHOSEN, REJECTED)[0], [math.log(2), log1pexp(-2), log1pexp(5)])
    close(rwsft(CHOSEN)[0], [math.log(2), log1pexp(-1), log1pexp(2)])
    close(
        bce(CHOSEN, REJECTED)[0],
        [2 * math.log(2), 2 * log1pexp(-1), log1pexp(2) + log1pexp(3)],
    )
    # δ = 0.5: (−0.5, −0.5), (0.5, −1.5), (−2.5, 2.5)
    close(
        bco(CHOSEN, REJECTED, 0.5)[0],
        [
            log1pexp(0.5) + log1pexp(-0.5),
            log1pexp(-0.5) + log1pexp(-1.5),
            log1pexp(2.5) + log1pexp(2.5),
        ],
    )
    # decimals, so that the formulas above are not checked against themselves alone
    assert dpo(CHOSEN, REJECTED)[0].tolist() == pytest.approx(
        [0.693147, 0.126928, 5.006715], abs=1e-6
    )
    assert bco(CHOSEN, REJECTED, 0.5)[0].tolist() == pytest.approx(
        [1.448154, 0.675490, 5.157779], abs=1e-6
    )
    logps = torch.tensor([math.log(0.5), math.log(0.25)], dtype=torch.float64)
    close(sft(logps), [math.log(2), math.log(4)])
    close(dft(logps), [0.5 * math.log(2), 0.25 * math.log(4)])


def test_at_the_start_the_losses_are_ln_2_and_2_ln_2() -> None:
    zero = torch.zeros(4)
    for name, wanted in {"dpo": 1, "rwsft": 1, "bce": 2, "bco": 2}.items():
        loss = LOSSES[name].pair
        assert loss is not None
        assert loss(zero, zero, 0.0)[0].tolist() == pytest.approx([wanted * math.log(2)] * 4)


def test_bco_without_delta_is_bce() -> None:
    torch.manual_seed(0)
    chosen, rejected = torch.randn(50), torch.randn(50)
    (a, more_a), (b, more_b) = bco(chosen, rejected, 0.0), bce(chosen, rejected, delta=7.0)
    assert torch.equal(a, b)
    assert all(torch.equal(more_a[k], more_b[k]) for k in more_a)


def test_tether_as_the_paper_states_it() -> None:
    positive, negative = tether_coefficients(torch.tensor([0.0, 10.0]), torch.tensor([0.0, -10.0]))
    assert positive.tolist() == pytest.approx([0.5, 4.5397868e-5], rel=1e-5)
    assert negative.tolist() == pytest.approx([0.5, 4.5397868e-5], rel=1e-5)
    positive, negative = tether_coefficients(torch.tensor([1.0]), torch.tensor([1.0]), delta=1.0)
    assert (positive.item(), negative.item()) == (0.5, 0.5)


@pytest.mark.parametrize("name", ["dpo", "rwsft", "bce", "bco"])
def test_the_tether_is_the_gradient(name: str) -> None:
    """∂loss/∂r⁺ = −λ⁺ and ∂loss/∂r⁻ = λ⁻ (eq. 7)."""
    chosen = CHOSEN.clone().requires_grad_()
    rejected = REJECTED.clone().requires_grad_()
    loss = LOSSES[name].pair
    assert loss is not None
    value, tether = loss(chosen, rejected, 0.3)
    value.sum().backward()
    torch.testing.assert_close(chosen.grad, -tether["tether/chosen"])
    if LOSSES[name].needs_rejected:
        torch.testing.assert_close(rejected.grad, tether["tether/rejected"])
    else:
        assert rejected.grad is None


def test_token_losses_gradients() -> None:
    logps = torch.tensor([-0.1, -2.0, -7.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sft, (logps,))
    (gradient,) = torch.autograd.grad(dft(logps).sum(), logps)
    torch.testing.assert_close(gradient, -logps.detach().exp())  # −p, not −p(1 + log p)


def test_dft_gradient_on_logits_is_minus_the_gradient_of_p() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 9, (5,))
    logps = logits.log_softmax(-1)[torch.arange(5), targets]
    (got,) = torch.autograd.grad(dft(logps).sum(), logits, retain_graph=True)
    p = logits.softmax(-1)[torch.arange(5), targets]
    (wanted,) = torch.autograd.grad(-p.sum(), logits)
    torch.testing.assert_close(got, wanted)


def test_losses_stay_finite_far_out() -> None:
    far = torch.tensor([-1e4, 1e4])
    for name in ("dpo", "rwsft", "bce", "bco"):
        loss = LOSSES[name].pair
        assert loss is not None
        assert torch.isfinite(loss(far, -far, 0.0)[0]).all()


def test_registry_says_what_a_method_needs() -> None:
    assert {n for n, loss in LOSSES.items() if loss.needs_rejected} == {"dpo", "bce", "bco"}
    assert {n for n, loss in LOSSES.items() if loss.needs_reference} == {
        "dpo", "rwsft", "bce", "bco"
    }  # fmt: skip
    assert [n for n, loss in LOSSES.items() if loss.uses_delta] == ["bco"]


class _Alone:
    """Stands in for accelerate: one process."""

    @staticmethod
    def gather(value: torch.Tensor) -> torch.Tensor:
        return value

    gather_for_metrics = gather
    device = torch.device("cpu")


def _trl(loss_type: str, logps: torch.Tensor, reference: torch.Tensor, beta: float) -> Any:
    """TRL's DPOTrainer loss and metrics for given log-probs [2 * pairs], without training."""
    from trl import DPOTrainer

    shape = (len(logps), 2)
    metrics: dict[str, list[float]] = {
        name: [] for name in ("entropy", "num_tokens", "logits/chosen", "logits/rejected",
        "mean_token_accuracy", "rewards/chosen", "rewards/rejected", "rewards/accuracies",
        "rewards/margins", "logps/chosen", "logps/rejected")
    }  # fmt: skip
    trainer = SimpleNamespace(
        model=torch.nn.Identity(), accelerator=_Alone(), aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[loss_type],
        loss_weights=[1.0], beta=beta, use_weighting=False, _total_train_tokens=0, _tp_size=1,
        _metrics={"train": metrics, "eval": metrics},
    )  # fmt: skip
    outputs = SimpleNamespace(
        log_probs=logps[:, None],
        entropy=torch.zeros(len(logps), 1),
        mean_logits=torch.zeros(len(logps), 1),
        is_top1=torch.zeros(len(logps), 1, dtype=torch.bool),
    )
    ref_chosen, ref_rejected = reference.chunk(2)
    inputs = {
        "input_ids": torch.zeros(shape, dtype=torch.long),
        "attention_mask": torch.ones(shape, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1]]).expand(shape),
        "ref_chosen_logps": ref_chosen,
        "ref_rejected_logps": ref_rejected,
    }
    loss = DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)
    return loss, {name: values[-1] for name, values in metrics.items()}


@pytest.mark.parametrize(("trl_name", "ours"), [("sigmoid", dpo), ("bco_pair", bce)])
def test_equal_to_trl(trl_name: str, ours: Any) -> None:
    """TRL's `bco_pair` has no δ since 0.29: it is BCE."""
    torch.manual_seed(0)
    beta = 0.1
    logps = (-100 + 30 * torch.randn(12)).requires_grad_()
    reference = logps.detach() + 5 * torch.randn(12)
    wanted, metrics = _trl(trl_name, logps, reference, beta)
    (wanted_gradient,) = torch.autograd.grad(wanted, logps)

    chosen, rejected = (beta * (logps - reference)).chunk(2)
    loss = ours(chosen, rejected)[0].mean()
    (gradient,) = torch.autograd.grad(loss, logps)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    torch.testing.assert_close(gradient, wanted_gradient, atol=1e-8, rtol=1e-5)
    assert chosen.mean().item() == pytest.approx(metrics["rewards/chosen"], rel=1e-5)
    assert (chosen > rejected).float().mean().item() == pytest.approx(metrics["rewards/accuracies"])
