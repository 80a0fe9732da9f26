"""SLURM, which runs here as a cluster of two nodes: through submitit, and with a script of our own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spot.pipeline import run_status
from tests.distributed import commands
from tests.distributed.commands import train
from tests.support import slurm
from tests.support.command_line import spot
from tests.support.processes import wait_for

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, prerequisites: None) -> Path:
    """Where only training and what follows is left to do."""
    return commands.prepared(tmp_path_factory.getbasetemp(), tmp_path)


@pytest.fixture(scope="module")
def cluster(
    needs: Callable[[object, str], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """What the environment of a cluster's user has."""
    needs(not slurm.missing(), f"SLURM and munge: {', '.join(slurm.missing())}")
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as more:
        yield more | {"GLOO_SOCKET_IFNAME": "lo"}


def logs(folder: Path, ending: str) -> list[str]:
    """What the tasks of all jobs wrote."""
    files = folder.glob(f"outputs/sweeps/*/.submitit/*/*{ending}")
    return [file.read_text() for file in sorted(files)]


def test_submitit_runs_a_sweep_on_this_machine(folder: Path) -> None:
    overrides = ("-m", "hydra/launcher=submitit_local", "hardware=cpu", "loss=bco,sft")
    commands.finish(folder, train(*overrides))
    found = {run["folder"].name: run["config"]["loss"]["name"] for run in commands.runs(folder)}
    assert found == {"0": "bco", "1": "sft"}
    (sweep,) = (folder / "outputs" / "sweeps").iterdir()
    lines = commands.finish(folder, [sys.executable, "-m", "spot.cli.main", "report", str(sweep)])
    assert lines[-1] == f"report: {sweep / 'report.html'}"


@pytest.mark.parametrize(
    ("per_task", "layout"),
    [
        ("rank", ["hydra.launcher.tasks_per_node=2"]),
        ("node", ["hydra.launcher.nodes=2", "hardware.nodes=2"]),  # four ranks
    ],
)
def test_slurm_starts_a_task_for_each(
    per_task: str,
    layout: list[str],
    folder: Path,
    cluster: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    commands.finish(folder, train("-m", "hydra/launcher=submitit_slurm", *layout), cluster)
    (run,) = commands.runs(folder)
    assert run["status"] == "complete"
    first, second = logs(folder, "_log.out")
    assert "report: " in first
    assert "report: " not in second
    whole = commands.whole(tmp_path_factory.getbasetemp())
    expected = commands.weights(commands.checkpoint(whole))
    trained = commands.weights(commands.checkpoint(folder))
    assert commands.distance(trained, expected) < 1e-6


def test_slurm_needs_nobody_to_end_who_waits(folder: Path, cluster: dict[str, str]) -> None:
    """The other node's task ends by itself and says why, without srun's help."""
    mistake = commands.spoil(folder)
    layout = ("hydra.launcher.nodes=2", "hardware.nodes=2")
    command = train("-m", "hydra/launcher=submitit_slurm", *layout)
    with commands.start(folder, command, cluster) as started:
        assert started.ends() != 0
        lines = started.lines()
    told = [line for line in lines if line.startswith("spot: ")]  # submitit repeats it
    assert any(mistake in line for line in told)
    first, second = logs(folder, "_log.err")
    assert mistake in first
    assert "spot: The first process has failed: " in second
    assert mistake in second


def test_a_sweep_says_how_its_jobs_stand_in_the_queue(
    tmp_path: Path,
    cluster: dict[str, str],
    fake_pipeline: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Waiting, running, failed, put back after a warning, cancelled, complete: one that fails stops no other."""
    environment = {**fake_pipeline, **cluster, "OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("SLURM_CONF", cluster["SLURM_CONF"])
    overrides = ["hydra/launcher=submitit_slurm", "hydra.launcher.array_parallelism=1"]
    overrides += ["seed=99,13,1", "hydra.sweep.dir=here"]

    def are(*expected: str) -> None:
        def look() -> bool:
            time.sleep(0.5)
            found = run_status.look_at_sweep(tmp_path / "here").jobs
            return [job.state for job in found] == [*expected]

        wait_for(look)

    def tell(*command: str) -> None:
        assert slurm.ask(environment, *command) == ""

    with commands.start(tmp_path, [sys.executable, commands.TRAIN, "-m", *overrides], environment):
        are("running", "waiting", "waiting")
        shown = spot(tmp_path, "show", "here", environment=environment).stdout
        assert "1 running, 2 waiting" in shown.splitlines()[0]
        wait_for((tmp_path / "here" / "0" / "began").exists)
        (job,) = (path.name for path in (tmp_path / "here" / ".submitit").glob("*_0"))
        tell("scancel", "--signal=USR2", job)
        are("waiting", "failed", "complete")
        record = json.loads((tmp_path / "here" / "0" / "run.json").read_text())
        assert (record["status"], record["exit"]) == ("interrupted", -1)
        tell("scontrol", "update", f"JobId={job}", "StartTime=now")
        are("running", "failed", "complete")
        tell("scancel", job)
        are("interrupted", "failed", "complete")


def test_a_script_goes_on_when_its_time_was_over(folder: Path, cluster: dict[str, str]) -> None:
    """SLURM's warning ends the training on both nodes; queued again, it goes on from its last state."""
    layout = ["hardware=2xcpu", "hardware.devices=1", "hardware.nodes=2", "loss.epochs=100"]
    secret = {"OPENAI_API_KEY": "sk-planted"}
    made = spot(folder, "sbatch", *commands.SMALL, *layout, environment={**cluster, **secret})
    assert made.returncode == 0, made.stderr
    assert "planted" not in made.stdout
    (folder / "job.sh").write_text(made.stdout)

    def queue(what: str) -> str:
        return slurm.ask(
            cluster, "squeue", "--noheader", "--states=all", f"--jobs={job}", "-o", what
        )

    options = ["--parsable", f"--chdir={folder}", "--time=30", "--signal=TERM@60", "--output=log"]
    environment = commands.environment(cluster)
    job = slurm.ask(environment, "sbatch", *options, str(folder / "job.sh"))
    log = folder / "log"
    wait_for(lambda: max(commands.states(folder), default=0) > 1, commands.LIMIT)
    minutes = int(queue("%M").split(":")[0]) + 1
    slurm.ask(cluster, "scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
    wait_for(lambda: queue("%T") == "PENDING")
    (run,) = commands.runs(folder)
    assert (run["status"], run["exit"]) == ("interrupted", 143)
    assert "ended by SIGTERM; the same command goes on from here." in log.read_text()
    later = "StartTime=now+5"  # of the same second, its credential would count as revoked
    slurm.ask(cluster, "scontrol", "update", f"JobId={job}", later, "TimeLimit=30")
    wait_for(lambda: "Training goes on after step" in log.read_text(), commands.LIMIT)
