"""What ends a command: the user's mistakes in one line, everything else as it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from spot.utils.errors import FULL, UNUSABLE, RankError, UserError


@contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """Show the user's mistakes, a full disk and Ctrl-C as one line; let real failures propagate."""
    try:
        yield
    except UserError as error:
        _stop(str(error), 2)
    except (HydraException, OmegaConfBaseException) as error:
        _stop(str(error).strip().splitlines()[0], 2)
    except RankError as error:
        _stop(str(error), 1, lines=True)
    except KeyboardInterrupt:
        _stop("interrupted; the same command goes on from here.", 130)
    except BrokenPipeError:  # `spot config | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except OSError as error:
        if error.errno in UNUSABLE and error.filename:
            _stop(f"{error.filename}: {error.strerror}; is output=<folder> right?", 2)
        if error.errno not in FULL:
            raise
        where = f" ({error.filename})" if error.filename else ""
        _stop(f"the disk is full{where}: free some space; the same command goes on from here.", 1)


def _stop(message: str, code: int, *, lines: bool = False) -> None:
    from spot.utils.terminal import clean  # late: it imports rich

    print(f"spot: {clean(message, lines=lines)}", file=sys.stderr, flush=True)
    raise SystemExit(code)
