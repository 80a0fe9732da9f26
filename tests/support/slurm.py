"""SLURM on this machine: one controller and two nodes on loopback, which run what the tests submit.

Left out is what needs a system of its own: cgroups and binding to cores, and the database of accounts,
for which `sacct` here answers out of the queue.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.support.processes import wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
PORTS = (26817, 26818, 26819)
NODES = (
    "127.0.0.1",
    "127.0.0.2",
)  # names that are addresses: the nodes' processes meet at the first
CONF = """\
ClusterName=spot
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge
CredType=cred/munge
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
KillWait=5
OverTimeLimit=2
NodeName=127.0.0.[1-2] NodeHostname=localhost NodeAddr=127.0.0.[1-2] Port=[{ports[1]}-{ports[2]}] CPUs=4
PartitionName=all Nodes=ALL Default=YES
"""
SACCT = """\
#!/bin/sh
echo 'JobID|State|NodeList'
squeue --noheader --array --states=all --format='%i|%T|%N'
"""


def missing() -> list[str]:
    """The programs of Debian's munge and slurm-wlm that this machine lacks."""
    return [name for name in PROGRAMS if _program(name) is None]


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """A cluster of two nodes while the block lasts; what the environment of its users has."""
    conf, user = folder / "slurm.conf", getpass.getuser()
    conf.write_text(CONF.format(folder=folder, ports=PORTS, user=user, host=socket.gethostname()))
    (folder / "sacct").write_text(SACCT)
    (folder / "sacct").chmod(0o755)
    key = folder / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    files = [f"--{name}-file={folder / name}" for name in ("pid", "log", "seed")]
    munge = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge"]
    more = {"SLURM_CONF": str(conf), "PATH": f"{folder}:{os.environ['PATH']}"}
    with ExitStack() as running:
        running.enter_context(_daemon([*munge, *files], more, folder))
        wait_for(lambda: (folder / "munge").exists(), 30)
        running.enter_context(_daemon(["slurmctld", "-D"], more, folder))
        for node in NODES:
            (folder / node).mkdir()
            running.enter_context(_daemon(["slurmd", "-D", "-N", node], more, folder))
        wait_for(lambda: "2 idle" in ask(more, "sinfo", "--noheader", "--format=%D %t"), 60)
        yield more
        ask(more, "scancel", "--full", "--me")
        with suppress(TimeoutError):  # the nodes end what is left in KillWait
            wait_for(lambda: not ask(more, "squeue", "--noheader"), 20)


@contextmanager
def _daemon(command: Sequence[str], more: dict[str, str], folder: Path) -> Iterator[None]:
    program = _program(command[0])
    assert program is not None
    with (folder / f"{command[0]}.txt").open("ab") as log:
        process = subprocess.Popen(
            [program, *command[1:]], env={**os.environ, **more}, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def ask(more: dict[str, str], *command: str) -> str:
    """What one of SLURM's commands answers."""
    environment = {**os.environ, **more}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.stdout.strip()
