"""The command line called in the test's own process, which saves a start of Python and of torch.

A process of its own is for what only a process has: signals, an interpreter that has not loaded torch,
the exit of `train.py` itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from spot.cli.main import main


def spot(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`spot …` in a folder: exit code and output. `environment` replaces the variables, as for a process."""
    variables = os.environ if environment is None else environment
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with (
            _as_a_process(folder, dict(variables)),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = _code(list(arguments))
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(["spot", *arguments], code, out.read(), err.read())


def _code(arguments: list[str]) -> int:
    sys.argv = ["spot", *arguments]
    try:
        main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


@contextlib.contextmanager
def _as_a_process(folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Give back everything that a process takes with it when it ends."""
    variables, argv, root = dict(os.environ), sys.argv, logging.getLogger()
    handlers, level = root.handlers[:], root.level
    signals = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    os.environ.clear()
    os.environ.update(environment)
    GlobalHydra.instance().clear()
    try:
        with contextlib.chdir(folder), _torch_as_before():
            yield
    finally:
        os.environ.clear()
        os.environ.update(variables)
        sys.argv = argv
        root.handlers[:] = handlers
        root.setLevel(level)
        for each, handler in signals.items():
            signal.signal(each, handler)
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None


@contextlib.contextmanager
def _torch_as_before() -> Iterator[None]:
    """Threads and random state of torch, where it is loaded or becomes so."""
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    yield
    if threads is not None:
        sys.modules["torch"].set_num_threads(threads)
