"""Liger's own kernels on this processor, by Triton's interpreter, which must be chosen before any import.

`python -m tests.support.interpreted` prints a JSON object of what fused layers give beside plain ones.
"""

from __future__ import annotations

import json
import os
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton.language as tl
from liger_kernel.ops import rms_norm
from triton.runtime import interpreter

from performance import common, plan_check
from spot.config import LoraConfig
from spot.training import fused_layers, lora
from spot.training.activation_checkpointing import checkpoint_layers
from spot.training.forward import PLAIN, Kernels, pack_logprobs
from spot.training.kernel_checks import check_fused
from spot.training.packing import Pack, PackingSettings, build_pack
from spot.training.shapes import PLANNED
from spot.utils.errors import UserError

FUSED = Kernels(fused="liger")
SIZE = {"hidden": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "intermediate": 48, "layers": 2}


def complete_the_interpreter() -> None:
    """It passes a float as Python's, which has no `.to`, and has none of CUDA's own functions."""
    plain = interpreter._implicit_cvt

    def convert(argument: Any) -> Any:
        if type(argument) is not float:
            return plain(argument)
        value = np.array([argument], dtype=np.float32)
        return tl.tensor(interpreter.TensorHandle(value, tl.float32), tl.float32)

    interpreter._implicit_cvt = convert
    rms_norm.rsqrt = lambda values: tl.math.rsqrt(values)


def outcome(model: Any, pack: Pack, kernels: Kernels) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs, and the gradient of a random sum of them by all parameters."""
    model.zero_grad()
    with kernels.inside(model):
        logps = pack_logprobs(model, pack)
        upstream = torch.randn(len(logps), generator=torch.Generator().manual_seed(0))
        (logps * upstream).sum().backward()
    trained = [p.grad.flatten() for p in model.parameters() if p.requires_grad]
    return logps.detach(), torch.cat(trained)


def distances(kind: str, rank: int | None = None) -> list[list[float]]:
    """Relative L2 of log-probs and gradients, fused beside plain, with no layer checkpointed and one.

    rank: of adapters, whose gradients alone there are then.
    """
    model = common.build_model(kind, **SIZE, vocabulary=64, scale=0.2)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # norms begin as 1, Qwen2's biases as 0
            torch.nn.init.normal_(parameter, float("norm" in name), 0.2)
    if rank is not None:
        lora.attach(model, LoraConfig(rank), 0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # it begins as 0
                torch.nn.init.normal_(parameter, 0.0, 0.2)
    pairs = common.make_pairs(2, mean=10, shared=0.4, prompt=5, vocabulary=64)
    pack = build_pack(pairs, PackingSettings(10**6))
    plain, found = outcome(model, pack, PLAIN), []
    for count in (0, 1):
        checkpoint_layers(model, count)
        fused = outcome(model, pack, FUSED)
        found.append([apart(a, b) for a, b in zip(fused, plain, strict=True)])
    return found


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def many_rows() -> list[float]:
    """The norm of 32,768 rows or more, for which Liger has another kernel, and its gradients."""
    states, weight, upstream = torch.randn(32768 + 5, 8), torch.randn(8), torch.randn(32768 + 5, 8)
    found = []

    def plain(states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        return torch.nn.functional.rms_norm(states, (8,), weight, epsilon)

    for compute in (fused_layers.rms_norm, plain):
        inputs = states.clone().requires_grad_(), weight.clone().requires_grad_()
        out = compute(*inputs, 1e-6)
        found.append((out.detach(), *torch.autograd.grad(out, inputs, upstream.clone())))
    return [apart(a, b) for a, b in zip(*found, strict=True)]


def kept(kind: str) -> dict[str, Any]:
    """Bytes per token that fused layers keep, counted and planned."""
    model = common.build_model(kind, **plan_check.MIDDLE, vocabulary=512)
    pairs = common.make_pairs(1, mean=40, cv=0, shared=0.4, prompt=12, vocabulary=512)
    return plan_check.check_layers(model, pairs, kind, FUSED)


def refusals() -> dict[str, str]:
    """What is said of kernels that are wrong, and "" of those that are not."""
    real, found = vars(fused_layers).copy(), {}

    def flat(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
        return real["rotary"](q, k, cos.roll(1, 1), sin.roll(1, 1))  # another token's angles

    def bent(states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        return real["rms_norm"](states, weight.detach(), epsilon) + 0 * weight

    wrong = {"rotary": flat, "rms_norm": bent}
    for kind in PLANNED:
        sizes = common.build_model(kind, **SIZE, vocabulary=64).config
        found[kind] = _said(sizes)
    for name, function in wrong.items():
        setattr(fused_layers, name, function)
        found[name] = _said(sizes)
        setattr(fused_layers, name, real[name])
    return found


def _said(config: Any) -> str:
    try:
        check_fused(config, torch.float32, "cpu")
    except UserError as error:
        return str(error)
    return ""


def main() -> None:
    complete_the_interpreter()
    report = {
        "distances": {kind: distances(kind) for kind in PLANNED},
        "adapters": {kind: distances(kind, rank=2) for kind in PLANNED},
        "many rows": many_rows(),
        "kept": {kind: kept(kind) for kind in ("qwen3", "llama")},
        "refusals": refusals(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
