"""Hostile work in worker processes: limits, deaths, threads, forks, and nothing that stays behind."""

import multiprocessing
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from pebble import ProcessExpired

from spot.grading.process_pool import WorkerPool
from tests.unit.process_pool_functions import fail, nothing, work

ROOT = Path(__file__).parents[2]


OTHERS = set()


@pytest.fixture(scope="module")
def pool():
    shared = WorkerPool(work, nothing, seconds=2.0, memory=2 << 30, workers=2)
    yield shared
    shared.close()
    assert not workers()


@pytest.fixture(scope="module", autouse=True)
def _others():
    """Workers of other tests in this process are not looked at."""
    OTHERS.update(workers())


def workers():
    """The worker processes that these tests have started."""
    found = [process for process in psutil.Process().children() if process not in OTHERS]
    return [process for process in found if "multiprocessing.spawn" in " ".join(process.cmdline())]


def test_hostile_work_comes_back_as_an_error_and_all_else_as_ever(pool):
    asked = ["a", "hang", "memory", "exit3", "exit0", "error", "unreadable", "b"]
    began = time.monotonic()
    found = pool.map([(what,) for what in asked])
    kinds = [str, TimeoutError, MemoryError, ProcessExpired, TimeoutError, KeyError, TypeError, str]
    assert [type(result) for result in found] == kinds
    assert (found[0], found[-1]) == ("a", "b")
    assert time.monotonic() - began < 30


def test_an_idle_worker_that_was_killed_is_replaced(pool):
    assert pool.map([("a",)]) == ["a"]
    for process in workers():
        process.kill()
    assert pool.map([("b",)] * 40) == ["b"] * 40
    assert pool.started == 2


def test_threads_and_forks_do_not_matter(pool):
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda n: pool.map([(str(n),)]), range(20))) == [
            [str(n)] for n in range(20)
        ]
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(pool.map([("forked",)])))
    child.start()
    assert queue.get() == ["forked"]
    child.join(20)
    assert child.exitcode == 0
    assert pool.map([("a",)]) == ["a"]


@pytest.mark.parametrize("count", [1, 2000], ids=["one", "more than a pipe holds"])
def test_workers_that_cannot_be_prepared_are_an_error(count):
    with pytest.raises(RuntimeError, match=r"process_pool_functions\.fail"):
        WorkerPool(work, fail, seconds=2.0, workers=1).map([("a" * 100,)] * count)


SCRIPT = """
import sys; sys.path.insert(0, {root!r})
print("main")  # not guarded: a worker that imported this would say it, and start workers itself
from spot.grading.process_pool import WorkerPool
from tests.unit.process_pool_functions import nothing, work
pool = WorkerPool(work, nothing, seconds={seconds}, workers=1)
print(pool.map([({what!r},)]), flush=True)
"""


def test_the_caller_s_main_is_not_run_again(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(root=str(ROOT), seconds=20, what="main"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)  # fmt: skip
    assert done.stdout.splitlines() == ["main", "[None]"]


def test_no_worker_outlives_a_killed_parent(tmp_path):
    """The busy one ends itself soon after its limit: no signal handler runs in its one bytecode."""
    script, busy = tmp_path / "train.py", tmp_path / "pid"
    script.write_text(SCRIPT.format(root=str(ROOT), seconds=1, what=str(busy)))
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not busy.exists() or not busy.read_text():
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        parent.kill()
        parent.wait()
    worker = int(busy.read_text())
    while psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.05)
