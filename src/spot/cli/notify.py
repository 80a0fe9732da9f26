"""`notify=<command>`: a shell command at the end of a run, a stage or a sweep, however it ends.

It is no key of the configuration: nothing is named by it, and no record holds it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from spot.utils.progress import say

KEY = "notify="
SECONDS = 60.0  # that the command may take


def taken(words: Sequence[str]) -> tuple[list[str], str]:
    """The words without `notify=…`, and the command that the last one names; empty for none."""
    commands = [word for word in words if word.startswith(KEY)]
    return [word for word in words if word not in commands], [KEY, *commands][-1].removeprefix(KEY)


@contextmanager
def told(command: str, name: str, words: Sequence[str]) -> Iterator[None]:
    """Run `command` when the block ends, with how `spot <name> <words>` ended in its environment.

    SPOT_OUTCOME is complete, failed or interrupted; SPOT_EXIT, SPOT_SECONDS and SPOT_COMMAND say more. One
    that fails is a line and no error. Of the processes that torchrun or srun start, the first one tells.
    """
    from spot.pipeline.distributed import nodes
    from spot.pipeline.heartbeat import STOPPED, exit_code

    found = nodes.started()
    if not command or (found is not None and found.index > 0):
        yield
        return
    began, code = time.monotonic(), 0
    try:
        yield
    except BaseException as error:
        code = exit_code(error)
        raise
    finally:
        outcome = "complete" if code == 0 else "interrupted" if code in STOPPED else "failed"
        _run(
            command,
            {
                "SPOT_OUTCOME": outcome,
                "SPOT_EXIT": str(code),
                "SPOT_SECONDS": f"{time.monotonic() - began:.0f}",
                "SPOT_COMMAND": shlex.join(["spot", name, *words]),
            },
        )


def _run(command: str, outcome: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            command, shell=True, env=os.environ | outcome, stdin=subprocess.DEVNULL, timeout=SECONDS
        )
        why = f"ended with exit code {done.returncode}" if done.returncode else ""
    except subprocess.TimeoutExpired:
        why = f"took more than {SECONDS:.0f} s and was ended"
    if why:
        say(f"The command of notify= {why}.")
