"""Errors that are shown to the user as a single line instead of a traceback, and checks that raise them."""

from __future__ import annotations

import difflib
import errno
import math
import os
from collections.abc import Iterable

FULL = (errno.ENOSPC, errno.EDQUOT)
UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


class UserError(Exception):
    """A mistake the user can fix. The message is one line and names the next step."""


class Terminated(SystemExit):
    """SIGTERM, raised so that what runs is recorded and ended on the way out. Its code is 143."""


class RankError(Exception):
    """A process of a training failed. The message is that process's error, with its traceback."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, without its full stop; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")


def full_disk(error: BaseException) -> OSError | None:
    """The full disk or spent quota that led to an error, if one did; libraries have errors of their own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in FULL:
            return cause
        says = (*map(os.strerror, FULL), "PytorchStreamWriter failed writing")
        if any(words in str(cause) for words in says):
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        cause = cause.__cause__ or cause.__context__
    return None


def guess(word: str, valid: Iterable[str]) -> str:
    """`did you mean train? ` for a misspelt word, where a valid one is like it."""
    close = difflib.get_close_matches(word, list(valid), n=1)
    return f"did you mean {close[0]}? " if close else ""


def in_range(
    key: str,
    value: float | None,
    low: float,
    high: float | None = None,
    *,
    open_low: bool = False,
) -> None:
    """Refuse a value outside [low, high], or (low, high] when `open_low`."""
    if value is None:
        return
    if not math.isfinite(value):
        raise UserError(f"{key}={value:g} is out of range: it must be a finite number.")
    too_low = value <= low if open_low else value < low
    if too_low or (high is not None and value > high):
        left = f"{'>' if open_low else '>='} {low:g}"
        right = "" if high is None else f" and <= {high:g}"
        raise UserError(f"{key}={value:g} is out of range: it must be {left}{right}.")


def one_of(key: str, value: str, valid: tuple[str, ...]) -> None:
    """Refuse a value that is not among the valid ones."""
    if value not in valid:
        raise UserError(f"{key}={value} is unknown: choose one of {', '.join(valid)}.")
