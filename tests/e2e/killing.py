"""A command killed at a moment of the test's choice."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def killed(command: Sequence[str], folder: Path, moment: Callable[[], bool]) -> bool:
    """Start it in `folder` and SIGKILL it when `moment()` holds. False if it ended before."""
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
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
