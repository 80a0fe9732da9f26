"""What the tests of process pools run in workers."""

import os
import sys
from pathlib import Path


class UnreadableError(Exception):
    """Pickled with one argument, read with two."""

    def __init__(self, one, two):
        super().__init__(one)


def nothing():
    """Prepare nothing."""


def fail():
    """Prepare in vain."""
    raise RuntimeError("no")


def work(what):
    """Return `what`, unless it names something worse."""
    if what == "hang":
        return 10 ** (10**10)  # one bytecode
    if what == "memory":
        return len(bytearray(8 << 30))
    if what.startswith("exit"):
        os._exit(int(what[4:]))
    if what == "error":
        raise KeyError(what)
    if what == "unreadable":
        raise UnreadableError(what, what)
    if what == "main":
        return getattr(sys.modules["__main__"], "__file__", None)
    if what.startswith("/"):
        Path(what).write_text(str(os.getpid()))
        return 10 ** (10**10)
    return what
