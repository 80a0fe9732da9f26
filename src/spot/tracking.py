"""Where metrics go besides metrics.csv, which every run writes: TensorBoard by default, W&B on request."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spot.errors import UserError


def loggers(
    names: Sequence[str],
    folder: Path,
    run_name: str,
    config: Mapping[str, Any],
    project: str = "spot",
    mode: str = "offline",
) -> list[Any]:
    """Lightning loggers for the names among `csv`, `tensorboard` and `wandb`.

    `csv` needs none: training writes metrics.csv itself. W&B writes below `folder` and stays offline
    without a key in WANDB_API_KEY, whatever `mode` says. The caller ends with `finish()`.
    """
    if unknown := sorted(set(names) - {"csv", "tensorboard", "wandb"}):
        raise UserError(f"Unknown logger {unknown[0]!r}: use csv, tensorboard or wandb.")
    folder.mkdir(parents=True, exist_ok=True)
    result: list[Any] = []
    if "tensorboard" in names:
        from pytorch_lightning.loggers import TensorBoardLogger

        result.append(TensorBoardLogger(folder, name="", version="tensorboard"))
    if "wandb" in names:
        from pytorch_lightning.loggers import WandbLogger

        offline = mode == "offline" or not os.environ.get("WANDB_API_KEY")
        logger = WandbLogger(
            name=run_name, project=project, save_dir=folder, offline=offline, config=dict(config)
        )
        result.append(logger)
    return result


def finish() -> None:
    """End the W&B run of this process, if there is one: belongs into a `finally`."""
    import sys

    if "wandb" in sys.modules:
        sys.modules["wandb"].finish()
