"""What training leaves on disk: the model, resumable states, metrics.csv.

Where ranks share the work, all of them must call what saves weights or states; rank 0 writes the rest.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from spot.data.chat import stop_ids
from spot.training import collectives
from spot.training.lora import Adapters
from spot.training.precision import DTYPES
from spot.training.weights import whole_tensors
from spot.utils import digests
from spot.utils.errors import UserError
from spot.utils.files import begin_aside, place_aside, publish, write_aside, write_folder_aside

CHECKPOINT = "state.ckpt"
DIGESTS = "digests.json"  # of a state's files, beside it
SHARD = "5GB"  # of exported weights


def save_model(
    model: Any,
    tokenizer: Any,
    folder: Path,
    dtype: str | None = None,
    adapters: Adapters | None = None,
) -> None:
    """Weights, config, generation config, tokenizer and chat template in Hugging Face format.

    dtype: fp32 | bf16, None for the model's own. Rank 0 gathers the weights in its host's memory.
    adapters: of a model that has some, which are merged into what is written.
    """
    disable_progress_bar()
    declare_ends(model, tokenizer)
    cast = DTYPES[dtype] if dtype else model.dtype
    tensors: dict[str, Tensor] = {}
    for name, tensor in whole_tensors(model):
        if collectives.rank() == 0:
            if not torch.isfinite(tensor).all():
                raise UserError(
                    f"The last step left weights that are not finite ({name}): lower the learning rate."
                )
            tensors[name] = tensor.to("cpu", None if adapters else cast, copy=True)

    def fill(aside: Path) -> None:
        if adapters is None:
            model.save_pretrained(aside, state_dict=tensors, max_shard_size=SHARD)
        else:
            adapters.write(aside, model, tensors, cast, SHARD)
        tokenizer.save_pretrained(aside)
        declare_dtype(aside, cast)

    if collectives.rank() == 0:
        with explained("The weights", place_aside(folder)):
            write_folder_aside(folder, fill)
    collectives.barrier()


@contextmanager
def explained(what: str, aside: Path) -> Iterator[None]:
    """Remove what could not be written whole, and say so in one line; what was there before stays.

    A full disk is an OSError, but for the writers of torch and safetensors, which have their own.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if type(error) is RuntimeError and "inline_container" not in str(error):
            raise
        shutil.rmtree(aside, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        free = shutil.disk_usage(aside.parent).free / 2**30
        raise UserError(
            f"{what} could not be written to {aside.parent} ({reason}; {free:.2g} GiB are free): free "
            "some space, or set save.minutes higher; the same command goes on from the last whole state."
        ) from error


def declare_ends(model: Any, tokenizer: Any) -> None:
    """Let whoever serves the model stop at the token that its responses were trained to end in."""
    named, ends = model.generation_config.eos_token_id, stop_ids(tokenizer)
    if ends[0] not in (named if isinstance(named, list) else [named]):
        model.generation_config.eos_token_id = list(ends)


def declare_dtype(folder: Path, dtype: torch.dtype) -> None:
    """Let the configuration in a model's folder name this dtype."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


class Checkpoints:
    """The last resumable state under `folder`, as `step_<n>/state.ckpt`; older ones are removed.

    The state is a file, or a folder where each rank writes its part. It is written while training goes
    on, one at a time: each rank writes its part, and then rank 0 hashes all of them and puts the whole
    in its place. Until then the state before is the last.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: dict[int, str] = {}  # step: a file of its state that is not as it was written
        self._thread = ThreadPoolExecutor(1, "state")
        self._running: Future[None] | None = None
        self._later: list[Callable[[], None]] = []  # what follows once all ranks have done that

    def latest(self) -> tuple[int, Path] | None:
        """The newest checkpoint that is as it was written: how many steps were done, its file or folder."""
        for folder in sorted(self.folder.glob("step_*"), reverse=True):
            step = int(folder.name.removeprefix("step_"))
            if wrong := _changed(folder):
                self.damaged[step] = wrong
            else:
                return step, folder / CHECKPOINT
        return None

    def save(self, step: int, take: Callable[[Path], Callable[[], None]]) -> None:
        """Begin to write the state after `step` steps, once the one before is in its place.

        `take(path)` copies the state as it is now and returns what writes the copy.
        """
        self.finish()
        new = self.folder / f"step_{step:08d}"
        aside = place_aside(new)
        if collectives.rank() == 0:
            for left in self.folder.glob(".step_*"):  # of a kill
                shutil.rmtree(left)
            begin_aside(new)
        collectives.barrier()
        what = f"The state after step {step}"
        with explained(what, aside):
            write = take(aside / CHECKPOINT)

        def explaining(work: Callable[[], None]) -> None:
            with explained(what, aside):
                work()

        self._running = self._thread.submit(explaining, write)
        self._later = [lambda: explaining(partial(self._publish, new))]

    def advance(self) -> bool:
        """Go on with the state that is being written; whether none is. All ranks call it together.

        Raises what went wrong with this rank's part.
        """
        running = self._running
        if running is None:
            return True
        done = running.done()
        if done:
            running.result()
        if not collectives.everywhere(done):
            return False
        self._running = self._thread.submit(self._later.pop()) if self._later else None
        return self._running is None

    def finish(self) -> None:
        """Wait until no state is being written. All ranks call it together; it raises as `advance` does."""
        while not self.advance():
            wait([self._running] if self._running else [])

    def _publish(self, new: Path) -> None:
        if collectives.rank() > 0:
            return
        aside = place_aside(new)
        names = [str(p.relative_to(aside)) for p in aside.rglob("*") if p.is_file()]
        write_aside(aside / DIGESTS, json.dumps(digests.hash_files(aside, names), indent=1))
        publish(aside, new)
        for path in self.folder.glob("step_*"):
            if path != new:
                shutil.rmtree(path)


def _changed(state: Path) -> str | None:
    """A file of this state that is not as it was written. One of before digests were kept is believed."""
    if not (state / DIGESTS).exists():
        return None if (state / CHECKPOINT).exists() else CHECKPOINT
    try:
        written = dict(json.loads((state / DIGESTS).read_bytes()))
        return digests.changed(state, written, keep=True) if written else DIGESTS
    except (OSError, ValueError, TypeError):
        return DIGESTS


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
        """The table on disk, with the rows up to `step`. Raises UserError where one is missing."""
        rows = self.rows()[: step + 1]
        if [row.get("step") for row in rows] != [str(number) for number in range(step + 1)]:
            raise UserError(
                f"{self.path} has not all of the steps 0 to {step}: delete {self.path.parent}, and the "
                "same command trains from the start."
            )
        self.columns = list(rows[0])
        self._write(rows)

    def _write(self, rows: list[dict[str, str]]) -> None:
        lines = [",".join(self.columns) + "\n", *(self._line(row) for row in rows)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(self.path, "".join(lines).encode())

    def rows(self) -> list[dict[str, str]]:
        """Whole rows on disk; a torn last line is no row."""
        if not self.path.is_file():
            return []
        text = self.path.read_text(errors="replace")
        try:
            return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
        except csv.Error:
            return []

    def append(self, row: Mapping[str, Any]) -> None:
        if unknown := sorted(row.keys() - set(self.columns)):
            raise ValueError(f"metrics without a column: {unknown}")
        with self.path.open("a") as file:
            file.write(self._line(row))

    def _line(self, row: Mapping[str, Any]) -> str:
        return ",".join(cell(row.get(name)) for name in self.columns) + "\n"


def cell(value: Any) -> str:
    """A value in a table; a number with nine digits."""
    return "" if value is None else f"{value:.9g}" if isinstance(value, float) else str(value)
