"""Digests of files, and whether files still are what their digests say."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from spot.utils.files import write_aside

RECORD = "verified.json"  # in a folder: digest, size and times of the files found right
THREADS = 8  # hashing releases the interpreter's lock: files of weights are read side by side
SETTLED = 100_000_000  # ns: a file changed twice within a clock tick may keep its times


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files below `folder`, by relative name."""
    names = list(names)
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        hashes = pool.map(lambda name: hash_file(folder / name), names)
        return dict(zip(names, hashes, strict=True))


def changed(folder: Path, digests: Mapping[str, str], *, keep: bool = False) -> str | None:
    """The first file below `folder` that is missing or not what its digest says; None when all are.

    A file is read only if its size or a time differs from what the folder's RECORD says of when it was
    last found right: a copy is read once more, and not refused. keep: write that record.
    """
    now = time.time_ns()
    stamps = {name: _stamp(folder / name) for name in digests}
    if missing := next((name for name, stamp in stamps.items() if not stamp), None):
        return missing
    known = _known(folder)
    unread = [n for n, digest in digests.items() if known.get(n) != [digest, *stamps[n]]]
    hashes = hash_files(folder, unread)
    if wrong := next((name for name in unread if hashes[name] != digests[name]), None):
        return wrong
    old = [name for name in unread if max(stamps[name][1:]) < now - SETTLED]
    settled = {name: [digests[name], *stamps[name]] for name in old}
    if keep and settled:
        with suppress(OSError):  # a folder of somebody else: read again next time
            write_aside(folder / RECORD, json.dumps(known | settled, indent=1) + "\n")
    return None


def _known(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / RECORD).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _stamp(path: Path) -> list[int]:
    """A file's size in bytes and the times of its last write and last change, in ns; else nothing."""
    if not path.is_file():
        return []
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
