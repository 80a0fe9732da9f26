"""What `spot plan` says beside what happens: activations, and the peak of real training steps.

`python -m performance.plan_check` writes three tables:

- layers: bytes per token that autograd saves in a layer and outside the layers, counted by
  `measure`, and the plan's formula.
- steps: the most bytes of live tensors in a training step. `spot.training.loop.train` runs three
  steps; torch's profiler reports every allocation and release of the CPU allocator from the middle
  of the run to its end, on top of the weights and the moments. The process's own memory would not
  do: it moves by more than the small model weighs.
- zero: the bytes a parameter of live tensors after a backward pass under DeepSpeed, on two processes
  of this machine, with small buckets and no activations.

In `steps`, the plan is asked for the tokens of the largest pack there really was; a pack rarely fills its budget.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers.logger import DummyLogger
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from performance import common
from spot.config import LOSSES, HardwareConfig, LoraConfig, LossConfig
from spot.data.rows import Pair
from spot.training.activation_checkpointing import checkpoint_layers, layers_of
from spot.training.forward import PLAIN, Kernels, pack_logprobs
from spot.training.loop import RunOptions, tokenise, train
from spot.training.memory_model import (
    Activations,
    Footprint,
    Rows,
    footprint,
    standing,
)
from spot.training.packing import (
    Pack,
    PackingSettings,
    PairTokens,
    build_pack,
    plan_steps,
    step_packs,
)
from spot.training.precision import DTYPES
from spot.training.shapes import SHIPPED, Shape, read

MODULE = "performance.plan_check"
TINY = SHIPPED.parent
MIDDLE = {"layers": 4, "hidden": 256, "heads": 4, "kv_heads": 2, "head_dim": 64}
EPOCHS = 3
WIDTH = 512  # of the toy for DeepSpeed
Row = dict[str, Any]


# ---- layers --------------------------------------------------------------------------------------


def measure(model: Any, pack: Pack, kernels: Kernels = PLAIN) -> Activations:
    """What a forward pass over this pack really keeps, by the storages that autograd saves."""
    kept: list[Any] = []  # storages, held so that no address is used twice
    seen = {p.untyped_storage().data_ptr() for p in model.parameters()}
    marks: list[int] = []
    total = 0

    def save(tensor: Tensor) -> Any:
        """Keeps no tensor: one would hold the graph that holds this hook. No backward pass follows."""
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept.append(storage)
            total += storage.nbytes()

    def mark(*_: Any) -> None:
        marks.append(total)

    layers = layers_of(model)
    checkpoint_layers(model, 0)
    handles = [layers[0].register_forward_pre_hook(mark)]
    handles += [layer.register_forward_hook(mark) for layer in layers]
    try:
        with (
            torch.autograd.graph.saved_tensors_hooks(save, lambda kept: kept),
            kernels.inside(model),
        ):
            pack_logprobs(model, pack)
    finally:
        for handle in handles:
            handle.remove()
    layer = (marks[-1] - marks[0]) / len(layers)
    itemsize = next(model.parameters()).element_size()
    return Activations(
        layer / pack.tokens,
        model.config.hidden_size * itemsize,
        (total - (marks[-1] - marks[0])) / pack.tokens,
    )


def check_layers(
    model: Any,
    pairs: Sequence[PairTokens],
    name: str,
    kernels: Kernels = PLAIN,
    lora: LoraConfig | None = None,
) -> Row:
    """Measured and planned bytes per token of one pack of these pairs; lora: the adapters the model has."""
    pack = build_pack(pairs, PackingSettings(10**9))
    found = measure(model, pack, kernels)
    shape, precision = (
        common.config_shape(model.config),
        "fp32" if model.dtype.itemsize == 4 else "bf16",
    )
    shape = dataclasses.replace(shape, lora=lora or shape.lora)
    hardware = HardwareConfig(precision=precision, attention="sdpa", fused=kernels.fused)
    rows = Rows.of([pair.lengths for pair in pairs], shape, rejected=True, shared=True)
    planned = Activations.of(shape, hardware, rows)
    return {
        "model": name, "dtype": precision, "tokens": pack.tokens,
        "layer": found.layer, "planned": planned.layer,
        "off %": 100 * (planned.layer / found.layer - 1),
        "rest": found.rest, "planned ": planned.rest,
        "off % of all": 100 * (_all(planned, shape) / _all(found, shape) - 1),
    }  # fmt: skip


def _all(activations: Any, shape: Shape) -> float:
    """Bytes per token with no layer checkpointed."""
    return float(shape.layers * activations.layer + activations.rest)


def layer_rows(quick: bool) -> list[Row]:
    rows = []
    for (kind, name), dtype, shared in product(
        (("qwen3", "Qwen3 4 × 256"), ("llama", "Llama 4 × 256")),
        (torch.float32, torch.bfloat16),
        (0.0, 0.5)[quick:],
    ):
        model = common.build_model(kind, **MIDDLE, vocabulary=1024, dtype=dtype)
        pairs = common.make_pairs(6, mean=200, shared=shared, prompt=40, vocabulary=1024)
        rows.append(check_layers(model, pairs, f"{name}, {shared:.0%} shared"))
    return rows


# ---- steps ---------------------------------------------------------------------------------------


class Profiled(DummyLogger):
    """A logger that profiles memory from the record of step 1 to that of the last."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last, self.peak = last, 0
        self.profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if step == 1:
            self.profiler.start()
        if step == self.last:
            self.profiler.stop()
            self.peak = highest(self.profiler)


def highest(profiler: Any) -> int:
    """The highest sum of bytes allocated and not released since the profiler began.

    What was allocated before and is released meanwhile is not reported: the gradients of the step
    before. So the sum counts from the weights and the optimiser's state.
    """
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def make_pairs(count: int, response: int, shared: float, seed: int = 0) -> list[Pair]:
    """Sums of random digits, one token each; y⁺ and y⁻ begin with `shared` of them."""
    rng = random.Random(f"plan {seed}")
    pairs = []
    for i in range(count):
        length = rng.randint(int(0.7 * response), int(1.3 * response))
        same = int(shared * length)
        begin, left, right = (
            " ".join(rng.choices("123456789", k=max(k, 1)))
            for k in (same, length - same, length - same)
        )
        texts = {"chosen": f"{begin} + {left}", "rejected": f"{begin} - {right}"}
        pairs.append(
            Pair(
                id=f"pair-{i}", question_id=f"question-{i}", task="sums", arm="rectified",
                question=f"What is {i} + {2 * i}?", answer="1", change_ratio=None,
                common_prefix=None, chosen_tokens=0, rejected_tokens=None, **texts,
            )
        )  # fmt: skip
    return pairs


def check_step(
    folder: Path, loss: str, tokens_per_pack: int, layers: str, count: int = 24, response: int = 90
) -> Row:
    """Peak of a training step of the policy in `folder`, measured and planned, in MiB."""
    from transformers import AutoTokenizer

    pairs = make_pairs(count, response, 0.5)
    config = LossConfig(loss, beta=0.1, learning_rate=1e-5, epochs=EPOCHS, batch_pairs=count)
    packing = PackingSettings(tokens_per_pack)
    profiled = Profiled(EPOCHS)
    with tempfile.TemporaryDirectory() as out:
        hardware = HardwareConfig(tokens_per_pack=tokens_per_pack, checkpoint_layers=layers)
        options = RunOptions(hardware, loggers=[profiled])
        train(folder, Path(out), pairs, [], config, 0, options)

    shape = read(folder / "config.json")
    tokenised = tokenise(AutoTokenizer.from_pretrained(folder), pairs, False)
    settings = replace(packing, rejected=LOSSES[loss].rejected, parts=False)
    step = plan_steps(count, count, EPOCHS, 0)[-1]
    packs = step_packs([tokenised[i] for i in step], settings)
    largest = max(pack.tokens for pack in packs)
    rows = Rows.of([pair.lengths for pair in tokenised], shape, settings.rejected, shared=True)
    planned = planned_peak(shape, largest, layers, rows)
    measured = 12 * shape.parameters + profiled.peak  # weights and moments
    return {
        "model": folder.name, "loss": loss, "tokens_per_pack": tokens_per_pack,
        "largest pack": largest, "packs": len(packs), "checkpointed": layers,
        "measured MiB": measured / 2**20, "planned MiB": planned.device / 2**20,
        "off %": 100 * (planned.device / measured - 1),
    }  # fmt: skip


def planned_peak(shape: Shape, tokens: int, layers: str, rows: Rows) -> Footprint:
    return footprint(shape, HardwareConfig(checkpoint_layers=layers), "cached", rows, tokens, None)


def middle(folder: Path) -> Path:
    """A random Qwen3 of four layers with the shipped student's tokenizer."""
    from transformers import AutoTokenizer

    target = folder / "qwen3-4x256"
    common.build_model(**MIDDLE, vocabulary=8192).save_pretrained(target)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(target)
    return target


def step_rows(quick: bool) -> list[Row]:
    cases = list(product(("bco", "sft"), (512, 1024, 2048, 4096), ("none", "all")))
    cases = cases[:2] if quick else [*cases, ("bco", 4096, "1"), ("bco", 4096, "2")]
    found = [check_step(TINY, *case) for case in cases]
    if not quick:
        with tempfile.TemporaryDirectory() as folder:
            policy = middle(Path(folder))
            cases = [("bco", 2048, "none"), ("bco", 2048, "all"), ("bco", 2048, "2")]
            found += [check_step(policy, *case) for case in [*cases, ("sft", 1024, "none")]]
    return found


# ---- zero ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Toy:
    """Sixteen square matrices, as `standing` wants to know them."""

    parameters: int = 16 * WIDTH * WIDTH
    held: int = parameters
    trained: int = parameters
    head: int = WIDTH * WIDTH


def zero_hardware(stage: int, precision: str) -> HardwareConfig:
    """Two processes, with buckets that hardly count beside the toy."""
    return HardwareConfig(
        devices=2, strategy="deepspeed", precision=precision, zero_stage=stage,
        overlap_comm=False, reduce_bucket=100_000, gather_bucket=100_000,
    )  # fmt: skip


def check_zero(stage: int, precision: str) -> Row:
    """Measured and planned bytes a parameter on one of two ranks, after a backward pass.

    Matrices are gathered only while they are multiplied, and stages 1 and 2 give their buckets back
    after the backward pass: neither is there any more when it is measured.
    """
    found = common.run_alone(MODULE, "--zero", str(stage), precision)
    gone = ["gathered parameters", *(["communication buckets"] if stage < 3 else [])]
    items = standing(Toy(), zero_hardware(stage, precision), "cached")
    planned = sum(item.device for item in items if item.name not in gone) / Toy().parameters
    measured = found["bytes"] / Toy().parameters
    return {
        "stage": stage, "dtype": precision, "B a parameter": measured, "planned": planned,
        "off %": 100 * (planned / measured - 1),
    }  # fmt: skip


def zero_rank(rank: int, stage: int, precision: str, file: str) -> None:
    """Two steps of two backward passes; rank 0 writes its bytes after the third backward pass."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    import deepspeed

    from spot.training.strategy import zero_config

    deepspeed.init_distributed(
        "gloo",
        auto_mpi_discovery=False,
        init_method=f"file://{file}.rendezvous",
        rank=rank,
        world_size=2,
    )
    dtype = DTYPES[precision]
    model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(16)))
    engine = deepspeed.initialize(
        model=model.to(dtype),
        optimizer=torch.optim.AdamW(model.parameters()),
        config=zero_config(zero_hardware(stage, precision), 1.0),
    )[0]
    for last in (False, True, False):
        engine.set_gradient_accumulation_boundary(last)
        engine.backward(engine(torch.randn(2, WIDTH, dtype=dtype)).float().square().sum())
        if last:
            engine.step()
    if rank == 0:
        Path(file).write_text(json.dumps({"bytes": live_bytes()}))
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may abort on the way out


def live_bytes() -> int:
    """Of all tensors that Python holds, each storage once."""
    gc.collect()
    tensors = [t for t in gc.get_objects() if issubclass(type(t), torch.Tensor)]
    tensors += [t.grad for t in tensors if t.is_leaf and t.grad is not None]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def measure_zero(stage: int, precision: str) -> None:
    """Start both ranks; print what rank 0 wrote as the last line."""
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/found.json"
        torch.multiprocessing.spawn(zero_rank, (stage, precision, file), nprocs=2)
        print(Path(file).read_text())


def main(arguments: Sequence[str] | None = None) -> None:
    """All tables."""
    parser = argparse.ArgumentParser(prog=MODULE)
    parser.add_argument("--quick", action="store_true", help="two steps, one stage")
    parser.add_argument("--no-write", action="store_true", help="print only")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument(
        "--zero", nargs=2, metavar=("STAGE", "DTYPE"), help="one measurement, alone"
    )
    options = parser.parse_args(arguments)
    if options.zero:
        measure_zero(int(options.zero[0]), options.zero[1])
        return
    for name in options.only:
        rows = TABLES[name](options.quick)
        if options.no_write:
            print(f"{name}\n{common.markdown(rows)}\n", flush=True)
        else:
            common.write_results(name, rows, f"python -m {MODULE}")


def zero_rows(quick: bool) -> list[Row]:
    cases = list(product((1, 2, 3), ("bf16", "fp32")))
    return [check_zero(*case) for case in (cases[2:3] if quick else cases)]


TABLES: dict[str, Callable[[bool], list[Row]]] = {
    "plan_layers": layer_rows,
    "plan_steps": step_rows,
    "plan_zero": zero_rows,
}


if __name__ == "__main__":
    main()
