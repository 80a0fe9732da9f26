"""What training leaves on disk: the model, resumable states, metrics.csv."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from spot.files import write_aside, write_folder_aside

CHECKPOINT = "state.ckpt"


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Weights, config, generation config, tokenizer and chat template in Hugging Face format."""

    if not torch.cuda.is_available():  # transformers imports DeepSpeed here, which warns on a CPU
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    disable_progress_bar()

    def fill(aside: Path) -> None:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)

    write_folder_aside(folder, fill)


class Checkpoints:
    """The last resumable state under `folder`, as `step_<n>/state.ckpt`; older ones are removed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def latest(self) -> tuple[int, Path] | None:
        """The newest whole checkpoint: how many steps were done, and its file."""
        whole = [p for p in self.folder.glob("step_*") if (p / CHECKPOINT).is_file()]
        found = [(int(p.name.removeprefix("step_")), p) for p in whole]
        if not found:
            return None
        step, path = max(found)
        return step, path / CHECKPOINT

    def save(self, step: int, write: Callable[[Path], Any]) -> None:
        """`write(file)` saves the state after `step` steps; only then do older ones go."""
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self.folder / f"step_{step:08d}"
        write_folder_aside(new, lambda aside: write(aside / CHECKPOINT))
        for path in self.folder.glob("step_*"):
            if path != new:
                shutil.rmtree(path)


class MetricsTable:
    """metrics.csv: one row per step, row 0 before the first; each on disk once the step is done.

    Columns are `columns` and whatever else row 0 has; a value that a step has not is empty. A table
    opened again at step k keeps the rows up to k, so a resumed run repeats and misses none.
    """

    def __init__(self, path: Path, columns: list[str]) -> None:
        self.path, self.columns = path, columns

    def begin(self, first: Mapping[str, Any]) -> None:
        """A new table for rows like `first`."""
        self.columns = [*self.columns, *sorted(first.keys() - set(self.columns))]
        self._write([])

    def open_at(self, step: int) -> None:
        """The table on disk, with the rows up to `step`."""
        rows = [row for row in self.rows() if int(row["step"]) <= step]
        self.columns = list(rows[0]) if rows else self.columns
        self._write(rows)

    def _write(self, rows: list[dict[str, str]]) -> None:
        lines = [",".join(self.columns) + "\n", *(self._line(row) for row in rows)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(self.path, "".join(lines).encode())

    def rows(self) -> list[dict[str, str]]:
        """Whole rows on disk; a torn last line is no row."""
        if not self.path.exists():
            return []
        text = self.path.read_text()
        return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))

    def append(self, row: Mapping[str, Any]) -> None:
        if unknown := sorted(row.keys() - set(self.columns)):
            raise ValueError(f"metrics without a column: {unknown}")
        with self.path.open("a") as file:
            file.write(self._line(row))

    def _line(self, row: Mapping[str, Any]) -> str:
        return ",".join(_cell(row.get(name)) for name in self.columns) + "\n"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.9g}" if isinstance(value, float) else str(value)
