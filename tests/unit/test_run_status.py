"""`spot runs` and `spot show`: states of runs that were really started, killed and failing."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from spot.cli import display
from spot.config import compose
from spot.data import artifacts, run_record
from spot.data.rows import Attempt
from spot.pipeline import heartbeat, run_status
from spot.pipeline import run as runs
from spot.pipeline.run import Run
from spot.pipeline.run_status import Mean, RunStatus, SweepStatus
from spot.utils import terminal
from spot.utils.errors import UserError
from tests.support.command_line import spot
from tests.support.processes import wait_for
from tests.support.runs import listed_run

SECONDS = 200.0  # until something must have happened, on a machine that is busy with other tests


@contextmanager
def started(
    folder: Path, environment: dict[str, str], *arguments: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`spot run …` in the background; killed at the latest when the block ends."""
    with (folder / "output.txt").open("w") as file:  # no pipe: children may outlive the command
        process = subprocess.Popen(
            [sys.executable, "-m", "spot.cli.main", "run", *arguments],
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


def output(*found: Any) -> str:
    """What a terminal of 200 columns shows."""
    console = Console(file=io.StringIO(), width=200)
    for one in found:
        display.show_one(one, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def listing(folder: Path, states: Sequence[str] = ()) -> str:
    console = Console(file=io.StringIO(), width=200)
    display.show_list(folder, states, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


# ---- states, as they really come about ---------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "state", "code", "error"),
    [
        (3, "complete", 0, ""),
        (14, "failed", 2, "the file is empty: give another."),
        (13, "failed", 1, "ValueError: thirteen is unlucky"),
    ],
)
def test_a_run_that_ended_says_how(
    tmp_path: Path, fake_pipeline: dict[str, str], seed: int, state: str, code: int, error: str
) -> None:
    line = "arm=dpo", f"seed={seed}", "hydra.run.dir=r"
    spot(tmp_path, "run", *line)
    run = run_status.look(tmp_path / "r")
    assert (run.state, run.record["exit"], run.error) == (state, code, error)
    assert (run.arm, run.seed) == ("dpo", seed)
    assert run.record["command"] == f"python train.py arm=dpo seed={seed}"
    assert run_record.is_finished(tmp_path / "r") == (state == "complete")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_from_outside_is_interrupted(
    tmp_path: Path, fake_pipeline: dict[str, str], number: signal.Signals
) -> None:
    with started(tmp_path, fake_pipeline, "seed=99", "hydra.run.dir=r") as process:
        wait_for(lambda: "child" in (tmp_path / "output.txt").read_text())
        run = run_status.look(tmp_path / "r")
        assert (run.state, run.record["pid"]) == ("running", process.pid)
        process.send_signal(number)
        process.wait(SECONDS)
        run = run_status.look(tmp_path / "r")
    assert run.state == "interrupted"
    assert "python train.py seed=99 goes on from here" in output(run)


@pytest.mark.slow
def test_a_sweep_shows_the_state_of_every_job(
    tmp_path: Path, fake_pipeline: dict[str, str]
) -> None:
    sweep = tmp_path / "outputs" / "sweeps" / "s"
    line = "-m", "arm=dpo,spot_bco", "seed=13,300", f"hydra.sweep.dir={sweep}"
    with started(tmp_path, fake_pipeline, *line) as process:
        wait_for((sweep / "jobs.json").exists)
        wait_for(lambda: run_status.look_at_sweep(sweep).counts["running"])
        seen = run_status.look_at_sweep(sweep)
        assert seen.state == "running"
        assert seen.counts["waiting"] >= 2
        assert [(job.arm, job.seed) for job in seen.jobs] == [
            (arm, seed) for arm in ("dpo", "spot_bco") for seed in (13, 300)
        ]
        assert process.wait(SECONDS) == 1
    seen = run_status.look_at_sweep(sweep)
    assert seen.counts == {"complete": 2, "failed": 2}
    assert seen.state == "failed"
    assert "job 0: ValueError: thirteen is unlucky" in output(seen)
    assert "sweep: 2 arms, 2 complete, 2 failed" in listing(tmp_path / "outputs")


def states(sweep: Path) -> list[str]:
    """The state of each job, in order."""
    return [job.state for job in run_status.look_at_sweep(sweep).jobs]


@pytest.mark.slow
def test_a_killed_sweep_leaves_interrupted_jobs(
    tmp_path: Path, fake_pipeline: dict[str, str]
) -> None:
    sweep = tmp_path / "s"
    line = "-m", "seed=1,99,2", f"hydra.sweep.dir={sweep}"
    with started(tmp_path, fake_pipeline, *line) as process:
        wait_for(lambda: run_status.look(sweep / "1").state == "running")
        process.kill()
        process.wait(SECONDS)
        wait_for(lambda: run_status.look_at_sweep(sweep).jobs[1].state == "interrupted")
    seen = run_status.look_at_sweep(sweep)
    assert states(sweep) == ["complete", "interrupted", "interrupted"]
    assert seen.state == "interrupted"
    with started(tmp_path, fake_pipeline, *line) as process:  # what is left over waits again
        wait_for(lambda: states(sweep) == ["complete", "running", "waiting"])


def test_a_second_process_waits_for_the_first(
    tmp_path: Path, fake_pipeline: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    with started(tmp_path, fake_pipeline, "seed=200", "hydra.run.dir=r") as process:
        wait_for(lambda: run_status.look(tmp_path / "r").state == "running")
        with heartbeat.alive(tmp_path / "r"):
            assert run_status.look(tmp_path / "r").state == "complete"
    assert f"waiting for process {process.pid} on" in capfd.readouterr().err


def test_a_full_disk_does_not_hide_why_a_run_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    def fails() -> None:
        with runs.recorded("run", compose.compose([]), tmp_path):
            monkeypatch.setattr(runs, "write_aside", full)
            raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason"):
        fails()


def test_a_training_that_a_closed_terminal_ends_is_interrupted(tmp_path: Path) -> None:
    with (
        pytest.raises(SystemExit),
        runs.recorded("run", compose.compose([]), tmp_path),
    ):
        raise SystemExit(128 + signal.SIGHUP)  # what the training's launcher raises
    assert run_status.look(tmp_path).state == "interrupted"


def test_a_run_whose_page_fails_stays_complete(tmp_path: Path) -> None:
    config = compose.compose([])

    def fails() -> None:
        with runs.recorded("run", config, tmp_path):
            Run(config, tmp_path).complete()
            raise ValueError("no page")

    with pytest.raises(ValueError, match="no page"):
        fails()
    record = run_record.read(tmp_path)
    assert record["status"] == "complete"
    assert record["exit"] == 1
    assert "no page" in record["error"]


def test_an_evaluation_of_an_earlier_version_is_complete_and_no_whole_run(tmp_path: Path) -> None:
    (tmp_path / run_record.EVALUATION).write_text('{"status": "complete", "products": {}}')
    assert run_status.look(tmp_path).state == "complete"
    assert not run_record.is_finished(tmp_path)


# ---- how far a run is --------------------------------------------------------------------------


def test_the_stage_a_run_is_in_and_what_it_made_before(tmp_path: Path) -> None:
    """Rows of a stage and steps of a training are counted; what another stage counted is not."""
    config, folder = compose.compose([f"output={tmp_path}"]), tmp_path / "runs" / "a"
    run = Run(config, folder)
    elicit, train = (artifacts.product(run.root, name, {}) for name in ("elicit", "train"))
    seen: list[RunStatus] = []

    def look(*progress: Any) -> str:
        if progress:
            heartbeat.noting(folder)(*progress)
        seen.append(run_status.look(folder))
        return seen[-1].progress

    def make(out: Path) -> None:
        assert look() == "train"
        assert look("Training steps", 40, 125) == "train 40 of 125"
        (out / "metrics.csv").write_text("step,loss\n0,\n41,0.5\n42,0.4\n43,0.")  # torn

    with runs.recorded("run", config, folder):
        assert look("pretraining", 10, 400) == "pretraining 10 of 400"
        run.stage(
            "attempts",
            elicit,
            lambda: artifacts.compute_files(elicit, lambda out: {"at": look("elicit", 9, 9)}),
        )
        assert seen[-1].progress == "elicit"
        assert look() == "", "between two stages"

        def training() -> None:
            artifacts.compute_files(train, make)
            text = output(run_status.look(folder))
            assert "0.4" in text, "the last loss that was whole"
            assert "elicit" in text

        run.stage("checkpoint", train, training)
    run = run_status.look(folder)
    assert (run.state, run.progress) == ("complete", "")
    assert list(run.products) == ["attempts", "checkpoint"]
    assert run.checkpoint == train.folder


@pytest.mark.parametrize(
    ("logs", "rounds", "run"),
    [("o/a/round1", 2, "o/a"), ("o/a", 2, "o/a"), ("o/round1", 1, "o/round1")],
)
def test_progress_of_every_round_is_noted_in_the_runs_own_folder(
    logs: str, rounds: int, run: str
) -> None:
    assert heartbeat.run_folder(Path(logs), rounds) == Path(run)


def test_arms_are_named_by_what_differs_and_jobs_that_never_began_have_no_age(
    tmp_path: Path,
) -> None:
    jobs = [
        {"name": str(n), "overrides": [f"data.gamma={gamma}", f"seed={n}"], "arm": arm, "seed": n,
         "state": state}
        for n, (arm, gamma, state) in enumerate(
            [("spot_bce", 0.4, "complete"), ("spot_bce", 0.4, "failed"), ("dpo", 0.6, "waiting")]
        )
    ]  # fmt: skip
    (tmp_path / "jobs.json").write_text(json.dumps({"jobs": jobs}))
    seen = run_status.look_at_sweep(tmp_path)
    arms = {arm: [job.folder.name for job in group] for arm, group in seen.arms.items()}
    assert arms == {"spot_bce data.gamma=0.4": ["0", "1"], "dpo data.gamma=0.6": ["2"]}
    assert not re.search(r"\d d\b", output(seen)), "the age of 1970"
    assert " ago" not in output(seen.jobs[1])


# ---- many and large ----------------------------------------------------------------------------


def test_five_hundred_runs_are_listed_without_reading_their_rows(tmp_path: Path) -> None:
    for number in range(500):
        listed_run(tmp_path, number)
    code = (
        "import sys\nfrom spot.cli import display\n"
        f"display.runs(['output={tmp_path}'])\n"
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
        with pytest.raises(UserError, match=r"is not there|is not the folder"):
            run_status.locate(wrong, tmp_path)


def test_a_folder_is_shown_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = listed_run(tmp_path / ("a" * 120) / "arm=dpo", 5)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # without outputs
    display.show([str(run)])
    assert "seed 5" in capsys.readouterr().out
    with pytest.raises(UserError, match="output=outputs is not a folder"):
        display.show(["newest"])
    display.runs([f"output={run.parents[2]}"])
    (line,) = [s for s in capsys.readouterr().out.splitlines() if "44.0" in s]
    assert line.rstrip().endswith(str(run))  # in one line, off a terminal


def test_one_screen_says_everything_of_a_run(tmp_path: Path) -> None:
    text = output(run_status.look(listed_run(tmp_path, 5)))
    for words in (
        "dpo", "seed 5", "complete", "python train.py arm=dpo",  # what
        "rounds=3", "reused", "43.9 s", "7 wrong",  # choices and products
        "[40.0, 48.0]", "+22.0", "[+17.5, +26.5]", "−1.0", "+10.5",  # scores: (22 − 1) / 2
        "1.5", "0.1", str(tmp_path / "products" / "train"),  # metrics and where it is
    ):  # fmt: skip
        assert words in text, words


def shown(width: int, one: Any = None, folder: Path = Path()) -> str:
    """`spot runs` of a folder, or `spot show` of one, on a terminal so wide."""
    console = Console(file=io.StringIO(), width=width)
    if one is None:
        display.show_list(folder, (), console)
    else:
        display.show_one(one, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("width", [80, 140, 200])
def test_a_narrow_terminal_drops_columns_and_cuts_none(
    tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listed_run(tmp_path, 1)
    stopped = listed_run(tmp_path, 2)
    record = json.loads((stopped / "run.json").read_text())
    (stopped / "run.json").write_text(json.dumps(record | {"status": "failed", "exit": 137}))
    listed = shown(width, folder=Path("."))
    for text in (listed, shown(width, run_status.look(stopped)), shown(width, run_status.locate("2", tmp_path))):  # fmt: skip
        assert "…" not in text
        assert all(len(line.rstrip()) <= width for line in text.splitlines())
    assert "failed exit 137" in listed
    assert "44.0" in listed
    head = listed.splitlines()[1] if not listed.splitlines()[0].strip() else listed.splitlines()[0]
    assert {"#", "status", "what", "average"} <= set(head.split())
    assert ("disk" in head.split()) == (width == 200)


def test_a_column_that_stays_is_whole() -> None:
    rows = terminal.table("name", "A %", "bootstrap", "p", "p, corrected", right=("A %", "p"))
    rows.add_row("word_problems", "10.0", "[-15.0, 0.0]", "1.000", "0.990")
    rows.add_row("average", "", "", "0.330")
    for width in range(30, 80):
        console = Console(file=io.StringIO(), width=width, color_system=None)
        console.print(terminal.fit(rows, width, ("bootstrap", "A %", "p"), ("name",)))
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert "p, corrected" in text
        assert "0.990" in text
        for value, head in (("1.000", " p "), ("10.0", "A %"), ("[-15.0, 0.0]", "bootstrap")):
            assert (value in text) == (head in text)


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("run", "dpo"),
        ("elicit", "spot elicit"),
        ("train", "spot train · dpo"),
        ("select", "spot select · rectified"),
        ("evaluate", "spot evaluate · own-chat"),
    ],
)
def test_the_command_that_ran_is_named(tmp_path: Path, command: str, what: str) -> None:
    config = compose.compose(["arm=dpo", "model.path=/data/own-chat"])
    folder = tmp_path / "runs" / "a" / "b"
    with runs.recorded(command, config, folder):
        pass
    assert run_status.look(folder).what == what
    assert what in listing(tmp_path)
    assert ("spot_bco" in listing(tmp_path)) is False
    assert output(run_status.look(folder)).startswith(f"{what} seed 0")


@pytest.mark.parametrize(
    ("error", "made", "left"),
    [
        (UserError("no"), False, False),
        (UserError("no"), True, True),
        (ValueError("no"), False, True),
        (KeyboardInterrupt(), False, True),
    ],
)
def test_a_run_refused_before_it_began_is_no_run(
    tmp_path: Path, error: BaseException, made: bool, left: bool
) -> None:
    folder = tmp_path / "runs" / "a" / "b"
    (folder / ".hydra").mkdir(parents=True)
    (folder / "spot.log").touch()

    def run() -> None:
        with runs.recorded("run", compose.compose([]), folder):
            if made:
                (folder / "run.json").write_text(json.dumps({"status": "running", "stages": [{}]}))
            raise error

    with pytest.raises(type(error)):
        run()
    assert folder.exists() == left
    assert len(run_status.find(tmp_path)) == left


def test_a_refused_repetition_leaves_the_record_of_the_run_before(tmp_path: Path) -> None:
    run = listed_run(tmp_path, 1)
    kept = (run / "run.json").read_bytes()
    with (
        pytest.raises(UserError, match="no"),
        runs.recorded("select", compose.compose([]), run),
    ):
        raise UserError("no")
    assert (run / "run.json").read_bytes() == kept


def test_newest_and_numbers_name_a_run_in_every_command(tmp_path: Path) -> None:
    old, new = listed_run(tmp_path / "outputs", 1), listed_run(tmp_path / "outputs", 2)
    for name, folder in (("newest", new), ("1", new), ("2", old)):
        folder = folder.relative_to(tmp_path)
        for command in ("compare", "report", "pairs", "evaluate"):
            said = spot(tmp_path, command, name).stderr
            assert str(folder) in said, f"{command} {name}"
        assert "dpo" in spot(tmp_path, "show", name).stdout
    assert "lists 2" in spot(tmp_path, "compare", "7").stderr
    (tmp_path / "7").mkdir()  # a folder of that name wins
    assert "7 holds no scores" in spot(tmp_path, "compare", "7").stderr


def test_benchmarks_beyond_the_defaults_are_named_without_their_keys(tmp_path: Path) -> None:
    chosen = ["benchmarks=paper", "benchmarks.tasks.math500.trials=2"]
    with runs.recorded("run", compose.compose(chosen), tmp_path):
        pass
    text = " ".join(output(run_status.look(tmp_path)).split())
    assert "benchmarks.name=paper" in text
    assert "benchmarks.tasks.ifeval.name=ifeval" in text
    assert "ifeval.family" not in text
    assert len(text) < 2000


def test_only_the_states_that_are_asked_for(tmp_path: Path) -> None:
    listed_run(tmp_path, 1)
    assert "44.0" in listing(tmp_path, ["complete"])
    assert "no run that is failed" in listing(tmp_path, ["failed"])
    for arguments, message in [
        ([f"output={tmp_path}", "status=done"], "status=done is unknown"),
        ([f"output={tmp_path / 'no'}"], "is not a folder"),
        (["colour=red"], "colour=red is unknown to spot runs"),
    ]:
        with pytest.raises(UserError, match=message):
            display.runs(arguments)


# ---- files that others are writing -------------------------------------------------------------


@pytest.mark.parametrize("name", ["run.json", "scores.csv", "jobs.json"])
def test_half_written_files_are_not_there_yet(tmp_path: Path, name: str) -> None:
    run = listed_run(tmp_path, 1)
    whole = (run / ("scores.csv" if name == "scores.csv" else "run.json")).read_text()
    (run / name).write_text(whole[: len(whole) // 2])
    (run / "job.log").write_bytes(b"\xff torn \xe2\x82")
    for one in run_status.find(tmp_path):
        assert output(one)
    assert listing(tmp_path)


@pytest.mark.parametrize(
    "record",
    [
        {"status": 5, "config": 7},
        {"products": {"checkpoint": 5}},
        {"stages": [5], "config": {"loss": 5}},
        {"started": [], "current": 7},
        {"seed": "x", "study": {}},
        {"started": "yesterday", "finished": None},
        [],
    ],
)
def test_a_record_of_other_types_hides_no_other_run(tmp_path: Path, record: Any) -> None:
    whole, run = listed_run(tmp_path, 1), listed_run(tmp_path, 2)
    kept = json.loads((run / "run.json").read_text()) if isinstance(record, dict) else []
    (run / "run.json").write_text(json.dumps(kept | record if record else record))
    for one in run_status.find(tmp_path):
        assert output(one)
    assert whole.name in listing(tmp_path)
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        run_record.read(run)


def test_names_are_text_and_no_markup(tmp_path: Path) -> None:
    name = "[red]x[/red] [link=file:///]y"
    run = run_status.look(listed_run(tmp_path, 1))
    job = {"overrides": [f"study={name}"], "error": name}
    sweep = SweepStatus(tmp_path, (RunStatus(tmp_path / name, "failed", {}, job),))
    assert "[red]x[/red]" in output(run, sweep)


def test_means_are_over_benchmarks() -> None:
    rows = [
        {"arm": "a", "domain": d, "accuracy": str(v), "difference": str(g)}
        for d, v, g in [("in_domain", 10, 1), ("in_domain", 30, 2), ("general", 80, -6)]
    ]
    means = run_status.means(rows)
    assert means["in_domain"] == Mean(20.0, 1.5)
    assert means["average"] == Mean(40.0, -1.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (61, "1 min"), (7200, "2 h"), (90000, "1 d")]
)
def test_ages(seconds: float, text: str) -> None:
    assert display.age(1000.0, 1000.0 + seconds) == text


def graded(tmp_path: Path, *verdicts: str) -> RunStatus:
    """A finished `spot elicit` whose attempts have these verdicts."""
    config, folder = compose.compose([f"output={tmp_path}"]), tmp_path / "runs" / "a"
    run = Run(config, folder)
    rows = [
        Attempt(
            *(f"q{i}#0", f"q{i}", 0, "t", f"What is {i}? Say it.", "1"),
            *(f"Let me think {i}.\n" + "again " * 100 + f"\x1b[2Jend {i}", "stop", 640 + i),
            *(None, verdict, "m", 0),
        )
        for i, verdict in enumerate(verdicts)
    ]
    target = artifacts.product(run.root, "elicit", {})
    with runs.recorded("elicit", config, folder):
        make = partial(artifacts.compute_rows, target, Attempt, lambda done, counts: rows)
        run.stage("attempts", target, make)
        run.complete()
    return run_status.look(folder)


def test_three_responses_of_each_kind_that_was_not_graded_are_shown(tmp_path: Path) -> None:
    kinds = [*["correct"] * 2, "wrong", *["unparseable"] * 4, *["truncated"] * 2]
    text = output(graded(tmp_path, *kinds))
    assert "unparseable: 4 of 9 responses" in text
    assert "truncated: 2 of 9 responses" in text
    shown = re.findall(r"(q\d#0), 64(\d) tokens, asked: What is (\d)\? Say it\.", text)
    assert shown == [(f"q{i}#0", str(i), str(i)) for i in (7, 8, 3, 4, 5)]
    assert re.search(r"Let me think 3\. again .* \[…\] .*again end 3", text)
    assert "\x1b[2J" not in text


@pytest.mark.parametrize("damage", ["gone", "folder", "torn"])
def test_a_damaged_product_hides_nothing_else(tmp_path: Path, damage: str) -> None:
    run = graded(tmp_path, "unparseable", "truncated")
    rows = run.products["attempts"] / artifacts.ROWS
    if damage == "torn":
        rows.write_text(rows.read_text()[:-40])
    else:
        rows.unlink()
    if damage == "folder":
        rows.mkdir()
    assert "unparseable: 1 of 2 responses" in output(run)


def test_where_all_is_graded_nothing_is_shown(tmp_path: Path) -> None:
    assert "for example" not in output(graded(tmp_path, "correct", "wrong"))
