"""Products on disk: named by what determines them, appended row by row, resumed after a kill.

A product is a folder `<root>/<stage>/<key>/`, where the key hashes the stage's own settings and the
digests of its inputs. While it is made it holds `rows.partial.jsonl` and `lock`; when it is complete,
`rows.jsonl` sorted by id and, written last, `manifest.json`. So a folder with a manifest is finished,
and everything else can be continued.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spot.data.rows import SCHEMA, Row, RowT, from_json, to_json
from spot.utils.errors import UserError
from spot.utils.files import locked, write_aside
from spot.utils.progress import say, track

ROWS, PARTIAL, MANIFEST, LOCK = "rows.jsonl", "rows.partial.jsonl", "manifest.json", "lock"
RESUME = "resume"
UNFINISHED = (PARTIAL, LOCK, RESUME)  # never part of a finished product
VERSIONED = ("torch", "transformers", "tokenizers", "pytorch-lightning", "deepspeed", "hydra-core")
Produce = Callable[[frozenset[str], "Counter[str]"], Iterable[Row]]


@dataclass(frozen=True)
class Product:
    """One finished or unfinished result of a stage."""

    folder: Path
    stage: str
    key: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]  # name → digest

    @property
    def complete(self) -> bool:
        return (self.folder / MANIFEST).exists()

    @property
    def digest(self) -> str:
        """Hash of the content, whatever the time it took; inputs of later stages are named by it."""
        return str(read_manifest(self.folder)["digest"])

    @property
    def counts(self) -> dict[str, int]:
        return dict(read_manifest(self.folder)["counts"])


def product(
    root: Path, stage: str, settings: Mapping[str, Any], inputs: Mapping[str, str] | None = None
) -> Product:
    """The product of `stage` under `settings` (JSON values) and `inputs` (name → digest)."""
    inputs = dict(inputs or {})
    determines = {"schema": SCHEMA, "stage": stage, "settings": settings, "inputs": inputs}
    key = hash_text(json.dumps(determines, sort_keys=True))[:16]
    return Product(root / stage / key, stage, key, settings, inputs)


def compute_rows(
    target: Product,
    row_type: type[RowT],
    produce: Produce,
    total: int | None = None,
    details: Callable[[Sequence[RowT]], Mapping[str, Any]] = lambda rows: {},
    note: Callable[[], str] = str,
) -> None:
    """Make `target` complete: call `produce(ids already there, counts)` and append every row it yields.

    `produce` adds to `counts` what it drops, by reason; the rows themselves are counted at the end by
    verdict, outcome or arm. `details(all rows)` goes into the manifest, `note()` beside the progress.
    Does nothing if the product is complete. Safe to kill at any moment.
    """
    with _owned(target) as is_maker:
        if not is_maker:
            return
        started = time.monotonic()
        partial = target.folder / PARTIAL
        found = _resume(partial, row_type)
        dropped: Counter[str] = Counter()
        with partial.open("a", encoding="utf-8") as file:
            rows = produce(frozenset(found), dropped)
            for row in track(rows, target.stage, total, len(found), note):
                if row.id in found:
                    raise ValueError(f"{target.stage} made the row {row.id} twice")
                found[row.id] = row  # type: ignore[assignment]
                file.write(to_json(row) + "\n")
                file.flush()
        ordered = [found[key] for key in sorted(found)]
        write_aside(target.folder / ROWS, "".join(to_json(row) + "\n" for row in ordered))
        counts = Counter(_kind(row) for row in ordered) + dropped
        finish(target, counts, time.monotonic() - started, details(ordered))
        partial.unlink()


def unfinished_rows(target: Product, row_type: type[RowT]) -> list[RowT]:
    """The rows that are there of a product in the making, by its maker."""
    return list(_resume(target.folder / PARTIAL, row_type).values())


def compute_files(target: Product, make: Callable[[Path], Any], content: str = "*") -> None:
    """Make `target` complete by calling `make(folder)`, which writes files and may return details.

    `content` is the glob of the files that the digest covers: logs with timings stay outside of it.
    `make` resumes by itself from what it keeps under `folder/resume`, which goes with completion.
    """
    with _owned(target) as is_maker:
        if is_maker:
            started = time.monotonic()
            details = make(target.folder)
            finish(target, {}, time.monotonic() - started, details, content)
            shutil.rmtree(target.folder / RESUME, ignore_errors=True)


def finish(
    target: Product,
    counts: Mapping[str, int],
    seconds: float,
    details: Any = None,
    content: str = "*",
) -> None:
    """Write the manifest, which declares the product complete."""
    files = folder_hashes(target.folder)
    covered = {name: files[name] for name in files if Path(name).match(content)}
    manifest = {
        "schema": SCHEMA,
        "stage": target.stage,
        "key": target.key,
        "settings": target.settings,
        "inputs": target.inputs,
        "files": files,
        "digest": hash_text(json.dumps(covered, sort_keys=True)),
        "counts": dict(sorted(counts.items())),
        "details": details or {},
        "seconds": round(seconds, 3),
        "versions": versions(),
        "revision": revision(),
    }
    write_aside(target.folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a complete product. Raises UserError when it is missing or unreadable."""
    try:
        return dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{folder} is not complete: run the command that makes it again.") from None
    except ValueError:
        raise _corrupt(folder, MANIFEST) from None


def read_rows(folder: Path, row_type: type[RowT]) -> list[RowT]:
    """All rows of a complete product, checked against its manifest's hash."""
    verify(folder)
    with (folder / ROWS).open(encoding="utf-8") as file:
        return [from_json(row_type, line) for line in file]


def verify(folder: Path) -> None:
    """Raise UserError if any file of the product is missing or differs from its manifest."""
    for name, expected in read_manifest(folder)["files"].items():
        path = folder / name
        if not path.exists() or hash_file(path) != expected:
            raise _corrupt(folder, name)


def folder_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every finished file below `folder`, by relative name."""
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    kept = (name for name in names if name.parts[0] not in (*UNFINISHED, MANIFEST))
    return {str(name): hash_file(folder / name) for name in kept if name.suffix != ".tmp"}


@functools.cache
def model_digest(folder: Path) -> str:
    """Hash of weights, tokenizer and configuration; read once a process, since weights may be large."""
    hashes = folder_hashes(folder)
    covered = {k: v for k, v in hashes.items() if not k.startswith((".", "README"))}
    return hash_text(json.dumps(covered, sort_keys=True))


def hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what a result may depend on."""
    installed = {name: importlib.metadata.version(name) for name in ("spot", *VERSIONED)}
    return {"python": platform.python_version(), **installed}


@functools.cache
def revision() -> str | None:
    """Git revision of the code, `+` behind it when the tree differs; None outside of a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _kind(row: Row) -> str:
    """What a row is counted as."""
    for name in ("verdict", "outcome", "arm", "task"):
        if value := getattr(row, name, None):
            return str(value)
    return "rows"


def _corrupt(folder: Path, name: str) -> UserError:
    return UserError(
        f"{folder / name} does not match its manifest: the product is damaged. "
        f"Delete {folder} and run the command again."
    )


def _resume(partial: Path, row_type: type[RowT]) -> dict[str, RowT]:
    """Rows already written, by id; a torn last line is cut off the file, so that it is made again."""
    found: dict[str, RowT] = {}
    if not partial.exists():
        return found
    good = 0
    with partial.open("rb") as file:
        lines = file.read().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("no end of line")
            row = from_json(row_type, line.decode())
        except ValueError:
            if number < len(lines):
                raise UserError(
                    f"{partial} is damaged in line {number}: delete the file and run again."
                ) from None
            break
        found[row.id] = row
        good += len(line)
    os.truncate(partial, good)
    return found


@contextmanager
def _owned(target: Product) -> Iterator[bool]:
    """Hold the product's lock. Yields False when it is complete, also after waiting for its maker."""
    if target.complete:
        yield False
        return
    target.folder.mkdir(parents=True, exist_ok=True)
    lock = target.folder / LOCK
    with locked(lock, lambda holder: say(f"{target.stage}: waiting for {holder}")):
        yield not target.complete
