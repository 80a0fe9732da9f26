"""Writes what training leaves, while it goes on: metrics, resumable states, exported weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from spot.config import SaveConfig
from spot.training import collectives
from spot.training.checkpoint import Checkpoints, MetricsTable, cell, save_model
from spot.training.diagnostics import KL_SIDES, SHARED_SIDE, SIDES
from spot.training.lora import Adapters
from spot.utils.cells import as_csv
from spot.utils.errors import UserError
from spot.utils.files import sync, write_aside
from spot.utils.progress import say

COLUMNS = [
    "step", "loss",
    "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
    "logps/chosen", "logps/rejected",
    "delta", "tether/chosen", "tether/rejected",
    "gradient_norm", "learning_rate", "tokens_per_second",
    "held_out/rewards/chosen", "held_out/rewards/rejected",
    "held_out/rewards/margins", "held_out/rewards/accuracies", "held_out/kl", "held_out/entropy",
    *(f"{measure}/{part}" for measure in ("rewards", "gradients") for part in SIDES),
    *(f"kl/{part}" for part in KL_SIDES),
    *(f"held_out/rewards/{part}" for part in SIDES),
    *(f"held_out/kl/{part}" for part in KL_SIDES),
    *(f"gradients_apart/{part}" for part in SHARED_SIDE),
]  # fmt: skip


HELD_OUT = "held_out/step_{:08d}.csv"  # values of every held-out pair, see HeldOut.each


class CheckpointCallback(pl.Callback):
    """Below `<out>`: `metrics.csv`, `held_out/step_<n>.csv`, `resume`, `exports/step_<n>`, at the end `model`.

    A state holds weights, optimiser, schedule, δ, the place in the data and the RNG.
    """

    def __init__(
        self,
        out: Path,
        tokenizer: Any,
        save: SaveConfig,
        loggers: Sequence[Any] = (),
        adapters: Adapters | None = None,
    ) -> None:
        self.adapters = adapters
        self.out, self.tokenizer, self.save, self.loggers = out, tokenizer, save, loggers
        self.checkpoints = Checkpoints(out / "resume")
        self.table = MetricsTable(out / "metrics.csv", COLUMNS)

        self.resume = self.checkpoints.latest()
        self.saved = 0.0  # when, by the clock of `time.monotonic`

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if collectives.broadcast_object(self.resume) != self.resume:
            raise UserError(
                f"Ranks see different states in {self.checkpoints.folder}: output=<folder> must be one that "
                "all nodes share."
            )

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Go on after the last state: rows of later steps go, they will be written again."""
        self.saved = time.monotonic()
        if collectives.rank() == 0:
            for step, file in self.checkpoints.damaged.items():
                say(f"The state after step {step} is damaged ({file}) and is left out.")
        if self.resume and collectives.rank() == 0:
            self.table.open_at(self.resume[0])
            say(f"Training goes on after step {self.resume[0]}.")

    def record(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Rank 0's row of one step."""
        if step == 0:
            self.table.begin(metrics)
        self.table.append({"step": step, **metrics})
        for logger in self.loggers:
            logger.log_metrics(dict(metrics), step=step)

    def _look(self, step: int, module: Any) -> None:
        """Measure every held-out pair; a step that is repeated after a resume writes them again."""
        rows = module.measure_each()
        if collectives.rank() > 0:
            return
        file = self.out / HELD_OUT.format(step)
        file.parent.mkdir(exist_ok=True)
        cells = ({name: cell(value) for name, value in row.items()} for row in rows)
        write_aside(file, as_csv(cells, list(rows[0])))

    def last_row(self) -> dict[str, float]:
        """The last row of the table, without what it has not."""
        return {name: float(value) for name, value in self.table.rows()[-1].items() if value}

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        step, last = batch[0], len(trainer.train_dataloader)  # type: ignore[arg-type]
        if module.monitoring.looks_at_all(step, last):  # type: ignore[union-attr, operator]
            self._look(step, module)
        if self.save.optimizer and self._due(step) and step < last:
            if collectives.rank() == 0:
                sync(self.table.path)  # no state without the rows that led to it
            self.checkpoints.save(step, partial(self._take, trainer))
            self.saved = time.monotonic()
        if self.save.exports and step % self.save.exports == 0 and step < last:
            self._export(module, self.out / "exports" / f"step_{step:08d}")

    def _due(self, step: int) -> bool:
        """Whether a state of this step is to be kept: all ranks go by rank 0's clock."""
        idle = self.checkpoints.advance()
        if self.save.every is not None:
            return step % self.save.every == 0
        minutes = (time.monotonic() - self.saved) / 60
        return idle and collectives.broadcast_object(minutes >= self.save.minutes)

    @staticmethod
    def _take(trainer: pl.Trainer, path: Path) -> Callable[[], None]:
        trainer.save_checkpoint(path)
        return trainer.strategy.staging.write  # type: ignore[attr-defined, no-any-return]

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Let a state that is being written have its end; other ranks may be gone."""
        if collectives.ranks() == 1:
            with suppress(Exception):  # what is raised already comes first
                self.checkpoints.finish()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """While the strategy still stands: where weights are in parts, all ranks must go along."""
        self.checkpoints.finish()
        self._export(module, self.out / "model")
        for logger in self.loggers:
            logger.finalize("success")

    def _export(self, module: pl.LightningModule, folder: Path) -> None:
        if module.hardware.in_parts:  # type: ignore[union-attr]
            # DeepSpeed fetches ahead, and cannot divide again what is still on its way
            module.trainer.strategy.deepspeed_engine.empty_partition_cache()  # type: ignore[attr-defined]
        save_model(module.model, self.tokenizer, folder, self.save.dtype, self.adapters)
