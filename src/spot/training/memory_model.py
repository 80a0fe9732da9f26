"""Bytes of a rank's device and of its host, as training and DeepSpeed 0.19 really keep them.

Two parts: what stands through the whole step (weights, gradients, the optimiser's state, a reference,
buffers), and what grows with the tokens of a pack. P is the number of parameters, N of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from spot.config import HardwareConfig
from spot.training.bin_packing import Lengths
from spot.training.shapes import Shape
from spot.utils.machine import memory

TILES = {"cpu": (512, 2048), "cuda": (2048, 16384)}  # rows and words of a tile of logits
EIGHT_BIT = 2 + 2 * 4 / 256  # two moments of 1 byte, and an fp32 scale for every 256 of each
RESERVE = 0.92  # of a device's memory that is planned with; the rest is fragments and communication
LIVE = 1_000_000_000  # parameters that stage 3 keeps gathered at most (DeepSpeed's default)
RUNTIME = 2.0**30  # CUDA context, NCCL and the allocator's cuts: an estimate


@dataclass(frozen=True)
class Rows:
    """Sums over rows of packs; a quotient by `tokens` is what one token of a pack brings along."""

    tokens: float = 0.0
    scored: float = 0.0
    keys: float = 0.0  # that attention reads: c counts again for a second tail
    mask: float = 0.0  # elements of sdpa's masks, which only second tails need
    body: float = 0.0  # forward FLOPs of the layers
    head: float = 0.0  # forward FLOPs of the logits

    @classmethod
    def of(cls, pairs: Sequence[Lengths], shape: Shape, rejected: bool, shared: bool) -> Rows:
        """Sums over pairs. A loss without a y⁻ term forwards no y⁻ (`rejected` is False)."""
        cost, rows, scored, whole = shape.cost, [], 0, 0.0
        for pair in pairs:
            for row in pair.rows(rejected, shared):
                rows.append(row)
                scored += (more := sum(row) - pair.prompt)
                whole += cost.row(*row, more)
        head = cost.scored * scored
        return replace(cls.of_rows(rows, scored), body=whole - head, head=head)

    @classmethod
    def of_rows(cls, rows: Sequence[tuple[int, int, int]], scored: int) -> Rows:
        """Sums over rows (c, a, b), without their work."""
        tokens = sum(map(sum, rows))
        keys = sum(c + a + (c + b if b else 0) for c, a, b in rows)
        return cls(tokens, scored, keys, sum(b * (c + b) for c, _, b in rows))

    def times(self, factor: float) -> Rows:
        return Rows(*(factor * value for value in vars(self).values()))

    @property
    def forward(self) -> float:
        """FLOPs of one forward pass over all rows."""
        return self.body + self.head


@dataclass(frozen=True)
class Item:
    """A line of the account, in bytes of one rank."""

    name: str
    device: float
    host: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Activations:
    """Bytes per token of a pack that a forward pass keeps for the backward pass."""

    layer: float
    boundary: float  # of a checkpointed layer: its input
    rest: float  # outside the layers

    @classmethod
    def of(cls, shape: Shape, hardware: HardwareConfig, rows: Rows) -> Activations:
        """From the tensors that autograd saves in transformers' Qwen3 and Llama layers.

        A norm saves its input in fp32, the normalised values and 1/rms; a matrix product its input;
        SwiGLU both factors, the gate and their product. Fused, a norm saves its input as it is and
        1/rms, SwiGLU the gate and its other factor beside the product's input. varlen attention saves
        its queries, keys, values and output, which is the next product's input; sdpa gathers the output
        into the pack's order first and saves both. With adapters a norm's frozen scale leaves the normalised
        values out, and of products `_inputs` are saved.
        """
        w, sdpa, fuses = width(hardware), uses_sdpa(hardware), hardware.fuses
        keys, scored = rows.keys / rows.tokens, rows.scored / rows.tokens
        frozen, noise = shape.lora.rank is not None, w if hardware.accelerator == "cpu" else 1
        out, *inputs = _inputs(shape, w, noise)

        def norm(size: int, count: int) -> float:
            plain = 4 if frozen else 4 + w
            return (w if fuses else plain) * size + 4 * count

        block = 2 * norm(shape.hidden, 1) + sum(inputs)
        if shape.qk_norm:
            block += norm(shape.queries, shape.heads) + norm(shape.keys, shape.kv_heads)
        attention = w * (2 * shape.queries + 2 * keys * shape.keys)
        attention += out if sdpa or shape.lora.dropout else 0.0
        attention += 4 * shape.heads  # log-sum-exp
        swiglu = (2 if fuses else 3) * w * shape.intermediate
        indices = 8 * (2 + 6 * scored)  # of the pack itself: token, position, target, …
        mask = w * rows.mask / rows.tokens if sdpa else 0.0
        inner = w * (shape.lora.rank or 0) * len(shape.adapted)  # what goes into B
        rest = norm(shape.hidden, 1) + w * shape.hidden * scored + 2 * w * shape.head_dim
        return cls(block + attention + swiglu + inner, w * shape.hidden, rest + indices + mask)


def _inputs(shape: Shape, w: int, noise: int) -> Iterator[float]:
    """Bytes per token that products keep as their inputs: of o, of q, k and v together, gate and up, down.

    A frozen matrix needs none, its adapter one; with dropout each adapter has its own, and `noise` bytes
    an element that say what was dropped.
    """
    for names in (
        ("o_proj",),
        ("q_proj", "k_proj", "v_proj"),
        ("gate_proj", "up_proj"),
        ("down_proj",),
    ):
        size = shape.matrices[names[0]][0]
        adapters = sum(shape.adapts(name) for name in names)
        if shape.lora.rank is None:
            yield float(w * size)
        elif shape.lora.dropout:
            yield float(adapters * (w + noise) * size)
        else:
            yield float(min(adapters, 1) * w * size)


@dataclass(frozen=True)
class Footprint:
    """Memory of one rank at its fullest moment."""

    items: tuple[Item, ...]
    checkpointed: int  # layers that are computed again

    @property
    def device(self) -> float:
        return sum(item.device for item in self.items)

    @property
    def host(self) -> float:
        return sum(item.host for item in self.items)


def width(hardware: HardwareConfig) -> int:
    """Bytes of a weight and of an activation."""
    return 2 if hardware.precision == "bf16" else 4


def uses_sdpa(hardware: HardwareConfig) -> bool:
    """Whether attention is sdpa's, as `training.attention.choose` chooses."""
    if hardware.attention != "auto":
        return hardware.attention == "sdpa"
    return not (hardware.accelerator == "gpu" and hardware.precision == "bf16")


def standing(shape: Shape, hardware: HardwareConfig, reference: str) -> list[Item]:
    """What is there from the first step to the last."""
    parts = _zero if hardware.deepspeed else _single
    items = [*parts(shape, hardware), _reference(shape, hardware, reference)]
    if hardware.accelerator == "gpu":
        items.append(Item("CUDA and allocator", RUNTIME, note="estimated"))
    return items


def capacity(hardware: HardwareConfig) -> float | None:
    """Bytes of a rank's device to plan with: of what is stated, or a share of this machine's for a CPU.

    None where only the GPU knows.
    """
    if hardware.memory_gib is not None:
        return RESERVE * hardware.memory_gib * 2**30
    if hardware.accelerator == "gpu":
        return None
    return RESERVE * memory() / hardware.devices


def _single(shape: Shape, hardware: HardwareConfig) -> Iterator[Item]:
    """One process: 16 B a parameter in fp32 (4 + 4 + 8), 18 in bf16 (2 + 4 + 4 + 8).

    Of frozen ones the first 4 or 2.
    """
    p, w = shape.trained, width(hardware)
    moments = EIGHT_BIT if hardware.optimizer == "adamw8bit" else 8
    yield Item("parameters", w * shape.held, note=hardware.precision)
    yield Item("gradients", 4.0 * p, note="fp32")
    if w < 4:
        yield Item("master weights", 4.0 * p, note="fp32")
    yield Item("moments", moments * p, note=hardware.optimizer)


def _zero(shape: Shape, hardware: HardwareConfig) -> Iterator[Item]:
    """ZeRO in bf16, bytes a parameter: stage 1: 6 + 16/N, stage 2: 2 + 16/N, stage 3: 18/N.

    In fp32, weights are as wide as their masters, which are there all the same.
    Gradients of packs are added up in fp32 (`grad_accum_dtype`); in stage 1 those of all parameters,
    beside the reduced share. With an offloaded optimiser the host gets the shares.
    """
    stage, w = hardware.zero_stage, width(hardware)
    share, held = shape.trained / hardware.ranks, shape.held
    moved = hardware.offload_optimizer
    weights = w * (held / hardware.ranks if stage == 3 else held)
    on_host = hardware.offload_parameters
    yield Item("parameters", *_place(weights, on_host), f"{hardware.precision}{_of(stage == 3)}")
    if stage == 3:
        live = _live(shape)
        yield Item("gathered parameters", w * live, note=f"at most {live / 1e9:.2g} billion")
    if stage == 1:
        yield Item("gradients", 4.0 * shape.trained, note="fp32, whole")
        if w < 4:
            yield Item("reduced gradients", *_place(4 * share, moved), f"fp32{_of(True)}")
    else:
        twice = 2 if moved and stage == 2 else 1  # the sum of packs, and what the update reads
        yield Item("gradients", *_place(4 * twice * share, moved), f"fp32{_of(True)}")
    yield Item("master weights", *_place(4 * share, moved), f"fp32{_of(True)}")
    yield Item("moments", *_place(8 * share, moved), f"fp32{_of(True)}")
    if moved and stage < 3:  # new weights, and gradients on their way
        largest = min(shape.head, shape.trained)
        yield Item("transfer buffers", float(w * largest), w * (share + largest))
    yield _buckets(hardware)


def _buckets(hardware: HardwareConfig) -> Item:
    """Where gradients lie together while they are reduced; two of them where that overlaps."""
    if not (hardware.contiguous_gradients or hardware.offload_optimizer):
        return Item("communication buckets", 0.0)
    overlaps = hardware.overlap_comm and hardware.accelerator == "gpu" and hardware.zero_stage < 3
    element = 4 if hardware.zero_stage == 1 else width(hardware)
    count = 2 if overlaps else 1
    note = f"{count} of {hardware.reduce_bucket / 1e6:,.4g} million elements"
    return Item("communication buckets", count * element * hardware.reduce_bucket, note=note)


def _reference(shape: Shape, hardware: HardwareConfig, kind: str) -> Item:
    """A frozen model beside the policy: nothing when scored once before, else whole or in parts."""
    w, p = width(hardware), shape.parameters
    if kind == "cached":
        return Item("reference", 0.0, note="cached: scored before training")
    if kind == "copy":
        return Item("reference", w * p, note="copy: whole")
    live = _live(shape)
    return Item(
        "reference", w * (p / hardware.ranks + live), note="engine: a share, and what it gathers"
    )


def _live(shape: Shape) -> int:
    """Parameters that stage 3 has gathered at one time, at most."""
    return min(shape.parameters, max(LIVE, shape.head))


def _place(size: float, on_host: bool) -> tuple[float, float]:
    """(device, host)."""
    return (0.0, size) if on_host else (size, 0.0)


def _of(divided: bool) -> str:
    return ", this rank's share" if divided else ""


def head_work(shape: Shape, hardware: HardwareConfig, scored: float) -> float:
    """While log-probs are differentiated: tiles, the hidden states' gradients, the head's gradient.

    The head's gradient is added up in fp32 and, for a narrow model, rounded beside it. A GPU takes
    narrow matrices into fp32 products, a CPU widens the head first.
    """
    w, gpu = width(hardware), hardware.accelerator == "gpu"
    rows, words = TILES[hardware.device]
    narrow = w < 4
    tile = 4.0 * rows * words
    if narrow and gpu:
        share = min(words, shape.vocabulary) * shape.hidden
        tile += 2 * rows * words + 4 * share
    copies = (w if narrow else 0) + (4 if narrow and not gpu else 0)
    states = scored * shape.hidden * (4 + (w if narrow else 0))
    if shape.lora.rank is not None:  # a frozen head has no gradient
        return tile + states + (4.0 * shape.head if narrow and not gpu else 0)
    return tile + states + (4 + copies) * shape.head


def layer_work(shape: Shape, hardware: HardwareConfig, tokens: float) -> float:
    """While a layer is differentiated, above what it saved.

    Gradients of SwiGLU's two factors (fused, they take the factors' place, and their product's is left)
    and of three states of the layer's width; its largest matrix's gradient before it is added; for a
    tied head the gradient that waits for the embedding's.
    """
    w, wide = width(hardware), 1 if hardware.fuses else 2
    states = tokens * w * (wide * shape.intermediate + 3 * shape.hidden)
    if shape.lora.rank is not None:
        return states
    matrix = shape.hidden * max(shape.intermediate, shape.queries) * (w + (4 if w < 4 else 0))
    return states + matrix + (w * shape.head if shape.tied else 0)


def moving(
    shape: Shape, hardware: HardwareConfig, rows: Rows, tokens: float, checkpointed: int
) -> list[Item]:
    """What a pack of `tokens` tokens takes at the fullest moment of its backward pass.

    The first layers are the checkpointed ones. When the backward pass gets to them, what the others
    kept is gone; then one layer at a time is whole again.
    """
    each = Activations.of(shape, hardware, rows)
    whole = shape.layers - checkpointed
    inputs = checkpointed * each.boundary
    kept = whole * each.layer + inputs
    head = head_work(shape, hardware, tokens * rows.scored / rows.tokens)
    layer = layer_work(shape, hardware, tokens)
    moments = [(tokens * (kept + each.rest), head, "log-probs: tiles and the head's gradient")]
    if whole:
        moments.append((tokens * kept, layer, "gradients inside a layer"))
    if checkpointed:
        again = tokens * (inputs + each.layer)
        moments.append((again, layer, "gradients inside a checkpointed layer"))
    activations, work, name = max(moments, key=lambda m: m[0] + m[1])
    note = f"{tokens:,} tokens, {checkpointed} of {shape.layers} layers computed again"
    others = "" if work == head else f"; log-probs take {head / 2**30:.2g} GiB at another moment"
    return [
        Item("activations", activations, note=note),
        Item("backward pass", work, note=name + others),
    ]


def footprint(
    shape: Shape,
    hardware: HardwareConfig,
    reference: str,
    rows: Rows,
    tokens: float,
    capacity: float | None,
) -> Footprint:
    """The account of one rank with packs of `tokens`; `auto` checkpoints for `capacity` bytes.

    auto takes the fewest layers that fit, all where none is enough or nothing is known.
    """
    fixed = standing(shape, hardware, reference)
    counts = {
        "none": [0],
        "all": [shape.layers],
        "auto": range(shape.layers + 1) if capacity else [shape.layers],
    }
    setting = hardware.checkpoint_layers
    for count in counts.get(setting) or [min(int(setting), shape.layers)]:
        planned = Footprint((*fixed, *moving(shape, hardware, rows, tokens, count)), count)
        if capacity is not None and planned.device <= capacity:
            break
    return planned
