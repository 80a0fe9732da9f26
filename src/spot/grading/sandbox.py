"""Running a program that a language model wrote, so that it can do nothing but compute.

Each program runs in a process of its own, which locks itself in before it reads the program's first
line (spot.grading.sandbox_inside). What the locks are and what each guarantees by itself:

- a process: a fresh interpreter without site-packages and with an empty environment, its own
  session, killed at a wall-clock limit, and by the kernel if we die. Expected values never enter it;
  it is sent arguments and sends back values, so whatever it does to its own harness only forges
  answers that it would have to know.
- rlimits: CPU time, address space, no bytes into any file, few descriptors, no core.
- seccomp: only system calls that a computation takes. No process, no thread, no socket, no signal to
  anybody, no change of any file, no namespace. Works for root and in containers.
- Landlock: of all file systems only the interpreter's own files can be read.
- namespaces of users, IPC and network, where the machine allows them: no network interface, and root
  loses its rights. One wall more, not a condition.

Without seccomp or Landlock (Linux before 5.13, some containers, other systems) nothing is run.
None of this stops a program that exploits the kernel, or measures time: for code of an enemy rather
than of a model, add a virtual machine. The machine's load is not limited either: `workers` programs
of `memory_mib` run at once.
"""

from __future__ import annotations

import json
import math
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spot.grading.sandbox_inside import OUT_OF_MEMORY
from spot.utils.errors import UserError

INSIDE = Path(__file__).with_name("sandbox_inside.py")
START_SECONDS = 120.0  # for the interpreter, on a busy machine; the program's clock starts after it
NAME = re.compile(r"[A-Za-z_]\w{0,60}", re.ASCII)

FINISHED = "finished"
TIME = "time limit"
MEMORY = "memory limit"
OUTPUT = "output limit"
CRASHED = "crashed"


@dataclass(frozen=True)
class Program:
    """A program and what to call: the function `entry_point` with each list of arguments in turn."""

    source: str
    entry_point: str
    calls: Sequence[Sequence[Any]]  # JSON values


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    `seconds` are CPU time, so that a busy machine changes no verdict; a program that only waits is
    ended after `2 seconds + 2` of wall time.
    """

    seconds: int = 3
    memory_mib: int = 512  # address space, the interpreter's 30 or so included
    output_bytes: int = 1 << 20  # of all returned values as JSON


@dataclass(frozen=True)
class Call:
    """What a call came to: a JSON value, or the class name of the exception it raised."""

    value: Any = None
    error: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a program.

    ended: finished, time limit, memory limit, output limit or crashed (exited or was killed).
    error: class name of the exception that loading it raised, None when it was loaded.
    calls: one for each call, None where no reply came.
    """

    ended: str
    error: str | None
    calls: tuple[Call | None, ...]


def run(program: Program, limits: Limits = Limits()) -> Outcome:
    """Run one program. Raises UserError where the machine cannot contain it (see the module)."""
    with tempfile.TemporaryFile() as order:
        order.write(_order(program, limits))
        order.seek(0)
        process = subprocess.Popen(
            [os.path.realpath(sys.executable), "-S", "-s", "-P", "-B", str(INSIDE)],
            stdin=order,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            cwd="/",
            start_new_session=True,
        )
    assert process.stdout is not None
    ended, replies = "", b""
    until = 0.0  # by when it leaves by itself; unless all went well it is ended at once
    with process.stdout as pipe:
        try:
            greeting, rest = _first_line(pipe.fileno())
            if greeting:
                wall = time.monotonic() + 2 * limits.seconds + 2
                replies, ended = _listen(pipe.fileno(), rest, wall, limits.output_bytes)
                until = 0.0 if ended else wall
        finally:
            how = _end(process, until, limits)
    if not greeting:
        raise RuntimeError(f"the sandbox did not start: try `python {INSIDE} < /dev/null`.")
    if missing := json.loads(greeting):
        raise UserError(
            f"this machine cannot contain a model's programs (it lacks {' and '.join(missing)}): "
            "run it on Linux 5.13 or later with both."
        )
    error, calls = _read(replies, len(program.calls))
    ended = ended or how
    if ended == FINISHED and error is None and None in calls:
        ended = CRASHED  # it left before its time
    return Outcome(ended, error, calls)


def ready() -> None:
    """Raise UserError where this machine cannot contain a model's programs."""
    run(Program("def f(): return 1", "f", [[]]))


def run_all(
    programs: Sequence[Program], limits: Limits = Limits(), workers: int | None = None
) -> list[Outcome]:
    """`run` for each program, in order, `workers` (one for each core) at once."""
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
    try:
        return list(pool.map(partial(run, limits=limits), programs))
    finally:
        pool.shutdown(cancel_futures=True)


def same(value: Any, expected: Any) -> bool:
    """Whether two JSON values are equal: floats to 1e-6, and True is not 1."""
    if isinstance(expected, bool) or isinstance(value, bool):
        return value is expected
    if isinstance(expected, (int, float)) and isinstance(value, (int, float)):
        if value == expected or not (isinstance(value, float) or isinstance(expected, float)):
            return bool(value == expected)
        if max(abs(value), abs(expected)) > 1e300:  # math.isclose makes floats of integers
            return False
        return math.isclose(value, expected, rel_tol=1e-6, abs_tol=1e-9)
    if isinstance(expected, list) and isinstance(value, list):
        return len(value) == len(expected) and all(map(same, value, expected))
    if isinstance(expected, dict) and isinstance(value, dict):
        return value.keys() == expected.keys() and all(
            same(value[k], expected[k]) for k in expected
        )
    return type(value) is type(expected) and bool(value == expected)


# ------------------------------------------------------------------------------ the two ends


def _order(program: Program, limits: Limits) -> bytes:
    order = {
        "program": program.source,
        "entry_point": program.entry_point,
        "calls": list(program.calls),
        "seconds": limits.seconds,
        "memory": limits.memory_mib << 20,
        "parent": os.getpid(),
    }
    return json.dumps(order).encode()


def _environment() -> dict[str, str]:
    """Nothing of ours but where shared libraries are; sets of strings have the same order always."""
    libraries = os.environ.get("LD_LIBRARY_PATH")
    return {"PYTHONHASHSEED": "0"} | ({"LD_LIBRARY_PATH": libraries} if libraries else {})


def _first_line(fd: int) -> tuple[bytes, bytes]:
    """What the process says once it is locked in, still our own code's word, and what came after."""
    received = b""
    until = time.monotonic() + START_SECONDS
    while b"\n" not in received:
        chunk = _read_some(fd, until)
        if not chunk:
            return b"", b""
        received += chunk
    line, _, rest = received.partition(b"\n")
    return line, rest


def _listen(fd: int, received: bytes, until: float, most: int) -> tuple[bytes, str]:
    """All that the process says, and why it was cut short: "", the time or the output limit."""
    parts, size = [received], len(received)
    while size <= most:
        chunk = _read_some(fd, until)
        if chunk is None:
            return b"".join(parts), TIME
        if not chunk:
            return b"".join(parts), ""
        parts.append(chunk)
        size += len(chunk)
    return b"".join(parts), OUTPUT


def _read_some(fd: int, until: float) -> bytes | None:
    """The next bytes, none at the end, None when time is up."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    ready = poll.poll(max(0.0, until - time.monotonic()) * 1000)
    return os.read(fd, 1 << 16) if ready else None


def _end(process: subprocess.Popen[bytes], wait_until: float, limits: Limits) -> str:
    """Wait for a process to leave, or end it with all its session; how it ended."""
    pause, pid = 0.0005, 0
    while not pid and time.monotonic() < wait_until:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if not pid:
            time.sleep(pause)
            pause = min(0.05, 2 * pause)
    if not pid:
        os.killpg(process.pid, signal.SIGKILL)
        os.wait4(process.pid, 0)
        process.returncode = -signal.SIGKILL
        return TIME
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode == -signal.SIGXCPU:
        return TIME
    if process.returncode == -signal.SIGKILL:  # it ignored that signal, or memory ran out
        return TIME if usage.ru_utime + usage.ru_stime > limits.seconds / 2 else MEMORY
    return {0: FINISHED, OUT_OF_MEMORY: MEMORY}.get(process.returncode, CRASHED)


def _read(replies: bytes, count: int) -> tuple[str | None, tuple[Call | None, ...]]:
    """The program's replies. They may be anything: it could write to the pipe itself."""
    error: str | None = None
    calls: list[Call | None] = [None] * count
    for line in replies.split(b"\n"):
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError):  # torn, not UTF-8, a number or a nesting beyond reason
            continue
        match reply:
            case ["loaded", str(name)]:
                error = _name(name)
            case [int(index), value, None] if 0 <= index < count:
                calls[index] = Call(value)
            case [int(index), None, str(name)] if 0 <= index < count:
                calls[index] = Call(error=_name(name))
    return error, tuple(calls)


def _name(name: str) -> str:
    return name if NAME.fullmatch(name) else "Exception"
