"""A run that is stopped or killed ends as if it had not been."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from spot.config import HardwareConfig, ProbeConfig, SaveConfig
from spot.training.checkpoint import Checkpoints, MetricsTable
from spot.training.loop import RunOptions, TrainResult, train
from spot.training.staging import Staging
from spot.utils.errors import Terminated, UserError
from tests.support.processes import killed
from tests.unit.runs import loss, rows, weights, without_timings


class StoppedError(Exception):
    """The run ends here."""


def stop_at(step: int) -> Any:
    """An ability probe that ends the run when it is called for the `step`-th time after the start."""
    calls = iter(range(1000))

    def probe(model: Any) -> dict[str, float]:
        if next(calls) == step:
            raise StoppedError
        return {"zero": 0.0}

    return probe


@pytest.mark.parametrize(("name", "precision"), [("bco", "fp32"), ("sft", "fp32"), ("bco", "bf16")])
@pytest.mark.parametrize(("save_every", "stop", "resumes_at"), [(2, 5, 4), (1, 3, 2), (3, 4, 3)])
def test_a_stopped_run_ends_as_if_it_had_not_been(
    name: str,
    precision: str,
    save_every: int,
    stop: int,
    resumes_at: int,
    tiny_policy: Path,
    pairs: list[Any],
    held_out: list[Any],
    tmp_path: Path,
) -> None:
    def run(out: str, probe: Any) -> TrainResult:
        hardware = HardwareConfig(precision=precision, checkpoint_layers="01"[precision == "bf16"])
        options = RunOptions(
            hardware=hardware,
            save=SaveConfig(every=save_every),
            ability_probe=probe,
            probe=ProbeConfig(ability_every=1),
        )
        return train(tiny_policy, tmp_path / out, pairs, held_out, loss(name), 3, options)

    run("whole", stop_at(-1))
    with pytest.raises(StoppedError):
        run("stopped", stop_at(stop))
    kept = [path.name for path in (tmp_path / "stopped" / "resume").iterdir()]
    assert kept == [f"step_{resumes_at:08d}"]
    assert run("stopped", stop_at(-1)).resumed_at == resumes_at
    wanted, got = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[k], got[k]) for k in wanted)
    assert without_timings(tmp_path / "stopped") == without_timings(tmp_path / "whole")


@pytest.mark.parametrize("how", [KeyboardInterrupt, Terminated(143), SystemExit(7)], ids=repr)
def test_what_ends_a_training_is_what_its_caller_sees(
    how: Any, tiny_policy: Path, pairs: list[Any], held_out: list[Any], tmp_path: Path
) -> None:
    """Lightning exits with 1 for Ctrl-C and ignores any later one."""

    def probe(model: Any) -> dict[str, float]:
        raise how

    before = signal.getsignal(signal.SIGINT)
    options = RunOptions(ability_probe=probe, probe=ProbeConfig(ability_every=1))
    with pytest.raises(how if isinstance(how, type) else type(how)) as caught:
        train(tiny_policy, tmp_path, pairs, held_out, loss("bco"), 0, options)
    assert getattr(caught.value, "code", None) == getattr(how, "code", None)
    assert signal.getsignal(signal.SIGINT) is before


def test_state_of_another_run_is_refused(
    tiny_policy: Path, pairs: list[Any], held_out: list[Any], tmp_path: Path
) -> None:
    options = RunOptions(
        save=SaveConfig(every=1), ability_probe=stop_at(3), probe=ProbeConfig(ability_every=1)
    )
    with pytest.raises(StoppedError):
        train(tiny_policy, tmp_path, pairs, held_out, loss("bco"), 0, options)
    with pytest.raises(UserError, match="belongs to another run"):
        train(tiny_policy, tmp_path, pairs, held_out, loss("bce"), 0, RunOptions())


RUNS = """
import json, sys
from pathlib import Path
from spot.config import LossConfig, SaveConfig
from spot.data.rows import Pair
from spot.training.loop import RunOptions, train

policy, data, *outs = map(Path, sys.argv[1:])
pairs = [Pair(**row) for row in json.loads(data.read_text())]
for out in outs:
    loss = LossConfig("bco", beta=0.1, learning_rate=3e-3, epochs=20, batch_pairs=4)
    options = RunOptions(save=SaveConfig(every=7))
    train(policy, out, pairs, pairs[:4], loss, 0, options)
"""


@pytest.mark.slow
def test_a_killed_process_resumes_bit_for_bit(
    tiny_policy: Path, pairs: list[Any], tmp_path: Path
) -> None:
    """SIGKILL somewhere in the middle, then the same command: 100 steps, each once."""
    data = tmp_path / "pairs.json"
    data.write_text(json.dumps([dataclasses.asdict(pair) for pair in pairs]))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    command = [sys.executable, "-c", RUNS, str(tiny_policy), str(data)]
    table = stopped / "metrics.csv"

    def forty_rows() -> bool:
        return table.exists() and table.read_bytes().count(b"\n") > 40

    assert killed([*command, str(whole), str(stopped)], tmp_path, forty_rows)
    assert list((stopped / "resume").glob("step_*/state.ckpt"))
    subprocess.run([*command, str(stopped)], check=True, timeout=200)
    wanted, got = weights(whole), weights(stopped)
    assert all(torch.equal(wanted[k], got[k]) for k in wanted)
    assert without_timings(stopped) == without_timings(whole)
    assert len(rows(stopped)) == 101


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "one bit": lambda state: flip(state / "state.ckpt"),
    "cut": lambda state: os.truncate(state / "state.ckpt", 1000),
    "gone": lambda state: (state / "state.ckpt").unlink(),
    "digests": lambda state: (state / "digests.json").write_text("[]"),
}


@pytest.fixture(scope="module")
def stopped(tiny_policy: Path, pairs: list[Any], tmp_path_factory: Any) -> Path:
    """A training that ended after step 3 of several, its state that after step 2."""
    out: Path = tmp_path_factory.mktemp("stopped")
    options = RunOptions(
        save=SaveConfig(every=1), ability_probe=stop_at(3), probe=ProbeConfig(ability_every=1)
    )
    with pytest.raises(StoppedError):
        train(tiny_policy, out, pairs, pairs[:2], loss("bco"), 0, options)
    return out


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_left_out(stopped: Path, tmp_path: Path, damage: str) -> None:
    """Training goes on from the state before, if a kill has left it, else from the start."""
    resume = tmp_path / "resume"
    shutil.copytree(stopped / "resume", resume)
    checkpoints = Checkpoints(resume)
    last = checkpoints.latest()
    assert last == (2, resume / "step_00000002" / "state.ckpt")
    shutil.copytree(last[1].parent, resume / "step_00000001")
    DAMAGE[damage](last[1].parent)
    assert checkpoints.latest() == (1, resume / "step_00000001" / "state.ckpt")
    assert list(checkpoints.damaged) == [2]
    shutil.rmtree(resume / "step_00000001")
    assert checkpoints.latest() is None


def test_until_a_state_is_whole_the_one_before_is_the_last(tmp_path: Path) -> None:
    """Steps go on while it is written, and a kill leaves what lies there at the moment."""
    checkpoints, may_end = Checkpoints(tmp_path / "resume"), threading.Event()

    def take(path: Path, text: str) -> Any:
        return lambda: may_end.wait(60) and path.write_text(text)

    may_end.set()
    checkpoints.save(1, partial(take, text="one"))
    checkpoints.finish()
    may_end.clear()
    checkpoints.save(2, partial(take, text="two"))
    assert not checkpoints.advance()
    shutil.copytree(tmp_path / "resume", tmp_path / "killed" / "resume")
    may_end.set()
    checkpoints.finish()
    assert checkpoints.advance()
    (kept,) = (tmp_path / "resume").iterdir()
    assert checkpoints.latest() == (2, kept / "state.ckpt")

    killed = Checkpoints(tmp_path / "killed" / "resume")
    step, state = killed.latest()  # type: ignore[misc]
    assert (step, state.read_text()) == (1, "one")
    killed.save(3, partial(take, text="three"))  # what the kill left of step 2 goes
    killed.finish()
    assert [path.name for path in killed.folder.iterdir()] == ["step_00000003"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(28, "No space left on device"),
            r"state after step 4 could not be .*No space.* free",
        ),
        (ValueError("what is this"), "what is this"),
    ],
)
def test_what_ends_the_writing_ends_the_training(
    tmp_path: Path, error: Exception, said: str
) -> None:
    checkpoints = Checkpoints(tmp_path)

    def fail() -> None:
        raise error

    checkpoints.save(4, lambda path: fail)
    with pytest.raises(UserError if isinstance(error, OSError) else ValueError, match=said):
        checkpoints.finish()
    assert checkpoints.latest() is None


@pytest.mark.parametrize("room", [True, False])
def test_a_state_is_that_of_its_step_whatever_moves_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, room: bool
) -> None:
    """Copied, or written at once where a copy of 8 bytes would be too much for the host."""
    free = namedtuple("free", "available")(9 if room else 8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    moved, nested = torch.zeros(1), {"step": 7}
    state = {"moved": moved, "again": moved, "nested": nested}
    staging = Staging(HardwareConfig())
    staging.add(state, tmp_path / "state.ckpt")
    assert (tmp_path / "state.ckpt").exists() is not room
    moved += 1
    nested["step"] = 8
    staging.write()
    assert torch.load(tmp_path / "state.ckpt") == {
        "moved": torch.zeros(1),
        "again": torch.zeros(1),
        "nested": {"step": 7},
    }
    assert ("has no room for a copy" in capsys.readouterr().err) is not room


@pytest.mark.parametrize(("minutes", "kept"), [(0.0, ["step_00000004"]), (10.0, [])])
def test_states_come_by_minutes_and_none_comes_with_the_trained_model(
    tiny_policy: Path, pairs: list[Any], tmp_path: Path, minutes: float, kept: list[str]
) -> None:
    """Five steps: with no time between states any of them has one, but for the last."""
    options = RunOptions(save=SaveConfig(minutes=minutes))
    train(tiny_policy, tmp_path, pairs, pairs[:2], loss("bco"), 0, options)
    found = sorted(path.name for path in (tmp_path / "resume").glob("*"))
    assert len(found) == len(kept)
    assert all(name <= kept[0] for name in found)


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda part: os.truncate(part, 10)])
def test_every_rank_s_part_of_a_state_is_checked(tmp_path: Path, damage: Any) -> None:
    checkpoints = Checkpoints(tmp_path)

    def write(state: Path) -> None:
        for rank in range(2):
            (state / "checkpoint").mkdir(parents=True, exist_ok=True)
            (state / "checkpoint" / f"rank_{rank}.pt").write_bytes(os.urandom(4000))

    checkpoints.save(3, lambda state: partial(write, state))
    checkpoints.finish()
    (kept,) = tmp_path.iterdir()
    for _ in range(2):  # found right once, it is not read again
        time.sleep(0.12)
        assert checkpoints.latest() == (3, kept / "state.ckpt")
    damage(kept / "state.ckpt" / "checkpoint" / "rank_1.pt")
    assert checkpoints.latest() is None
    assert checkpoints.damaged == {3: "state.ckpt/checkpoint/rank_1.pt"}


def test_a_training_whose_state_is_damaged_starts_anew_and_says_so(
    stopped: Path, tiny_policy: Path, pairs: list[Any], tmp_path: Path, capsys: Any
) -> None:
    options = RunOptions(probe=ProbeConfig(ability_every=1), ability_probe=stop_at(-1))
    out = tmp_path / "out"
    shutil.copytree(stopped, out)
    flip(out / "resume" / "step_00000002" / "state.ckpt")
    assert train(tiny_policy, out, pairs, pairs[:2], loss("bco"), 0, options).resumed_at == 0
    assert "The state after step 2 is damaged (state.ckpt)" in "".join(capsys.readouterr())
    whole = tmp_path / "whole"
    train(tiny_policy, whole, pairs, pairs[:2], loss("bco"), 0, options)
    assert without_timings(out) == without_timings(whole)
    wanted, got = weights(whole), weights(out)
    assert all(torch.equal(wanted[k], got[k]) for k in wanted)


def test_a_state_of_before_digests_were_kept_is_used(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped / "resume", tmp_path / "resume")
    (tmp_path / "resume" / "step_00000002" / "digests.json").unlink()
    assert Checkpoints(tmp_path / "resume").latest()[0] == 2  # type: ignore[index]


@pytest.mark.parametrize(
    "text", [None, "", "step,loss\n0,1\n", "loss\n1\n", "\0" * 99, "step\n" + "x" * 200_000]
)
def test_a_damaged_table_stops_a_training_that_goes_on(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "metrics.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"has not all of the steps 0 to 3: delete"):
        MetricsTable(path, ["step", "loss"]).open_at(3)
