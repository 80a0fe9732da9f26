"""Processes that a test starts: waiting for what they do, and killing one at a chosen moment."""

from __future__ import annotations

import signal
import socket
import subprocess
import tempfile
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


def free_port() -> int:
    """A port at which nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def killed(
    command: Sequence[str],
    folder: Path,
    moment: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
) -> bool:
    """Start it in `folder` and SIGKILL it when `moment()` holds. False if it ended before."""
    return ended(command, folder, moment, signal.SIGKILL, environment)[0] == -signal.SIGKILL


def ended(
    command: Sequence[str],
    folder: Path,
    moment: Callable[[], bool],
    number: signal.Signals,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Start it in `folder` and send the signal when `moment()` holds; its exit code and standard error."""
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=errors,
            # a shell starts what it puts in the background deaf to Ctrl-C, and that is inherited
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process,
    ):  # fmt: skip
        try:
            while process.poll() is None:
                if moment():
                    process.send_signal(number)
                    process.wait(120)
                time.sleep(0.002)
        finally:
            process.kill()
        errors.seek(0)
        return process.wait(), errors.read()
