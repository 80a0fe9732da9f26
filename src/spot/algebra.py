"""Equality of mathematical answers by algebra: math-verify in worker processes that can be killed.

LaTeX from a language model is hostile input: `10^{10^{10}}` computes forever inside one bytecode,
where no signal arrives. So every comparison runs in a process of its own interpreter, with
math-verify's limits inside, a limit on memory, and a deadline after which it is killed and replaced.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import TextIO

INNER_SECONDS = 3  # math-verify's limit for each parse and for the comparison
OUTER_SECONDS = 12.0  # then the worker is killed
START_SECONDS = 120.0  # to import SymPy on a busy machine
WORKER_BYTES = 2 << 30  # address space of a worker: a tower of powers must not eat the machine
PAIRS_PER_WORKER = 16  # below that, one more process costs more than it saves


class AlgebraPool:
    """Worker processes, started only when something is asked; usable from any thread."""

    def __init__(self, workers: int | None = None, seconds: float = OUTER_SECONDS) -> None:
        self.workers = workers or os.cpu_count() or 1
        self.seconds = seconds
        self._staff: list[_Worker] = []
        self._lock = threading.Lock()

    @property
    def started(self) -> int:
        """How many processes there are."""
        return len(self._staff)

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            while self._staff:
                self._staff.pop().kill()

    def equals(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """Whether each (answer, truth) is equal; None where it took too long or broke its worker."""
        with self._lock:
            return self._share_out(pairs) if pairs else []

    def _share_out(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """Hand the pairs to the workers one by one; a worker past its deadline is replaced."""
        results: list[bool | None] = [None] * len(pairs)
        queue = iter(enumerate(pairs))
        busy: dict[_Worker, tuple[int, float]] = {}
        for worker in self._hire(min(self.workers, 1 + len(pairs) // PAIRS_PER_WORKER)):
            self._assign(worker, queue, busy)
        try:
            while busy:
                soonest = min(due for _, due in busy.values())
                ready = wait(
                    [w.replies.fileno() for w in busy], max(0.0, soonest - time.monotonic())
                )
                for worker, (index, due) in list(busy.items()):
                    if worker.replies.fileno() in ready:
                        results[index] = worker.reply()
                    elif time.monotonic() < due:
                        continue
                    else:
                        worker.kill()
                    del busy[worker]
                    if not worker.alive:
                        self._staff.remove(worker)
                        (worker,) = self._hire(1, among=busy)
                    self._assign(worker, queue, busy)
        finally:
            for worker in busy:  # after an interruption: their replies would answer other questions
                worker.kill()
                self._staff.remove(worker)
        return results

    def _hire(
        self, count: int, among: dict[_Worker, tuple[int, float]] | None = None
    ) -> list[_Worker]:
        """`count` idle workers, started (all at once) where they are missing."""
        for worker in [w for w in self._staff if w not in (among or {}) and w.has_died()]:
            worker.kill()
            self._staff.remove(worker)
        idle = [worker for worker in self._staff if worker not in (among or {})]
        new = [_Worker() for _ in range(count - len(idle))]
        self._staff += new
        for worker in new:
            worker.wait_until_ready()
        return (idle + new)[:count]

    def _assign(
        self,
        worker: _Worker,
        queue: Iterator[tuple[int, tuple[str, str]]],
        busy: dict[_Worker, tuple[int, float]],
    ) -> None:
        for index, pair in queue:
            worker.ask(pair)
            busy[worker] = (index, time.monotonic() + self.seconds)
            return


class _Worker:
    """A fresh interpreter running this module: it imports SymPy, never torch or the caller's main."""

    def __init__(self) -> None:
        source = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "spot.algebra"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self.replies = self._process.stdin, self._process.stdout
        self.alive = True

    def wait_until_ready(self) -> None:
        if not wait([self.replies.fileno()], START_SECONDS) or self.reply() is not True:
            self.kill()
            raise RuntimeError(
                "the answer-checking process did not start: try `python -m spot.algebra`"
            )

    def ask(self, pair: tuple[str, str]) -> None:
        with contextlib.suppress(OSError):  # it has died; reading its reply will notice
            self._requests.write(json.dumps(pair) + "\n")
            self._requests.flush()

    def reply(self) -> bool | None:
        line = self.replies.readline()
        if not line:
            self.kill()
            return None
        return json.loads(line)

    def has_died(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        self.alive = False
        self._process.kill()
        self._process.wait()
        self.replies.close()
        with contextlib.suppress(OSError):
            self._requests.close()


def _serve(requests: TextIO, replies: TextIO) -> None:
    """A worker's life: one JSON pair a line in, true, false or null out."""
    resource.setrlimit(resource.RLIMIT_AS, (WORKER_BYTES, WORKER_BYTES))
    _math_verify("x+1", "1+x")  # imports everything before the first clock starts
    print("true", file=replies, flush=True)
    for line in requests:
        # Ends this process even while one bytecode computes forever, should the parent be gone.
        faulthandler.dump_traceback_later(OUTER_SECONDS + 5, exit=True)
        answer, truth = json.loads(line)
        print(json.dumps(_math_verify(answer, truth)), file=replies, flush=True)
        faulthandler.cancel_dump_traceback_later()


def _math_verify(answer: str, truth: str) -> bool | None:
    """math-verify on our own box (it takes any number outside one, and merges neighbouring ones)."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
    from math_verify.errors import TimeoutException

    rules = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    try:
        gold, given = (
            parse(
                f"\\boxed{{{text}}}",
                extraction_config=rules,
                parsing_timeout=INNER_SECONDS,
                raise_on_error=True,
            )
            for text in (truth, answer)
        )
        return bool(verify(gold, given, timeout_seconds=INNER_SECONDS, raise_on_error=True))
    except (TimeoutException, MemoryError, RecursionError):
        return None
    except Exception:  # SymPy raises nearly anything on what is no mathematics
        return False


if __name__ == "__main__":
    own_stdout = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the parser prints
    _serve(sys.stdin, own_stdout)
