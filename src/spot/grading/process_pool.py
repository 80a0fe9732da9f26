"""A pool of processes that can be killed: a time limit and a memory limit for every task.

Language models write LaTeX like `10^{10^{10}}`, which computes for ever inside one bytecode where no
signal handler runs, and texts that keep a regular expression busy for hours.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import Any

from pebble import ProcessPool

TASKS_PER_WORKER = 16  # fewer tasks are done sooner than another process has started
ORPHAN_SECONDS = 5.0  # after its time limit a worker without a parent ends itself
LOOK_SECONDS = 1.0  # between two looks at whether the pool is broken
_swapping_main = threading.Lock()


class _Process(SpawnProcess):
    """A fresh interpreter that does not import the caller's `__main__`, a training script perhaps."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802
        process_obj.daemon = True  # ended with its parent, a forked one too
        with _swapping_main:
            main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
            try:
                return SpawnProcess._Popen(process_obj)  # type: ignore[attr-defined]
            finally:
                sys.modules["__main__"] = main


class _Context(SpawnContext):
    Process = _Process  # type: ignore[assignment]


class WorkerPool:
    """Calls one function in worker processes, which are started by the first call; from any thread.

    prepare: called in each new worker, before any clock runs. seconds: limit for each call.
    memory: address space of a worker, in bytes. workers: at most so many (None: one for each core).
    """

    def __init__(
        self,
        function: Callable[..., Any],
        prepare: Callable[[], object],
        seconds: float,
        memory: int | None = None,
        workers: int | None = None,
    ) -> None:
        self.function, self.prepare = function, prepare
        self.seconds, self.memory = seconds, memory
        self.workers = workers or os.cpu_count() or 1
        self._lock = threading.Lock()
        self._pool: ProcessPool | None = None
        self._size = self._owner = 0

    @property
    def started(self) -> int:
        """How many workers there are."""
        return self._size

    def map(self, tasks: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The function's value for each tuple of arguments, in order, or the exception in its place.

        TimeoutError: past the limit. ProcessExpired: the worker died. MemoryError and others: its own.
        Raises RuntimeError when no worker can be started.
        """
        with self._lock:
            try:
                try:
                    return self._run(tasks) if tasks else []
                except BrokenProcessPool:  # an idle worker was killed by somebody else
                    self._stop()
                    return self._run(tasks)
            except BrokenProcessPool as error:
                self._stop()
                where = f"{self.prepare.__module__}.{self.prepare.__name__}"
                raise RuntimeError(f"the checking processes did not start (in {where})") from error
            except BaseException:  # an interruption: nobody waits for what is running
                self._stop()
                raise

    def close(self) -> None:
        """End the workers; the next call starts others."""
        with self._lock:
            self._stop()

    def _run(self, tasks: Sequence[tuple[Any, ...]]) -> list[Any]:
        pool = self._ready(min(self.workers, 1 + len(tasks) // TASKS_PER_WORKER))
        calls = [(self.function, self.seconds, task) for task in tasks]
        try:
            futures = [pool.schedule(_call, call, timeout=self.seconds) for call in calls]
        except RuntimeError as error:  # it broke meanwhile
            raise BrokenProcessPool from error
        # a broken pool forgets the tasks that it has not written to its workers' pipe
        while wait(futures, LOOK_SECONDS).not_done:
            if not pool.active:
                raise BrokenProcessPool
        results = [future.exception() or future.result() for future in futures]
        for result in results:
            if isinstance(result, BrokenProcessPool):
                raise result
        return results

    def _ready(self, size: int) -> ProcessPool:
        """A running pool of at least this many workers, of this process and not of one it was forked from."""
        if self._owner != os.getpid():
            self._pool = None
        if self._pool is None or self._size < size or not self._pool.active:
            self._stop()
            arguments = (self.prepare, self.memory)
            self._pool = ProcessPool(
                size, initializer=_prepare, initargs=arguments, context=_Context()
            )
            self._size, self._owner = size, os.getpid()
        return self._pool

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
        self._pool, self._size = None, 0


def _prepare(prepare: Callable[[], object], memory: int | None) -> None:
    """The beginning of a worker's life. It is silent afterwards: parsers print."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ends it also inside of one bytecode
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    prepare()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)


def _call(function: Callable[..., Any], seconds: float, arguments: tuple[Any, ...]) -> Any:
    """One call. Should the parent have been killed, a C thread ends this process in the end."""
    faulthandler.dump_traceback_later(seconds + ORPHAN_SECONDS, exit=True)
    try:
        return function(*arguments)
    except Exception as error:
        pickle.loads(
            pickle.dumps(error)
        )  # one that cannot be read would break the pool: raises here
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()
