"""SLURM: how the jobs of a sweep stand in its queue, and a script for a run."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from spot.config import HardwareConfig

QUEUE = ["squeue", "--me", "--noheader", "--array", "--states=PENDING,RUNNING", "--format=%i %T"]
STATES = {"PENDING": "waiting", "RUNNING": "running"}
PATIENCE = 10.0  # seconds in which the queue must answer
SCRIPT = """\
#!/bin/bash
# Made by spot sbatch. Read it, change it, then: sbatch <this file>. Options beside the file's name win
# over those below: sbatch --partition=<name> --time=2-00:00:00 <this file>.
#SBATCH --job-name=spot
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1          # it starts its node's ranks
#SBATCH {devices}
#SBATCH --mem=0                      # all of each node's memory, which --exclusive alone does not give
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120            # seconds before the time is over, so that it ends by itself
#SBATCH --requeue                    # when a node fails or another job goes first
#SBATCH --open-mode=append
#SBATCH --output=spot-%j.log

# Keys of paid services are not here: sbatch hands on the environment that it is called in.
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_ON_NODE" \\
    {command}
code=$?
# 143: ended by SIGTERM, as the time was over. Queued again, the same command goes on from there.
[ $code -ne 143 ] || scontrol requeue "$SLURM_JOB_ID"
exit $code
"""


def queued(sweep: Path) -> dict[str, str]:
    """A sweep's jobs that SLURM has, by name: waiting or running. Empty where there is no SLURM.

    submitit leaves a folder for each: `<id>_<number>` for those of an array, `<id>` for a single one.
    """
    ids = {folder.name for folder in sweep.glob(".submitit/*/")}
    if not ids or shutil.which(QUEUE[0]) is None:
        return {}
    try:
        listed = subprocess.run(QUEUE, capture_output=True, text=True, timeout=PATIENCE).stdout
    except subprocess.TimeoutExpired:  # a controller that is down: the folders still say something
        return {}
    rows = (line.split() for line in listed.splitlines())
    return {job.partition("_")[2] or "0": STATES[state] for job, state in rows if job in ids}


def script(hardware: HardwareConfig, command: Sequence[str]) -> str:
    """A script for sbatch that runs the command with one task on each of the hardware's nodes."""
    devices = f"--gpus-per-node={hardware.devices} --exclusive"
    if hardware.accelerator == "cpu":
        devices = f"--cpus-per-task={hardware.devices * (hardware.threads or 1)}"
    return SCRIPT.format(nodes=hardware.nodes, devices=devices, command=shlex.join(command))
