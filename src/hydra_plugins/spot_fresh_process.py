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
from collections.abc import Iterator, Sequence
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
        """Run the jobs and build the sweep's report. Exits with 1 when a job failed."""
        setup_globals()
        sweep = Path(str(self.config.hydra.sweep.dir)).absolute()
        say(f"{len(job_overrides)} jobs -> {sweep}")
        results = []
        with _ended_by_sigterm():
            for number, overrides in enumerate(job_overrides, start=initial_job_idx):
                results.append(self._job(number, list(overrides), sweep / str(number)))
            _retire(sweep, initial_job_idx + len(job_overrides))
            if any(sweep.glob("*/run.json")):
                _run(None, [sys.executable, "-m", "spot.cli", "report", str(sweep)])
        failed = [n for n, r in enumerate(results, initial_job_idx) if r.status == JobStatus.FAILED]
        for number in failed:
            result = results[number - initial_job_idx]
            say(f"job {number} failed ({' '.join(result.overrides)}): {result._return_value}")
        if failed:
            say(f"{len(failed)} of {len(results)} jobs failed; the same command tries them again.")
            raise SystemExit(1)
        return results

    def _job(self, number: int, overrides: list[str], folder: Path) -> JobReturn:
        """Run one job unless its folder holds the same one, finished."""
        result = JobReturn(overrides=overrides, task_name="spot", status=JobStatus.COMPLETED)
        result.working_dir = str(folder)
        if self._finished(folder, overrides):
            say(f"job {number} is finished already: {' '.join(overrides)}")
            return result
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
        code, last_line = _run(number, command, folder / "job.log")
        if code != 0:
            result.status = JobStatus.FAILED
            result.return_value = JobError(last_line or f"exit code {code}")
        return result

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


def _run(number: int | None, command: list[str], log: Path | None = None) -> tuple[int, str]:
    """Run a command, pass its lines on, keep them in `log`; its exit code and last line.

    The command gets a process group of its own, which is ended whenever this function is left early.
    """
    prefix = "sweep |" if number is None else f"{number:>5} |"
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
    last_line = ""
    try:
        assert process.stdout is not None
        with open(log or os.devnull, "w") as file:
            for line in process.stdout:
                print(prefix, line, end="", flush=True)
                file.write(line)
                file.flush()
                last_line = line.strip() or last_line
        return process.wait(), last_line
    finally:
        _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    """End a process and everything it started: asked twice, then killed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        if number is not signal.SIGKILL and not _alive(process.pid):
            return


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
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
