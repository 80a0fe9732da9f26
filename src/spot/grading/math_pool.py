"""Equality of mathematical answers by algebra: math-verify in worker processes that can be killed.

LaTeX from a language model is hostile input: `10^{10^{10}}` computes forever inside one bytecode,
where no signal arrives. So every comparison runs in a process of its own interpreter, with
math-verify's limits inside, a limit on memory, and a deadline after which it is killed and replaced.
It parses a few milliseconds an answer, so constants like `2\\sqrt{3}` are compared by their digits instead.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from decimal import Context, Decimal, DecimalException, localcontext
from functools import lru_cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple, TextIO

INNER_SECONDS = 3  # math-verify's limit for each parse and for the comparison
OUTER_SECONDS = 12.0  # then the worker is killed
START_SECONDS = 120.0  # to import SymPy on a busy machine
WORKER_BYTES = 2 << 30  # address space of a worker: a tower of powers must not eat the machine
PAIRS_PER_WORKER = 16  # below that, one more process costs more than it saves


class Comparison(NamedTuple):
    """Two answers to compare, floats rounded to `decimals` digits behind the point."""

    answer: str
    truth: str
    decimals: int = 6


# ---------------------------------------------------------------- constants, by their digits

DIGITS = 50
_LONGEST_CONSTANT = 80  # tokens; bounds the depth of the recursion, too
_LARGEST_EXPONENT = 999
_PI = Decimal("3.1415926535897932384626433832795028841971693993751058209749445923")
_TOKEN = re.compile(
    r"\s*(\\(?:frac|sqrt|pi|cdot|times)(?![a-z])|\d+(?:\.\d*)?|\.\d+|[-+*/^(){}\[\]])"
)
_AS_SIGN = {r"\cdot": "*", r"\times": "*"}


class _UnclearError(ValueError):
    """No constant, or one whose reading is a guess."""


def constant(text: str) -> Decimal | None:
    r"""The value of numbers, `\frac`, `\sqrt`, `\pi`, powers and + - * / (), to about 50 digits.

    None for anything else, and where LaTeX leaves open what is meant: `1/2\sqrt{3}`, `2^10`, `3 4`.
    """
    tokens = _tokens(text)
    if not tokens:
        return None
    try:
        with localcontext(Context(prec=DIGITS)):
            value = _sum(tokens)
    except (_UnclearError, DecimalException):
        return None
    return None if tokens else value


def _tokens(text: str) -> list[str]:
    """The tokens, the first one last; [] if there are too many or unknown ones."""
    tokens: list[str] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) == _LONGEST_CONSTANT:
            return []
        tokens.append(_AS_SIGN.get(match[1], match[1]))
        position = match.end()
    return tokens[::-1]


def _sum(tokens: list[str]) -> Decimal:
    total = Decimal(0)
    while True:
        sign = 1
        if tokens and tokens[-1] in ("+", "-"):
            sign = -1 if tokens.pop() == "-" else 1
        total += sign * _product(tokens)
        if not tokens or tokens[-1] not in ("+", "-"):
            return total


def _product(tokens: list[str]) -> Decimal:
    """Factors with or without a sign between them; `3\\frac{1}{2}` may be 3.5, `1/2(3)` anything."""
    before, divided = tokens[-1:], False
    value = _power(tokens)
    while tokens:
        sign = tokens[-1]
        if sign in ("*", "/"):
            tokens.pop()
            divided = sign == "/"
        elif sign in ("(", r"\frac", r"\sqrt", r"\pi"):
            mixed = sign == r"\frac" and before[0][0].isdigit()
            if divided or mixed:
                raise _UnclearError
            sign = "*"
        elif sign in ("+", "-", ")", "}", "]"):
            return value
        else:
            raise _UnclearError
        before = tokens[-1:]
        factor = _power(tokens)
        value = value / factor if sign == "/" else value * factor
    return value


def _power(tokens: list[str]) -> Decimal:
    base = _atom(tokens)
    if not tokens or tokens[-1] != "^":
        return base
    tokens.pop()
    if len(tokens[-1:]) == 1 and len(tokens[-1]) > 1 and tokens[-1][0].isdigit():
        raise _UnclearError  # 2^10 is 2^1 times 0 in LaTeX, and means 2^{10}
    exponent = _argument(tokens)
    if abs(exponent) > _LARGEST_EXPONENT:
        raise _UnclearError
    return base**exponent


def _atom(tokens: list[str]) -> Decimal:
    token = tokens.pop() if tokens else ""
    if token[:1].isdigit() or token[:1] == ".":
        return Decimal(token)
    if token in ("(", "{"):
        return _until({"(": ")", "{": "}"}[token], tokens)
    if token == r"\pi":
        return _PI
    if token == r"\frac":
        numerator = _argument(tokens)
        return numerator / _argument(tokens)
    if token == r"\sqrt":
        degree = Decimal(2)
        if tokens and tokens[-1] == "[":
            tokens.pop()
            degree = _until("]", tokens)
        if tokens and len(tokens[-1]) > 1 and tokens[-1][0].isdigit():
            raise _UnclearError  # \sqrt13
        radicand = _argument(tokens)
        return radicand.sqrt() if degree == 2 else radicand ** (1 / degree)
    raise _UnclearError


def _argument(tokens: list[str]) -> Decimal:
    r"""What LaTeX takes for a command's argument: a group, or one digit or command: `\frac43`."""
    if tokens and tokens[-1].isdigit() and len(tokens[-1]) > 1:
        number = tokens.pop()
        tokens.append(number[1:])
        return Decimal(number[0])
    if not tokens or tokens[-1] == "(":
        raise _UnclearError
    return _atom(tokens)


def _until(closing: str, tokens: list[str]) -> Decimal:
    value = _sum(tokens)
    if not tokens or tokens.pop() != closing:
        raise _UnclearError
    return value


# ---------------------------------------------------------------- everything else, by math-verify


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

    def equals(self, pairs: Sequence[Comparison]) -> list[bool | None]:
        """Whether each pair is equal; None where it took too long or broke its worker."""
        with self._lock:
            return self._share_out(pairs) if pairs else []

    def _share_out(self, pairs: Sequence[Comparison]) -> list[bool | None]:
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
        queue: Iterator[tuple[int, Comparison]],
        busy: dict[_Worker, tuple[int, float]],
    ) -> None:
        for index, pair in queue:
            worker.ask(pair)
            busy[worker] = (index, time.monotonic() + self.seconds)
            return


class _Worker:
    """A fresh interpreter running this module: it imports SymPy, never torch or the caller's main."""

    def __init__(self) -> None:
        source = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "spot.grading.math_pool"],
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
                "the answer-checking process did not start: try `python -m spot.grading.math_pool`"
            )

    def ask(self, pair: Comparison) -> None:
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
        print(json.dumps(_math_verify(*json.loads(line))), file=replies, flush=True)
        faulthandler.cancel_dump_traceback_later()


def _math_verify(answer: str, truth: str, decimals: int = 6) -> bool | None:
    """math-verify on our own box (it takes any number outside one, and merges neighbouring ones)."""
    from math_verify import verify
    from math_verify.errors import TimeoutException

    try:
        gold, given = _parsed(truth), _parsed(answer)
        return bool(
            verify(
                gold,
                given,
                float_rounding=decimals,
                allow_set_relation_comp=True,
                timeout_seconds=INNER_SECONDS,
                raise_on_error=True,
            )
        )
    except (TimeoutException, MemoryError, RecursionError):
        return None
    except Exception:  # SymPy raises nearly anything on what is no mathematics
        return False


@lru_cache(maxsize=4096)  # a truth is met again in every trial
def _parsed(text: str) -> Any:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    return parse(
        f"\\boxed{{{text}}}",
        extraction_config=[LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()],
        parsing_timeout=INNER_SECONDS,
        raise_on_error=True,
    )


if __name__ == "__main__":
    own_stdout = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the parser prints
    _serve(sys.stdin, own_stdout)
