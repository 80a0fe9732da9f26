"""A sweep launcher that runs every job in an interpreter of its own, one after the other.

In one process, jobs inherit process groups, seeds, W&B runs and memory from each other, and a job of
several ranks would make every rank run the whole sweep. Here a job is the command a person would
type, `python train.py <overrides>`, writing to `<sweep>/<n>`. A failed job leaves the others running;
a repeated sweep skips the jobs that are finished.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, flag_override

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
GRACE = 10.0  # seconds a job has to end after each signal
# what one job's process must not learn from another's, or from whoever started the sweep
LEAKS = {
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "GROUP_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "PL_GLOBAL_SEED",
    "WANDB_RUN_ID",
    "WANDB_NAME",
    "WANDB_RESUME",
    "WANDB_RUN_GROUP",
    "WANDB_SERVICE",
}
LEAK_PREFIXES = ("TORCHELASTIC_", "PL_TRAINER_")
OWN_KEYS = ("hydra.mode", "hydra.run.", "hydra.sweep.", "hydra.sweeper", "hydra/sweeper")


@dataclass
class FreshProcessConf:
    """Options of `hydra/launcher: fresh_process`."""

    _target_: str = "hydra_plugins.spot_fresh_process.FreshProcessLauncher"


ConfigStore.instance().store(
    group="hydra/launcher", name="fresh_process", node=FreshProcessConf, provider="spot"
)


class JobError(Exception):
    """A job of a sweep ended with an error; the message is the last line it wrote."""


@dataclass
class _Result:
    """What Hydra is told of a job, and why it failed."""

    returned: JobReturn
    error: str | None


class FreshProcessLauncher(Launcher):
    """Runs `python train.py <overrides> hydra.run.dir=<sweep>/<n>` for each job."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra's sweeper. The task itself is not called: the jobs' processes call it."""
        self.config = config
        self.loader = hydra_context.config_loader

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[JobReturn]:
        """Run the jobs and build the sweep's report. Exits with 1 when one of them failed."""
        setup_globals()
        sweep = Path(str(self.config.hydra.sweep.dir)).absolute()
        sweep.mkdir(parents=True, exist_ok=True)
        jobs = [list(overrides) for overrides in job_overrides]
        say(f"{len(jobs)} jobs in {sweep}")
        with _ended_by_sigterm():
            results = [
                self._job(number, overrides, sweep / str(number))
                for number, overrides in enumerate(jobs, initial_job_idx)
            ]
            _retire(sweep, initial_job_idx + len(jobs))
            failures = [
                f"job {number} failed ({' '.join(jobs[number - initial_job_idx])}): {result.error}"
                for number, result in enumerate(results, initial_job_idx)
                if result.error is not None
            ]
            if any(sweep.glob("*/run.json")):
                error = _run("sweep", [sys.executable, "-m", "spot.cli", "report", str(sweep)])
                failures += [f"the report failed: {error}"] if error is not None else []
        for line in failures:
            say(line)
        if failures:
            say("the same command tries again what failed and keeps what is finished.")
            raise SystemExit(1)
        return [result.returned for result in results]

    def _job(self, number: int, overrides: list[str], folder: Path) -> "_Result":
        """Run one job, unless its folder holds the same one, finished."""
        returned = JobReturn(overrides=overrides, task_name="spot", working_dir=str(folder))
        returned.return_value, returned.status = None, JobStatus.COMPLETED
        if self._finished(folder, overrides):
            say(f"job {number} is finished already: {' '.join(overrides)}")
            return _Result(returned, None)
        say(f"job {number}: {' '.join(overrides)}")
        folder.mkdir(parents=True, exist_ok=True)
        _set_aside(folder)
        passed_on = [
            line
            for line in self.config.hydra.overrides.hydra
            if not line.lstrip("+~").startswith(OWN_KEYS)
        ]
        quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
        command = [sys.executable, str(TRAIN), *overrides, *passed_on]
        command += [f"hydra.run.dir='{quoted}'", "hydra.mode=RUN"]
        begun = time.monotonic()
        error = _run(str(number), command, folder / "job.log")
        how = "took" if error is None else "failed after"
        say(f"job {number} {how} {time.monotonic() - begun:.0f} s")
        if error is not None:
            returned.return_value, returned.status = JobError(error), JobStatus.FAILED
        return _Result(returned, error)

    def _finished(self, folder: Path, overrides: list[str]) -> bool:
        """Whether the folder's run.json was left by this very job: same overrides, same settings."""
        from spot import config as schema

        try:
            record = json.loads((folder / "run.json").read_text())
        except (OSError, ValueError):
            return False
        if record.get("status") != "complete" or record.get("overrides") != overrides:
            return False
        composed = self.loader.load_sweep_config(self.config, overrides)
        with flag_override(composed, ["struct", "readonly"], False):
            composed.pop("hydra")
        return bool(record.get("config") == schema.plain(schema.typed(composed)))


def say(line: str) -> None:
    """A line of the sweep's own, beside those of its jobs."""
    print(f"sweep | {line}", flush=True)


def _set_aside(folder: Path) -> None:
    """Rename the record of another job, so that no report counts it."""
    if (folder / "run.json").exists():
        (folder / "run.json").replace(folder / "run.replaced.json")


def _retire(sweep: Path, jobs: int) -> None:
    """Set aside what an earlier, longer sweep left in this folder."""
    for folder in sweep.iterdir():
        if folder.name.isdigit() and int(folder.name) >= jobs:
            _set_aside(folder)


def _environment() -> dict[str, str]:
    """This process's environment without what belongs to one job or rank."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in LEAKS and not name.startswith(LEAK_PREFIXES)
    }


def _run(name: str, command: list[str], log: Path | None = None) -> str | None:
    """Run a command, pass its lines on and keep them in `log`. Returns None, or why it failed.

    The command gets a process group of its own, which is ended when the command is, and whenever
    this function is left early. What fails is told by the last line it wrote.
    """
    process = subprocess.Popen(
        command,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    last_line: list[str] = []
    reader = threading.Thread(target=_pass_on, args=(process.stdout, name, log, last_line))
    reader.start()  # a thread, because a child's own child may hold the pipe open for ever
    try:
        code = process.wait()
    finally:
        _end(process)
        reader.join(GRACE)
    if code == 0:
        return None
    return last_line[-1] if last_line else f"exit code {code}"


def _pass_on(lines: Iterable[str], name: str, log: Path | None, last_line: list[str]) -> None:
    """Print each line after the name of its job, write it to the log, and remember the last one."""
    with open(log or os.devnull, "w") as file:
        for line in lines:
            print(f"{name:>5} | {line}", end="", flush=True)
            file.write(line)
            file.flush()
            if line.strip():
                last_line[:] = [line.strip()]


def _end(process: "subprocess.Popen[str]") -> None:
    """End a process and everything in its group: asked twice, then killed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if not _signal(process.pid, number):
            return
        deadline = time.monotonic() + (GRACE if process.poll() is None else 1.0)
        while time.monotonic() < deadline:
            process.poll()  # reaps it
            if not _signal(process.pid, 0):
                return
            time.sleep(0.05)


def _signal(group: int, number: int) -> bool:
    """Send a signal to a process group; whether anything was there to get it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that the running job is ended on the way out."""

    def stop(number: int, frame: FrameType | None) -> Any:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
