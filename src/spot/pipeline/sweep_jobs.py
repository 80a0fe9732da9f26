"""The jobs of a sweep: run several at once, each in a process of its own with GPUs of its own."""

import json
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from spot.config import Config, compose, plain
from spot.data import run_record
from spot.data.run_record import COMPLETE, RUN_FILE
from spot.utils.errors import UserError
from spot.utils.files import write_aside
from spot.utils.processes import guarded, inherited

JOBS = "jobs.json"  # a sweep's jobs and their states, for spot.pipeline.run_status
TICK = 0.05  # seconds between two looks at the running jobs
PrintLine = Callable[[str, str], None]  # of the name of the job whose line it is, and the line


@dataclass
class Job:
    """One command of a sweep, and how it is getting on."""

    name: str  # its number in the sweep, which is its folder's name, too
    overrides: list[str]
    command: list[str]
    log: Path  # everything it writes
    about: Mapping[str, Any] = field(default_factory=dict)  # arm, seed, study
    needs: int = 0  # GPUs
    state: str = "waiting"  # waiting | running | complete | failed | skipped | interrupted
    gpus: tuple[str, ...] = ()  # those it was given
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
    jobs: list[Job], at_once: int, gpus: list[str], print_line: PrintLine, sweep: Path | None = None
) -> None:
    """Run the jobs that wait, in their order and at most `at_once` together.

    Each gets as many of `gpus` as it needs, for itself; the next job in line waits until enough are
    free, and nobody overtakes it. Without any `gpus` the environment's are left alone. However this
    function is left, no job is running afterwards. sweep: where `jobs.json` has their states.
    """
    waiting = deque(job for job in jobs if job.state == "waiting")
    running: list[_Process] = []
    _record(jobs, sweep)
    try:
        while waiting or running:
            taken = {gpu for process in running for gpu in process.job.gpus}
            free = [gpu for gpu in gpus if gpu not in taken]
            needs = waiting[0].needs if waiting and gpus else 0
            if waiting and len(running) < at_once and needs <= len(free):
                job = waiting.popleft()
                job.gpus = tuple(free[:needs])
                on = f" on GPU {','.join(job.gpus)}" if job.gpus else ""
                print_line("sweep", f"job {job.name}: {job.words}{on}")
                running.append(_Process(job, _environment(job.gpus if gpus else None)))
                _record(jobs, sweep)
                continue
            time.sleep(TICK)
            before = len(running)
            running = [process for process in running if not process.has_ended(print_line)]
            if len(running) < before:
                _record(jobs, sweep)
    finally:
        for process in running:
            process.guard.terminate()
        for process in running:
            process.guard.wait()
            process.print_new(print_line)
            process.job.state, process.job.ended = "interrupted", time.monotonic()
        _record(jobs, sweep)


def is_complete(folder: Path, overrides: list[str], config: Config) -> bool:
    """Whether the folder's run.json was left by this very job: same overrides, settings and files."""
    settings = plain(config)
    expected = {"status": COMPLETE, "until": None, "overrides": overrides, "config": settings}
    try:
        record = run_record.read(folder)
    except UserError:  # damaged
        return False
    if any(record.get(key) != value for key, value in expected.items()):
        return False
    began = datetime.fromisoformat(record["started"]).timestamp()
    return all(_changed(value) < began for value in _texts(settings | {"output": ""}))


def _texts(value: Any) -> Iterator[str]:
    """Every text of a configuration."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _changed(name: str) -> float:
    """When the file or folder of that name was changed last, s, Unix time; 0: there is none."""
    try:
        path = Path(name).expanduser()
        files = [path, *path.iterdir()] if path.is_dir() else [path]
        return max(file.stat().st_mtime for file in files) if name else 0.0
    except (OSError, ValueError, RuntimeError):
        return 0.0


def set_aside(folder: Path) -> None:
    """Rename the record that another job left in this folder, so that no report counts it."""
    if (folder / RUN_FILE).exists():
        (folder / RUN_FILE).replace(folder / "run.replaced.json")


def about(config: Config) -> dict[str, Any]:
    """What the list of jobs says of one."""
    return {"arm": config.arm, "seed": config.seed, "study": config.study}


def list_waiting(overrides: Sequence[Sequence[str]], sweep: Path) -> None:
    """List jobs that others will start, and of which nothing else tells before they begin."""
    jobs = [
        Job(str(n), list(each), [], sweep / str(n) / "job.log", about(compose.compose(each)))
        for n, each in enumerate(overrides)
    ]
    _record(jobs, sweep)


def _record(jobs: list[Job], sweep: Path | None) -> None:
    """Write the jobs and their states to the sweep's folder."""
    if sweep is None:
        return
    rows = [
        {
            "name": job.name,
            "overrides": job.overrides,
            **job.about,
            "state": job.state,
            "error": job.error,
        }
        for job in jobs
    ]
    with suppress(OSError):  # a full disk must not end the jobs
        write_aside(sweep / JOBS, json.dumps({"jobs": rows}, indent=1) + "\n")


class _Process:
    """The process of a job, from its start to the last line in its log."""

    def __init__(self, job: Job, environment: dict[str, str]) -> None:
        self.job = job
        job.log.parent.mkdir(parents=True, exist_ok=True)
        set_aside(job.log.parent)
        # A file and not a pipe: nothing blocks, and the last words of a job survive the sweep.
        with open(job.log, "wb") as log:
            self.guard = subprocess.Popen(
                guarded(job.command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.position = 0  # bytes of the log that were read
        self.unfinished = b""  # the beginning of a line
        job.state, job.began = "running", time.monotonic()

    def print_new(self, print_line: PrintLine, ended: bool = False) -> None:
        """Print the lines that were written since the last call, but for empty ones."""
        with open(self.job.log, "rb") as log:
            log.seek(self.position)
            new = log.read()
        self.position += len(new)
        *lines, self.unfinished = re.split(rb"[\r\n]", self.unfinished + new)
        texts = [line.decode(errors="replace") for line in (*lines, self.unfinished)]
        for text in filter(str.strip, texts if ended else texts[:-1]):
            print_line(self.job.name, text)
        written = [text.strip() for text in texts if text.strip()]
        self.job.last_line = written[-1] if written else self.job.last_line

    def has_ended(self, print_line: PrintLine) -> bool:
        """Print what it wrote; whether it is over, with the job's state and error set if so."""
        code = self.guard.poll()
        self.print_new(print_line, code is not None)
        if code is None:
            return False
        job = self.job
        job.ended = time.monotonic()
        job.state = COMPLETE if code == 0 else "failed"
        job.error = None if code == 0 else _why(code, job.last_line)
        how = "took" if code == 0 else "failed after"
        print_line("sweep", f"job {job.name} {how} {job.seconds:.0f} s")
        return True


def _environment(gpus: tuple[str, ...] | None) -> dict[str, str]:
    """This process's environment without what belongs to one job or rank, with these GPUs only."""
    own = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    return {**inherited(), "PYTHONUNBUFFERED": "1", **own}  # lines when they are written


def _why(code: int, last_line: str) -> str:
    """Why a job failed: its last line, and which signal ended it."""
    names = {number.value + 128: number.name for number in signal.Signals}
    if code in names:
        return f"ended by {names[code]}" + (f", after: {last_line}" if last_line else "")
    return last_line or f"exit code {code}"
