"""Products on disk: named by what determines them, appended row by row, resumed after a kill.

A product is a folder `<root>/<stage>/<key>/`, where the key hashes the stage's own settings and the
digests of its inputs. While it is made it holds `rows.partial.jsonl` and `lock`; when it is complete,
`rows.jsonl` sorted by id and, written last, `manifest.json`. So a folder with a manifest is finished,
and everything else can be continued. A finished product is checked before it is used again: against its
own name and the digests of its files.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spot.data.rows import SCHEMA, Row, RowT, from_json, to_json
from spot.utils import digests
from spot.utils.errors import UserError
from spot.utils.files import locked, write_aside
from spot.utils.progress import say, track

ROWS, PARTIAL, MANIFEST, LOCK = "rows.jsonl", "rows.partial.jsonl", "manifest.json", "lock"
RESUME = "resume"
NO_CONTENT = (PARTIAL, LOCK, RESUME, MANIFEST, digests.RECORD)
WITH_WEIGHTS = ("model", "train")  # stages
UNNAMED = (".", "README")  # begin the names of files that say nothing of a model
VERSIONED = ("torch", "transformers", "tokenizers", "pytorch-lightning", "deepspeed", "hydra-core")
IN_MANIFEST = {"stage": str, "key": str, "settings": dict, "inputs": dict, "files": dict,
               "digest": str, "counts": dict, "details": dict, "seconds": int | float}  # fmt: skip
Produce = Callable[[frozenset[str], "Counter[str]"], Iterable[Row]]


@dataclass(frozen=True)
class Product:
    """One finished or unfinished result of a stage.

    content: the glob of the files that the digest covers; logs with timings stay outside of it.
    """

    folder: Path
    stage: str
    key: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]  # name → digest
    content: str = "*"

    @property
    def complete(self) -> bool:
        return (self.folder / MANIFEST).exists()

    @property
    def digest(self) -> str:
        """Hash of the content, whatever the time it took; inputs of later stages are named by it."""
        return str(self.manifest["digest"])

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.manifest["counts"])

    @property
    def manifest(self) -> dict[str, Any]:
        """Of a complete product. Raises UserError where it is not this one's."""
        found = read_manifest(self.folder)
        if (found["stage"], found["key"]) != (self.stage, self.key):
            raise UserError(
                f"{self.folder} holds another product, {found['stage']}/{found['key']}: move it back to "
                "its place, or delete it and run the command again."
            )
        return found

    def check(self) -> None:
        """Raise UserError unless this is a complete product as it was made, file by file."""
        manifest = self.manifest
        files = _covered(manifest["files"], self.content)
        if _digest(files) != manifest["digest"]:
            raise _damaged(self.folder, MANIFEST)
        if wrong := digests.changed(self.folder, files, keep=True):
            raise _damaged(self.folder, wrong)
        if self.content != "*":  # a folder that is read as a whole
            for name in _covered(dict.fromkeys(_files(self.folder), ""), self.content):
                if name not in files and not Path(name).name.startswith(UNNAMED):
                    raise _damaged(self.folder, name)


def product(
    root: Path,
    stage: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
    content: str = "*",
) -> Product:
    """The product of `stage` under `settings` (JSON values) and `inputs` (name → digest)."""
    inputs = dict(inputs or {})
    determines = {"schema": SCHEMA, "stage": stage, "settings": settings, "inputs": inputs}
    key = hash_text(json.dumps(determines, sort_keys=True))[:16]
    return Product(root / stage / key, stage, key, settings, inputs, content)


def finished(folder: Path) -> Product:
    """The complete product in a folder, as its manifest names it. Raises UserError where there is none."""
    manifest = read_manifest(folder)
    return Product(folder, *(manifest[name] for name in ("stage", "key", "settings", "inputs")))


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


def compute_files(target: Product, make: Callable[[Path], Any]) -> None:
    """Make `target` complete by calling `make(folder)`, which writes files and may return details.

    `make` resumes by itself from what it keeps under `folder/resume`, which goes with completion.
    """
    with _owned(target) as is_maker:
        if is_maker:
            started = time.monotonic()
            details = make(target.folder)
            finish(target, {}, time.monotonic() - started, details)
            shutil.rmtree(target.folder / RESUME, ignore_errors=True)


def finish(
    target: Product,
    counts: Mapping[str, int],
    seconds: float,
    details: Any = None,
) -> None:
    """Write the manifest, which declares the product complete."""
    files = digests.hash_files(target.folder, _files(target.folder))
    manifest = {
        "schema": SCHEMA,
        "stage": target.stage,
        "key": target.key,
        "settings": target.settings,
        "inputs": target.inputs,
        "files": files,
        "digest": _digest(_covered(files, target.content)),
        "counts": dict(sorted(counts.items())),
        "details": details or {},
        "seconds": round(seconds, 3),
        "versions": versions(),
        "revision": revision(),
    }
    write_aside(target.folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a complete product. Raises UserError when it is missing or damaged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is not complete: run the command that makes it again.") from None
    except (ValueError, IsADirectoryError):
        raise _damaged(folder, MANIFEST) from None
    known = manifest if isinstance(manifest, dict) else {}
    if not all(isinstance(known.get(name), kind) for name, kind in IN_MANIFEST.items()):
        raise _damaged(folder, MANIFEST)
    return known


def read_rows(folder: Path, row_type: type[RowT]) -> list[RowT]:
    """All rows of a complete product, checked against its manifest's hash."""
    verify(folder, ROWS)
    with (folder / ROWS).open(encoding="utf-8") as file:
        return [from_json(row_type, line) for line in file]


def verify(folder: Path, pattern: str = "*") -> None:
    """Raise UserError if there is no file of this name, or one that differs from its manifest.

    pattern: a name or glob, below the product's folder.
    """
    files = _covered(read_manifest(folder)["files"], pattern)
    if wrong := pattern if not files else digests.changed(folder, files):
        raise _damaged(folder, wrong)


def check_part(part: Path) -> None:
    """Raise UserError where a folder of weights lies in a product that was made with others."""
    for folder in part.resolve().parents[:2]:
        ours = folder.parent.name in WITH_WEIGHTS and re.fullmatch("[0-9a-f]{16}", folder.name)
        if ours and (folder / MANIFEST).exists():
            verify(folder, f"{part.resolve().relative_to(folder)}/*")


def _files(folder: Path) -> list[str]:
    """Every finished file below `folder`, by relative name."""
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return [str(n) for n in names if n.parts[0] not in NO_CONTENT and n.suffix != ".tmp"]


def _covered(files: Mapping[str, str], content: str) -> dict[str, str]:
    return {name: files[name] for name in files if Path(name).match(content)}


def _digest(hashes: Mapping[str, str]) -> str:
    return hash_text(json.dumps(hashes, sort_keys=True))


@functools.cache
def model_digest(folder: Path, records: Path | None = None) -> str:
    """Hash of weights, tokenizer and configuration; read once a process, since weights may be large.

    records: a folder that remembers what was read, until a file changes; made where its parent is.
    """
    names = [name for name in _files(folder) if not name.startswith(UNNAMED)]
    if records is None:
        return _digest(digests.hash_files(folder, names))
    with suppress(OSError):
        records.mkdir(exist_ok=True)
    record = records / f"{hash_text(str(folder.resolve()))[:16]}.json"
    return _digest(digests.remembered(folder, names, record))


def hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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
    for name in ("verdict", "outcome", "arm", "task", "finish_reason"):
        if value := getattr(row, name, None):
            return str(value)
    return "rows"


def _damaged(folder: Path, name: str) -> UserError:
    what = "" if name == MANIFEST else "does not match its manifest: the product "
    return UserError(
        f"{folder / name} {what}is damaged. Delete {folder} and run the command again."
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
