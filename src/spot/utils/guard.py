"""Runs one command and lets nothing of it outlive this process: `guard.py <parent> <command …>`.

A sweep starts every job through a guard of its own, which ends the job and all that the job started
when the job ends, when the sweep asks it to (SIGTERM), and when the sweep is gone, even by SIGKILL: on
Linux the kernel then sends the SIGTERM. `setpriv --pdeathsig` alone would end a job's first process
and leave its ranks and servers; a hook between fork and exec is not safe in a sweep, which has
threads. Here there is one thread and no state, and what a job orphans is handed to its guard.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil

GRACE = 10.0  # seconds that a job has to end after each signal
LEFTOVERS = 1.0  # … and that what it started has when the job itself is gone
WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def main(parent: int, command: list[str]) -> int:
    """Run the command in a session of its own and return its exit code, once nothing of it is left."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)  # `sigwait` fetches them: no handler, no race
    signal.signal(signal.SIGCHLD, lambda *_: None)  # the default would discard it on some systems
    _ask_kernel(PR_SET_CHILD_SUBREAPER, 1)
    _ask_kernel(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 128 + signal.SIGTERM  # the sweep was gone before the kernel knew
    job = subprocess.Popen(command, start_new_session=True, preexec_fn=_in_the_job)
    seconds, numbers = LEFTOVERS, [signal.SIGTERM, signal.SIGKILL]
    while job.returncode is None:
        if signal.sigwait(WATCHED) != signal.SIGCHLD:
            seconds, numbers = GRACE, [signal.SIGINT, *numbers]
            break
        _reap(job)
    for number in numbers:
        _end(job, number, seconds)
    code = job.returncode if job.returncode is not None else -signal.SIGKILL
    return code if code >= 0 else 128 - code


def _in_the_job() -> None:
    """Between fork and exec: signals as usual, and the job is not to outlive a killed guard."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
    _ask_kernel(PR_SET_PDEATHSIG, signal.SIGTERM)


def _ask_kernel(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value))


def _end(job: "subprocess.Popen[bytes]", number: signal.Signals, seconds: float) -> None:
    """Signal what is left below this process, each when it is first seen, and wait for all to end.

    SIGINT goes to the job's process group, as Ctrl-C in a terminal does: what the job put into a
    session of its own, it wants to end itself.
    """
    signalled: set[psutil.Process] = set()
    if number == signal.SIGINT:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, number)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        _reap(job)
        if job.returncode is not None:
            deadline = min(deadline, time.monotonic() + LEFTOVERS)
        left = set(psutil.Process().children(recursive=True))
        if not left:
            return
        for process in left - signalled if number != signal.SIGINT else ():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        signalled |= left
        time.sleep(0.02)


def _reap(job: "subprocess.Popen[bytes]") -> None:
    """Collect every child that has ended, adopted ones too, and note the exit code of the job."""
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if ended == 0:
            return
        if ended == job.pid:
            job.returncode = os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
