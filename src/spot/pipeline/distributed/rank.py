"""One rank of a training: `python -m spot.pipeline.distributed.rank <job file>`, started by `launch`.

Its place in the group is in the environment. Rank 0 leaves `result.json` beside the job file; a rank
that fails leaves a report where torchrun's agent looks for one, written before its peers can notice.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from spot.pipeline import heartbeat
from spot.pipeline.distributed.training_job import TrainingJob, carry_out
from spot.utils import progress
from spot.utils.errors import UNUSABLE, UserError, full_disk
from spot.utils.files import write_aside
from spot.utils.terminal import clean

PR_SET_PDEATHSIG = 1


def main() -> None:
    _die_with_parent()
    # SLURM sends its warnings to all processes; what follows is for the one that started this to say
    for warning in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(warning, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):  # nothing is lost; Lightning's handler waits
        signal.signal(number, lambda number, _: os._exit(128 + number))
    file, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    # Lightning reads this first, and a cluster's shell may have exported its own
    os.environ["NODE_RANK"] = os.environ["GROUP_RANK"]
    try:
        job = TrainingJob.from_json(file.read_text())
        if rank == 0:
            run = heartbeat.run_folder(job.run_folder, job.config.rounds)
            progress.listeners.append(heartbeat.noting(run))
        result = carry_out(job, rank)
    except BaseException as error:
        try:
            _report(rank, error)
        finally:  # no clean-up: it would wait for ranks that wait for this one
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
    if rank == 0:
        write_aside(file.parent / "result.json", json.dumps(result))
    leave()


def _die_with_parent() -> None:
    """Linux ends this process when the one that started it dies, however it dies."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _report(rank: int, error: BaseException) -> None:
    """Leave the error in the form that `torch.distributed.elastic` reads, to the fraction of a second.

    `@record` has whole seconds, in which all ranks fail.
    """
    mistake, now = isinstance(error, UserError), time.time()
    text = str(error)
    if not mistake:
        trace = "".join(traceback.format_exception(error)).rstrip()
        text = f"rank {rank} failed:\n{trace}"
    system = None
    unusable = isinstance(error, OSError) and error.errno in UNUSABLE
    if (place := error if unusable else full_disk(error)) is not None:  # one line is enough
        assert isinstance(place, OSError)
        system = [place.errno, place.strerror, place.filename and str(place.filename)]
    extra = {"timestamp": int(now), "time": now, "mistake": mistake, "os": system}
    report = {"message": {"message": text, "extraInfo": extra}}
    try:
        # never a part of it, which the agent could not read
        write_aside(Path(os.environ["TORCHELASTIC_ERROR_FILE"]), json.dumps(report))
    except OSError:  # a full disk must not swallow why
        print(clean(text, lines=True), file=sys.stderr, flush=True)
    if rank > 0:  # its log; rank 0's is shown by `launch`, on the screen
        print(clean(text, lines=True), file=sys.stderr, flush=True)


def leave() -> None:
    """End the process group: gloo aborts in a process that exits with its threads alive."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
