"""Reading what a training run left."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from spot.config import HardwareConfig, LossConfig
from spot.training.memory_model import RESERVE, Rows, footprint
from spot.training.packing import PairTokens
from spot.training.shapes import read

STEPS = 5  # of 20 pairs with `loss`
TIMINGS = {"tokens_per_second"}


def loss(name: str, **changes: Any) -> LossConfig:
    """A loss at a rate that moves small models, in batches of 8 pairs."""
    return LossConfig(name, **{"beta": 0.1, "learning_rate": 3e-3, "batch_pairs": 8} | changes)


def room_for(
    tokens: int, policy: Path, pairs: Sequence[PairTokens], hardware: HardwareConfig
) -> float:
    """`hardware.memory_gib` in which a pack of so many tokens just fits with no layer computed again."""
    shape = read(policy / "config.json")
    rows = Rows.of([pair.lengths for pair in pairs], shape, rejected=True, shared=True)
    none = replace(hardware, checkpoint_layers="none")
    return footprint(shape, none, "cached", rows, tokens, None).device / RESERVE / 2**30


def rows(out: Path) -> list[dict[str, str]]:
    """metrics.csv, as dicts of text."""
    with (out / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def without_timings(out: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in rows(out)]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest relative L2 distance of any tensor."""
    return max(((a[k].float() - b[k].float()).norm() / b[k].float().norm()).item() for k in b)
