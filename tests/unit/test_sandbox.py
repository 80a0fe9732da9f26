"""What comes back of a model's program: values, errors by name, and the limit that ended it."""

from __future__ import annotations

import textwrap
import time

import pytest

from spot.grading.sandbox import (
    CRASHED,
    FINISHED,
    MEMORY,
    OUTPUT,
    TIME,
    Call,
    Limits,
    Outcome,
    Program,
    run,
    run_all,
    same,
)

pytestmark = pytest.mark.usefixtures("contained")

BRIEF = Limits(seconds=1, memory_mib=256)
PATIENT = Limits(seconds=8, memory_mib=256)  # a fresh machine is slow to hand out memory


def tried(source: str, *arguments: object, limits: Limits = BRIEF) -> Outcome:
    """What becomes of a program whose function `f` is called once."""
    return run(Program(textwrap.dedent(source), "f", [list(arguments)]), limits)


# ------------------------------------------------------------------------------ honest programs


def test_values_come_back_in_order_and_an_error_ends_its_call_only() -> None:
    source = (
        "import math, re\ndef f(a, b):\n    print('noise')\n    return [a / b, {'k': (a, None)}]"
    )
    outcome = run(Program(source, "f", [[1, 2], [1, 0], [3, 4], [1]]))
    assert outcome.ended == FINISHED
    assert outcome.error is None
    assert outcome.calls == (
        Call([0.5, {"k": [1, None]}]),
        Call(error="ZeroDivisionError"),
        Call([0.75, {"k": [3, None]}]),
        Call(error="TypeError"),
    )


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("def f(:", "SyntaxError"),
        ("import numpy", "ModuleNotFoundError"),
        ("1 / 0", "ZeroDivisionError"),
        ("def g(): pass", "NameError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("a = '\0'", "SyntaxError or ValueError"),  # by patch version
        ("(" * 10_000, "SyntaxError"),
        ("s = '\ud800'", "UnicodeEncodeError"),
    ],
)
def test_a_program_that_cannot_be_loaded_is_named(source: str, error: str) -> None:
    outcome = tried(source)
    assert (outcome.ended, outcome.calls) == (FINISHED, (None,))
    assert outcome.error in error.split(" or ")


def test_what_the_standard_library_offers_for_computing_works() -> None:
    source = """
    import abc, array, bisect, calendar, cmath, collections, copy, dataclasses, datetime, decimal
    import enum, fractions, functools, hashlib, heapq, itertools, json, math, operator, random, re
    import statistics, string, textwrap, time, typing, unicodedata, zlib

    @dataclasses.dataclass(frozen=True)
    class Point:
        x: int

    @functools.cache
    def f(n):
        random.seed(n)
        time.sleep(0.001)
        return [Point(n).x, str(decimal.Decimal(1) / 8), hashlib.sha256(b"").hexdigest()[:4],
                str(datetime.date(2024, 2, 28) + datetime.timedelta(2)), list({"b", "a", "c", "d"})]
    """
    first, second = tried(source, 7), tried(source, 7)
    assert first.calls[0] is not None
    assert first.calls[0].value[:4] == [7, "0.125", "e3b0", "2024-03-01"]
    assert first == second  # the order of a set of strings, too


def test_many_programs_keep_their_order() -> None:
    programs = [Program(f"def f(x): return x + {i}", "f", [[1]]) for i in range(12)]
    assert [o.calls for o in run_all(programs, BRIEF, workers=3)] == [
        (Call(1 + i),) for i in range(12)
    ]


# ------------------------------------------------------------------------------ limits


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "return 10 ** 10 ** 10",
        "time.sleep(60)",
        "while True: print('x' * 10_000)",
        """
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        while True:
            try:
                while True: pass
            except BaseException:
                pass
        """,
        """
        for fd in range(64):
            try:
                os.close(fd)
            except OSError:
                pass
        while True: pass
        """,
    ],
)
def test_what_never_ends_is_ended(body: str) -> None:
    source = "import os, signal, sys, time\ndef f():\n" + textwrap.indent(
        textwrap.dedent(body), "    "
    )
    started = time.monotonic()
    outcome = tried(source)
    assert outcome.ended == TIME
    assert outcome.calls == (None,)
    assert time.monotonic() - started < 30


def test_replies_before_the_limit_are_kept() -> None:
    source = "def f(n):\n    while n == 2: pass\n    return n"
    outcome = run(Program(source, "f", [[1], [2], [3]]), BRIEF)
    assert (outcome.ended, outcome.calls) == (TIME, (Call(1), None, None))


def test_memory_is_bounded() -> None:
    source = """
    def f(how):
        if how == "at once":
            return len("x" * 10 ** 10)
        hoard = []
        while True:
            try:
                hoard.append(bytearray(1 << 20))
            except MemoryError:
                return len(hoard)
    """
    outcome = run(Program(textwrap.dedent(source), "f", [["at once"], ["bit by bit"]]), PATIENT)
    at_once, bit_by_bit = outcome.calls
    assert at_once == Call(error="MemoryError")
    assert bit_by_bit is not None
    assert 50 < bit_by_bit.value < BRIEF.memory_mib


def test_memory_that_is_never_given_back_ends_the_program() -> None:
    source = """
    hoard = []
    def f():
        global hoard
        while True:
            hoard = [hoard, hoard, "x" * 100, *range(99)]
    """
    outcome = tried(source, limits=PATIENT)
    assert outcome.ended in (FINISHED, MEMORY)
    assert outcome.ended == MEMORY or outcome.calls == (Call(error="MemoryError"),)


def test_a_flood_of_replies_is_cut() -> None:
    flood = """
    import os
    def f():
        while True:
            for fd in range(3, 64):
                try:
                    os.write(fd, b"x" * (1 << 16))
                except OSError:
                    pass
    """
    assert tried(flood).ended == OUTPUT
    assert tried("def f(): return 'x' * (2 << 20)").ended == OUTPUT


# ------------------------------------------------------------------------------ hostile replies


@pytest.mark.parametrize(
    "body",
    ["os._exit(0)", "os._exit(1)", "os.abort()", "ctypes.string_at(0)", "os.closerange(0, 64)"],
)
def test_leaving_early_is_a_crash(body: str) -> None:
    outcome = tried(f"import os, sys, ctypes\ndef f():\n    {body}")
    assert (outcome.ended, outcome.calls) == (CRASHED, (None,))


def test_bottomless_recursion() -> None:
    assert tried("def f(): return f()").calls == (Call(error="RecursionError"),)
    deep = tried("import sys\nsys.setrecursionlimit(10**9)\ndef f(): return [f()]")
    assert deep.calls[0] in (None, Call(error="MemoryError"))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("{1, 2}", "TypeError"),
        ("object()", "TypeError"),
        ("f", "TypeError"),
        ("1j", "TypeError"),
        ("10 ** 5000", "ValueError"),
        ("(lambda x: x.append(x) or x)([])", "ValueError"),
        ("__import__('functools').reduce(lambda x, _: [x], range(99_999), [])", "RecursionError"),
    ],
)
def test_what_is_no_json_is_an_error_of_the_call(value: str, error: str) -> None:
    assert tried(f"def f(): return {value}").calls == (Call(error=error),)


@pytest.mark.parametrize(
    "line",
    [
        b"[0, " + b"9" * 5000 + b", null]",
        b"[" * 100_000,
        b"\xff\xfe",
        b"{}",
        b"null",
        b"[1, 2, null]",
        b"[-1, 2, null]",
        b"[0, null, 5]",
        b'["loaded", 3]',
        b'["0", 1, null]',
    ],
)
def test_forged_lines_cannot_break_the_reader(line: bytes) -> None:
    source = f"import os\nline = {line!r} + b'\\n'\n"
    source += "def f():\n    [os.write(3, line[i:i + 4096]) for i in range(0, len(line), 4096)]\n    os._exit(0)"
    outcome = tried(source)
    assert (outcome.ended, outcome.calls) == (CRASHED, (None,))


def test_names_of_exceptions_are_names() -> None:
    source = "E = type('rm -rf / \\n' * 99, (Exception,), {})\ndef f(): raise E"
    assert tried(source).calls == (Call(error="Exception"),)


# ------------------------------------------------------------------------------ equality


@pytest.mark.parametrize(
    ("value", "expected", "equal"),
    [
        (1, 1, True),
        (1.0, 1, True),
        (0.1 + 0.2, 0.3, True),
        (0.3001, 0.3, False),
        (True, 1, False),
        (1, True, False),
        (False, False, True),
        (None, 0, False),
        ("1", 1, False),
        ([1, [2.0]], [1, [2]], True),
        ([1, 2], [1, 2, 3], False),
        ({"a": [1]}, {"a": [1]}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([], {}, False),
        (10**400, 1.5, False),
        (10**400, 10**400, True),
        (float("inf"), float("inf"), True),
        (float("nan"), 1, False),
        ("é", "é", True),
    ],
)
def test_same(value: object, expected: object, equal: bool) -> None:
    assert same(value, expected) is equal
