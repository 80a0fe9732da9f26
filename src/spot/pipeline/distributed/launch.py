"""Starts the ranks of a training, watches them, and ends all of them when one fails.

Each rank is a process of its own (`spot.pipeline.distributed.rank`), so that neither its process group nor its GPU memory
outlives the training. Lightning's launcher would run the whole command again in every rank. Rank 0
writes to this process's screen, the others to files; whichever fails first has the last word.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from spot.pipeline.distributed import group
from spot.pipeline.distributed.training_job import TrainingJob
from spot.utils.errors import RankError, UserError
from spot.utils.progress import say

if TYPE_CHECKING:
    from spot.pipeline.distributed.session import Session  # imports torch

Failure = dict[str, Any]  # message, and where known rank, time, mistake and os: see `rank`
POLL = 0.2  # seconds between looks at the ranks
GRACE = 5.0  # seconds a rank has to end when it is asked to; nothing is lost when it is killed
SETTLE = 1.0  # seconds in which another rank may still tell that it failed earlier


def run(job: TrainingJob, session: Session | None = None) -> dict[str, Any]:
    """Carry out a training on all ranks, from the process that starts rank 0; returns what that tells.

    `session` reaches the processes that torchrun or srun started beside this one. Raises what failed
    first, in any of them: UserError for a mistake.
    """
    folder = rank_folder(job)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = group.started()
    meeting = group.meeting_point(found)
    if session is not None:
        session.announce({"job": job.to_json(), "meeting": meeting})
    _watch(job, meeting, found, session)
    return dict(json.loads((folder / "result.json").read_text()))


def lend(session: Session) -> None:
    """Carry out what the first process announces, with this process's ranks, if it announces anything."""
    message = session.job()
    if message is not None:
        job = TrainingJob.from_json(message["job"])
        rank_folder(job).mkdir(parents=True, exist_ok=True)
        _watch(job, message["meeting"], group.started(), session)


def rank_folder(job: TrainingJob) -> Path:
    """Where ranks leave what they have to say."""
    return job.out / "resume" / "ranks"


def _watch(
    job: TrainingJob,
    meeting: Mapping[str, str],
    found: group.Started | None,
    session: Session | None,
) -> None:
    """Run this process's ranks to their end, or all ranks to the first failure."""
    hardware, folder = job.config.hardware, rank_folder(job)
    environments = group.form(hardware.nodes, hardware.devices, meeting, found)
    with _ranks(job, environments, folder) as processes:
        running = True
        while running:
            running = any(process.poll() is None for process in processes.values())
            failure = _failed(processes, folder)
            if session is not None:
                if failure:
                    session.fail(failure)
                failure = session.failure()
            if failure:
                raise _as_exception(failure)
            time.sleep(POLL if running else 0)


@contextmanager
def _ranks(
    job: TrainingJob, environments: Mapping[int, Mapping[str, str]], folder: Path
) -> Iterator[dict[int, subprocess.Popen[bytes]]]:
    """The running ranks of this process; all of them are gone afterwards."""
    accelerator = {"DS_ACCELERATOR": "cpu"} if job.config.hardware.accelerator == "cpu" else {}
    processes: dict[int, subprocess.Popen[bytes]] = {}
    with _sigterm_as_exit():
        try:
            for rank, environment in environments.items():
                file = folder / f"rank{rank}.job.json"
                file.write_text(job.to_json())
                processes[rank] = _start(rank, file, {**os.environ, **accelerator, **environment})
            yield processes
        finally:
            _end(list(processes.values()))


def _start(rank: int, job: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """One rank, in a session of its own: Ctrl-C comes to this process, which then ends the ranks."""
    # -P: nothing that lies in the current directory is taken for a module
    command = [sys.executable, "-P", "-m", "spot.pipeline.distributed.rank", str(job)]
    if rank == 0:
        return subprocess.Popen(command, env=environment, start_new_session=True)
    with (job.parent / f"rank{rank}.log").open("wb") as log:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _failed(processes: Mapping[int, subprocess.Popen[bytes]], folder: Path) -> Failure | None:
    """What went wrong first here, if anything did: a signal that ended a rank, else the earliest error.

    The ranks that wait for a dead one fail, too, some moments later.
    """
    codes = {rank: process.poll() for rank, process in processes.items()}
    failed = {rank: code for rank, code in codes.items() if code}
    if not failed:
        return None
    for rank, code in failed.items():
        if code < 0 and not (folder / f"rank{rank}.error.json").exists():
            said = f"rank {rank} was ended by {signal.Signals(-code).name}; the same command goes on from here."
            return {"message": said}
    time.sleep(SETTLE)
    errors = [json.loads(file.read_text()) for file in folder.glob("rank*.error.json")]
    if mine := [error for error in errors if error["rank"] in processes]:
        return dict(min(mine, key=lambda error: float(error["time"])))
    rank, code = next(iter(failed.items()))
    return {"message": f"rank {rank} ended with exit code {code} and told nothing."}


def _as_exception(failure: Failure) -> Exception:
    """A failure as what it was where it happened."""
    if failure.get("os"):
        return OSError(*failure["os"])
    if failure.get("mistake"):
        return UserError(failure["message"])
    if "rank" in failure:
        return RankError(f"rank {failure['rank']} failed:\n{failure['message']}")
    return RankError(failure["message"])


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """End all ranks and whatever they started: asked first, killed after `GRACE` seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        alive = [process for process in processes if process.poll() is None]
        for process in alive:
            os.killpg(process.pid, number)
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline and any(p.poll() is None for p in alive):
            time.sleep(POLL / 4)


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """SIGTERM leaves the block like an exception, so that the ranks are ended on the way out."""

    def stop(number: int, frame: FrameType | None) -> None:
        say("ended by SIGTERM; the same command goes on from here.")
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
