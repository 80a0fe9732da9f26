"""Files that are written whole or not at all, and the lock of a file.

Written beside its place, flushed to the disk, then renamed: a kill or a full disk leaves either the
old file or the new one, never a part.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TextIO

from spot.utils.errors import FULL, UserError


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

    A link stays one: what it leads to is written. A file keeps its mode and its owner; a pipe, a device
    or a descriptor (/dev/stdout) is written to. A kill may leave a file ending in .tmp, which nothing
    reads.
    """
    data = data if isinstance(data, bytes) else data.encode()
    place = _place(path)
    if (stream := _stream(place)) is not None:
        with stream:
            stream.write(data)
        return
    if place != path:  # the folder of the link is there, and not that of its file
        place.parent.mkdir(parents=True, exist_ok=True)
    aside = _beside(place)
    try:
        aside.write_bytes(data)
        if place.exists():
            before = place.stat()
            with suppress(OSError):  # of another's file, or where files have neither
                aside.chmod(stat.S_IMODE(before.st_mode))
                os.chown(aside, before.st_uid, before.st_gid)
        sync(aside)
        aside.replace(place)
    finally:
        aside.unlink(missing_ok=True)
    sync(place.parent)


def check_output(path: Path, key: str, kind: str = "file") -> None:
    """Refuse, before any work, a path of the user's that cannot be written. Leaves nothing.

    kind: file | table (a file that is read again: no pipe or device) | folder. Raises UserError.
    """
    try:
        place = _place(path)
        found = place.stat().st_mode if place.exists() else None
        if kind == "folder" and found is not None and not stat.S_ISDIR(found):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if kind != "folder" and found is not None and stat.S_ISDIR(found):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        written_to = kind == "file" and found is not None and _is_stream(place, found)
        if found is not None and not (written_to or stat.S_ISREG(found) or stat.S_ISDIR(found)):
            raise OSError(errno.EINVAL, "it is not a file")
        number = _descriptor(place)
        if number is not None and not fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE:
            raise OSError(errno.EBADF, "it is only read")
        if found is not None and not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, "it is read-only")
        if not written_to:
            _check_room(path if kind == "folder" else place.parent)
    except OSError as error:
        if error.errno in FULL:
            raise
        other = f"{key}=<{'folder' if kind == 'folder' else 'file'}>"
        raise UserError(
            f"{key}={path} cannot be written ({error.strerror}): give another, {other}."
        ) from None


def notes(path: Path) -> TextIO:
    """Where a command says what it wrote to `path`: stderr, where the output itself may be on stdout."""
    place = _place(path)
    return (
        sys.stderr if (place.exists() and not place.is_file()) or _descriptor(place) else sys.stdout
    )


def _check_room(folder: Path) -> None:
    """Raise OSError where no file could be made in a folder, which need not be there yet."""
    while not folder.exists():
        if folder.is_symlink():
            raise OSError(errno.ENOENT, "its folder is a link to nothing")
        folder = folder.parent
    probe = _beside(folder / "probe")
    try:
        probe.touch()
    finally:
        if folder.is_dir():
            probe.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    name = f"{path.name[:40]}.{zlib.crc32(path.name.encode(errors='replace')):x}"
    return path.with_name(f".{name}.{os.getpid()}.tmp")


def _place(path: Path) -> Path:
    """The file that links lead to, there or not. Raises OSError for a circle of them."""
    for _ in range(40):
        if _descriptor(path) is not None or not path.is_symlink():
            return path
        path = path.parent / os.readlink(path)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def _descriptor(path: Path) -> int | None:
    """Its number, of /dev/fd/1 and the like, which is another file for every process."""
    own = os.path.realpath(path.parent) == f"/proc/{os.getpid()}/fd"
    return int(path.name) if own and path.name.isdecimal() else None


def _is_stream(place: Path, mode: int) -> bool:
    return _descriptor(place) is not None or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _stream(place: Path) -> IO[bytes] | None:
    """What is written to and never replaced; None for a file."""
    if (number := _descriptor(place)) is not None:
        sys.stdout.flush()
        return os.fdopen(os.dup(number), "wb")
    return place.open("wb") if place.exists() and _is_stream(place, place.stat().st_mode) else None


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
