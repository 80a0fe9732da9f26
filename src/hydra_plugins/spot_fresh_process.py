"""A sweep launcher that runs every job in an interpreter of its own, several at once if asked to.

In one process, jobs inherit process groups, seeds, W&B runs and memory from each other, and a job of
several ranks would make every rank run the whole sweep. Here a job is the command a person would
type, `python train.py <overrides>`, writing to `<sweep>/<n>`. A failed job leaves the others running;
a repeated sweep skips the jobs that are complete.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from spot.config import compose
from spot.config.text import quoted
from spot.data import run_record
from spot.pipeline.sweep_jobs import Job, about, is_complete, run, set_aside
from spot.utils.errors import in_range
from spot.utils.processes import visible_gpus
from spot.utils.terminal import count

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
# what of the sweep's own settings a job is not told
OWN_KEYS = (
    *("hydra.mode", "hydra.run.", "hydra.sweep.", "hydra.sweeper", "hydra/sweeper"),
    *("hydra.launcher", "hydra/launcher"),
)


@dataclass
class FreshProcessConf:
    """Options of `hydra/launcher: fresh_process`."""

    _target_: str = "hydra_plugins.spot_fresh_process.FreshProcessLauncher"
    n_jobs: int = 1  # jobs that run at once; each gets as many GPUs as its hardware.devices says


ConfigStore.instance().store(
    group="hydra/launcher", name="fresh_process", node=FreshProcessConf, provider="spot"
)


class FreshProcessLauncher(Launcher):
    """Runs `python train.py <overrides> hydra.run.dir=<sweep>/<n>` for each job."""

    def __init__(self, n_jobs: int = 1) -> None:
        self.n_jobs = n_jobs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra's sweeper. The task itself is not called: the jobs' processes call it."""
        in_range("hydra.launcher.n_jobs", self.n_jobs, 1)
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[JobReturn]:
        """Run the jobs and build the sweep's report. Exits with 1 when one of them failed."""
        from spot.cli.display import show_one
        from spot.cli.sweep_table import say, watched  # Rich, which only a sweep needs
        from spot.pipeline import heartbeat, run_status

        setup_globals()
        sweep = Path(str(self.config.hydra.sweep.dir)).absolute()
        sweep.mkdir(parents=True, exist_ok=True)
        say(f"{count(len(job_overrides), 'job')} in {sweep}")
        gpus = visible_gpus()
        jobs = [
            self._job(number, list(overrides), sweep, gpus)
            for number, overrides in enumerate(job_overrides, initial_job_idx)
        ]
        with heartbeat.alive(sweep):
            with watched(jobs) as print_line:
                for job in jobs:
                    if job.state == "skipped":
                        print_line("sweep", f"job {job.name} is complete already: {job.words}")
                    if job.state == "failed":
                        print_line("sweep", _failure(job))
                        set_aside(job.log.parent)
                run(jobs, self.n_jobs, gpus, print_line, sweep)
            _retire(sweep, initial_job_idx + len(jobs))
            failures = [_failure(job) for job in jobs if job.error is not None]
            if any(run_record.is_finished(job.log.parent) for job in jobs):
                error = _report(sweep)
                failures += [f"the report failed: {error}"] if error is not None else []
        show_one(run_status.look_at_sweep(sweep))
        for line in failures:
            say(line)
        if failures:
            say("the same command tries again what failed and keeps what is complete.")
            raise SystemExit(1)
        return []  # a job has no value that a sweeper could optimise

    def _job(self, number: int, overrides: list[str], sweep: Path, gpus: list[str]) -> Job:
        """A job of the sweep, which waits, or is complete already, or asks for too many GPUs."""
        folder = sweep / str(number)
        passed_on = [
            line
            for line in self.config.hydra.overrides.hydra
            if not line.lstrip("+~").startswith(OWN_KEYS)
        ]
        command = [sys.executable, str(TRAIN), *overrides, *passed_on]
        command += [f"hydra.run.dir={quoted(str(folder))}", "hydra.mode=RUN"]
        config = compose.compose(overrides)  # cached: the check before the sweep composed it
        job = Job(str(number), overrides, command, folder / "job.log", about(config))
        if config.hardware.accelerator == "gpu":
            job.needs = config.hardware.devices
        if is_complete(folder, overrides, config):
            job.state = "skipped"
        elif gpus and job.needs > len(gpus):  # without any GPU, the job itself says what is wrong
            job.state = "failed"
            job.error = (
                f"it needs {job.needs} GPUs and there are {len(gpus)}: "
                f"give it hardware.devices={len(gpus)} or fewer."
            )
        return job


def _failure(job: Job) -> str:
    """Why a job failed, and where to read more."""
    line = f"job {job.name} failed ({job.words}): {job.error}"
    return f"{line} ({job.log})" if job.began else line


def _report(sweep: Path) -> str | None:
    """Build the sweep's report. Returns None, or why it failed."""
    from spot.cli.sweep_table import print_line

    command = [sys.executable, "-m", "spot.cli.main", "report", str(sweep)]
    job = Job("report", [str(sweep)], command, sweep / "report.log")
    run([job], 1, [], print_line)
    return job.error


def _retire(sweep: Path, jobs: int) -> None:
    """Set aside what an earlier, longer sweep left in this folder."""
    for folder in sweep.iterdir():
        if folder.name.isdigit() and int(folder.name) >= jobs:
            set_aside(folder)
