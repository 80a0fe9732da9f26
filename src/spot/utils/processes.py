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
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:  # CUDA, too, stops reading at the first that is no device
        names = takewhile(lambda name: name not in ("", "-1"), map(str.strip, chosen.split(",")))
        return list(dict.fromkeys(names))
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    # without a working driver it exits with an error, or prints a sentence instead of numbers
    return [line.strip() for line in listed.stdout.splitlines() if line.strip().isdecimal()]
