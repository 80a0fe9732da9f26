"""Several machines that train together: what torchrun or srun started, and what its processes share.

The first node's first process runs the pipeline. The first process of every other node looks for the
weights before anything is sampled, waits for the training and then starts its node's ranks; any further
process of a node has nothing to do. A key-value store at the first process (torchrun's own where there
is one) carries the training to the other nodes and a failure to all. Whoever loses the store knows that
the first process is gone.
"""

from __future__ import annotations

import functools
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from spot.config import HardwareConfig
from spot.pipeline import heartbeat
from spot.utils.errors import UserError

PORTS = range(15000, 32000)  # for srun: below those that systems give to outgoing connections
HELLO = 180.0  # seconds in which the first process must begin its run
LINGER = 60.0  # seconds that a failed run waits for the others to learn of it
POLL = 0.5  # seconds between looks at the store
LOST = "The first process is gone or has not begun; its own output says why."
# message and time; whether it is a mistake of the user, or was stopped by a signal; the system's error
Failure = dict[str, Any]


@dataclass(frozen=True)
class Started:
    """What torchrun or srun says of this process: it is `index` of `count`, on node `node`."""

    by: str  # torchrun | srun
    index: int
    count: int
    node: int
    nodes: int
    local: int  # of the node's processes

    @property
    def idle(self) -> bool:
        """Whether this process has nothing to do: the first one of its node starts all ranks."""
        return self.local > 0


def started(environment: Mapping[str, str] = os.environ) -> Started | None:
    """Who started this process as one of several, if anybody did."""
    names = "RANK", "WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "LOCAL_RANK"
    by = "torchrun"
    if "TORCHELASTIC_RUN_ID" not in environment:
        names = "PROCID", "STEP_NUM_TASKS", "NODEID", "STEP_NUM_NODES", "LOCALID"
        names, by = tuple(f"SLURM_{name}" for name in names), "srun"  # type: ignore[assignment]
    if names[1] not in environment:  # in a batch script's shell, too, where srun was not called
        return None
    process = Started(by, *(int(environment[name]) for name in names))
    return process if process.count > 1 else None


def check(hardware: HardwareConfig, process: Started | None) -> None:
    """Raise UserError where what was started does not fit `hardware.nodes` and `hardware.devices`."""
    nodes, devices = hardware.nodes, hardware.devices
    if process is None and nodes > 1:
        raise UserError(
            f"hardware.nodes={nodes} needs a process on each node: start train.py with torchrun "
            f"--nnodes {nodes}, or through SLURM (docs/scaling.md)."
        )
    fits = process is None or (
        process.nodes == nodes
        and process.count in (nodes, nodes * devices)
        and process.local < devices
    )
    if process is not None and not fits:
        raise UserError(
            f"{process.by} started {process.count} processes on {process.nodes} nodes, and hardware.nodes × "
            f"hardware.devices = {nodes} × {devices}: start one for each node, or one for each device."
        )


def store_address(process: Started, environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """torchrun's own store; under srun one on the step's first node, at a port out of its number.

    MASTER_ADDR and MASTER_PORT say otherwise.
    """
    e = environment
    if process.by == "torchrun":
        return e["MASTER_ADDR"], int(e["MASTER_PORT"])
    from lightning_fabric.plugins.environments import SLURMEnvironment

    nodes = e.get("SLURM_STEP_NODELIST") or e["SLURM_JOB_NODELIST"]
    step = int(e["SLURM_JOB_ID"]) + 7919 * int(e.get("SLURM_STEP_ID", 0))  # a prime apart
    host = e.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(nodes)
    return host, int(e.get("MASTER_PORT") or PORTS[step % len(PORTS)])


class Session:
    """The store, from one node's side."""

    def __init__(self, process: Started, environment: Mapping[str, str] = os.environ) -> None:
        import torch.distributed as dist

        self.error, self.node, self.nodes = dist.DistError, process.node, process.nodes
        self.host, port = store_address(process, environment)
        agent = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self.hosts = process.index == 0 and not agent
        try:
            store = dist.TCPStore(
                self.host,
                port,
                is_master=self.hosts,
                timeout=timedelta(seconds=HELLO),
                wait_for_workers=False,
            )
        except dist.DistError as error:
            raise UserError(f"{self.host}:{port} cannot be reached. {LOST}") from error
        # torchrun's store outlives its processes, which it starts again under another number
        attempt = environment.get("TORCHELASTIC_RESTART_COUNT", 0)
        self.store = dist.PrefixStore(f"spot/{attempt}", store)

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Whatever ends the block early is reported to the other nodes."""
        try:
            yield
        except BaseException as error:
            with suppress(self.error):  # the store may be what is gone
                message = str(error) or type(error).__name__
                stopped = heartbeat.exit_code(error) in heartbeat.STOPPED
                mistake = isinstance(error, UserError)
                self.fail({"mistake": mistake, "stopped": stopped, "message": message})
            raise

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Around the first process's run: however it ends, the others learn, and have time to."""
        self.store.set("begun", "")
        try:
            with self.reporting():
                yield
            self.store.set("over", "")
        finally:
            deadline = time.monotonic() + LINGER
            while self.hosts and self.store.add("left", 0) < self.nodes - 1:
                if time.monotonic() > deadline:
                    break
                time.sleep(POLL)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Around another node's part: the store is not needed for it any more afterwards."""
        try:
            with self.reporting():
                yield
        finally:
            with suppress(self.error):
                self.store.add("left", 1)

    def agree(self, weights: Mapping[str, Any]) -> None:
        """Wait until every other node has the weights that this one describes.

        Raises UserError when one has not, or does not come.
        """
        self.announce("weights", weights)
        if failure := self._gather("asked", HELLO) or self._gather("has", math.inf):
            raise UserError(failure["message"])

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """Around another node's look for the weights, which it may have to fetch."""
        self.store.set(f"asked{self.node}", "")
        yield
        self.store.set(f"has{self.node}", "")

    def announce(self, what: str, values: Mapping[str, Any]) -> None:
        """Tell the other nodes of the `weights`, or of the `training` that they are to join."""
        self.store.set(what, json.dumps(values))

    def awaited(self, what: str) -> dict[str, Any] | None:
        """What the first process announces; None when its run is over without that.

        Raises what the first process has failed with, or UserError when it is gone.
        """
        deadline = time.monotonic() + HELLO
        while not self._has(what):
            if failure := self.failure():
                raise UserError(f"The first process has failed: {failure['message']}")
            if self._has("over"):
                return None
            if time.monotonic() > deadline and not self._has("begun"):
                raise UserError(LOST)
            time.sleep(POLL)
        return dict(json.loads(self.store.get(what)))

    def rendezvous(self) -> Any:
        """A store, here, at which the agents of a training meet; theirs is a second handle of it."""
        from torch.distributed import TCPStore

        return TCPStore(self.host, 0, is_master=True, wait_for_workers=False, multi_tenant=True)

    def meet(self, where: str) -> Failure | None:
        """Wait until every node is there: `ready` to start its ranks, or through, with them `trained`.

        Returns a failure that came before: torch's own rendezvous hears of none and can only be killed.
        Raises UserError when a node does not come.
        """
        return self._gather(where, HELLO)

    def _gather(self, key: str, seconds: float) -> Failure | None:
        """Wait so long until every node has set this key, as this one does; returns what failed before."""
        self.store.set(f"{key}{self.node}", "")
        deadline = time.monotonic() + seconds
        while missing := [n for n in range(self.nodes) if not self._has(f"{key}{n}")]:
            if failure := self.failure():
                return failure
            if time.monotonic() > deadline:
                raise UserError(f"Node {missing[0]} did not come; its own output says why.")
            time.sleep(POLL)
        return None

    def fail(self, failure: Mapping[str, Any]) -> None:
        """Report this node's failure to all; its first report counts."""
        report = json.dumps({"time": time.time(), **failure})
        self.store.compare_set(f"failure{self.node}", "", report)

    def failure(self) -> Failure | None:
        """What failed first of all that was reported."""
        keys = [f"failure{node}" for node in range(self.nodes)]
        reported = [json.loads(self.store.get(key)) for key in keys if self._has(key)]
        return min(reported, key=lambda failure: float(failure["time"]), default=None)

    def _has(self, key: str) -> bool:
        try:
            return bool(self.store.check([key]))
        except self.error as error:
            raise UserError(LOST) from error


@functools.cache
def session() -> Session | None:
    """The way to the other nodes; None where there are none."""
    process = started()
    return Session(process) if process is not None and process.nodes > 1 else None
