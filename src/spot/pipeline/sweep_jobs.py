"""The jobs of a sweep: run several at once, each in a process of its own with GPUs of its own."""

import codecs
import io
import json
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from spot.utils.files import write_aside
from spot.utils.processes import inherited, under_warden

JOBS = (
    "jobs.json"  # a sweep's jobs and their states, for those who look on: spot.pipeline.run_status
)
TICK = 0.05  # seconds between two looks at the running jobs
Tell = Callable[[str, str], None]  # a line for the user, after the name of whose line it is
Note = Callable[[], None]  # called when the state of a job has changed


@dataclass
class Job:
    """One command of a sweep, and how it is getting on."""

    name: str  # its number in the sweep, which is its folder's name, too
    overrides: list[str]
    command: list[str]
    log: Path  # everything it writes
    needs: int = 0  # GPUs
    state: str = "waiting"  # waiting | running | finished | failed | skipped | stopped
    gpus: tuple[str, ...] = ()  # what it was dealt
    began: float = 0.0  # s, of time.monotonic()
    ended: float = 0.0
    last_line: str = ""
    error: str | None = None  # why it failed

    @property
    def words(self) -> str:
        """Its overrides, as they were typed."""
        return " ".join(self.overrides)

    @property
    def seconds(self) -> float:
        """How long it has been running, or ran."""
        return (self.ended or time.monotonic()) - self.began if self.began else 0.0


def run(
    jobs: list[Job], at_once: int, gpus: list[str], tell: Tell, note: Note = lambda: None
) -> None:
    """Run the jobs that wait, in their order and at most `at_once` together.

    Each gets as many of `gpus` as it needs, for itself; the next job in line waits until enough are
    free, and nobody overtakes it. Without any `gpus` the environment's are left alone. However this
    function is left, no job is running afterwards.
    """
    waiting = deque(job for job in jobs if job.state == "waiting")
    running: list[_Process] = []
    try:
        while waiting or running:
            taken = {gpu for process in running for gpu in process.job.gpus}
            free = [gpu for gpu in gpus if gpu not in taken]
            needs = waiting[0].needs if waiting and gpus else 0
            if waiting and len(running) < at_once and needs <= len(free):
                job = waiting.popleft()
                job.gpus = tuple(free[:needs])
                tell("sweep", f"job {job.name}: {job.words}{_on(job.gpus)}")
                running.append(_Process(job, _environment(job.gpus if gpus else None)))
                note()
                continue
            time.sleep(TICK)
            before = len(running)
            running = [process for process in running if not process.has_ended(tell)]
            if len(running) < before:
                note()
    finally:
        for process in running:
            process.warden.terminate()
        for process in running:
            process.warden.wait()
            process.pass_on(tell)
            process.job.state, process.job.ended = "stopped", time.monotonic()
        if running:
            note()


def keep(jobs: list[Job], sweep: Path) -> Note:
    """What writes the jobs and their states to `jobs.json` in the sweep's folder."""

    def write() -> None:
        rows = [
            {"name": j.name, "overrides": j.overrides, "state": j.state, "error": j.error}
            for j in jobs
        ]
        with suppress(OSError):  # who looks on must not end a sweep, whatever the disk says
            write_aside(sweep / JOBS, json.dumps({"jobs": rows}, indent=1) + "\n")

    write()
    return write


def set_aside(folder: Path) -> None:
    """Rename the record that another job left in this folder, so that no report counts it."""
    if (folder / "run.json").exists():
        (folder / "run.json").replace(folder / "run.replaced.json")


class _Process:
    """The process of a job, from its start to the last line in its log."""

    def __init__(self, job: Job, environment: dict[str, str]) -> None:
        self.job = job
        job.log.parent.mkdir(parents=True, exist_ok=True)
        set_aside(job.log.parent)
        # A file and not a pipe: nothing blocks, and the last words of a job survive the sweep.
        with open(job.log, "wb") as log:
            self.warden = subprocess.Popen(
                under_warden(job.command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.position = 0  # bytes of the log that were read
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self.decode = io.IncrementalNewlineDecoder(utf8, translate=True).decode
        self.unfinished = ""  # the beginning of a line
        job.state, job.began = "running", time.monotonic()

    def pass_on(self, tell: Tell, ended: bool = False) -> None:
        """Tell the lines that were written since the last call."""
        with open(self.job.log, "rb") as log:
            log.seek(self.position)
            read = log.read()
        self.position += len(read)
        *lines, self.unfinished = (self.unfinished + self.decode(read)).split("\n")
        if ended and self.unfinished:
            lines.append(self.unfinished)
        for line in lines:
            tell(self.job.name, line)
        written = [line.strip() for line in [*lines, self.unfinished] if line.strip()]
        self.job.last_line = written[-1] if written else self.job.last_line

    def has_ended(self, tell: Tell) -> bool:
        """Pass on what it wrote; whether it is over, with the job's state and error set if so."""
        code = self.warden.poll()
        self.pass_on(tell, code is not None)
        if code is None:
            return False
        job = self.job
        job.ended = time.monotonic()
        job.state = "finished" if code == 0 else "failed"
        job.error = None if code == 0 else _why(code, job.last_line)
        how = "took" if code == 0 else "failed after"
        tell("sweep", f"job {job.name} {how} {job.seconds:.0f} s")
        return True


def _environment(gpus: tuple[str, ...] | None) -> dict[str, str]:
    """This process's environment without what belongs to one job or rank, with these GPUs only."""
    own = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    return {**inherited(), "PYTHONUNBUFFERED": "1", **own}  # lines when they are written


def _on(gpus: tuple[str, ...]) -> str:
    return f" on GPU {','.join(gpus)}" if gpus else ""


def _why(code: int, last_line: str) -> str:
    """Why a job failed: its last line, and which signal ended it."""
    names = {number.value + 128: number.name for number in signal.Signals}
    if code in names:
        return f"ended by {names[code]}" + (f", after: {last_line}" if last_line else "")
    return last_line or f"exit code {code}"
