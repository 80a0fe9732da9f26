"""`spot runs` and `spot show`: states of runs that were really started, killed and failing."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from spot.cli import display
from spot.data import artifacts
from spot.pipeline import heartbeat, run_status, traces
from spot.pipeline.run_status import Doing, KnownRun, Sweep
from spot.utils.errors import UserError
from tests.support.runs import listed_run

SECONDS = 200.0  # until something must have happened, on a machine that is busy with other tests


def wait(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


@contextmanager
def started(
    folder: Path, environment: dict[str, str], *arguments: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A command in the background; killed at the latest when the block ends."""
    with (folder / "output.txt").open("w") as file:  # no pipe: children may outlive the command
        process = subprocess.Popen(
            [sys.executable, "-m", "spot.cli.main", *arguments],
            cwd=folder,
            env=environment | {"PYTHONUNBUFFERED": "1"},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(SECONDS)


def finish(folder: Path, environment: dict[str, str], *arguments: str) -> None:
    with started(folder, environment, *arguments) as process:
        process.wait(SECONDS)


def the_run(folder: Path, name: str = "r") -> KnownRun:
    return run_status.look(folder / name)


def output(*runs: Any, **options: Any) -> str:
    """What a terminal of 200 columns shows."""
    console = Console(file=io.StringIO(), width=200)
    for one in runs:
        display.show_one(one, console, **options)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def listing(folder: Path, states: Sequence[str] = ()) -> str:
    console = Console(file=io.StringIO(), width=200)
    display.show_list(folder, states, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


# ---- states, as they really come about ---------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "state", "code", "said"),
    [
        (3, "finished", 0, ""),
        (14, "failed", 2, "the file is empty: give another."),
        (13, "failed", 1, "ValueError: thirteen is unlucky"),
    ],
)
def test_a_run_that_ended_says_how(
    tmp_path: Path, fake_pipeline: dict[str, str], seed: int, state: str, code: int, said: str
) -> None:
    finish(tmp_path, fake_pipeline, "run", "arm=dpo", f"seed={seed}", "hydra.run.dir=r")
    run = the_run(tmp_path)
    assert (run.state, run.exit, run.said) == (state, code, said)
    assert (run.arm, run.seed) == ("dpo", seed)
    assert run.command == f"python train.py arm=dpo seed={seed}"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_from_outside_is_interrupted(
    tmp_path: Path, fake_pipeline: dict[str, str], number: signal.Signals
) -> None:
    with started(tmp_path, fake_pipeline, "run", "seed=99", "hydra.run.dir=r") as process:
        wait(lambda: "child" in (tmp_path / "output.txt").read_text())
        run = the_run(tmp_path)
        assert run.state == "running"
        assert run.there is not None
        assert run.there.pid == process.pid
        process.send_signal(number)
        process.wait(SECONDS)
        run = the_run(tmp_path)
    assert run.state == "interrupted"
    assert "python train.py seed=99 goes on from here" in output(run)


@pytest.mark.slow
def test_a_sweep_tells_the_state_of_every_job(
    tmp_path: Path, fake_pipeline: dict[str, str]
) -> None:
    sweep = tmp_path / "outputs" / "sweeps" / "s"
    line = "-m", "arm=dpo,spot_bco", "seed=13,300", f"hydra.sweep.dir={sweep}"
    with started(tmp_path, fake_pipeline, "run", *line) as process:
        wait((sweep / "jobs.json").exists)
        wait(lambda: run_status.look_at_sweep(sweep).counts["running"])
        seen = run_status.look_at_sweep(sweep)
        assert seen.state == "running"
        assert seen.counts["waiting"] >= 2
        assert [(job.arm, job.seed) for job in seen.jobs] == [
            (arm, seed) for arm in ("dpo", "spot_bco") for seed in (13, 300)
        ]
        assert process.wait(SECONDS) == 1
    seen = run_status.look_at_sweep(sweep)
    assert seen.counts == {"finished": 2, "failed": 2}
    assert seen.state == "failed"
    failed = next(job for job in seen.jobs if job.state == "failed")
    assert failed.said == "ValueError: thirteen is unlucky"
    assert "job 0: ValueError: thirteen is unlucky" in output(seen)
    listed = listing(tmp_path / "outputs")
    assert "sweep: 2 arms, 2 finished, 2 failed" in listed
    assert listed.count(str(sweep.name)) >= 1


@pytest.mark.slow
def test_a_killed_sweep_leaves_interrupted_jobs(
    tmp_path: Path, fake_pipeline: dict[str, str]
) -> None:
    sweep = tmp_path / "s"
    line = "-m", "seed=1,99,2", f"hydra.sweep.dir={sweep}"
    with started(tmp_path, fake_pipeline, "run", *line) as process:
        wait(lambda: run_status.look(sweep / "1").state == "running")
        process.kill()
        process.wait(SECONDS)
        wait(lambda: run_status.look_at_sweep(sweep).jobs[1].state == "interrupted")
    seen = run_status.look_at_sweep(sweep)
    assert [job.state for job in seen.jobs] == ["finished", "interrupted", "interrupted"]
    assert seen.state == "interrupted"
    with started(tmp_path, fake_pipeline, "run", *line) as process:  # what is left over waits again
        wait(lambda: run_status.look_at_sweep(sweep).counts["running"])
        states = [job.state for job in run_status.look_at_sweep(sweep).jobs]
    assert states == ["finished", "running", "waiting"]


# ---- how far a run is --------------------------------------------------------------------------


def about(folder: Path, **values: Any) -> dict[str, Any]:
    return {
        "arm": "dpo",
        "seed": 0,
        "overrides": [],
        "products": str(folder / "products"),
        **values,
    }


def test_the_stage_and_step_of_a_training(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    target = artifacts.product(tmp_path / "products", "train", {"x": 1})
    seen: list[tuple[Doing | None, str]] = []

    def train(folder: Path) -> None:
        heartbeat.noting(run)("Training steps", 40, 125)
        (folder / "metrics.csv").write_text("step,loss\n0,\n41,0.5\n42,0.4\n43,0.")  # torn
        one = the_run(run.parent, "a")
        made = run_status.made_of([one])[one.folder]
        seen.append((run_status.doing(one, made), output(one)))

    with heartbeat.kept(run, about(tmp_path)):
        artifacts.compute_files(target, train)
    assert seen[0][0] == Doing("train", 42, 125)
    assert "train 42 of 125" in seen[0][1]
    assert "0.4" in seen[0][1]  # the last loss that was whole


def test_the_rows_of_a_stage_and_what_it_made_before(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    before, now = (artifacts.product(tmp_path / "products", s, {}) for s in ("elicit", "evaluate"))
    with heartbeat.kept(run, about(tmp_path)):
        artifacts.compute_files(before, lambda folder: None)

        def evaluate(folder: Path) -> None:
            heartbeat.noting(run)("elicit", 9, 9)  # of the stage before
            one = run_status.look(run)
            made = run_status.made_of([one])[run]
            assert [part.stage for part in made] == ["elicit", "evaluate"]
            assert run_status.doing(one, made) == Doing("evaluate")
            heartbeat.noting(run)("evaluate", 12, 1800)
            assert run_status.doing(one, made) == Doing("evaluate", 12, 1800)

        artifacts.compute_files(now, evaluate)
    assert run_status.look(run).state == "finished"


def test_jobs_that_never_began_have_the_arm_of_their_siblings_and_no_age(tmp_path: Path) -> None:
    said = {"arm": "spot_bce", "seed": 0, "overrides": []}
    with heartbeat.kept(tmp_path / "0", said):
        pass
    jobs = [
        {"name": str(number), "overrides": [f"loss={loss}", f"seed={seed}"], "state": state}
        for number, (loss, seed, state) in enumerate(
            [("bce", 0, "finished"), ("bce", 1, "failed"), ("dpo", 0, "waiting")]
        )
    ]
    (tmp_path / "jobs.json").write_text(json.dumps({"jobs": jobs}))
    seen = run_status.look_at_sweep(tmp_path)
    arms = {arm: [job.folder.name for job in of] for arm, of in seen.arms.items()}
    assert arms == {"spot_bce": ["0", "1"], "loss=dpo": ["2"]}
    assert " d" not in output(seen)  # the age of 1970
    assert " ago" not in output(seen.jobs[1])


# ---- many and large ----------------------------------------------------------------------------


def test_five_hundred_runs_are_listed_without_reading_their_rows(tmp_path: Path) -> None:
    for number in range(500):
        listed_run(tmp_path, number)
    code = (
        "import sys\nfrom spot import overview\n"
        f"overview.command(['output={tmp_path}'])\n"
        "print({'torch', 'transformers', 'matplotlib', 'scipy'} & set(sys.modules))\n"
    )
    # reading the rows would outlast every timeout
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("44.0 (+22.0)") == 500
    assert done.stdout.rstrip().endswith("set()")  # nothing heavy is imported


def test_a_number_of_the_list_finds_the_run_again(tmp_path: Path) -> None:
    old, new = listed_run(tmp_path, 1), listed_run(tmp_path, 2)
    assert run_status.locate("newest", tmp_path) == run_status.locate("1", tmp_path)
    assert [run_status.locate(n, tmp_path).folder for n in ("1", "2")] == [new, old]
    assert run_status.locate(str(old), tmp_path).folder == old
    for wrong in ("3", "0", "1/2", "never"):
        with pytest.raises(UserError, match=r"is not there|is no folder"):
            run_status.locate(wrong, tmp_path)


def test_a_folder_is_shown_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = listed_run(tmp_path / ("a" * 120) / "arm=dpo", 5)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # without outputs
    run_status.show([str(run)])
    assert "seed 5" in capsys.readouterr().out
    with pytest.raises(UserError, match="output=outputs is no folder"):
        run_status.show(["newest"])
    run_status.command([f"output={run.parents[2]}"])
    (line,) = [s for s in capsys.readouterr().out.splitlines() if "44.0" in s]
    assert line.rstrip().endswith(str(run))  # in one line, off a terminal


def test_one_screen_says_everything_of_a_run(tmp_path: Path) -> None:
    text = output(run_status.look(listed_run(tmp_path, 5)))
    for words in (
        "dpo", "seed 5", "finished", "python train.py arm=dpo",  # what
        "x.y=1", "reused", "43.9 s", "7 wrong",  # choices and products
        "[40.0, 48.0]", "+22.0", "[+17.5, +26.5]", "−1.0", "+10.5",  # scores: (22 − 1) / 2
        "1.5", "0.1", str(tmp_path / "products" / "train"),  # metrics and where it is
    ):  # fmt: skip
        assert words in text, words


def test_only_the_states_that_are_asked_for(tmp_path: Path) -> None:
    listed_run(tmp_path, 1)
    assert "44.0" in listing(tmp_path, ["finished"])
    assert "no run that is failed" in listing(tmp_path, ["failed"])
    with pytest.raises(UserError, match="status=done is unknown"):
        run_status.command([f"output={tmp_path}", "status=done"])
    with pytest.raises(UserError, match="is no folder"):
        run_status.command([f"output={tmp_path / 'no'}"])
    with pytest.raises(UserError, match="colour is unknown to spot runs"):
        run_status.command(["colour=red"])


# ---- files that others are writing -------------------------------------------------------------


@pytest.mark.parametrize("name", ["run.json", "process.json", "scores.csv", "jobs.json"])
def test_half_written_files_are_not_there_yet(tmp_path: Path, name: str) -> None:
    run = listed_run(tmp_path, 1)
    whole = (
        (run / "run.json").read_text() if name != "scores.csv" else (run / "scores.csv").read_text()
    )
    (run / name).write_text(whole[: len(whole) // 2])
    (run / "job.log").write_bytes(b"\xff torn \xe2\x82")
    for one in run_status.find(tmp_path):
        assert output(one)
    assert listing(tmp_path)


def test_names_are_text_and_no_markup(tmp_path: Path) -> None:
    name = "[red]x[/red] [link=file:///]y"
    run = run_status.look(listed_run(tmp_path, 1))
    sweep = Sweep(tmp_path, (KnownRun(tmp_path / name, "failed", (f"study={name}",), error=name),))
    text = output(run, sweep)
    assert "[red]x[/red]" in text


def test_a_training_that_ended_is_means_over_benchmarks() -> None:
    rows = [
        {"arm": "a", "domain": d, "accuracy": str(v), "difference": str(g)}
        for d, v, g in [("in_domain", 10, 1), ("in_domain", 30, 2), ("general", 80, -6)]
    ]
    means = traces.means(rows)
    assert means["in_domain"] == traces.Mean(20.0, 1.5)
    assert means["average"] == traces.Mean(40.0, -1.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (61, "1 min"), (7200, "2 h"), (90000, "1 d")]
)
def test_ages(seconds: float, text: str) -> None:
    assert display.age(1000.0, 1000.0 + seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (10 << 30, "10 GiB")]
)
def test_sizes(size: int, text: str) -> None:
    assert display.size_text(size) == text
