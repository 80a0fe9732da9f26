"""Who works in a run's folder, how far it is and how it ended.

`process.json` names the process and stays locked for as long as that lives, however it ends: the
system drops the lock of a process that is killed. `progress.json` counts what is being done. Both are
for people who look on (`spot runs`, `spot show`); no result depends on them.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from spot.config import Config, arm_label
from spot.utils import progress
from spot.utils.errors import UNUSABLE, UserError
from spot.utils.files import lock

PROCESS, PROGRESS = "process.json", "progress.json"
STOPPED = (130, 143)  # exit codes of Ctrl-C and SIGTERM: somebody wanted that
SECONDS_BETWEEN_NOTES = 1.0
SECONDS_BETWEEN_LOOKS, SECONDS_BETWEEN_REMINDERS = 0.2, 60.0  # while another process works


@dataclass(frozen=True)
class Presence:
    """What `process.json` says, and whether its writer still lives."""

    alive: bool
    pid: int
    host: str
    began: float  # s, Unix time
    ended: float | None = None  # None: it works, or was killed
    exit: int | None = None
    said: str = ""  # why it failed
    about: Mapping[str, Any] = field(default_factory=dict)
    held: bool = False  # the lock, by its writer or by a child that outlived it


@contextmanager
def announced(
    folder: Path, command: str, config: Config, overrides: Sequence[str]
) -> Iterator[None]:
    """`kept` for `spot <command>` with this configuration; notes its progress, too."""
    start = ["python", "train.py"] if command == "run" else ["spot", command]
    about = {
        "command": shlex.join([*start, *overrides]),
        "overrides": list(overrides),
        "arm": arm_label(config.arm, config.loss.name, config.data.arm),
        "seed": config.seed,
        "study": config.study,
        "products": str(Path(config.output).absolute() / "products"),
    }
    listener = noting(folder)
    with kept(folder, about):
        progress.listeners.append(listener)
        try:
            yield
        finally:
            progress.listeners.remove(listener)


@contextmanager
def kept(folder: Path, about: Mapping[str, Any]) -> Iterator[None]:
    """Tell, as long as the block lasts, that this process works in `folder`, and then how it ended.

    about: JSON values for those who look on. Waits for another process that works there already, and
    says for which. Where the file cannot be had or written, the block runs all the same.
    """
    note = {"pid": os.getpid(), "host": socket.gethostname(), "about": dict(about)}
    with _locked(folder) as rewrite:
        note |= {"began": time.time()}
        rewrite(note)
        try:
            yield
        except BaseException as error:
            rewrite(note | {"exit": exit_code(error), "said": _words(error), "ended": time.time()})
            raise
        rewrite(note | {"exit": 0, "ended": time.time()})


def read(folder: Path) -> Presence | None:
    """Who works or worked in `folder`; None when nobody said so, or is saying it right now."""
    try:
        with (folder / PROCESS).open(encoding="utf-8") as file:
            held = _is_held(file)
            note = json.loads(file.read())
            pid, host = int(note["pid"]), str(note["host"])
            return Presence(
                held and _may_live(pid, host),
                pid,
                host,
                float(note["began"]),
                note.get("ended"),
                note.get("exit"),
                str(note.get("said", "")),
                dict(note["about"]),
                held,
            )
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # half written: look again later
        return None


def run_folder(logs: Path, rounds: int) -> Path:
    """The run's folder, of where a training logs to: `round<n>` in it in a round before the last."""
    return logs.parent if logs.name in {f"round{n}" for n in range(1, rounds)} else logs


def noting(folder: Path) -> Callable[[str, int, int | None], None]:
    """What keeps `progress.json` of a run: call it with a label, how many are done, and of how many."""
    last = 0.0

    def note(label: str, done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last < SECONDS_BETWEEN_NOTES and done != total:
            return
        last = time.monotonic()
        aside = folder / f".{PROGRESS}.tmp"
        with suppress(OSError):  # who looks on must not end a run, whatever the disk says
            aside.write_text(json.dumps({"label": label, "done": done, "total": total}))
            aside.replace(folder / PROGRESS)

    return note


def read_progress(folder: Path) -> tuple[str, int, int | None] | None:
    """Label, done and total of what was counted last."""
    try:
        note = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        return str(note["label"]), int(note["done"]), note["total"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _locked(folder: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Keep the lock while the block lasts; yields what writes a note into the locked file.

    What the disk or a network's file system refuses is left out: who looks on must not end a run.
    """
    with ExitStack() as stack:
        file: IO[bytes] | None = None
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            # unbuffered: nothing is left to fail when it is closed
            file = stack.enter_context((folder / PROCESS).open("ab+", buffering=0))
            _wait_for(file, folder)

        def rewrite(note: Mapping[str, Any]) -> None:
            if file is not None:
                with suppress(OSError):
                    file.truncate(0)  # in place: a renamed file would have another lock
                    file.write(json.dumps(note).encode() + b"\n")

        yield rewrite


def _wait_for(file: IO[bytes], folder: Path) -> None:
    """Lock the file, as soon as no living process works there."""
    remind_at = 0.0
    while True:
        if lock(file):
            return
        there = read(folder)
        if there is not None and there.held and not there.alive:
            return  # a child that outlived it holds the lock, for who knows how long
        if there is not None and there.alive and time.monotonic() >= remind_at:
            remind_at = time.monotonic() + SECONDS_BETWEEN_REMINDERS
            progress.say(
                f"waiting for process {there.pid} on {there.host}, which works in {folder}; "
                "Ctrl-C ends the waiting."
            )
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _is_held(file: IO[str]) -> bool:
    """Whether a process holds the lock. Asked with a shared one, so that lookers see no lookers."""
    try:
        return not lock(file, shared=True)
    except OSError:  # there are no locks here: its process tells
        return True


def _may_live(pid: int, host: str) -> bool:
    """False for a process of this machine that is gone: its lock may have passed to a child."""
    if host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def exit_code(error: BaseException) -> int:
    """What the command will exit with when this ends it."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    unusable = isinstance(error, OSError) and error.errno in UNUSABLE and error.filename
    return 2 if isinstance(error, UserError) or unusable else 1


def _words(error: BaseException) -> str:
    """The error's last line, which names it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if isinstance(error, (UserError, SystemExit, KeyboardInterrupt)):
        return last
    return f"{type(error).__name__}: {last}" if last else type(error).__name__
