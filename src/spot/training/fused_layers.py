"""Norms, rotary embeddings and SwiGLU in one kernel each (Liger's), in one model while it computes packs.

Beside its products and its attention a layer only moves memory, in transformers' code once for every
operation. Modules of the model are bound to the kernels within `fused` and let go behind it: classes,
transformers' functions, other models and this one outside of packs stay as they are. Rotary angles are
taken token by token, so positions may repeat in a pack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import unwrap
from types import FunctionType, MethodType
from typing import Any

import transformers
from torch import Tensor, nn

from spot.config import HardwareConfig
from spot.training.shapes import PLANNED
from spot.utils.errors import UserError

ROTARY = "apply_rotary_pos_emb"  # what attentions of transformers call


def choose(hardware: HardwareConfig, config: Any) -> str:
    """liger | none for a model with this configuration. Raises UserError where liger is asked for in vain."""
    known = config.model_type in PLANNED and config.hidden_act in ("silu", "swish")
    if not hardware.fuses or (hardware.fused == "auto" and not known):
        return "none"
    if not known:
        raise UserError(
            f"hardware.fused=liger knows {', '.join(PLANNED)} with SwiGLU, and this model is a "
            f"{config.model_type}: choose hardware.fused=none."
        )
    return "liger"


def rms_norm(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """weight · states / √(mean(states²) + epsilon) over the last dimension, rounded as Llama's norm does.

    Keeps `states` and 1/rms. The gradient is written over the output's: in these families that output
    goes into matrix products or rotary embeddings, never into a sum, so nothing else holds it.
    """
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    out: Tensor = LigerRMSNormFunction.apply(states, weight, epsilon, 0.0, "llama", True)
    return out


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up. Keeps both, computes silu again, and writes the gradients over them."""
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    out: Tensor = LigerSiLUMulFunction.apply(gate, up)
    return out


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """q and k [1, heads, T, d] turned by the angles cos and sin [1, T, d] of each token, in their place.

    Nothing keeps what is written over: q and k come from a matrix product or a norm, which keep inputs.
    """
    from liger_kernel.ops.rope import LigerRopeFunction

    turned: tuple[Tensor, Tensor] = LigerRopeFunction.apply(q, k, cos, sin)
    return turned


@contextmanager
def fused(model: Any) -> Iterator[None]:
    """Within, the model's norms, attentions and MLPs compute with the kernels."""
    bound = []
    try:
        for module, forward in _forwards(model):
            module.forward = MethodType(forward, module)
            bound.append(module)
        yield
    finally:
        for module in bound:
            del module.forward  # the class's own is back


def _forwards(model: nn.Module) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
    """What each module is to compute by; classes are told apart by how transformers names them."""
    turning: dict[type, Callable[..., Any]] = {}
    for module in model.modules():
        kind = type(module)
        if kind.__name__.endswith("RMSNorm"):
            yield module, _norm
        elif kind.__name__.endswith("MLP"):
            yield module, _mlp
        elif kind.__name__.endswith("Attention"):
            if kind not in turning:
                turning[kind] = _turning(kind)
            yield module, turning[kind]


def _norm(module: Any, states: Tensor) -> Tensor:
    return rms_norm(states, module.weight, module.variance_epsilon)


def _mlp(module: Any, states: Tensor) -> Any:
    return module.down_proj(swiglu(module.gate_proj(states), module.up_proj(states)))


def _turning(kind: Any) -> Callable[..., Any]:
    """The attention's own forward pass, which finds our rotary embeddings by transformers' name."""
    own = unwrap(kind.forward)
    if ROTARY not in own.__code__.co_names:
        raise UserError(
            f"hardware.fused=liger does not know {kind.__name__} of transformers "
            f"{transformers.__version__}: choose hardware.fused=none."
        )
    copy = FunctionType(
        own.__code__,
        own.__globals__ | {ROTARY: rotary},
        own.__name__,
        own.__defaults__,
        own.__closure__,
    )
    copy.__kwdefaults__ = own.__kwdefaults__
    return copy
