"""What a person sees when a rank fails or the command is stopped, and that the same command goes on."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.distributed import commands
from tests.distributed.commands import Started, train

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(600)]
SECONDS = 60  # from a failure to the end; a rank that hangs is given 5 of them

LONGER = "loss.epochs=2"  # 20 steps

# Every Python process of the command loads this: rank 1 makes no step of training faster than a test
# can look, and fails in its third one if it is told to.
SLOW = """
import os, time

if os.environ.get("RANK") == "1":
    from spot.training.module import PairModule

    step, seen = PairModule.training_step, []

    def slow(self, batch, *rest):
        time.sleep(0.3)
        seen.append(batch)
        if os.environ.get("UNLUCKY") and len(seen) == 3:
            raise ValueError("the third step is unlucky")
        return step(self, batch, *rest)

    PairModule.training_step = slow
"""


@pytest.fixture
def folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, prerequisites: None) -> Path:
    """Where only training and what follows is left to do."""
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    return commands.prepared(tmp_path_factory.getbasetemp(), tmp_path)


def ended(
    folder: Path, after: int, stop: Callable[[Started], None]
) -> tuple[int, list[str], float]:
    """Start the command, `stop` it after a state of step `after` or later, and wait until it ends.

    Returns its exit code, its lines and the seconds from `stop` to the end of the last process.
    """
    with commands.start(folder, train(LONGER), {"PYTHONPATH": str(folder)}) as started:
        started.until(lambda: max(commands.states(folder), default=0) >= after)
        stop(started)
        began = time.monotonic()
        code = started.ends(SECONDS)
        assert not started.left(5)
        return code, started.lines(), time.monotonic() - began


def resumed_at(lines: list[str]) -> int:
    """After which step the command went on."""
    (line,) = (line for line in lines if "goes on after step" in line)
    return int(line.rstrip(".").split()[-1])


def kill_rank_1(started: Started) -> None:
    """SLURM's warning before a job's time is over, which submitit answers, does not."""
    ranks = [started.rank(0), started.rank(1)]
    for rank in ranks:
        rank.send_signal(signal.SIGUSR2)
    time.sleep(0.5)
    assert all(rank.is_running() for rank in ranks)
    ranks[1].kill()


def kill_rank_1_while_rank_0_hangs(started: Started) -> None:
    started.rank(0).suspend()
    started.rank(1).kill()


def test_a_rank_that_dies_ends_the_command(folder: Path) -> None:
    """… also where the others never notice; and each time the same command goes on."""
    for after, stop in ((2, kill_rank_1), (4, kill_rank_1_while_rank_0_hangs)):
        code, lines, seconds = ended(folder, after, stop)
        assert code == 1
        assert lines[-1] == (
            "spot: rank 1 was ended by SIGKILL; the same command goes on from here."
        )
        print(f"{stop.__name__}: {seconds:.1f} s")
    assert resumed_at(lines) >= 2

    before = resumed_at(lines)
    more = {"PYTHONPATH": str(folder), "UNLUCKY": "1"}
    with commands.start(folder, train(LONGER), more) as started:
        assert started.ends() == 1
        assert not started.left(5)
        lines = started.lines()
    assert lines[-1] == "ValueError: the third step is unlucky"
    assert "spot: rank 1 failed:" in lines
    assert resumed_at(lines) > before

    before = resumed_at(lines)
    # the state of the second step was being written
    assert resumed_at(commands.finish(folder, train(LONGER))) - before in (1, 2)
    assert [run["status"] for run in commands.runs(folder)] == ["failed"] * 3 + ["complete"]


def parent_by(number: signal.Signals) -> Callable[[Started], None]:
    return lambda started: started.process.send_signal(number)


def test_a_command_that_is_stopped_takes_its_ranks_along(folder: Path) -> None:
    """… and tells so in one line where it can; stopped again and again, it still gets on."""
    before = 0
    for after, number, expected, words in (
        (1, signal.SIGINT, 130, "spot: interrupted; the same command goes on from here."),
        (3, signal.SIGTERM, 143, "ended by SIGTERM; the same command goes on from here."),
        (5, signal.SIGKILL, -signal.SIGKILL, None),
    ):
        code, lines, seconds = ended(folder, after, parent_by(number))
        print(f"{number.name}: {seconds:.1f} s")
        assert code == expected
        assert "Traceback" not in "\n".join(lines)
        if words:
            assert lines[-1] == words
        if before:
            assert resumed_at(lines) >= before
        before = after


def test_a_mistake_ends_all_ranks_in_one_line(folder: Path) -> None:
    for file in folder.glob("outputs/products/select/*/rows.jsonl"):
        file.write_text(file.read_text().replace("question", "Question"))
    with commands.start(folder, train(LONGER)) as started:
        assert started.ends() == 2
        assert not started.left(5)
    last = started.lines()[-1]
    assert last.startswith("spot: ")
    assert "rows.jsonl does not match its manifest" in last
    assert last.endswith("and run the command again.")
    assert "Traceback" not in started.text()
