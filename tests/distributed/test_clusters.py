"""SLURM through submitit: its local executor, and its SLURM executor with stand-ins for SLURM's commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.distributed import commands
from tests.distributed.commands import train

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(600)]

# What SLURM does with one machine as all of its nodes: sbatch queues a script once for each index of
# an array, srun starts a task for each place and ends all when one fails, if it is told to.
STAND_IN = """#!{python}
import itertools, os, re, shlex, signal, subprocess, sys, time
from pathlib import Path

here, name, arguments = Path(__file__).parent, Path(__file__).name, sys.argv[1:]


def place(text, task):
    e = os.environ
    values = dict(A=e.get("SLURM_ARRAY_JOB_ID"), a=e.get("SLURM_ARRAY_TASK_ID"))
    values |= dict(j=e["SLURM_JOB_ID"], t=str(task))
    return re.sub("%([Aajt])", lambda m: values[m[1]], text)


def sbatch(script):
    asked = dict(re.findall(r"#SBATCH --([\\w-]+)=(\\S+)", Path(script).read_text()))
    nodes, tasks = int(asked["nodes"]), int(asked.get("ntasks-per-node", 1))
    job = 100 * next(n for n in itertools.count(1) if not (here / f"{{100 * n}}").exists())
    first, _, last = asked.get("array", "0").partition("%")[0].partition("-")
    environment = {{
        **os.environ,
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_NTASKS": str(nodes * tasks),
        "SLURM_NTASKS_PER_NODE": str(tasks),
        "SLURM_JOB_NODELIST": f"127.0.0.[1-{{nodes}}]" if nodes > 1 else "127.0.0.1",
        "SLURM_JOB_NAME": asked["job-name"],
    }}
    for index in range(int(first), int(last or first) + 1):
        own = {{"SLURM_JOB_ID": str(job + index), "SLURM_JOBID": str(job + index)}}
        label = str(job)
        if "array" in asked:
            own |= {{"SLURM_ARRAY_JOB_ID": str(job), "SLURM_ARRAY_TASK_ID": str(index)}}
            label = f"{{job}}_{{index}}"
        (here / str(job + index)).write_text(f"{{label}}|RUNNING|host")
        command = [sys.executable, __file__, "run", str(job + index), script]
        with open(here / f"{{job + index}}.log", "w") as log:
            subprocess.Popen(
                command, env=environment | own, stdout=log, stderr=log, start_new_session=True
            )
    print("Submitted batch job", job)


def run(job, script):
    code = subprocess.call(["bash", script])
    label = (here / job).read_text().split("|")[0]
    (here / job).write_text(f"{{label}}|{{'FAILED' if code else 'COMPLETED'}}|host")


def srun(*arguments):
    arguments = list(arguments)
    to = {{}}
    while arguments[0].startswith("-"):
        option = arguments.pop(0)
        if option in ("--output", "--error"):
            to[option] = arguments.pop(0)
    per_node = int(os.environ["SLURM_NTASKS_PER_NODE"])
    processes = []
    for task in range(int(os.environ["SLURM_NTASKS"])):
        own = {{"SLURM_PROCID": task, "SLURM_NODEID": task // per_node, "SLURM_STEP_ID": 0}}
        own |= {{"SLURM_LOCALID": task % per_node, "SLURM_STEP_NUM_TASKS": os.environ["SLURM_NTASKS"]}}
        own |= {{"SLURM_STEP_NUM_NODES": os.environ["SLURM_JOB_NUM_NODES"]}}
        environment = os.environ | {{name: str(value) for name, value in own.items()}}
        with open(place(to["--output"], task), "a") as out, open(place(to["--error"], task), "a") as err:
            processes.append(subprocess.Popen(arguments, env=environment, stdout=out, stderr=err))
    while any(p.poll() is None for p in processes):
        if os.environ.get("SLURM_KILL_BAD_EXIT") == "1" and any(p.poll() for p in processes):
            time.sleep(1)
            [p.kill() for p in processes if p.poll() is None]
        time.sleep(0.1)
    sys.exit(max(abs(p.returncode) for p in processes))


def sacct():
    print("JobID|State|NodeList")
    print("\\n".join(file.read_text() for file in here.iterdir() if file.name.isdigit()))


if name == "sacct":
    sacct()
elif arguments[0] == "run":
    run(*arguments[1:])
else:
    dict(sbatch=sbatch, srun=srun)[name](*arguments)
"""


@pytest.fixture
def folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, prerequisites: None) -> Path:
    """Where only training and what follows is left to do."""
    return commands.prepared(tmp_path_factory.getbasetemp(), tmp_path)


@pytest.fixture
def slurm(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment in which submitit finds SLURM. What it started is gone at the end of a test."""
    programs = tmp_path_factory.mktemp("slurm")
    for name in ("sbatch", "srun", "sacct"):
        (programs / name).write_text(STAND_IN.format(python=sys.executable))
        (programs / name).chmod(0o755)
    path = f"{programs}:{commands.environment()['PATH']}"
    yield {"PATH": path, "GLOO_SOCKET_IFNAME": "lo"}
    alive = psutil.wait_procs(left(folder), timeout=10)[1]
    for process in alive:
        process.kill()
    assert not alive


def left(folder: Path) -> list[psutil.Process]:
    """Processes that work on something in this folder: SLURM's are nobody's children."""
    found = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"]]
    return [p for p in found if str(folder) in " ".join(p.info["cmdline"])]


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
    slurm: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    commands.finish(folder, train("-m", "hydra/launcher=submitit_slurm", *layout), slurm)
    (run,) = commands.runs(folder)
    assert run["status"] == "complete"
    first, second = logs(folder, "_log.out")
    assert "report: " in first
    assert "report: " not in second
    whole = commands.whole(tmp_path_factory.getbasetemp())
    expected = commands.weights(commands.checkpoint(whole))
    trained = commands.weights(commands.checkpoint(folder))
    assert commands.distance(trained, expected) < 1e-6


def test_slurm_needs_nobody_to_end_who_waits(folder: Path, slurm: dict[str, str]) -> None:
    """The other node's task ends by itself and says why, without srun's help."""
    mistake = commands.spoil(folder)
    layout = ("hydra.launcher.nodes=2", "hardware.nodes=2")
    command = train("-m", "hydra/launcher=submitit_slurm", *layout)
    with commands.start(folder, command, slurm) as started:
        assert started.ends() != 0
        lines = started.lines()
    told = [line for line in lines if line.startswith("spot: ")]  # submitit repeats it
    assert any(mistake in line for line in told)
    first, second = logs(folder, "_log.err")
    assert mistake in first
    assert "spot: The first process has failed: " in second
    assert mistake in second
