"""What moves the weights: torch's AdamW, or the same rule with its two moments kept in 8 bits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from spot.utils.errors import UserError

SMALLEST = 4096  # elements of a tensor whose moments are worth quantising; the library's own choice


def make(
    name: str,
    groups: Sequence[dict[str, Any]],
    learning_rate: float,
    betas: tuple[float, float],
) -> torch.optim.Optimizer:
    """The optimiser `hardware.optimizer` names, for groups of fp32 `params` with a `weight_decay`.

    adamw: torch's, fused. adamw8bit: the same update with moments of 8 bits in blocks of 256 elements
    (arXiv 2110.02861), 2.03 bytes a parameter instead of 8; tensors that are no matrices and those
    below 4,096 elements keep 32 bits. adamw_host: DeepSpeed's, on the processor, for weights that are
    on a GPU. Raises UserError where bitsandbytes is not installed.
    """
    groups = list(groups)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
    if name == "adamw_host":
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(groups, lr=learning_rate, betas=betas, adamw_mode=True)
    if name == "adamw8bit":
        return _adamw_8bit(groups, learning_rate, betas)
    raise ValueError(f"no optimiser is called {name}")


def _adamw_8bit(
    groups: list[dict[str, Any]], learning_rate: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    # It warns that a kernel for 4-bit inference is missing, which nothing here needs.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "bitsandbytes":
            raise
        raise UserError(
            "hardware.optimizer=adamw8bit needs bitsandbytes: make install EXTRAS=test,adam8bit, "
            "or choose hardware.optimizer=adamw."
        ) from None
    # The library tells tensors apart by their size alone, and a norm of a wide model is large, too.
    vectors = (p.numel() for group in groups for p in group["params"] if p.ndim < 2)
    smallest = max([SMALLEST, *(size + 1 for size in vectors)])
    optimizer: torch.optim.Optimizer = AdamW8bit(
        groups, lr=learning_rate, betas=betas, min_8bit_size=smallest
    )
    return optimizer
