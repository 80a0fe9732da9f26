"""Minutes that training an 8B model takes on GPUs that are not here: every operation traced, none computed.

`python -m performance.gpu_trace` runs Qwen3-8B (or `--shape llama`) at full size on fake tensors, which
have shapes and no content, and adds up what each operation asks of a GPU: FLOPs of the matrix
products and of attention, bytes that everything else reads and writes. A pack's seconds are these,
divided by the rates of `Rates`, which are assumptions and are printed. Pairs are then drawn, put into
steps and dealt over the ranks as in training; a step lasts as long as its slowest rank.

Five ways to do the same work:

- padded: what preference trainers commonly do, see `performance.gpu_step`; a rank takes micro-batches
  one after the other, and gradients are reduced after each, so that each lasts as long as the longest.
- packed: ours with `hardware.fused=none`; each pack computes as few layers again as it needs.
- + fused: norms, rotary embeddings and SwiGLU are one kernel each that reads its inputs and writes its
  outputs once, and their layers keep less, so that fewer are computed again.
- the defaults: held-out pairs are looked at every 9 steps, which `probe.every=null` comes to here, and no
  resumable checkpoint is written in a run that ends before `save.minutes`. The two ways before look at
  every step, and wait for the disk every 50.
- + ZeRO-3: the defaults with `hardware=8xh800_zero3`. Weights are gathered layer by layer, while others are
  computed, and not after the update; more memory is left. Every pack computes again what the largest must,
  and none is larger than the pairs need.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

from performance import common
from performance.operations import Moved, moved_by, shape_of
from spot.config import HardwareConfig
from spot.training.bin_packing import Cost, Lengths, deal, tight_budget
from spot.training.memory_model import Rows, capacity, footprint
from spot.training.shapes import Shape

MODULE = "performance.gpu_trace"
SHAPES = {  # Qwen3-8B's and Llama-3.1-8B's
    "qwen3": {"kind": "qwen3", "layers": 36, "intermediate": 12288, "vocabulary": 151936},
    "llama": {"kind": "llama", "layers": 32, "intermediate": 14336, "vocabulary": 128256},
}
PLAIN = 790e12  # FLOP/s that one bf16 product of 8192³ reached on an H200; a step's are smaller
WIDE = {"hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "tied": False}


@dataclass(frozen=True)
class Rates:
    """What a GPU reaches. An H800's by default: its matrix products are an H100's, its links are slower."""

    matmul: float = 650e12  # FLOP/s of large bf16 products
    attention: float = 400e12  # of attention's forward pass
    attention_backward: float = 300e12
    memory: float = 2.6e12  # bytes/s that elementwise kernels read and write
    link: float = 160e9  # bytes/s of a collective over the GPUs of a machine, per rank
    disk: float = 2e9  # bytes/s of a machine
    start: float = 60.0  # seconds: processes, CUDA, NCCL, imports


@dataclass(frozen=True)
class Asked:
    """What operations ask of a GPU: FLOPs, FLOPs, FLOPs, bytes."""

    matmul: float = 0.0
    attention: float = 0.0
    attention_backward: float = 0.0
    memory: float = 0.0

    def seconds(self, rates: Rates) -> float:
        return sum(value / getattr(rates, name) for name, value in vars(self).items())


@dataclass(frozen=True)
class Way:
    """How the work is done; `moved` is what its passes move beside products and attention."""

    name: str
    moved: Moved
    padded: bool = False
    fused: str = "none"
    zero: int = 2  # stage of ZeRO
    probe_every: int = 1
    save_every: int | None = 50  # steps between resumable checkpoints


@dataclass(frozen=True)
class Work:
    """Whose time is predicted: the model, the pairs, the machine."""

    shape: Shape
    lengths: Sequence[Lengths]
    hardware: HardwareConfig
    rates: Rates
    batch: int
    epochs: int
    micro: int
    probe_pairs: int

    @property
    def ranks(self) -> int:
        return self.hardware.devices

    @cached_property
    def rows(self) -> Rows:
        return Rows.of(self.lengths, self.shape, True, True)

    @property
    def mean_pack(self) -> int:
        """Tokens of a rank's share of a step, if it is one pack."""
        return round(self.rows.tokens / len(self.lengths) * self.batch / self.ranks)

    @property
    def recomputed(self) -> float:
        """FLOPs per token of all layers computed again: each up to its last product, which saves nothing."""
        last = 2.0 * self.shape.hidden * self.shape.intermediate * self.shape.layers
        return self.shape.cost.token - last

    def budget(self, way: Way) -> int:
        """Tokens of the largest pack."""
        longest = max(pair.tokens() for pair in self.lengths)
        most = self.hardware.tokens_per_pack
        return tight_budget(longest, self.mean_pack, most) if way.zero == 3 else most

    def again(self, tokens: int, way: Way) -> int:
        """The fewest layers to compute again with which packs of so many tokens fit."""
        hardware = replace(self.hardware, fused=way.fused, zero_stage=way.zero)
        if hardware.in_parts:  # every pack as the fullest
            tokens = self.budget(way)
        memory = capacity(hardware)
        return footprint(self.shape, hardware, "cached", self.rows, tokens, memory).checkpointed

    def packed(self, pairs: Sequence[Lengths], moved: Moved, layers_again: int) -> Asked:
        """Of one pack, forward and backward."""
        cost, again = self.shape.cost, layers_again / self.shape.layers
        tokens, scored = sum(p.tokens() for p in pairs), sum(p.scored() for p in pairs)
        seen = cost.seen * sum(_seen(row) for p in pairs for row in p.rows())
        return Asked(
            matmul=(3 * cost.token + again * self.recomputed) * tokens + 4 * cost.scored * scored,
            attention=(1 + again) * seen,
            attention_backward=2.5 * seen,
            memory=moved.of(tokens, scored, layers_again),
        )

    def padded(self, pairs: Sequence[Lengths], moved: Moved) -> Asked:
        """Of one micro-batch: every layer computed again, attention over the whole square."""
        cost, layers = self.shape.cost, self.shape.layers
        wide = max(p.prompt + max(p.chosen, p.rejected) for p in pairs)
        tokens = 2.0 * len(pairs) * wide
        square = cost.seen * tokens * wide
        return Asked(
            matmul=(3 * cost.token + self.recomputed + 3 * cost.scored) * tokens,
            attention=2 * square,
            attention_backward=2.5 * square,
            memory=moved.of(tokens, tokens, layers),
        )

    def forward(self, pairs: Sequence[Lengths], moved: Moved) -> float:
        """Seconds of the forward pass alone, on all ranks together: about a third moves, too."""
        cost = self.shape.cost
        tokens, scored = sum(p.tokens() for p in pairs), sum(p.scored() for p in pairs)
        flops = cost.token * tokens + cost.scored * scored
        seen = cost.seen * sum(_seen(row) for p in pairs for row in p.rows())
        work = Asked(flops, seen, 0.0, (tokens * moved.token + scored * moved.scored) / 3)
        return work.seconds(self.rates) / self.ranks


def _seen(row: tuple[int, int, int]) -> float:
    """(query, key) pairs of a row of a pack."""
    return Cost(0.0, seen=1.0).row(*row, 0)


def draw(
    count: int, mean: int, cv: float, shared: float, prompt: int, longest: int
) -> list[Lengths]:
    """Pairs whose two responses are equally long, lognormal; those longer than the context are dropped."""
    rng, spread = Random("gpu_trace"), common.lognormal(mean, cv)
    drawn = [round(rng.lognormvariate(*spread)) for _ in range(count)]
    kept = [max(4, n) for n in drawn if prompt + n <= longest]
    return [Lengths(prompt, n, n, min(round(shared * n), n - 2)) for n in kept]


def steps(work: Work, way: Way) -> tuple[float, float]:
    """Seconds of all steps' forward and backward passes as the slowest rank has them, and on average."""
    slowest = average = 0.0
    for epoch in range(work.epochs):
        order = list(work.lengths)
        Random(epoch).shuffle(order)
        for at in range(0, len(order) - work.batch + 1, work.batch):
            for seconds in _concurrent(work, way, order[at : at + work.batch]):
                slowest += max(seconds)
                average += sum(seconds) / work.ranks
    return slowest, average


def _concurrent(work: Work, way: Way, batch: Sequence[Lengths]) -> Iterator[list[float]]:
    """Seconds of every rank, once for each time that the ranks wait for each other."""
    rates, ranks = work.rates, work.ranks
    if way.padded:
        groups = [batch[i : i + work.micro] for i in range(0, len(batch), work.micro)]
        for at in range(0, len(groups), ranks):
            yield [work.padded(g, way.moved).seconds(rates) for g in groups[at : at + ranks]]
        return

    def seconds(pack: Sequence[Lengths]) -> float:
        again = work.again(sum(p.tokens() for p in pack), way)
        return work.packed(pack, way.moved, again).seconds(rates)

    tokens = [pair.tokens() for pair in batch]
    costs = [pair.cost(work.shape.cost) for pair in batch]
    dealt = deal(costs, tokens, work.budget(way), ranks)
    yield [sum(seconds([batch[i] for i in pack]) for pack in bins if pack) for bins in dealt]


def stage(work: Work, way: Way) -> dict[str, float]:
    """Seconds of the training stage by what they go to."""
    p, rates = work.shape.parameters, work.rates
    count = len(work.lengths) // work.batch * work.epochs
    slowest, average = steps(work, way)
    one_probe = work.forward(work.lengths[: work.probe_pairs], way.moved)
    gathered = 2 * p / rates.link  # bf16, once
    along = (3 if way.zero == 3 else 1) * gathered  # gradients; at stage 3 weights, both ways
    saves = count // way.save_every if way.save_every else 0
    return {
        "start, weights read": rates.start + 2 * p / rates.disk,
        "reference, once": work.forward(work.lengths, way.moved),
        "passes, if all ranks were equal": average,
        "waiting for the slowest rank": slowest - average,
        "collectives that passes do not hide": max(0.0, count * along - average),
        "update and its all-gather": count
        * ((gathered if way.zero < 3 else 0.0) + 30 * p / work.ranks / rates.memory),
        "probes": 0.0 if way.padded else count // way.probe_every * one_probe,
        "resumable checkpoints": saves * 14 * p / rates.disk,
        "trained weights written": 2 * p / rates.disk,
    }


def ways(shape: dict[str, Any]) -> list[Way]:
    """All of them, each with what its passes move; says how well the traces are explained."""
    moved = {}
    for name in ("padded", "packed", "fused"):
        moved[name], off = moved_by(shape, name)
        print(f"{name}: a fifth trace is {off:.1%} off what four predict", flush=True)
    fused = Way("+ fused", moved["fused"], fused="liger")
    defaults = replace(fused, name="the defaults", probe_every=9, save_every=None)
    return [
        Way("padded", moved["padded"], padded=True),
        Way("packed", moved["packed"]),
        fused,
        defaults,
        replace(defaults, name="+ ZeRO-3", zero=3),
    ]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=MODULE)
    parser.add_argument("--shape", choices=list(SHAPES), default="qwen3")
    numbers: dict[str, Any] = {
        "pairs": 4000, "epochs": 2, "ranks": 8, "batch": 32, "micro": 2, "mean": 1800, "cv": 0.7,
        "shared": 0.5, "prompt": 150, "context": 8192, "budget": 16384, "memory": 79.0, "probe": 16,
        "layers": 0,
    }  # fmt: skip
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    for name, rate in vars(Rates()).items():
        parser.add_argument(f"--{name}-rate", type=float, default=rate)
    parser.add_argument("--write", action="store_true", help="keep the table as a result")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Trace, predict, print; returns the table's rows, in minutes."""
    options = parse(arguments)
    chosen = SHAPES[options.shape] | WIDE
    if options.layers:
        chosen |= {"layers": options.layers}
    shape = shape_of(chosen)
    hardware = HardwareConfig(
        accelerator="gpu", devices=options.ranks, strategy="deepspeed", precision="bf16",
        attention="varlen", tokens_per_pack=options.budget, checkpoint_layers="auto",
        memory_gib=options.memory,
    )  # fmt: skip
    o = options
    lengths = draw(o.pairs, o.mean, o.cv, o.shared, o.prompt, o.context)
    rates = Rates(**{name: getattr(o, f"{name}_rate") for name in vars(Rates())})
    work = Work(shape, lengths, hardware, rates, o.batch, o.epochs, o.micro, o.probe)
    print(f"{shape.parameters / 1e9:.2f} billion parameters; {rates}")
    found = ways(chosen)
    counts = [
        f"{work.again(tokens, found[2])} of {shape.layers} layers in a {kind} pack"
        for kind, tokens in (("full", o.budget), ("mean", work.mean_pack))
    ]
    print(f"{len(lengths):,} pairs fit the context; computed again: {', '.join(counts)}")
    columns = {way.name: stage(work, way) for way in found}
    names = list(next(iter(columns.values())))
    rows = [{"minutes": n, **{k: v[n] / 60 for k, v in columns.items()}} for n in names]
    plain = replace(work, rates=replace(rates, matmul=PLAIN))
    for name, with_rates in (
        ("sum", work),
        (f"sum, products at {PLAIN / 1e12:.0f} TFLOP/s", plain),
    ):
        sums = {way.name: sum(stage(with_rates, way).values()) / 60 for way in found}
        rows.append({"minutes": name, **sums})
    if options.write:
        common.write_results("gpu_trace", rows, " ".join(["python -m", MODULE, *sys.argv[1:]]))
    else:
        print(common.markdown(rows))
    return rows


if __name__ == "__main__":
    main()
