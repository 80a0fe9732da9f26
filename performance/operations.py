"""What a pass over a model asks of a GPU, operation by operation, without one: a trace on fake tensors.

Fake tensors have shapes and no content, so a model of any size is traced in seconds: FLOPs of the matrix
products are counted, and bytes that everything else reads and writes. Attention's FLOPs are left to
`spot.training.bin_packing.Cost`, which is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from performance import common, gpu_step
from spot.training import fused_layers, logprobs
from spot.training.activation_checkpointing import checkpoint_layers
from spot.training.forward import Kernels, pack_logprobs
from spot.training.packing import PackingSettings, PairTokens, build_pack
from spot.training.shapes import Shape

# Operations that move nothing: another view of the same bytes, or memory that nobody has written.
VIEWS = {
    "alias", "as_strided", "detach", "device", "empty", "empty_like", "expand", "lift_fresh", "narrow", "new_empty",
    "permute", "reshape", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose",
    "unbind", "unsqueeze", "view", "_unsafe_view",
}  # fmt: skip
PRODUCTS = ("mm", "addmm", "addmm_", "bmm")


class Counter(TorchDispatchMode):
    """Adds up FLOPs of matrix products and bytes of the rest; attention is left to `Cost`, which is exact."""

    def __init__(self) -> None:
        super().__init__()
        self.matmul = self.moved = 0.0
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._overloadpacket.__name__
        if name in VIEWS:
            return out
        self.operations += 1
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        if name in PRODUCTS:
            a, b = given[-2:]
            self.matmul += 2.0 * a.numel() * b.shape[-1]
        elif "varlen" not in name and "scaled_dot_product" not in name:
            self.moved += sum(_bytes(x) for x in [*given, *made])
        return out

    def count(self, touched: Sequence[Tensor]) -> None:
        """An operation of ours that reads or writes these."""
        self.operations += 1
        self.moved += sum(_bytes(x) for x in touched)


def _bytes(values: Tensor) -> int:
    return values.numel() * values.element_size()


class _Moves(torch.autograd.Function):
    """A kernel that reads tensors once and writes as many outputs, and the same backwards.

    Its backward pass reads the outputs' gradients and, where it keeps them, its inputs, and writes the
    inputs' gradients.
    """

    @staticmethod
    def forward(ctx: Any, counter: Counter, outputs: int, keeps: bool, *inputs: Tensor) -> Any:
        ctx.counter, ctx.keeps = counter, keeps
        ctx.save_for_backward(*(inputs if keeps else ()))
        made = tuple(torch.empty_like(x) for x in inputs[:outputs])
        counter.count([*inputs, *made])
        return made if outputs > 1 else made[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        read = ctx.saved_tensors
        made = [torch.empty_like(x) for x in (read if ctx.keeps else grads)]
        ctx.counter.count([*grads, *read, *made])
        return None, None, None, *made


@contextmanager
def not_computed(counter: Counter) -> Iterator[None]:
    """Within, what fused layers call moves bytes and computes nothing."""

    def rms_norm(states: Tensor, *_: Any) -> Any:
        return _Moves.apply(counter, 1, True, states)

    def swiglu(gate: Tensor, up: Tensor) -> Any:
        return _Moves.apply(counter, 1, True, gate, up)

    def rotary(q: Tensor, k: Tensor, *_: Any) -> Any:
        return _Moves.apply(counter, 2, False, q, k)

    with ExitStack() as stack:
        for kernel in (rms_norm, swiglu, rotary):
            stack.enter_context(mock.patch.object(fused_layers, kernel.__name__, kernel))
        yield


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Fake tensors are a CPU's here; log-probs then take a GPU's tiles and its products."""
    gpu = {**logprobs.TILES, "cpu": logprobs.TILES["cuda"]}
    with (
        mock.patch.object(logprobs, "TILES", gpu),
        mock.patch.object(logprobs, "_operand", lambda weight: weight),
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        yield


def _build(shape: dict[str, Any]) -> Any:
    from transformers.initialization import no_init_weights

    with no_init_weights():
        return common.build_model(**shape, dtype=torch.bfloat16)


def trace(
    shape: dict[str, Any], pairs: Sequence[PairTokens], layers_again: int, way: str
) -> Counter:
    """Count a forward and a backward pass over these pairs: one pack, or one padded micro-batch."""
    pack = build_pack(pairs, PackingSettings(2**30, parts=False))
    batch = gpu_step.pad(pairs, range(len(pairs)), "cpu")
    counter = Counter()
    with as_on_a_gpu():
        model = _build(shape)
        checkpoint_layers(model, layers_again)
        for p in model.parameters():
            p.register_post_accumulate_grad_hook(_forget)
        pack, batch = _fake(pack), _fake(batch)
        with ExitStack() as stack:
            stack.enter_context(counter)
            stack.enter_context(not_computed(counter))
            if way == "padded":
                total = gpu_step.padded_sums(model, batch).sum()
            else:
                kernels = Kernels("varlen", fused="liger" if way == "fused" else "none")
                stack.enter_context(kernels.inside(model))
                total = pack_logprobs(model, pack, kernels).sum()
            total.backward()
    return counter


def _forget(parameter: Tensor) -> None:
    parameter.grad = None


def _fake(batch: Any) -> Any:
    """Its tensors without their content."""
    found = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return replace(
        batch,
        **{
            k: torch.empty(v.shape, dtype=v.dtype)
            for k, v in found.items()
            if isinstance(v, Tensor)
        },
    )


@dataclass(frozen=True)
class Moved:
    """Bytes that one forward and backward pass moves beside its products and attention.

    A constant (the head's tiles, gradients of weights), per token, per token of a layer that is computed
    again, per scored token: solved from four traces.
    """

    always: float
    token: float
    again: float
    scored: float

    def of(self, tokens: float, scored: float, layers_again: int) -> float:
        return (
            self.always + tokens * (self.token + layers_again * self.again) + scored * self.scored
        )


def moved_by(shape: dict[str, Any], way: str) -> tuple[Moved, float]:
    """The coefficients, and how far a fifth trace is from what they say (relative)."""
    layers = shape["layers"]
    probes = [
        (2, 600, 0.5, 0),
        (4, 900, 0.5, 0),
        (4, 900, 0.9, 0),
        (2, 600, 0.5, layers),
        (6, 800, 0.3, layers // 2),
    ]
    rows, found = [], []
    for count, mean, shared, again in probes:
        pairs = common.make_pairs(count, mean=mean, cv=1e-4, shared=shared, prompt=150)
        tokens, scored = _sizes(pairs, way)
        found.append(trace(shape, pairs, again, way).moved)
        rows.append([1.0, tokens, tokens * again, scored])
    solution = np.linalg.lstsq(np.array(rows[:4]), np.array(found[:4]), rcond=None)[0]
    fifth = float(np.array(rows[4]) @ solution)
    return Moved(*solution.tolist()), abs(fifth - found[4]) / found[4]


def _sizes(pairs: Sequence[PairTokens], way: str) -> tuple[float, float]:
    """Tokens of one pass and how many of them meet the head."""
    lengths = [pair.lengths for pair in pairs]
    if way == "padded":
        wide = 2 * len(lengths) * max(p.prompt + max(p.chosen, p.rejected) for p in lengths)
        return wide, wide
    return sum(p.tokens() for p in lengths), sum(p.scored() for p in lengths)


def shape_of(model: dict[str, Any]) -> Shape:
    """The shape of a model that nobody builds."""
    with FakeTensorMode():
        return common.config_shape(_build(model).config)
