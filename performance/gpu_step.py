"""One training step of Qwen3-8B's shape on one GPU: padded batches, packs, shared prefixes.

`python -m performance.gpu_step` needs torch, transformers, psutil and numpy, and PYTHONPATH=src where the
package is not installed. PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True helps the fullest arm.
`--small` does the same on a CPU with a toy model.

Kernels are compared with plain computations first. Then all arms compute one SPoT-BCE loss over
the same random pairs; the script ends where losses, log-probs or gradient norms disagree. Timed are
forward and backward, without packing, collation and the reference.

- padded: what preference trainers commonly do. Prompt and response are one sequence; micro-batches
  of `--micro` pairs are padded on the right to their longest, take the model's own SDPA attention
  with a padding mask, and give all positions' logits at once to an fp32 log-softmax. Every layer is
  checkpointed; gradients are accumulated over the micro-batches.
- packed, nothing shared: the same sequences without padding, response log-probs in tiles.
- packed, prefixes shared: a pair's prompt and common response prefix once.
- and as few checkpointed layers as the free memory allows, or `--checkpointed`.
- and, on a GPU in bf16 or with `--fused liger`, fused layers, which leave room for fewer still.

Real tokens are those of the unshared, unpadded sequences, model FLOPs three times their forward pass;
hardware FLOPs count padding and recomputation. 100% is what a plain matrix product reaches here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from performance import common
from spot.config import HardwareConfig
from spot.training import attention, fused_layers
from spot.training.activation_checkpointing import checkpoint_layers, layers_of
from spot.training.bin_packing import Cost
from spot.training.forward import Kernels, pack_logprobs
from spot.training.kernel_checks import check_attention, check_fused
from spot.training.losses import bce
from spot.training.memory_model import RESERVE, Rows, moving
from spot.training.packing import Pack, PackingSettings, PairTokens, step_packs
from spot.utils.errors import UserError

BETA, MODULE = 0.1, "performance.gpu_step"
# relative differences allowed: of losses, of log-probs, of gradient norms
BOUNDS = {torch.float32: (1e-5, 1e-5, 2e-5), torch.bfloat16: (3e-2, 3e-2, 3e-2)}
SHAPE = {  # option: Qwen3-8B's, the toy's
    "layers": (36, 2), "hidden": (4096, 64), "intermediate": (12288, 128), "heads": (32, 4),
    "kv_heads": (8, 2), "head_dim": (128, 16), "vocabulary": (151936, 512),
}  # fmt: skip
LENGTHS = {"mean": (1800, 40), "cv": (0.7, 0.7), "shared": (0.5, 0.5), "prompt": (150, 12)}
OPTIONS = SHAPE | LENGTHS | {
    "pairs": (8, 8), "budget": (16384, 512), "micro": (2, 2), "steps": (3, 2), "warmup": (1, 1),
    "device": ("cuda", "cpu"), "dtype": ("bfloat16", "float32"),
}  # fmt: skip


@dataclass(frozen=True)
class PaddedBatch:
    """Rows of equal width: all y⁺ of some pairs, then all their y⁻."""

    pairs: Tensor  # [P] places of the pairs in the step
    input_ids: Tensor  # [2P, T]
    mask: Tensor  # [2P, T] bool: there is a token
    response: Tensor  # [2P, T] bool: of the response


@dataclass(frozen=True)
class Arm:
    """One way to compute the step."""

    name: str
    batches: Sequence[PaddedBatch | Pack]
    sums: Callable[[Any, Any], Tensor]  # model, batch → log-probs of every y⁺ and y⁻, [2, P]
    kernels: Kernels | None  # None: the model's own layers and attention
    checkpointed: int  # layers
    tokens: int  # positions it computes
    padding: float  # these / those that hold a token
    flops: float  # forward, recomputation and backward


def pad(pairs: Sequence[PairTokens], places: Sequence[int], device: str) -> PaddedBatch:
    """One micro-batch of these pairs of the step."""
    sides = [(pairs[i], side) for side in ("chosen", "rejected") for i in places]
    rows = [np.concatenate([pair.prompt, getattr(pair, side)]) for pair, side in sides]
    ids = pad_sequence([torch.from_numpy(row).long() for row in rows], batch_first=True)
    begin = torch.tensor([len(pair.prompt) for pair, _ in sides])[:, None]
    column, end = torch.arange(ids.shape[1]), torch.tensor([len(row) for row in rows])[:, None]
    tensors = ids, column < end, (begin <= column) & (column < end)
    return PaddedBatch(torch.tensor(places), *(tensor.to(device) for tensor in tensors))


def padded_sums(model: Any, batch: PaddedBatch) -> Tensor:
    """Logits of every position, one log-softmax over them, then the response's are summed."""
    logits = model(batch.input_ids, attention_mask=batch.mask, use_cache=False).logits
    logps = logits[:, :-1].float().log_softmax(-1)
    picked = logps.gather(-1, batch.input_ids[:, 1:, None])[..., 0]
    return (picked * batch.response[:, 1:]).sum(1).view(2, -1)


def padded_arm(model: Any, pairs: Sequence[PairTokens], options: argparse.Namespace) -> Arm:
    """Micro-batches in the order of the pairs, every layer checkpointed."""
    order, micro, cost = range(len(pairs)), options.micro, Cost.of(model)
    batches = [pad(pairs, order[i : i + micro], options.device) for i in order[::micro]]
    shapes = [batch.input_ids.shape for batch in batches]
    flops = sum(n * (3 * cost.row(t, 0, 0, t) + cost.row(t, 0, 0, 0)) for n, t in shapes)
    tokens = sum(rows * width for rows, width in shapes)
    padding = tokens / sum(int(batch.mask.sum()) for batch in batches)
    return Arm("padded", batches, padded_sums, None, options.layers, tokens, padding, flops)


def packed_arm(
    name: str, model: Any, pairs: Sequence[PairTokens], settings: PackingSettings,
    kernels: Kernels, checkpointed: int,
) -> Arm:  # fmt: skip
    """Our packs. The backward pass of the log-probs multiplies with the head once more."""

    def sums(model: Any, pack: Pack) -> Tensor:
        return torch.stack(pack.slot_sums(pack_logprobs(model, pack, kernels)))

    packs = [pack.to(model.device) for pack in step_packs(pairs, settings)]
    whole = sum(pair.cost(settings) for pair in pairs)
    head = settings.cost.scored * sum(pair.scored(settings) for pair in pairs)
    flops = 3 * whole + checkpointed / len(layers_of(model)) * (whole - head) + head
    tokens = sum(pack.tokens for pack in packs)
    return Arm(name, packs, sums, kernels, checkpointed, tokens, 1.0, flops)


def make_arms(
    model: Any, pairs: Sequence[PairTokens], kernels: Kernels, options: argparse.Namespace
) -> list[Arm]:
    """All of them, from what is commonly done to all of ours. Gradients must be there already."""
    shared = PackingSettings(options.budget, cost=Cost.of(model), parts=False)
    apart = replace(shared, share_prefix=False)
    layers, plain = options.layers, replace(kernels, fused="none")

    def selective(name: str, kernels: Kernels) -> Arm:
        few = options.checkpointed
        few = fewest_layers(model, pairs, shared, kernels) if few is None else few
        name = f"+ {name}{few} of {layers} checkpointed"
        return packed_arm(name, model, pairs, shared, kernels, few)

    return [
        padded_arm(model, pairs, options),
        packed_arm("packed, nothing shared", model, pairs, apart, plain, layers),
        packed_arm("packed, prefixes shared", model, pairs, shared, plain, layers),
        selective("", plain),
        *([selective("fused, ", kernels)] if kernels.fused != "none" else []),
    ]


def fewest_layers(
    model: Any, pairs: Sequence[PairTokens], settings: PackingSettings, kernels: Kernels
) -> int:
    """Layers to checkpoint: the fewest whose pack fits what weights and gradients leave."""
    torch.cuda.empty_cache()  # does nothing where there is no GPU
    cuda = model.device.type == "cuda"
    free = torch.cuda.mem_get_info()[0] if cuda else psutil.virtual_memory().available
    precision = "bf16" if model.dtype == torch.bfloat16 else "fp32"
    hardware = HardwareConfig(
        accelerator="gpu" if cuda else "cpu", precision=precision, attention=kernels.attention,
        fused=kernels.fused,
    )  # fmt: skip
    shape, layers = common.config_shape(model.config), len(layers_of(model))
    rows = Rows.of([pair.lengths for pair in pairs], shape, True, settings.share_prefix)
    tokens = max(pack.tokens for pack in step_packs(pairs, settings))
    for count in range(layers):
        needed = sum(item.device for item in moving(shape, hardware, rows, tokens, count))
        if needed <= RESERVE * free:
            return count
    return layers


def step(model: Any, arm: Arm, reference: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Forward and backward. Returns the loss and the sums [2, pairs]; reference: None is these."""
    count = sum(len(batch.pairs) for batch in arm.batches)
    loss, sums = (torch.zeros(size, device=model.device) for size in ((), (2, count)))
    with arm.kernels.inside(model) if arm.kernels else nullcontext():
        for batch in arm.batches:
            now = arm.sums(model, batch)
            before = now.detach() if reference is None else reference[:, batch.pairs]
            share = bce(*BETA * (now - before))[0].sum() / count
            share.backward()
            loss += share.detach()
            sums[:, batch.pairs] = now.detach()
    return loss, sums


def prepare(model: Any, checkpointed: int) -> None:
    """So many checkpointed layers, and gradients of 0 that are there already."""
    checkpoint_layers(model, checkpointed)
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad.zero_()


def first_step(model: Any, arm: Arm, reference: Tensor | None = None) -> dict[str, Tensor]:
    """What one untimed step gives, by name."""
    prepare(model, arm.checkpointed)
    loss, sums = step(model, arm, reference)
    norms = [torch.linalg.vector_norm(p.grad, dtype=torch.float32) for p in model.parameters()]
    return {"loss": loss, "log-probs": sums, "gradient norm": torch.stack(norms).norm()}


def check_arms(model: Any, arms: Sequence[Arm], tolerance: float | None) -> list[Arm]:
    """The arms that run: all must give what the first gives, whose log-probs are the reference."""
    bounds = (tolerance,) * 3 if tolerance else BOUNDS[model.dtype]
    wanted, kept = first_step(model, arms[0]), [arms[0]]
    for arm in arms[1:]:
        try:
            found = first_step(model, arm, wanted["log-probs"])
        except torch.OutOfMemoryError:  # the other arms can still be timed
            print(f"{arm.name}: out of memory")
            continue
        off = {k: ((found[k] - v).norm() / v.norm()).item() for k, v in wanted.items()}
        print(said := f"{arm.name} is apart from {arms[0].name} by {off}", flush=True)
        if not all(value <= bound for value, bound in zip(off.values(), bounds, strict=True)):
            raise SystemExit(f"{said}: more than {bounds}. Nothing was timed.")
        kept.append(arm)
    return kept


def self_check(model: Any) -> dict[str, float | str]:
    """Disagreement of every attention kernel with its oracle, or why it does not run."""
    found: dict[str, float | str] = {}
    for name in attention.KERNELS:
        try:
            found[name] = check_attention(name, model.config, model.dtype, model.device)
        except UserError as error:
            found[name] = str(error)[:200]
        print(f"attention {name}: {found[name]}")
    return found


def choose_fused(model: Any, wanted: str) -> str:
    """liger | none; none, too, where the kernels do not run here or are not exact, which is said."""
    narrow = model.dtype == torch.bfloat16
    hardware = HardwareConfig(
        accelerator="gpu" if model.device.type == "cuda" else "cpu",
        precision="bf16" if narrow else "fp32", fused=wanted,
    )  # fmt: skip
    chosen = fused_layers.choose(hardware, model.config)
    try:
        if chosen == "liger":
            check_fused(model.config, model.dtype, model.device)
    except UserError as error:
        print(error)
        return "none"
    return chosen


def clock(device: str, work: Callable[[], Any]) -> float:
    """Seconds until the device has done the work."""
    wait = torch.cuda.synchronize if device == "cuda" else int
    wait()
    begin = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begin


def peak_flops(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a plain product of square matrices: the fastest of ten."""
    n = 8192 if device == "cuda" else 512
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / min(clock(device, lambda: a @ b) for _ in range(10))


def time_arm(model: Any, arm: Arm, options: argparse.Namespace) -> tuple[float, float]:
    """Median seconds of forward and backward, and the peak memory in GB (on a CPU: so far)."""
    if cuda := options.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(options.warmup + options.steps):
        prepare(model, arm.checkpointed)
        seconds.append(clock(options.device, lambda: step(model, arm)))
    peak = torch.cuda.max_memory_allocated() / 1e9 if cuda else common.peak_memory_gb()
    return median(seconds[options.warmup :]), peak


def optimizer_seconds(model: Any, device: str) -> float:
    """Seconds of AdamW for all parameters, as measured on one layer's fp32 copy and scaled up."""
    layer = [p.detach().float().requires_grad_() for p in layers_of(model)[0].parameters()]
    for p in layer:
        p.grad = torch.full_like(p, 1e-3)
    adamw = torch.optim.AdamW(layer, lr=1e-6, fused=True)
    share = sum(p.numel() for p in layer) / sum(p.numel() for p in model.parameters())
    return median([clock(device, adamw.step) for _ in range(6)][1:]) / share


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options; `--small` changes the defaults of those that are not given."""
    parser = argparse.ArgumentParser(prog=MODULE)
    parser.add_argument("--small", action="store_true", help="a toy on a CPU")
    for name, (large, small) in OPTIONS.items():
        parser.add_argument(f"--{name}", type=type(large), help=f"{large}; small: {small}")
    parser.add_argument("--attention", default="auto", help="auto, varlen, flash or sdpa")
    parser.add_argument("--logprobs", default="torch", help="torch or liger")
    parser.add_argument("--fused", default="auto", help="auto, liger or none")
    parser.add_argument("--tolerance", type=float, help="relative difference that ends the script")
    parser.add_argument("--checkpointed", type=int, help="layers in the last arm: not the fewest")
    parser.add_argument("--no-optimizer", action="store_true", help="leave AdamW out")
    parser.add_argument("--deterministic", action="store_true", help="torch's slower algorithms")
    parser.add_argument("--write", action="store_true", help="keep the table as a result")
    options = parser.parse_args(arguments)
    for name, (large, small) in OPTIONS.items():
        if getattr(options, name) is None:
            setattr(options, name, small if options.small else large)
    return options


def make_row(
    arm: Arm, seconds: float, gb: float, pairs: Sequence[PairTokens], cost: Cost, peak: float
) -> dict[str, Any]:
    """The figures of one arm."""
    apart = PackingSettings(cost=cost, share_prefix=False)
    return {
        "arm": arm.name, "seconds": seconds,
        "real tokens/s": sum(pair.unshared_tokens(apart) for pair in pairs) / seconds,
        "model FLOPs %": 300 * sum(pair.cost(apart) for pair in pairs) / seconds / peak,
        "hardware FLOPs %": 100 * arm.flops / seconds / peak,
        "peak GB": gb, "positions": arm.tokens, "padding ratio": arm.padding,
        "checkpointed layers": arm.checkpointed,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Self-checks, agreement of the arms, then times; the last line is all of it as JSON, and is returned."""
    options = parse(arguments)
    if options.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here: --small runs a toy on the CPU.")
    shape, lengths = ({k: vars(options)[k] for k in names} for names in (SHAPE, LENGTHS))
    dtype = getattr(torch, options.dtype)
    model = common.build_model(**shape, tied=False, dtype=dtype, device=options.device)
    checks = self_check(model)
    kernel = attention.choose(options.attention, dtype, options.device)
    if isinstance(checks[kernel], str):
        raise SystemExit(checks[kernel])
    prepare(model, 0)
    pairs = common.make_pairs(options.pairs, **lengths, vocabulary=options.vocabulary)
    fused = choose_fused(model, options.fused)
    arms = make_arms(model, pairs, Kernels(kernel, options.logprobs, fused), options)
    arms = check_arms(model, arms, options.tolerance)
    peak, cost, rows = peak_flops(options.device, dtype), Cost.of(model), []
    for arm in arms:
        rows.append(make_row(arm, *time_arm(model, arm, options), pairs, cost, peak))
        rows[-1]["speed-up"] = rows[0]["seconds"] / rows[-1]["seconds"]
        print(common.markdown(rows[-1:]), flush=True)
    adamw = None if options.no_optimizer else optimizer_seconds(model, options.device)
    if options.write:
        common.write_results("gpu_step", rows, " ".join(["python -m", MODULE, *sys.argv[1:]]))
    report = {
        "conditions": common.conditions(), "options": vars(options), "attention": checks, "used": kernel, "fused": fused, "peak TFLOP/s": peak / 1e12,
        "AdamW seconds, one layer's scaled up": adamw, "rows": rows,
    }  # fmt: skip
    print(json.dumps(report))
    return report


if __name__ == "__main__":
    main()
