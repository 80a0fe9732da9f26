"""The optimisers: torch's AdamW, or the same rule with its two moments kept in 8 bits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spot.config import HardwareConfig, LossConfig

SMALLEST = 4096  # elements of a tensor whose moments are worth quantising; the library's own choice


def make(
    hardware: HardwareConfig, parameters: Sequence[Tensor], loss: LossConfig
) -> torch.optim.Optimizer:
    """The optimiser of fp32 `parameters`; norms and biases decay too, as in the released scripts.

    adamw: torch's, fused, or DeepSpeed's on the host where the optimiser is offloaded. adamw8bit: the
    same update with moments of 8 bits in blocks of 256 elements (arXiv 2110.02861), 2.03 bytes a
    parameter instead of 8; tensors that are no matrices and those below 4,096 elements keep 32 bits.
    """
    assert loss.learning_rate is not None
    # apart, in the order in which DeepSpeed adds up their norms
    apart = [p for p in parameters if _dims(p) >= 2], [p for p in parameters if _dims(p) < 2]
    groups = [{"params": some} for some in apart if some]
    betas = loss.adam_beta1, loss.adam_beta2
    options: dict[str, Any] = {"lr": loss.learning_rate, "weight_decay": loss.weight_decay}
    if hardware.deepspeed and hardware.offload_optimizer:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(groups, betas=betas, **options)
    if hardware.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=betas, fused=True, **options)
    quiet_bitsandbytes()
    from bitsandbytes.optim import AdamW8bit

    # The library distinguishes tensors by their size alone, and a norm of a wide model is large, too.
    smallest = max([SMALLEST, *(p.numel() + 1 for p in parameters if p.ndim < 2)])
    optimizer: torch.optim.Optimizer = AdamW8bit(
        groups, betas=betas, min_8bit_size=smallest, **options
    )
    return optimizer


def quiet_bitsandbytes() -> None:
    """Before its import: it warns that a kernel for 4-bit inference is missing, which nothing here needs."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def _dims(parameter: Tensor) -> int:
    """Of the whole parameter: where ranks hold parts of it, each part is a flat tensor."""
    return len(getattr(parameter, "ds_shape", parameter.shape))
