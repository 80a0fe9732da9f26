"""A sweep: one fresh process a job, failures isolated, finished jobs kept, nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

TRAIN = Path(__file__).resolve().parents[2] / "train.py"


def sweep(folder: Path, environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """`python train.py -m …`: its exit code, and everything it printed."""
    done = subprocess.run(
        [sys.executable, str(TRAIN), "-m", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout


def only(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def wait_for(condition: Callable[[], object], seconds: float = 30) -> object:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.05)
    raise TimeoutError


def running(pid: int) -> bool:
    """Whether a process lives; one that is dead but was not collected by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_jobs_run_apart_and_a_failed_one_leaves_the_others(
    tmp_path: Path, fake_pipeline: dict[str, str]
) -> None:
    environment = {**fake_pipeline, "LOCAL_RANK": "3", "MASTER_PORT": "1", "WANDB_RUN_ID": "x"}
    code, output = sweep(tmp_path, environment, "seed=1,13,14,2")
    assert code == 1
    folder = only(tmp_path / "outputs" / "sweeps")
    finished = sorted(path.parent.name for path in folder.glob("*/run.json"))
    assert finished == ["0", "3"]
    assert "    0 | ran all spot_bco seed 1 None" in output, "LOCAL_RANK must not reach a job"
    assert "job 1 failed (seed=13): ValueError: thirteen is unlucky" in output
    assert "job 2 failed (seed=14): spot: the file is empty: give another." in output
    assert "reporting on ['0', '3']" in output
    assert f"report: {folder / 'report.html'}" in output
    assert (folder / "3" / "job.log").read_text().startswith("ran all spot_bco seed 2")
    assert json.loads((folder / "3" / "run.json").read_text())["overrides"] == ["seed=2"]


def test_a_study_goes_on_where_it_stopped(tmp_path: Path, fake_pipeline: dict[str, str]) -> None:
    study = ["+paper=table2", "arm=dpo,dft", "seed=7"]
    assert sweep(tmp_path, fake_pipeline, *study)[0] == 0
    folder = only(tmp_path / "outputs" / "sweeps")
    assert folder.name == "table2__arm=dpo,dft__seed=7"
    first = {path: path.stat().st_mtime_ns for path in folder.glob("*/run.json")}
    (folder / "1" / "run.json").unlink()

    code, output = sweep(tmp_path, fake_pipeline, *study)
    assert code == 0
    assert "job 0 is finished already: arm=dpo seed=7 +paper=table2" in output
    assert "    1 | ran all dft seed 7 None" in output
    assert (folder / "0" / "run.json").stat().st_mtime_ns == first[folder / "0" / "run.json"]

    # the same overrides under other settings are another job
    record = json.loads((folder / "0" / "run.json").read_text())
    record["config"]["data"]["gamma"] = 0.5
    (folder / "0" / "run.json").write_text(json.dumps(record))
    (folder / "5").mkdir()
    (folder / "5" / "run.json").write_text("{}")  # left by a longer sweep
    code, output = sweep(tmp_path, fake_pipeline, *study)
    assert "    0 | ran all dpo seed 7 None" in output
    assert "job 1 is finished already" in output
    assert "reporting on ['0', '1']" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_a_sweep_stops_its_job_and_all_it_started(
    tmp_path: Path, fake_pipeline: dict[str, str], number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, str(TRAIN), "-m", "seed=99,1"],
        cwd=tmp_path,
        env={**fake_pipeline, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what it puts in the background deaf to Ctrl-C, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    sweeps = tmp_path / "outputs" / "sweeps"

    def child() -> int | None:
        for log in sweeps.glob("*/0/job.log"):
            lines = log.read_text().splitlines()
            return next((int(line.split()[1]) for line in lines if line[:6] == "child "), None)
        return None

    pid = wait_for(child)
    assert isinstance(pid, int)
    assert running(pid)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    wait_for(lambda: not running(pid))
    assert not (only(sweeps) / "1").exists(), "the next job must not start"


def test_a_sweep_that_an_experiment_asks_for_needs_no_flag(
    tmp_path: Path, fake_pipeline: dict[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, str(TRAIN), "+paper=table2", "arm=dpo", "seed=1,2", "output=here"],
        cwd=tmp_path,
        env=fake_pipeline,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "2 jobs in" in done.stdout
    assert len(list((tmp_path / "here" / "sweeps").glob("*/*/run.json"))) == 2
