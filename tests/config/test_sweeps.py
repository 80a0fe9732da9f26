"""A sweep: one fresh process a job, failures apart, finished jobs kept, nothing left running."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from spot.config import compose
from spot.data import run_record
from spot.utils.processes import gpu_count, visible_gpus
from tests.support.command_line import spot
from tests.support.processes import wait_for

TRAIN = Path(__file__).resolve().parents[2] / "train.py"


def sweep(folder: Path, environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """`spot -m …`, whose jobs are processes: its exit code, and everything it printed."""
    done = spot(folder, "-m", *arguments, environment=environment)
    return done.returncode, done.stdout + done.stderr


def only(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def running(pid: int) -> bool:
    """Whether a process lives; one that is dead but was not collected by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(sweeps: Path, count: int) -> list[int]:
    """What `count` jobs of the fake pipeline said they started, once all of them did."""
    logs = [log.read_text() for log in sweeps.glob("*/*/job.log")]
    pids = [int(found[1]) for log in logs if (found := re.search(r"^child (\d+)$", log, re.M))]
    return pids if len(pids) == count else []


def mentioned(text: str) -> list[str]:
    """The processes whose command line has this text in it."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = " ".join(process.info["cmdline"] or [])
        if text in command and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(command)
    return found


def gpus(folder: Path) -> str:
    """CUDA_VISIBLE_DEVICES as a job of the fake pipeline saw it."""
    found = re.search(r"^gpus (.*)$", (folder / "job.log").read_text(), re.M)
    assert found is not None
    return found[1]


def have_gpus(folder: Path, lists: str) -> None:
    """Leave an `nvidia-smi` that runs these shell commands."""
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{lists}\n")
    (folder / "nvidia-smi").chmod(0o755)


def spent(folder: Path) -> tuple[float, float]:
    """When a job of the fake pipeline began and ended, s."""
    found = re.search(r"^from (\S+) to (\S+)$", (folder / "job.log").read_text(), re.M)
    assert found is not None
    return float(found[1]), float(found[2])


def overlap(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def start(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    """`python train.py -m …` in the background."""
    return subprocess.Popen(
        [sys.executable, str(TRAIN), "-m", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what it puts in the background deaf to Ctrl-C, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def in_a_terminal(folder: Path, environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """`python train.py -m …` on a pseudo-terminal: its exit code, and all it drew as plain text."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(TRAIN), "-m", *arguments],
        cwd=folder,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    drawn = bytearray()
    with contextlib.suppress(OSError):  # EIO: nobody has the other side open any more
        while piece := os.read(ours, 4096):
            drawn += piece
    os.close(ours)
    text = drawn.decode().replace("\r\n", "\n")
    return process.wait(), re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text)


def test_jobs_run_apart_and_a_failed_one_leaves_the_others(
    tmp_path: Path, fake_pipeline: dict[str, str]
) -> None:
    environment = {**fake_pipeline, "LOCAL_RANK": "3", "MASTER_PORT": "1", "WANDB_RUN_ID": "x"}
    code, output = sweep(tmp_path, environment, "seed=1,13,14,2")
    assert code == 1
    folder = only(tmp_path / "outputs" / "sweeps")
    states = [run_record.read(folder / number)["status"] for number in "0123"]
    assert states == ["complete", "failed", "failed", "complete"]
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
    assert "job 0 is complete already: arm=dpo seed=7 +paper=table2" in output
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
    assert "job 1 is complete already" in output
    assert "reporting on ['0', '1']" in output


@pytest.mark.slow
def test_any_sweep_typed_again_goes_on_where_it_stopped(
    tmp_path: Path, fake_pipeline: dict[str, str]
) -> None:
    (tmp_path / "prompt.txt").write_text("{question}")
    line = ["loss=bco,dpo", "seed=1", "data.prompt=prompt.txt"]
    process = start(tmp_path, fake_pipeline, *line[:1], "seed=1,99", *line[2:])
    folder = tmp_path / "outputs" / "sweeps" / "loss=bco,dpo__seed=1,99__data.prompt=prompt.txt"
    wait_for(lambda: children(folder.parent, 1))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    code, output = sweep(tmp_path, fake_pipeline, *line)
    assert (code, output.count("| ran all")) == (0, 2)
    assert "loss=bco,dpo__seed=1__data.prompt=prompt.txt" in output
    code, output = sweep(tmp_path, fake_pipeline, *line)
    assert (code, output.count("is complete already"), output.count("| ran all")) == (0, 2, 0)
    later = time.time() + 5
    os.utime(tmp_path / "prompt.txt", (later, later))  # another prompt under the same name
    code, output = sweep(tmp_path, fake_pipeline, *line)
    assert (code, output.count("| ran all")) == (0, 2)
    assert len(list(folder.parent.iterdir())) == 2

    process = start(tmp_path, fake_pipeline, "loss=bco", "seed=1,99,2")
    folder = tmp_path / "outputs" / "sweeps" / "loss=bco__seed=1,99,2"
    wait_for(lambda: run_record.is_finished(folder / "0") and children(folder.parent, 2))
    process.kill()
    left = (folder / "0" / "run.json").stat().st_mtime_ns
    process.wait()
    process = start(tmp_path, fake_pipeline, "loss=bco", "seed=1,99,2")
    wait_for(lambda: (folder / "1" / "run.json").stat().st_mtime_ns > left)
    process.terminate()
    process.wait(60)
    assert (folder / "0" / "run.json").stat().st_mtime_ns == left


def test_jobs_run_together_when_asked_to(tmp_path: Path, fake_pipeline: dict[str, str]) -> None:
    environment = {**fake_pipeline, "LOCAL_RANK": "3", "MASTER_PORT": "1", "ROLE_RANK": "1"}
    environment |= {"CUDA_VISIBLE_DEVICES": ""}
    sweep_of_four = ["hydra.launcher.n_jobs=2", "seed=95,13,201,96", "hydra.sweep.dir=here"]
    code, output = sweep(tmp_path, environment, *sweep_of_four)
    assert code == 1
    assert "job 1 failed (seed=13): ValueError: thirteen is unlucky" in output
    assert "reporting on ['0', '2', '3']" in output
    times = {number: spent(tmp_path / "here" / number) for number in "023"}
    assert overlap(times["0"], times["2"]), "2 takes the place of the failed 1"
    assert times["3"][0] > min(times["0"][1], times["2"][1]), "two at once, not three"
    log = (tmp_path / "here" / "2" / "job.log").read_text()
    assert "ran all spot_bco seed 201 None\ngpus \n" in log, "without a GPU nothing is dealt out"
    assert "thirteen" not in log
    assert not running(*children(tmp_path, 1)), "what a finished job leaves is ended"

    record = tmp_path / "here" / "0" / "run.json"
    left = record.stat().st_mtime_ns
    code, output = sweep(tmp_path, environment, *sweep_of_four)
    assert code == 1
    assert "job 0 is complete already: seed=95" in output
    assert "    1 | ran all spot_bco seed 13 None" in output, "what failed is tried again"
    assert record.stat().st_mtime_ns == left


def test_gpus_are_dealt_out(tmp_path: Path, fake_pipeline: dict[str, str]) -> None:
    have_gpus(tmp_path, "echo 0, GPU-a1; echo 1, GPU-b2; echo 2, GPU-c3; echo 3, GPU-d4")
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment = {**fake_pipeline, **path, "CUDA_VISIBLE_DEVICES": "GPU-a1,GPU-b2,2, 3"}
    code, output = sweep(
        tmp_path,
        environment,
        *("hydra.launcher.n_jobs=8", "hardware=8xh800", "hydra.sweep.dir=here"),
        *("hardware.devices=8,1,2", "seed=94,95"),
    )
    assert code == 1
    line = "it needs 8 GPUs and there are 4: give it hardware.devices=4 or fewer."
    assert output.count(f"failed (hardware=8xh800 hardware.devices=8 seed=94): {line}") == 2
    folder = tmp_path / "here"
    assert not (folder / "0").exists()
    assert [gpus(folder / number) for number in "234"] == ["GPU-a1", "GPU-b2", "2,3"]
    assert overlap(spent(folder / "2"), spent(folder / "3"))
    assert overlap(spent(folder / "3"), spent(folder / "4"))
    for number in "234":
        shared = {*gpus(folder / number).split(",")} & {*gpus(folder / "5").split(",")}
        together = overlap(spent(folder / number), spent(folder / "5"))
        assert not (shared and together), "one GPU, two jobs"


@pytest.mark.parametrize(
    ("lists", "chosen", "seen", "count"),
    [
        ("echo 0, GPU-a1; echo 1, GPU-b2", None, ["0", "1"], 2),
        ("echo 0, GPU-a1; echo 1, GPU-b2", "1", ["1"], 1),
        ("echo 0, GPU-a1; echo 1, GPU-b2", "GPU-b,0", ["GPU-b", "0"], 2),
        ("echo 0, GPU-a1; echo 1, GPU-b2", "1,7,0", ["1", "7", "0"], 1),
        ("echo 0, GPU-a1", "MIG-c3", ["MIG-c3"], 1),
        ("echo 0, GPU-a1", "", [], 0),
        ("echo No devices were found; exit 6", None, [], 0),
        ("echo No devices were found; exit 6", "0,1", ["0", "1"], 0),
    ],
)
def test_gpus_are_those_that_nvidia_smi_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lists: str, chosen: str | None,
    seen: list[str], count: int,
) -> None:  # fmt: skip
    have_gpus(tmp_path, lists)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert (visible_gpus(), gpu_count()) == (seen, count)


def test_a_job_on_the_processor_sees_no_gpu(tmp_path: Path, fake_pipeline: dict[str, str]) -> None:
    have_gpus(tmp_path, "echo 0, GPU-a1; echo 1, GPU-b2")
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment = {**fake_pipeline, **path, "CUDA_VISIBLE_DEVICES": "0,1"}
    arguments = ["hardware=cpu,1xgpu", "seed=1", "hydra.sweep.dir=here"]
    code, output = sweep(tmp_path, environment, *arguments)
    assert code == 0, output
    assert [gpus(tmp_path / "here" / number) for number in "01"] == ["", "0"]


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("0", "spot: hydra.launcher.n_jobs=0 is out of range: it must be >= 1."),
        ("two", "spot: hydra.launcher.n_jobs=two is of the wrong type: it must be a whole number."),
    ],
)
def test_a_bad_number_of_jobs_is_one_line(
    tmp_path: Path, fake_pipeline: dict[str, str], value: str, line: str
) -> None:
    code, output = sweep(tmp_path, fake_pipeline, "seed=1,2", f"hydra.launcher.n_jobs={value}")
    assert (code, output) == (2, f"{line}\n")


def test_a_terminal_shows_a_table(tmp_path: Path, fake_pipeline: dict[str, str]) -> None:
    arguments = ["loss=dpo", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=here"]
    assert sweep(tmp_path, fake_pipeline, *arguments, "seed=1")[0] == 0
    arguments += ["seed=1,300,13,301,302"]
    environment = {**fake_pipeline, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    code, drawn = in_a_terminal(tmp_path, environment, *arguments)
    assert code == 1
    shown = {
        key: [line for line in drawn.splitlines() if f" {key} " in line]
        for key in ("seed=1", "seed=300", "seed=13", "seed=301")
    }
    assert "waiting" in shown["seed=301"][0]
    assert any("running" in line and "gpus " in line for line in shown["seed=301"])
    last = {key: lines[-1] for key, lines in shown.items()}
    assert "skipped" in last["seed=1"]
    assert "complete" in last["seed=300"]
    assert "report: /" in last["seed=300"], "the last line it wrote"
    assert "failed" in last["seed=13"]
    assert "loss=dpo" not in last["seed=13"], "what all jobs share is left out"
    assert "1 failed, 3 complete, 1 skipped" in drawn
    assert f"unlucky ({tmp_path / 'here' / '2' / 'job.log'})" in drawn
    assert " | ran all" not in drawn, "the lines of the jobs are in their logs"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopping_a_sweep_stops_its_jobs_and_all_they_started(
    tmp_path: Path, fake_pipeline: dict[str, str], number: signal.Signals
) -> None:
    process = start(tmp_path, fake_pipeline, "seed=99,98,1", "hydra.launcher.n_jobs=2")
    sweeps = tmp_path / "outputs" / "sweeps"
    pids = wait_for(lambda: children(sweeps, 2))
    assert all(map(running, pids))
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        assert not any(map(running, pids)), "ended before the sweep"
    assert "Traceback" not in errors
    wait_for(lambda: not any(map(running, pids)))
    wait_for(lambda: not mentioned(str(sweeps)))
    assert not (only(sweeps) / "2").exists(), "the next job must not start"


@pytest.mark.slow
def test_jobs_that_do_not_want_to_end_are_given_their_time_together(
    tmp_path: Path, fake_pipeline: dict[str, str]
) -> None:
    process = start(tmp_path, fake_pipeline, "seed=97,97", "hydra.launcher.n_jobs=2")
    pids = wait_for(lambda: children(tmp_path / "outputs" / "sweeps", 2))
    os.kill(process.pid, signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=60)
    assert time.monotonic() - began < 30, "10 s after each of two signals, for both at once"
    assert not any(map(running, pids))
    assert not mentioned(str(tmp_path / "outputs" / "sweeps"))


def test_a_sweep_that_an_experiment_asks_for_needs_no_flag(
    tmp_path: Path, fake_pipeline: dict[str, str]
) -> None:
    study = ["+paper=table2", "arm=dpo", "seed=1,2", "output=here"]
    done = spot(tmp_path, *study, environment=fake_pipeline)
    assert done.returncode == 0, done.stderr
    assert "2 jobs in" in done.stdout
    assert len(list((tmp_path / "here" / "sweeps").glob("*/*/run.json"))) == 2


def test_the_command_line_narrows_what_a_study_sweeps() -> None:
    expanded = compose.expand(["+paper=table2", "seed=0", "arm=dpo,dft"])
    assert [job[:2] for job, _ in expanded.jobs] == [["arm=dpo", "seed=0"], ["arm=dft", "seed=0"]]
    assert expanded.varies == {"arm": ["dpo", "dft"]}
