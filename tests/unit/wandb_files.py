"""Reading back what W&B keeps of a run on this machine: `run-<id>.wandb` and the tables beside it."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEADER, FILE_HEADER = 32768, 7, b":W&B"


@dataclass
class Saved:
    """One folder's content, as `wandb sync` would upload it."""

    folder: Path
    run: Any = None  # the RunRecord
    config: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)  # by step
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    def steps(self, metric: str) -> list[int]:
        return [step for step, row in self.history.items() if metric in row]

    def table(self, name: str) -> list[dict[str, Any]]:
        """The rows of a logged table, by column."""
        (path,) = [row[f"{name}/path"] for row in self.history.values() if f"{name}/path" in row]
        saved = json.loads((self.folder / "files" / path).read_text())
        return [dict(zip(saved["columns"], values, strict=True)) for values in saved["data"]]


def saved_runs(logs: Path) -> list[Saved]:
    """What lies below `<run folder>/logs`, the oldest first."""
    return [read(folder) for folder in sorted(logs.glob("wandb/*run-*-*")) if folder.is_dir()]


def read(folder: Path) -> Saved:
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("run-*.wandb")
    saved = Saved(folder)
    for content in _records(file.read_bytes()):
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            saved.run = record.run
            saved.config |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
        elif kind == "history":
            row = _items(record.history.item)
            step = row.pop("_step")
            assert step not in saved.history, f"step {step} twice"
            saved.history[step] = row
        elif kind == "summary":
            saved.summary |= _items(record.summary.update)
        elif kind == "exit":
            saved.exit_code = record.exit.exit_code
    return saved


def _items(items: Any) -> dict[str, Any]:
    return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log: blocks of 32 KiB with chunks that are whole, first, middle or last."""
    assert data.startswith(FILE_HEADER)
    place, parts = HEADER, b""
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if kind == 0:  # nothing more in this block
            place += left
            continue
        parts += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):
            yield parts
            parts = b""
