"""Starts the ranks of a training with torchrun's agent, which watches them and ends all when one fails.

Each rank is a process of its own (`spot.pipeline.distributed.rank`), so that neither its process group
nor its GPU memory outlives the training. Rank 0 writes to this process's screen, the others to files
below the training's `resume/ranks`; whichever fails first has the last word.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spot.pipeline import policy
from spot.pipeline.distributed.nodes import POLL, Session, session
from spot.pipeline.distributed.training_job import TrainingJob
from spot.utils.errors import RankError, Terminated, UserError
from spot.utils.progress import say

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

GRACE = 5  # seconds a rank has to end when it is asked to; nothing is lost when it is killed
SETTLE = 1.5  # seconds in which another node may report that it failed earlier
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
ENDED_BY_US = (-signal.SIGTERM, 128 + signal.SIGTERM)  # exit codes of ranks that the agent ends


def run(job: TrainingJob) -> dict[str, Any]:
    """Carry out a training on all ranks, from the first node's process; returns what rank 0 reports.

    Raises what failed first, in any of them: UserError for a mistake.
    """
    folder, nodes, endpoint = rank_folder(job), session(), None
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if nodes is not None:
        store = (
            nodes.rendezvous()
        )  # kept: an agent that ends would take its own away from the others
        endpoint = f"{store.host}:{store.port}"
        nodes.announce("training", {"job": job.to_json(), "endpoint": endpoint})
    _launch(job, endpoint, nodes)
    return dict(json.loads((folder / "result.json").read_text()))


def follow() -> None:
    """Carry out what the first node announces, with this node's ranks, if it announces anything."""
    nodes = session()
    assert nodes is not None
    with nodes.following():
        weights = nodes.awaited("weights")
        if weights is None:
            return
        with nodes.agreeing():
            folder = policy.present(weights, f"Node {nodes.node} ({socket.gethostname()})")
        if (training := nodes.awaited("training")) is not None:
            job = replace(TrainingJob.from_json(training["job"]), policy_folder=folder)
            _launch(job, training["endpoint"], nodes)


def rank_folder(job: TrainingJob) -> Path:
    """Where ranks leave logs and results."""
    return job.out / "resume" / "ranks"


def _launch(job: TrainingJob, endpoint: str | None, nodes: Session | None) -> None:
    """Run this node's ranks to their end, or all ranks to the first failure."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.api import PContext
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    PContext.close.__defaults__ = (None, GRACE)  # 30 s otherwise, whatever `shutdown_timeout` says
    _silence(logging.getLogger("torch.distributed.elastic"))  # what failed, we say
    hardware, node = job.config.hardware, 0 if nodes is None else nodes.node
    folder = rank_folder(job)
    file = folder / f"node{node}.job.json"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(job.to_json())
    to_files = {local: Std.ALL for local in range(hardware.devices) if local or node}
    config = LaunchConfig(
        min_nodes=hardware.nodes,
        max_nodes=hardware.nodes,
        nproc_per_node=hardware.devices,
        logs_specs=DefaultLogsSpecs(str(folder), to_files),
        run_id=f"node{node}" if nodes is None else "nodes",
        rdzv_backend="c10d" if endpoint is None else "static",
        rdzv_endpoint=endpoint or "localhost:0",
        rdzv_configs={"rank": node},
        max_restarts=0,
        local_addr="127.0.0.1" if endpoint is None else None,
        shutdown_timeout=GRACE,
        signals_to_handle=",".join(number.name for number in _heeded()),
    )
    if nodes is not None and (failure := nodes.meet("ready")):
        raise _as_exception(failure)
    if hardware.deepspeed:
        say_builds()
    # -P: nothing that lies in the current directory is taken for a module
    rank = ["-P", "-m", "spot.pipeline.distributed.rank", str(file)]
    try:
        with _signals_restored(), _watching(nodes):
            elastic_launch(config, sys.executable)(*rank)
    except ChildFailedError as error:
        raise _first(error.failures, nodes) from None
    except SignalException as stopped:
        if nodes is not None and (failure := nodes.failure()):
            raise _as_exception(failure) from None
        if stopped.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        say(f"ended by {stopped.sigval.name}; the same command goes on from here.")
        raise SystemExit(128 + stopped.sigval) from None
    if nodes is not None and (failure := nodes.meet("trained")):
        raise _as_exception(failure)


def say_builds() -> None:
    """Name every lock on the operators that DeepSpeed compiles: ranks wait for it, however old it is."""
    from torch.utils import cpp_extension

    named = os.environ.get("TORCH_EXTENSIONS_DIR")
    root = Path(named or cpp_extension.get_default_build_root())
    for lock in sorted(root.glob("*/lock" if named else "*/*/lock")):
        say(f"waiting for a build of DeepSpeed's operators; if none is running, delete {lock}.")


def _silence(logger: logging.Logger) -> None:
    """Show nothing of it: where there is no handler at all, Python prints warnings itself."""
    logger.propagate, logger.handlers = False, [logging.NullHandler()]


def _heeded() -> list[signal.Signals]:
    """The signals that end a training: not those that this process was started to ignore, by nohup."""
    return [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def _signals_restored() -> Iterator[None]:
    """The agent replaces handlers and leaves its own."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _watching(nodes: Session | None) -> Iterator[None]:
    """End this node's ranks when another node has failed: torchrun's agents do not tell each other."""
    done = threading.Event()

    def watch(session: Session) -> None:
        while not done.wait(POLL):
            try:
                failed = session.failure() is not None
            except UserError:  # the first process is gone
                failed = True
            if failed:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=watch, args=(nodes,), daemon=True)
    if nodes is not None:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if nodes is not None:
            thread.join()


def _first(failures: Mapping[int, ProcessFailure], nodes: Session | None) -> BaseException:
    """What went wrong first: the ranks that wait for a failed one fail, too, some moments later.

    A rank that was killed, or whose disk is full, leaves no report, and is noticed within a second;
    the agent's own SIGTERM and SIGKILL come later.
    """
    reports: list[dict[str, Any]] = []
    for rank, failure in failures.items():
        report: Any = failure.message
        if isinstance(report, dict):
            reports.append(report["extraInfo"] | {"message": report["message"]})
        elif failure.exitcode not in ENDED_BY_US:
            reports.append({"message": _silent(rank, failure), "time": failure.timestamp - 1.0})
    # only ended by SIGTERM, and not by the agent: SLURM sends it to every process
    nothing: dict[str, Any] = {"message": _silent(*next(iter(failures.items()))), "stopped": True}
    first = min(reports, key=lambda each: float(each["time"]), default=nothing)
    if nodes is not None:
        nodes.fail(first)
        time.sleep(SETTLE)
        first = nodes.failure() or first
    return _as_exception(first)


def _silent(rank: int, failure: ProcessFailure) -> str:
    """How a rank ended that left no report."""
    if failure.exitcode < 0:
        return (
            f"rank {rank} was ended by {failure.signal_name()}; the same command goes on from here."
        )
    return f"rank {rank} ended with exit code {failure.exitcode} and reported nothing."


def _as_exception(failure: Mapping[str, Any]) -> BaseException:
    """A failure as what it was where it happened."""
    if failure.get("stopped"):
        return Terminated(128 + signal.SIGTERM)
    if failure.get("os"):
        return OSError(*failure["os"])
    return (UserError if failure.get("mistake") else RankError)(failure["message"])
