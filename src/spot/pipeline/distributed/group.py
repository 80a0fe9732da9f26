"""Which processes train together, and which of them this one starts.

Somebody else may have started one process per rank or per node already: torchrun and srun tell so in
the environment. Then each such process starts its own ranks only.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from spot.utils.errors import UserError

PORTS = range(15000, 32000)  # for srun: below those that systems give to outgoing connections


@dataclass(frozen=True)
class Started:
    """What torchrun or srun says of this process: it is `index` of `count`, on node `node`."""

    by: str  # torchrun | srun
    index: int
    count: int
    node: int
    local: int  # of the node's processes


class Address(NamedTuple):
    """Where the processes that were started together have their store."""

    host: str
    port: int
    theirs: bool  # torchrun keeps one there; otherwise the first process does


def started(environment: Mapping[str, str] = os.environ) -> Started | None:
    """Who started this process as one of several, if anybody did."""
    e, found = environment, None
    if "TORCHELASTIC_RUN_ID" in e:
        numbers = (int(e[name]) for name in ("RANK", "WORLD_SIZE", "GROUP_RANK", "LOCAL_RANK"))
        found = Started("torchrun", *numbers)
    elif "SLURM_STEP_NUM_TASKS" in e:  # only inside srun, not in a batch script's shell
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_NODEID", "SLURM_LOCALID")
        found = Started("srun", *(int(e[name]) for name in names))
    return found if found is not None and found.count > 1 else None


def store_address(found: Started, environment: Mapping[str, str] = os.environ) -> Address:
    """torchrun's own store; under srun one on the step's first node, at a port out of its number.

    MASTER_ADDR and MASTER_PORT say otherwise.
    """
    e = environment
    if found.by == "torchrun":
        theirs = e.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return Address(e["MASTER_ADDR"], int(e["MASTER_PORT"]), theirs)
    from lightning_fabric.plugins.environments import SLURMEnvironment

    nodes = e.get("SLURM_STEP_NODELIST") or e.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    step = int(e["SLURM_JOB_ID"]) + 7919 * int(e.get("SLURM_STEP_ID", 0))  # a prime apart
    host = e.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(nodes)
    return Address(host, int(e.get("MASTER_PORT") or PORTS[step % len(PORTS)]), False)


def meeting_point(
    found: Started | None, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Environment by which all ranks meet, from the process that starts rank 0.

    At torchrun's store where there is one, else at a free port of this machine.
    """
    address = None if found is None else store_address(found, environment)
    if address is not None and address.theirs:
        return {}
    return {
        "MASTER_ADDR": "127.0.0.1" if address is None else address.host,
        "MASTER_PORT": str(_free_port()),
        "TORCHELASTIC_USE_AGENT_STORE": "False",
    }


def form(
    nodes: int, devices: int, meeting: Mapping[str, str], found: Started | None
) -> dict[int, dict[str, str]]:
    """Environments of the ranks that this process starts, by rank, of `nodes` × `devices` in all.

    Raises UserError where what was started does not fit.
    """
    mine: Sequence[int] = range(devices)
    if found is not None:
        mine = _share(found, nodes, devices)
    elif nodes > 1:
        raise UserError(
            f"hardware.nodes={nodes} needs a process on each node: start train.py with torchrun "
            f"--nnodes {nodes} --nproc-per-node {devices}, or through SLURM (docs/scaling.md)."
        )
    node = 0 if found is None else found.node
    return {
        node * devices + local: {
            **meeting,
            "RANK": str(node * devices + local),
            "LOCAL_RANK": str(local),
            "NODE_RANK": str(node),
            "GROUP_RANK": str(node),
            "WORLD_SIZE": str(nodes * devices),
            "LOCAL_WORLD_SIZE": str(devices),
        }
        for local in mine
    }


def _share(found: Started, nodes: int, devices: int) -> Sequence[int]:
    """Which of its node's ranks a process starts: its own, or all where it is the node's only one."""
    if found.count == nodes * devices and found.node < nodes and found.local < devices:
        return [found.local]
    if found.count == nodes and found.node < nodes and found.local == 0:
        return range(devices)
    raise UserError(
        f"{found.by} started {found.count} processes, this one as number {found.local + 1} of node "
        f"{found.node + 1}, and hardware.nodes × hardware.devices = {nodes} × {devices}: start one "
        "for each device, or one for each node."
    )


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("", 0))
        return int(listening.getsockname()[1])
