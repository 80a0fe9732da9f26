"""Losses against numbers worked out by hand, finite differences, identities and TRL."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spot.config import LOSSES
from spot.config.compose import compose
from spot.training import losses
from spot.training.losses import (
    anchor,
    apo_down,
    bce,
    bco,
    compute,
    dft,
    dpo,
    dpop,
    ipo,
    kto,
    nca,
    psft,
    rwsft,
    sft,
    simpo,
    tether_coefficients,
)

CHOSEN = torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64)
REJECTED = torch.tensor([0.0, -1.0, 3.0], dtype=torch.float64)
LOGPS = torch.tensor([-0.1, -2.0, -7.0], dtype=torch.float64)
REFERENCE = torch.tensor([-0.5, -2.0, -3.0], dtype=torch.float64)
NUMBERS = {
    "beta": 0.2, "delta": 0.3, "penalty": 5.0, "margin": 0.5, "clip_ratio": 0.28, "kl_weight": 0.05
}  # fmt: skip
PAIRS = [name for name, loss in LOSSES.items() if not loss.token]
TOKENS = [name for name, loss in LOSSES.items() if loss.token]


def log1pexp(x: float) -> float:
    """−log σ(−x)"""
    return math.log1p(math.exp(x))


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def close(got: torch.Tensor, wanted: list[float]) -> None:
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=got.dtype), atol=1e-12, rtol=1e-12)


def of(name: str, **given: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A loss of these tensors and numbers, with those above for the rest."""
    tensors = {"chosen": CHOSEN, "rejected": REJECTED, "logps": LOGPS, "reference": REFERENCE}
    return compute(name, tensors | NUMBERS | given)


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
    close(kto(CHOSEN, REJECTED, 0.5)[0], [1, 2 - sigma(0.5) - sigma(1.5), 2 * sigma(2.5)])
    close(apo_down(CHOSEN, REJECTED)[0], [1, sigma(1) + sigma(-2), sigma(-2) + sigma(5)])
    # λ = 5: margins 0, 2 and −2 − 3 − 5 · 2 = −15
    close(dpop(CHOSEN, REJECTED, 5)[0], [math.log(2), log1pexp(-2), log1pexp(15)])
    close(ipo(CHOSEN, REJECTED, 0.5)[0], [1, (2 / 0.5 - 1) ** 2, (-5 / 0.5 - 1) ** 2])
    close(simpo(CHOSEN, REJECTED, 0.5)[0], [log1pexp(0.5), log1pexp(-1.5), log1pexp(5.5)])
    close(
        nca(CHOSEN, REJECTED)[0],
        [
            2 * math.log(2),
            log1pexp(-1) + log1pexp(1) / 2 + log1pexp(-1) / 2,
            log1pexp(2) + log1pexp(-2) / 2 + log1pexp(3) / 2,
        ],
    )
    # decimals, so that the formulas above are not checked against themselves alone
    assert dpo(CHOSEN, REJECTED)[0].tolist() == pytest.approx(
        [0.693147, 0.126928, 5.006715], abs=1e-6
    )
    assert bco(CHOSEN, REJECTED, 0.5)[0].tolist() == pytest.approx(
        [1.448154, 0.675490, 5.157779], abs=1e-6
    )


def test_token_losses_by_hand() -> None:
    logps = torch.tensor([math.log(0.5), math.log(0.25)], dtype=torch.float64)
    close(sft(logps)[0], [math.log(2), math.log(4)])
    close(dft(logps)[0], [0.5 * math.log(2), 0.25 * math.log(4)])
    reference = torch.tensor([math.log(0.4), math.log(0.5)], dtype=torch.float64)
    close(psft(logps, reference, 0.2)[0], [-1.2, -0.5])  # ratios 1.25, which is cut, and 0.5
    close(anchor(logps, reference), [0.8 - 1 + math.log(1.25), 2 - 1 - math.log(2)])
    third = 0.1 * (2 - 1 - math.log(2))
    given = {"logps": logps, "reference": reference, "kl_weight": 0.1}
    close(of("asft", **given)[0][1:], [0.25 * math.log(4) + third])
    close(of("kl_sft", **given)[0][1:], [math.log(4) + third])


def test_at_the_start_a_loss_is_a_number() -> None:
    """All rewards are 0 then: ln 2 for each logistic term, ½ for each sigmoid."""
    ln2, zero = math.log(2), torch.zeros(4)
    wanted = {
        "dpo": ln2, "rwsft": ln2, "dpop": ln2, "bce": 2 * ln2, "nca": 2 * ln2, "apo_zero": 1, "apo_down": 1,
        "ipo": 1 / (4 * 0.2**2), "simpo": log1pexp(0.5),
    }  # fmt: skip
    for name in PAIRS:
        start = of(name, chosen=zero, rejected=zero, delta=0.0)[0]
        wanted |= {"bco": 2 * ln2, "kto": 1}
        assert start.tolist() == pytest.approx([wanted[name]] * 4)


def _at(name: str, **given: Any) -> tuple[torch.Tensor, ...]:
    """A loss and its gradients on random rewards or log-probs."""
    torch.manual_seed(0)
    random = {
        key: torch.randn(50, dtype=torch.float64) for key in ("chosen", "rejected", "logps", "reference")
    } | given  # fmt: skip
    leaves = [v.clone().requires_grad_() for v in random.values() if isinstance(v, torch.Tensor)]
    values = dict(
        zip([k for k, v in random.items() if isinstance(v, torch.Tensor)], leaves, strict=True)
    )
    loss = of(name, **random | values)[0]
    used = [values[p] for p in ("chosen", "rejected", "logps") if p in losses.parameters(name)]
    return loss, *torch.autograd.grad(loss.sum(), used)


LIMITS = [(name, *limit) for name, loss in LOSSES.items() for limit in loss.limits.items()]
ZERO, FAR = torch.zeros(50, dtype=torch.float64), torch.full((50,), -800.0, dtype=torch.float64)
REWARDS = torch.linspace(-3, 3, 50, dtype=torch.float64)
WHERE: dict[str, dict[str, Any]] = {  # what the words of a limit mean
    "where $\\pi_\\theta = 1$": {"logps": ZERO},
    "where $r^- \\to -\\infty$": {"rejected": FAR},
    "where $r^- = 0$": {"rejected": ZERO},
    "where $r^+ = 0$": {"chosen": ZERO},
    "where $r^+ \\ge 0$": {"chosen": REWARDS.abs() + 0.1},
    "where $r^+ = r^-$": {"chosen": REWARDS, "rejected": REWARDS},
    "where $r^+ - r^- = 1/2$": {"chosen": REWARDS, "rejected": REWARDS - 0.5},
}


@pytest.mark.parametrize(("name", "setting", "other"), LIMITS)
def test_limits_are_as_the_table_says(name: str, setting: str, other: str) -> None:
    if setting == "first step's gradient":
        torch.testing.assert_close(
            _at(name, logps=LOGPS, reference=LOGPS)[1], _at(other, logps=LOGPS)[1]
        )
        return
    if setting in WHERE:
        got = _at(name, **WHERE[setting])[0]
        wanted = torch.zeros(50) if other == "0" else _at(other, **WHERE[setting])[0]
        torch.testing.assert_close(got, wanted.to(got.dtype), atol=1e-12, rtol=1e-12)
        return
    config = compose([f"loss={name}", setting]).loss
    numbers = {key: getattr(config, key) for key in NUMBERS if key in LOSSES[name].numbers}
    if setting == "loss.delta.mode=zero":
        numbers["delta"] = 0.0
    for got, wanted in zip(_at(name, **numbers), _at(other), strict=True):  # and its gradients
        torch.testing.assert_close(got, wanted)


def test_every_limit_that_is_no_setting_is_known() -> None:
    words = {setting for _, setting, _ in LIMITS if not setting.startswith("loss.")}
    assert words == {*WHERE, "first step's gradient"}


def test_tether_as_the_paper_states_it() -> None:
    positive, negative = tether_coefficients(
        torch.tensor([0.0, 10.0]), torch.tensor([0.0, -10.0]), 0.0
    )
    assert positive.tolist() == pytest.approx([0.5, 4.5397868e-5], rel=1e-5)
    assert negative.tolist() == pytest.approx([0.5, 4.5397868e-5], rel=1e-5)
    positive, negative = tether_coefficients(torch.tensor([1.0]), torch.tensor([1.0]), delta=1.0)
    assert (positive.item(), negative.item()) == (0.5, 0.5)


@pytest.mark.parametrize("name", PAIRS)
def test_the_tether_is_the_gradient(name: str) -> None:
    """∂loss/∂r⁺ = −λ⁺ and ∂loss/∂r⁻ = λ⁻ (eq. 7)."""
    chosen = (CHOSEN + 0.01).requires_grad_()  # dpop has a kink at 0
    rejected = REJECTED.clone().requires_grad_()
    value, tether = of(name, chosen=chosen, rejected=rejected)
    value.sum().backward()
    torch.testing.assert_close(chosen.grad, -tether["tether/chosen"])
    if LOSSES[name].rejected:
        torch.testing.assert_close(rejected.grad, tether["tether/rejected"])
    else:
        assert rejected.grad is None


@pytest.mark.parametrize("name", TOKENS)
def test_token_losses_gradients(name: str) -> None:
    """By hand: SFT's is −1, DFT's −p, that of a ratio −ρ unless it is cut, that of the KL λ (1 − 1/ρ)."""
    logps = LOGPS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(of(name, logps=logps)[0].sum(), logps)
    p, rho = LOGPS.exp(), (LOGPS - REFERENCE).exp()
    kl = 0.05 * (1 - 1 / rho)
    wanted = {
        "sft": -torch.ones_like(p), "dft": -p, "asft": -p + kl, "kl_sft": -1 + kl,
        "psft": -rho * torch.tensor([0, 1, 1]),  # e^0.4, 1 and e^−4
    }  # fmt: skip
    torch.testing.assert_close(gradient, wanted[name])


def test_dft_gradient_on_logits_is_minus_the_gradient_of_p() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 9, (5,))
    logps = logits.log_softmax(-1)[torch.arange(5), targets]
    (got,) = torch.autograd.grad(dft(logps)[0].sum(), logits, retain_graph=True)
    p = logits.softmax(-1)[torch.arange(5), targets]
    (wanted,) = torch.autograd.grad(-p.sum(), logits)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("name", PAIRS)
def test_losses_stay_finite_far_out(name: str) -> None:
    far = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss, _ = of(name, chosen=far, rejected=-far)
    (gradient,) = torch.autograd.grad(loss.sum(), far)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()


def test_the_table_says_what_a_function_takes() -> None:
    for name, loss in LOSSES.items():
        takes = {*losses.parameters(name)}
        kind = {"logps"} if loss.token else {"chosen"}
        kind |= {"reference"} if loss.token and loss.reference else set()
        kind |= {"rejected"} if loss.rejected else set()
        kind |= {"delta"} if loss.delta else set()
        assert takes - {"beta"} == kind | {*loss.numbers}, name


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


@pytest.mark.parametrize(
    ("trl_name", "ours"),
    [
        ("sigmoid", "dpo"), ("bco_pair", "bce"), ("apo_zero", "apo_zero"), ("apo_down", "apo_down"),
        ("nca_pair", "nca"), ("ipo", "ipo"),
    ],
)  # fmt: skip
def test_equal_to_trl(trl_name: str, ours: str) -> None:
    """TRL's `bco_pair` has no δ since 0.29: it is BCE. Its responses here have one token each."""
    torch.manual_seed(0)
    beta = 0.1
    logps = (-100 + 30 * torch.randn(12, dtype=torch.float64)).requires_grad_()
    reference = logps.detach() + 5 * torch.randn(12, dtype=torch.float64)
    wanted, metrics = _trl(trl_name, logps, reference, beta)
    (wanted_gradient,) = torch.autograd.grad(wanted, logps)

    chosen, rejected = (beta * (logps - reference)).chunk(2)
    loss = of(ours, chosen=chosen, rejected=rejected, beta=beta)[0].mean()
    (gradient,) = torch.autograd.grad(loss, logps)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    torch.testing.assert_close(gradient, wanted_gradient, atol=1e-8, rtol=1e-6)
    assert chosen.mean().item() == pytest.approx(metrics["rewards/chosen"], rel=1e-5)
    assert (chosen > rejected).double().mean().item() == pytest.approx(
        metrics["rewards/accuracies"]
    )


def test_simpo_and_its_trl_equal() -> None:
    """TRL gets mean log-probs, and has the margin inside β."""
    from trl.experimental.cpo import CPOTrainer

    trainer = SimpleNamespace(
        alpha=0.0, accelerator=_Alone(), loss_type="simpo", simpo_gamma=0.5, beta=2.0, label_smoothing=0.0
    )  # fmt: skip
    wanted, *_ = CPOTrainer.cpo_loss(trainer, CHOSEN, REJECTED)
    got, _ = simpo(2.0 * CHOSEN, 2.0 * REJECTED, 0.5)
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-6)


def test_kto_and_its_trl_equal() -> None:
    """TRL's mean is over both kinds of responses, ours over pairs; its KL is our δ/β."""
    from trl import KTOTrainer

    outputs = SimpleNamespace(
        log_probs=torch.cat([CHOSEN, REJECTED])[:, None] - 9, entropy=torch.zeros(6, 1),
        mean_logits=torch.zeros(6, 1), is_top1=torch.zeros(6, 1, dtype=torch.bool),
    )  # fmt: skip
    trainer = SimpleNamespace(
        model=torch.nn.Identity(), accelerator=_Alone(), aux_loss_enabled=False, precompute_ref_logps=True,
        calculate_KL=True, loss_type="kto", beta=0.5, desirable_weight=1.0, undesirable_weight=1.0,
        _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
        _compute_kl_logps=lambda *_: torch.tensor([0.8]),
    )  # fmt: skip
    inputs = {
        "input_ids": torch.zeros(6, 2, dtype=torch.long),
        "attention_mask": torch.ones(6, 2, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1]]).expand(6, 2),
        "label": torch.tensor([True] * 3 + [False] * 3),
        "ref_logps": torch.full((6,), -9.0, dtype=torch.float64),
        "ref_KL_logps": torch.zeros(1),
    }
    wanted = KTOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)
    got, _ = kto(0.5 * CHOSEN, 0.5 * REJECTED, 0.4)
    assert got.mean().item() == pytest.approx(2 * wanted.item(), rel=1e-6)
