"""Who works in a run's folder: the lock, who outlives it, and what the disk refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from spot.pipeline import heartbeat

SECONDS = 200.0  # until something must have happened, on a machine that is busy with other tests


def test_a_lock_that_a_child_inherited_is_no_life(tmp_path: Path) -> None:
    code = (
        "import os, time\nfrom pathlib import Path\nfrom spot import presence\n"
        f"with presence.kept(Path({str(tmp_path)!r}), {{}}):\n"
        "    if os.fork() == 0:\n        time.sleep(30)\n        os._exit(0)\n"
        "    print('there', flush=True)\n    time.sleep(30)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        process.kill()
        process.wait(SECONDS)
        there = heartbeat.read(tmp_path)
        assert there is not None
        assert not there.alive
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout and process.stdout.close()


def test_nobody_waits_for_a_child_of_who_is_gone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import os, time\nfrom pathlib import Path\nfrom spot import presence\n"
        f"with presence.kept(Path({str(tmp_path)!r}), {{}}):\n"
        "    if os.fork() == 0:\n        time.sleep(100)\n        os._exit(0)\n"
        "    print('there', flush=True)\n    time.sleep({seconds})\n    os._exit(1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code.replace("{seconds}", "3")],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        ends = threading.Timer(3, process.wait)  # a zombie would still count as alive
        ends.start()
        with heartbeat.kept(tmp_path, {}):  # not before it is gone, not as late as its child
            assert process.wait(SECONDS) == 1
            there = heartbeat.read(tmp_path)
            assert there is not None
            assert (there.alive, there.pid) == (True, os.getpid())
        assert f"waiting for process {process.pid} on" in capfd.readouterr().err
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout and process.stdout.close()


def test_a_full_disk_does_not_hide_why_a_run_failed(tmp_path: Path) -> None:
    (tmp_path / heartbeat.PROCESS).symlink_to("/dev/full")
    with pytest.raises(ValueError, match="the reason"), heartbeat.kept(tmp_path, {}):
        raise ValueError("the reason")


def test_a_run_needs_no_lock_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = False
    with heartbeat.kept(tmp_path / "file" / "run", {}):
        ran = True
    assert ran


@pytest.mark.parametrize(
    ("logs", "rounds", "run"),
    [("o/a/round1", 2, "o/a"), ("o/a", 2, "o/a"), ("o/round1", 1, "o/round1")],
)
def test_progress_of_every_round_is_noted_in_the_runs_own_folder(
    logs: str, rounds: int, run: str
) -> None:
    assert heartbeat.run_folder(Path(logs), rounds) == Path(run)
