"""`spot <command>` and `python train.py`: what each hands to the pipeline, and where files land."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def spot(
    folder: Path, environment: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spot.cli", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("command", "until"),
    [("run", "all"), ("elicit", "elicit"), ("select", "select")],
)
def test_a_command_is_the_way_up_to_its_stage(
    tmp_path: Path, fake_pipeline: dict[str, str], command: str, until: str
) -> None:
    done = spot(tmp_path, fake_pipeline, command, "arm=dft", "seed=3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"ran {until} dft seed 3")
    (record,) = tmp_path.glob("outputs/runs/*/*/run.json")
    assert json.loads(record.read_text())["overrides"] == ["arm=dft", "seed=3"]
    assert ("report: " in done.stdout) is (command == "run")


def test_train_py_works_from_any_directory(tmp_path: Path, fake_pipeline: dict[str, str]) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "loss=dpo", "output=mine"]
    done = subprocess.run(command, cwd=tmp_path, env=fake_pipeline, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    (record,) = tmp_path.glob("mine/runs/*/*/run.json")
    assert json.loads(record.read_text())["config"]["loss"]["name"] == "dpo"


def test_train_py_stays_a_doorway() -> None:
    assert len((ROOT / "train.py").read_text().splitlines()) <= 15


def test_pretrain_and_report(tmp_path: Path, fake_pipeline: dict[str, str]) -> None:
    done = spot(tmp_path, fake_pipeline, "pretrain", "model=tiny")
    assert "pretrained tiny" in done.stdout
    (tmp_path / "sweep" / "0").mkdir(parents=True)
    (tmp_path / "sweep" / "0" / "run.json").write_text("{}")
    done = spot(tmp_path, fake_pipeline, "report", "sweep")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == f"report: {Path('sweep') / 'report.html'}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evalute"], "evalute no command evaluate"),
        (["report"], "spot report <folder"),
        (["report", "nowhere"], "nowhere run.json"),
        (["select", "-m", "loss=bco,dpo"], "spot select one configuration"),
        (["run", "seed=14"], "file is empty"),
        (["run", f"output={ROOT / 'train.py'}"], "train.py Not a directory output=<folder>"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_is_said_in_one_line(
    tmp_path: Path, fake_pipeline: dict[str, str], arguments: list[str], words: str
) -> None:
    done = spot(tmp_path, fake_pipeline, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    for word in words.split():
        assert word in done.stderr


def test_a_real_failure_keeps_its_traceback(tmp_path: Path, fake_pipeline: dict[str, str]) -> None:
    done = spot(tmp_path, fake_pipeline, "run", "seed=13")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1] == "ValueError: thirteen is unlucky"


def test_help_names_every_command_and_key(tmp_path: Path, fake_pipeline: dict[str, str]) -> None:
    commands = spot(tmp_path, fake_pipeline)
    assert commands.returncode == 0
    for name in "run elicit rectify select train evaluate report pretrain".split():
        assert f"  {name} " in commands.stdout
    keys = spot(tmp_path, fake_pipeline, "train", "--help")
    assert keys.returncode == 0
    assert "paper: table2" in keys.stdout
    assert "gamma: 0.6" in keys.stdout
    assert not list(tmp_path.iterdir())
