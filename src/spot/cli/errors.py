"""What ends a command: the user's mistakes in one line, everything else as it is."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from spot.utils.errors import UNUSABLE, RankError, Terminated, UserError, full_disk


@contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """Show the user's mistakes, a full disk, Ctrl-C and SIGTERM as one line; let real failures propagate."""
    try:
        with _sigterm_raises():
            yield
    except UserError as error:
        _stop(str(error), 2 if full_disk(error) is None else 1)
    except (HydraException, OmegaConfBaseException) as error:
        _stop(str(error).strip().splitlines()[0], 2)
    except RankError as error:
        _stop(str(error), 1, lines=True)
    except KeyboardInterrupt:
        _stop("interrupted; the same command goes on from here.", 130)
    except Terminated:
        _stop("ended by SIGTERM; the same command goes on from here.", 143)
    except BrokenPipeError:  # `spot config | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in UNUSABLE and error.filename:
            _stop(f"{error.filename}: {error.strerror}; is output=<folder> right?", 2)
        if (full := full_disk(error)) is None:
            raise
        where = f" ({full.filename})" if full.filename else ""
        _stop(f"the disk is full{where}: free some space; the same command goes on from here.", 1)


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise `Terminated`, once, unless it is handled or ignored already."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not end the clean-up
        raise Terminated(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _stop(message: str, code: int, *, lines: bool = False) -> None:
    from spot.utils.terminal import clean  # late: it imports rich

    print(f"spot: {clean(message, lines=lines)}", file=sys.stderr, flush=True)
    raise SystemExit(code)
