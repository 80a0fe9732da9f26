"""Processes that a test starts: waiting for what they do, and killing one at a chosen moment."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def wait_for(condition: Callable[[], T], seconds: float = 200.0) -> T:
    """The condition's first true value. Raises TimeoutError; the machine may be busy, so wait long."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s")
        time.sleep(0.02)
    return result


def killed(
    command: Sequence[str],
    folder: Path,
    moment: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
) -> bool:
    """Start it in `folder` and SIGKILL it when `moment()` holds. False if it ended before."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=quiet, stdout=quiet, stderr=quiet
    ) as process:
        try:
            while process.poll() is None:
                if moment():
                    process.send_signal(signal.SIGKILL)
                    return True
                time.sleep(0.002)
        finally:
            process.kill()
    return False
