"""One rank of a training: `python -m spot.pipeline.distributed.rank <job file>`, started by `spot.pipeline.distributed.launch`.

Its place in the group is in the environment. Rank 0 leaves `result.json` beside the job file; a rank
that fails leaves `rank<n>.error.json`, written before its peers can notice.
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
from spot.utils.errors import FULL, UNUSABLE, UserError
from spot.utils.files import write_aside

PR_SET_PDEATHSIG = 1


def main() -> None:
    file = Path(sys.argv[1])
    rank = int(os.environ["RANK"])
    _die_with_parent()
    # SLURM sends its warnings to all processes; what follows is for the one that started this to say
    for warning in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(warning, signal.SIG_IGN)
    try:
        job = TrainingJob.from_json(file.read_text())
        if rank == 0:
            run = heartbeat.run_folder(job.run_folder, job.config.rounds)
            progress.listeners.append(heartbeat.noting(run))
        result = carry_out(job, rank)
    except BaseException as error:
        try:
            _tell(file.parent, rank, error)
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


def _tell(folder: Path, rank: int, error: BaseException) -> None:
    """Leave the error where `launch` finds it; the traceback of what is nobody's mistake."""
    mistake = isinstance(error, UserError)
    text = str(error) if mistake else "".join(traceback.format_exception(error)).rstrip()
    from_system = None
    if isinstance(error, OSError) and error.errno in (*FULL, *UNUSABLE):  # told in one line
        from_system = [error.errno, error.strerror, error.filename and str(error.filename)]
    told = {"rank": rank, "time": time.time(), "mistake": mistake, "os": from_system}
    try:
        write_aside(folder / f"rank{rank}.error.json", json.dumps(told | {"message": text}))
    except OSError:  # a full disk must not swallow why
        print(text, file=sys.stderr, flush=True)
    if rank > 0:  # its log; rank 0's is told by `launch`, on the screen
        print(text, file=sys.stderr, flush=True)


def leave() -> None:
    """End the process group: gloo aborts in a process that exits with its threads alive."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
