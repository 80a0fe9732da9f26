"""Digests of files, and whether files still are what their digests say."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from spot.utils.files import write_aside
from spot.utils.machine import cores

RECORD = "verified.json"  # in a folder: digest, size and times of the files that were read
SETTLED = 100_000_000  # ns: a file changed twice within a clock tick may keep its times


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files below `folder`, by relative name."""
    names = list(names)
    with ThreadPoolExecutor(cores()) as pool:  # hashing releases the interpreter's lock
        hashes = pool.map(lambda name: hash_file(folder / name), names)
        return dict(zip(names, hashes, strict=True))


def changed(folder: Path, digests: Mapping[str, str], *, keep: bool = False) -> str | None:
    """The first file below `folder` that is missing or not what its digest says; None when all are.

    A file is read only if its size or a time differs from what the folder's RECORD says of when it was
    last read: a copy is read once more, and not refused. keep: write that record.
    """
    missing = next((name for name in digests if not (folder / name).is_file()), None)
    if missing is not None:
        return missing
    found = remembered(folder, digests, folder / RECORD, keep=keep)
    return next((name for name, digest in digests.items() if found[name] != digest), None)


def remembered(
    folder: Path, names: Iterable[str], record: Path, *, keep: bool = True
) -> dict[str, str]:
    """SHA-256 of files below `folder`, of which only those are read that `record` does not know as they are.

    keep: write what was read to `record`.
    """
    now = time.time_ns()
    stamps = {name: _stamp(folder / name) for name in names}
    known = {name: each for name, each in _known(record).items() if each[1:] == stamps.get(name)}
    read = hash_files(folder, [name for name in stamps if name not in known])
    old = {
        n: [digest, *stamps[n]] for n, digest in read.items() if max(stamps[n][1:]) < now - SETTLED
    }
    if keep and old:
        with suppress(OSError):  # a folder of somebody else: read again next time
            write_aside(record, json.dumps(known | old, indent=1) + "\n")
    return {name: digest for name, (digest, *_) in known.items()} | read


def _known(record: Path) -> dict[str, list[Any]]:
    try:
        known = dict(json.loads(record.read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}
    return {name: each for name, each in known.items() if isinstance(each, list)}


def _stamp(path: Path) -> list[int]:
    """A file's size in bytes and the times of its last write and last change, in ns."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
