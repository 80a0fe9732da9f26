"""`spot <command>` and `python train.py`: what each hands to the pipeline, and where files land."""

from __future__ import annotations

import importlib.metadata
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spot.cli import arguments as table
from tests.support.command_line import spot

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("command", "until"),
    [("run", "all"), ("elicit", "elicit"), ("select", "select")],
)
def test_a_command_is_the_way_up_to_its_stage(
    tmp_path: Path, fake_pipeline: dict[str, str], command: str, until: str
) -> None:
    done = spot(tmp_path, command, "arm=dft", "seed=3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"ran {until} dft seed 3")
    (record,) = tmp_path.glob("outputs/runs/*/*/run.json")
    assert json.loads(record.read_text())["overrides"] == ["arm=dft", "seed=3"]
    last = {"run": "report", "elicit": "attempts", "select": "pairs"}[command]
    assert done.stdout.splitlines()[-1].startswith(f"{last}: ")


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
    done = spot(tmp_path, "pretrain", "model=tiny")
    assert "pretrained tiny" in done.stdout
    (tmp_path / "sweep" / "0").mkdir(parents=True)
    (tmp_path / "sweep" / "0" / "run.json").write_text('{"status": "complete"}')
    done = spot(tmp_path, "report", "sweep")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == f"report: {Path('sweep') / 'report.html'}"
    measured = tmp_path / "measured"  # what `spot evaluate` once left is no run
    measured.mkdir()
    (measured / "evaluation.json").write_text('{"status": "complete"}')
    assert "no finished run" in spot(tmp_path, "report", "measured").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evalute"], "evalute no command evaluate"),
        (["help", "evalute"], "evalute no command evaluate"),
        ([""], "empty word no command"),
        (["é" * 300], "no command run"),
        (["--nonsense"], "--nonsense --help"),
        (["report"], "spot report <folder"),
        (["report", "nowhere"], "nowhere not exist run.json"),
        (["report", "."], "no finished run spot runs"),
        (["report", ".", "out="], "out empty"),
        (["report", "out"], "out does not exist"),
        (["report", ".", "--fast"], "--fast out= archive="),
        (["report", str(ROOT / "train.py")], "train.py is a file archive.tar.gz"),
        (["compare"], "two folders"),
        (["compare", "nowhere", "."], "nowhere is not a folder"),
        (["compare", ".", "."], "holds no scores"),
        (["grade", "benchmark=sums", "responses=", "out=x"], "responses empty"),
        (["grade", "benchmark=math500"], "responses is missing"),
        (["grade", "benchmark=mth500", "responses=r", "out=o"], "did you mean math500?"),
        (["grade", "benchmark=math500", "responses=r", "out=o"], "is not a file"),
        (["grade", "bench=math500"], "bench=math500 is unknown"),
        (["connect4"], "connect4 generate"),
        (["connect4", "generate"], "out missing connect4 generate"),
        (["connect4", "generate", "out=x", "count=many"], "count=many whole number"),
        (["evaluate", "nowhere"], "nowhere no folder"),
        (["evaluate", "nowhere", "--dry-run"], "nowhere no folder"),
        (["evaluate", "benchmark=mth500"], "did you mean math500?"),
        (
            ["evaluate", "benchmarks=quick", "+benchmark@benchmarks.tasks.twice=sums"],
            "benchmarks.tasks.twice.name=sums is another name",
        ),
        (["run", "data.matched=self"], "data.matched=self must be a list [a,b]"),
        (["dashboard"], "dashboard is not a command"),
        (["config", "nonsense"], "nonsense no part data"),
        (["config", "--cfg", "job"], "--cfg spot config --diff"),
        (["correct", "-m", "seed=0,1"], "-m spot correct"),
        (["plan", "--config-dir", "."], "--config-dir spot plan"),
        (["run", "--dry-run", "--config-dir", "."], "--dry-run Hydra"),
        (["plan", "--dry-run"], "spot plan no --dry-run run elicit"),
        (["run", "--dry-run", "loss.bta=1"], "loss.bta loss.beta"),
        (["elicit", "--dry-run", "-m", "seed=0,1"], "spot elicit one configuration"),
        (["report", "--dry-run", "nowhere"], "nowhere not exist"),
        (["run", "--dry-run", "data=jsonl", "data.path=x", "data.fields.response=r"], "oracle"),
        (["run", "generator@evaluator=vllm", "evaluator.top_p=2"], "evaluator.top_p=2 <= 1"),
        (["run", "generator@evaluator=vlm"], "generator@evaluator=vlm vllm"),
        (["run", "evaluator.top_p=1"], "evaluator.top_p generator@evaluator="),
        (["run", "+seed=1"], "+seed=1 write seed=1"),
        (["run", "~loss"], "loss missing loss=<option>"),
        (["run", "x" * 300 + "=1"], "cannot be read key=value"),
        (["select", "-m", "loss=bco,dpo"], "spot select one configuration"),
        (["run", "seed=14"], "file is empty"),
        (["run", f"output={ROOT / 'train.py'}"], "train.py Not a directory output=<folder>"),
    ],
    ids=lambda value: " ".join(value)[:80] if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said_in_one_line(
    tmp_path: Path, fake_pipeline: dict[str, str], arguments: list[str], words: str
) -> None:
    done = spot(tmp_path, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    for word in words.split():
        assert word in done.stderr


def test_a_real_failure_keeps_its_traceback(tmp_path: Path, fake_pipeline: dict[str, str]) -> None:
    done = spot(tmp_path, "run", "seed=13")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1] == "ValueError: thirteen is unlucky"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command_and_exit_code(
    tmp_path: Path, fake_pipeline: dict[str, str], arguments: list[str]
) -> None:
    done = spot(tmp_path, *arguments)
    assert done.returncode == 0
    for name in table.COMMANDS:
        assert f"  {name} " in done.stdout
    for title in table.GROUPS:
        assert f"\n{title}:\n" in done.stdout
    assert "spot -sc install=bash" in done.stdout
    for code in (0, 1, 2, 130, 143):
        assert f"  {code:>3}  " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert not list(tmp_path.iterdir())


def test_a_command_explains_itself_before_the_keys(
    tmp_path: Path, fake_pipeline: dict[str, str]
) -> None:
    done = spot(tmp_path, "train", "--help", "loss=dpo")
    assert done.returncode == 0
    page, keys = done.stdout.split("Groups and their options")
    assert page.startswith("usage: spot train [key=value …] [--dry-run]")
    assert "<output>/products/train/" in page
    assert "  spot train arm=" in page
    assert "table1_smollm2, table2" in keys
    assert "gamma: 0.6" in keys
    assert "name: dpo" in keys
    assert "schema" not in keys
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert not list(tmp_path.iterdir())


def test_every_page_fits_and_its_examples_are_its_own() -> None:
    for name, command in table.COMMANDS.items():
        assert max(map(len, table.parser(name).format_help().splitlines())) <= 80, name
        assert command.examples
        assert all(example.startswith(f"spot {name}") for example in command.examples)


def test_the_version(tmp_path: Path, fake_pipeline: dict[str, str]) -> None:
    done = spot(tmp_path, "--version")
    assert done.stdout == f"spot {importlib.metadata.version('spot')}\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "seed=1"], 0),
        (["run", "seed=13"], 1),
        (["run", "-m", "seed=1,13"], 1),
        (["run", "seed=-1"], 2),
        (["run", "seed=14"], 2),
    ],
)
def test_exit_codes(
    tmp_path: Path, fake_pipeline: dict[str, str], arguments: list[str], code: int
) -> None:
    """And the command at the end, which is told once, whatever becomes of it."""
    environment = fake_pipeline  # which reaches the jobs of a sweep
    tell = 'notify=echo "$SPOT_OUTCOME $SPOT_EXIT $SPOT_COMMAND" >> told; exit 3'
    done = spot(tmp_path, *arguments, tell, environment=environment)
    assert done.returncode == code
    assert code in table.EXIT_CODES
    outcome = "failed" if code else "complete"
    assert (tmp_path / "told").read_text() == f"{outcome} {code} spot {' '.join(arguments)}\n"
    assert done.stderr.count("The command of notify= ended with exit code 3.") == 1
    assert not any("notify" in file.read_text() for file in tmp_path.rglob("run.json"))


def test_a_list_is_watched_on_a_terminal_only(tmp_path: Path) -> None:
    done = spot(tmp_path, "runs", "output=.", "--watch")
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs a terminal: leave it out" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "--dry-run"], 0),
        (["plan", "model=qwen3_8b", "hardware=cpu", "hardware.memory_gib=1"], 1),
    ],
)
def test_exit_codes_of_looking(tmp_path: Path, arguments: list[str], code: int) -> None:
    assert spot(tmp_path, *arguments).returncode == code
    assert code in table.EXIT_CODES


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_exit_codes_of_signals(
    tmp_path: Path, fake_pipeline: dict[str, str], sent: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-u", "-m", "spot.cli.main", "run", "seed=6000"]  # takes a minute
    with subprocess.Popen(
        command, cwd=tmp_path, env=fake_pipeline, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("ran all")
        running.send_signal(sent)
        ended = running.wait(timeout=30)
    assert (ended if ended >= 0 else 128 - ended) == code  # as a shell reports it


def test_a_reader_that_stops_is_no_failure(tmp_path: Path, fake_pipeline: dict[str, str]) -> None:
    line = f"{sys.executable} -m spot.cli.main config | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=fake_pipeline, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[0] == "model:"
    assert done.stdout.splitlines()[1] in ("0", "141")
    assert done.stderr == ""
