"""The processes that train together: which one this is, and what they exchange.

Without a process group there is one rank, 0, and all of this costs nothing.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def ranks() -> int:
    """How many processes share every step."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 writes and reports."""
    return dist.get_rank() if dist.is_initialized() else 0


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of every rank's tensor of this shape, on all of them. Changes `values`."""
    if ranks() > 1:
        dist.all_reduce(values)
    return values


def broadcast_object(message: Any) -> Any:
    """What rank 0 passes in, on all ranks."""
    if ranks() == 1:
        return message
    box = [message if rank() == 0 else None]
    dist.broadcast_object_list(box)
    return box[0]


def broadcast(values: Tensor) -> Tensor:
    """Rank 0's tensor, on all ranks. Changes `values`, which has the same shape everywhere."""
    if ranks() > 1:
        dist.broadcast(values, 0)
    return values


def everywhere(condition: bool) -> bool:
    """Whether the condition holds on all ranks, on all of them."""
    holds = torch.tensor([float(condition)], device=device())
    return all_reduce_sum(holds).item() == ranks()


def barrier() -> None:
    """Wait for all ranks."""
    if ranks() > 1:
        dist.barrier()


def device() -> torch.device:
    """Where tensors must be that ranks exchange: NCCL moves a GPU's only."""
    if dist.is_initialized() and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
