"""Files that are written whole or not at all, and the lock of a file.

Written beside its place, flushed to the disk, then renamed: a kill or a full disk leaves either the
old file or the new one, never a part.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def lock(file: IO[Any], *, wait: bool = False, shared: bool = False) -> bool:
    """Lock an open file until it is closed. False if another process holds it; `wait` waits for that one.

    Any number of processes may hold a `shared` lock together. Raises OSError where files have no locks.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_aside(path: Path, data: bytes | str) -> None:
    """Write a file beside its place and rename it. Text is UTF-8.

    A kill may leave a file ending in .tmp, which nothing reads.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(data if isinstance(data, bytes) else data.encode())
        sync(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync(path.parent)


def write_folder_aside(folder: Path, fill: Callable[[Path], Any]) -> None:
    """Let `fill` write a folder beside its place, flush all of it and rename it, replacing `folder`."""
    aside = begin_aside(folder)
    fill(aside)
    publish(aside, folder)


def begin_aside(folder: Path) -> Path:
    """An empty folder beside the place of `folder`."""
    aside = place_aside(folder)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    return aside


def place_aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.new")


def publish(aside: Path, folder: Path) -> None:
    """Flush what was written and put it in its place."""
    for path in [*aside.rglob("*"), aside]:
        sync(path)
    if folder.exists():  # a kill between the next two lines leaves no folder, and the run redoes it
        shutil.rmtree(folder)
    aside.replace(folder)
    sync(folder.parent)


@contextmanager
def locked(path: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of the file `path`, which ends with this process however that ends.

    The file names the holder. While another process has it, this waits, after `waiting(holder)`. The
    file stays: unlinking it would let a waiting and a new process each lock "the" lock.
    """
    with path.open("a+") as file:
        if not lock(file):
            file.seek(0)
            waiting(file.read().strip() or "another process")
            lock(file, wait=True)
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of this file."""
    try:
        with path.open() as file:
            return not lock(file, shared=True)  # two that ask see no holder
    except FileNotFoundError:
        return False
