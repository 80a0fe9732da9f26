"""8-bit AdamW against torch's: its first update, its size, its curve, and that it resumes exactly."""

import io

import pytest
import torch

from spot.config import HardwareConfig
from spot.training import optimizers
from tests.unit.runs import loss

SHAPES = {"matrix": (96, 128), "norm": (128,), "wide_norm": (8192,), "small": (8, 16)}
BETAS = (0.9, 0.95)


def parameters(device: str = "cpu") -> dict[str, torch.nn.Parameter]:
    torch.manual_seed(0)
    return {name: torch.nn.Parameter(torch.randn(s).to(device)) for name, s in SHAPES.items()}


def make(name, named, rate=1e-3, decay=0.1):
    config = loss("bco", learning_rate=rate, weight_decay=decay)
    return optimizers.make(HardwareConfig(optimizer=name), list(named.values()), config)


def step(named, optimizer, seed: int) -> None:
    """One update by random gradients whose size differs between the rows."""
    generator = torch.Generator().manual_seed(seed)
    for p in named.values():
        scale = torch.logspace(-3, 0, p.shape[0]).view(-1, *([1] * (p.ndim - 1)))
        p.grad = (torch.randn(p.shape, generator=generator) * scale).to(p.device)
    optimizer.step()


def run(name: str, steps: int, device: str = "cpu"):
    """Weights and optimiser after some steps."""
    named = parameters(device)
    optimizer = make(name, named)
    for number in range(steps):
        step(named, optimizer, number)
    return named, optimizer


def moved(named) -> dict[str, torch.Tensor]:
    start = parameters()
    return {name: p.detach() - start[name].detach() for name, p in named.items()}


def state_bytes(optimizer, parameter) -> int:
    """Of one tensor's moments and their block scales; the two code tables belong to all tensors."""
    state = {k: v for k, v in optimizer.state[parameter].items() if not k.startswith("qmap")}
    return sum(v.numel() * v.element_size() for v in state.values() if torch.is_tensor(v))


def test_adamw_is_torchs_with_the_values_given():
    named, optimizer = run("adamw", 1)
    assert type(optimizer) is torch.optim.AdamW
    (kind,) = {(g["lr"], g["betas"], g["weight_decay"], g["fused"]) for g in optimizer.param_groups}
    assert kind == (
        1e-3, BETAS, 0.1, True,
    )  # fmt: skip
    # At step 1 the corrected moments are g and g², so the update is g / (|g| + eps) by the rate.
    start, gradient = parameters()["matrix"].detach(), named["matrix"].grad
    expected = start * (1 - 1e-3 * 0.1) - 1e-3 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(named["matrix"].detach(), expected, atol=1e-6, rtol=1e-5)


def test_the_first_update_is_adamws():
    """Moments are quantised after the update they cause, so the first has no error to show."""
    (exact, _), (narrow, _) = run("adamw", 1), run("adamw8bit", 1)
    for name in SHAPES:
        torch.testing.assert_close(narrow[name], exact[name], atol=2e-7, rtol=1e-5)


def test_later_updates_are_adamws_within_quantisation():
    exact, narrow = moved(run("adamw", 5)[0]), moved(run("adamw8bit", 5)[0])
    for name in SHAPES:
        off = (narrow[name] - exact[name]).norm() / exact[name].norm()
        if name == "matrix":
            assert 1e-4 < off < 0.05  # not equal: it really was quantised
        else:
            assert off < 1e-5


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_all_weights_decay_by_the_rate(name):
    """Without gradients nothing but the decay moves: w (1 − rate · decay) a step."""
    named = parameters()
    optimizer = make(name, named, 0.1, decay=0.5)
    for _ in range(3):
        for p in named.values():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    for key, start in parameters().items():
        torch.testing.assert_close(named[key].detach(), start.detach() * 0.95**3)


def test_matrices_take_two_bytes_a_parameter_and_vectors_eight():
    named, optimizer = run("adamw8bit", 1)
    matrix = named["matrix"]
    assert {k: v.dtype for k, v in optimizer.state[matrix].items() if k.startswith("state")} == {
        "state1": torch.uint8,
        "state2": torch.uint8,
    }
    assert state_bytes(optimizer, matrix) == 2 * matrix.numel() * (1 + 4 / 256)
    for name in ("norm", "wide_norm", "small"):
        assert state_bytes(optimizer, named[name]) == 8 * named[name].numel()


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_a_saved_state_goes_on_exactly(name):
    whole, _ = run(name, 6)
    half, before = run(name, 3)
    file = io.BytesIO()
    torch.save({"weights": half, "optimizer": before.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=False)
    again = saved["weights"]
    optimizer = make(name, again)
    optimizer.load_state_dict(saved["optimizer"])
    for number in range(3, 6):
        step(again, optimizer, number)
    for key in SHAPES:
        assert torch.equal(again[key], whole[key])


def language_model():
    """About 110,000 weights, nearly all of them in matrices large enough for 8 bits."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=64, hidden_size=64, intermediate_size=192, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, head_dim=16, initializer_range=0.1,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


def losses(name: str, steps: int) -> list[float]:
    """Of a small model that learns some random sequences by heart."""
    model = language_model()
    optimizer = make(name, dict(model.named_parameters()), 3e-3, decay=0.01)
    tokens = torch.randint(0, 64, (8, 32), generator=torch.Generator().manual_seed(1))
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def test_a_language_models_loss_follows_adamws():
    exact, narrow = losses("adamw", 40), losses("adamw8bit", 40)
    assert exact[-1] < 0.5 * exact[0]  # there was something to follow
    assert narrow == pytest.approx(exact, rel=0.02)  # 0.5% at most, where it was measured


@pytest.mark.gpu
def test_a_gpu_does_the_same():
    (exact, _), (narrow, optimizer) = run("adamw", 1, "cuda"), run("adamw8bit", 1, "cuda")
    for name in SHAPES:  # its kernel lets weights decay after the update: rate² · decay apart
        torch.testing.assert_close(narrow[name], exact[name], atol=1e-6, rtol=1e-5)
    matrix = narrow["matrix"]
    assert state_bytes(optimizer, matrix) == 2 * matrix.numel() * (1 + 4 / 256)
    assert state_bytes(optimizer, narrow["wide_norm"]) == 8 * narrow["wide_norm"].numel()
