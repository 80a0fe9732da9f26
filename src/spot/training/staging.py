"""A resumable state on its way to the disk: copied to the host's memory, from where a thread writes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.utils._pytree import tree_leaves

from spot.config import HardwareConfig
from spot.utils.files import sync
from spot.utils.progress import say


class Staging:
    """What a strategy would write, kept as it is now while training moves the originals.

    A GPU's tensors are copied into pinned memory. Where the host has no room for the copies of all its
    ranks, nothing is copied: steps wait while the state is written.
    """

    def __init__(self, hardware: HardwareConfig) -> None:
        gpu = hardware.accelerator == "gpu"
        self.ranks = hardware.devices  # that share a host's memory
        self.stager = DefaultStager(StagingOptions(gpu, False, False, gpu))
        self.files: dict[Path, Any] = {}

    def add(self, state_dict: Mapping[str, Any], path: Any) -> None:
        """Take what belongs into the file `path`. The name of DeepSpeed's argument is `state_dict`."""
        size = self.ranks * sum(tensor.nbytes for tensor in _tensors(state_dict))
        if size < psutil.virtual_memory().available:
            self.files[Path(path)] = self.stager.stage(dict(state_dict))
        else:
            say(
                f"The host has no room for a copy of the state ({size / 2**30:.3g} GiB): steps wait."
            )
            _write(path, state_dict)

    def write(self) -> None:
        """Write all files that were taken, and let their copies go."""
        while self.files:
            _write(*self.files.popitem())


def _write(path: Any, state: Any) -> None:
    torch.save(state, path)
    sync(Path(path))


def _tensors(state: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor))
