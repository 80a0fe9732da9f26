"""Whether the process of a run is alive, and how far it is: a lock and a progress file in its folder.

The system drops the lock of a process that ends, however it ends. `progress.json` counts what is being
done, for `spot runs` and `spot show`; no result depends on it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spot.utils.errors import UNUSABLE, UserError, full_disk
from spot.utils.files import is_locked, locked
from spot.utils.progress import say

LOCK, PROGRESS = "lock", "progress.json"
REQUEUED = -1  # what submitit ends a job with that it has put back into SLURM's queue
STOPPED = (129, 130, 131, 143, REQUEUED)  # exit codes, also of SIGHUP, Ctrl-C, SIGQUIT, SIGTERM
SECONDS_BETWEEN_NOTES = 1.0


@contextmanager
def alive(folder: Path) -> Iterator[None]:
    """Work in `folder` while the block lasts, after any other process that works there already."""
    folder.mkdir(parents=True, exist_ok=True)

    def waiting(holder: str) -> None:
        say(f"waiting for {holder}, which works in {folder}; Ctrl-C ends the waiting.")

    with locked(folder / LOCK, waiting):
        yield


def is_alive(folder: Path) -> bool:
    """Whether a process works in `folder`."""
    return is_locked(folder / LOCK)


def run_folder(logs: Path, rounds: int) -> Path:
    """The run's folder, of where a training logs to: `round<n>` in it in a round before the last."""
    return logs.parent if logs.name in {f"round{n}" for n in range(1, rounds)} else logs


def noting(folder: Path) -> Callable[[str, int, int | None], None]:
    """What keeps `progress.json`: call it with a label, how many are done, and of how many."""
    last = 0.0

    def note(label: str, done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last < SECONDS_BETWEEN_NOTES and done != total:
            return
        last = time.monotonic()
        aside = folder / f".{PROGRESS}.tmp"
        with suppress(OSError):  # a full disk fails the run elsewhere, with a reason
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


def exit_code(error: BaseException) -> int:
    """What the command will exit with when this ends it."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if full_disk(error) is not None:
        return 1
    unusable = isinstance(error, OSError) and error.errno in UNUSABLE and error.filename
    return 2 if isinstance(error, UserError) or unusable else 1
