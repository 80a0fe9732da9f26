"""Processes that we start: what they inherit, which GPUs they may have, and that they end with us."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

GUARD = Path(__file__).with_name("guard.py")
# what a child must not learn of its starter's own place: a rank's, a job's of a sweep, a W&B run's
LEAKS = {
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "PL_GLOBAL_SEED",
    "PL_SEED_WORKERS",
    "WANDB_RUN_ID",
    "WANDB_NAME",
    "WANDB_RESUME",
    "WANDB_RUN_GROUP",
    "WANDB_SERVICE",
    "WANDB_SWEEP_ID",
}
OTHER_GPUS = ("/dev/kfd", "/dev/dxg")  # AMD's driver and WSL's, which nvidia-smi may not know
LEAK_PREFIXES = ("MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC_", "PL_TRAINER_")


def guarded(command: Sequence[str]) -> list[str]:
    """The command, run so that it and all that it starts end when it ends, or when we do."""
    return [sys.executable, "-P", str(GUARD), str(os.getpid()), *command]


def inherited() -> dict[str, str]:
    """This process's environment without what belongs to one rank or one job."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in LEAKS and not name.startswith(LEAK_PREFIXES)
    }


def visible_gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them, else as nvidia-smi does."""
    chosen = _chosen_gpus()
    return [index for index, _ in _listed_gpus()] if chosen is None else chosen


def gpu_count() -> int | None:
    """How many CUDA devices there are for this process; None where only torch could tell."""
    if any(Path(device).exists() for device in OTHER_GPUS):
        return None
    listed, chosen = _listed_gpus(), _chosen_gpus()
    if chosen is None:
        return len(listed)

    def is_there(name: str) -> bool:
        if name.isdecimal():
            return any(name == index for index, _ in listed)
        # a part of a GPU (MIG) is not listed, and without nvidia-smi no name is known
        return any(name.startswith("MIG-") or (uuid or name).startswith(name) for _, uuid in listed)

    return len(list(takewhile(is_there, chosen)))


def _chosen_gpus() -> list[str] | None:
    """What CUDA_VISIBLE_DEVICES names, where it is set."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return None
    # CUDA, too, stops reading at the first that is no device
    names = takewhile(lambda name: name not in ("", "-1"), map(str.strip, chosen.split(",")))
    return list(dict.fromkeys(names))


def _listed_gpus() -> list[tuple[str, str]]:
    """`(index, uuid)` of every GPU, as nvidia-smi lists them, else of those that the driver has."""
    if shutil.which("nvidia-smi") is None:
        cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*"))
        return [(str(number), "") for number, _ in enumerate(cards)]
    query = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    listed = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    # without a working driver it exits with an error, or prints a sentence instead of numbers
    rows = (line.partition(",") for line in listed.stdout.splitlines())
    return [(index.strip(), uuid.strip()) for index, _, uuid in rows if index.strip().isdecimal()]
