"""What all tests share: quiet libraries, and what to do when this machine lacks something."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as many tests at once as there are workers
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may reach for the network
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts in the background deaf to Ctrl-C, and processes inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.support.browser"]


@pytest.fixture(scope="session")
def needs() -> Callable[[object, str], None]:
    """`needs(shutil.which("g++"), "a C++ compiler")`: skip without it, but fail in CI (CI=true)."""

    def check(present: object, what: str) -> None:
        if present:
            return
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI lacks {what}", pytrace=False)
        pytest.skip(f"needs {what}")

    return check


@pytest.fixture(scope="session")
def _can_contain() -> str:
    """Why this machine cannot contain a program; empty where it can."""
    from spot.grading import sandbox
    from spot.utils.errors import UserError

    try:
        sandbox.ready()
    except UserError as error:
        return str(error)
    return ""


@pytest.fixture
def contained(needs: Callable[[object, str], None], _can_contain: str) -> None:
    """For tests that run a model's programs."""
    needs(not _can_contain, f"a sandbox: {_can_contain}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A GPU cannot be installed: without one, tests marked `gpu` skip everywhere."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture
def fake_pipeline(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A pipeline that only records: in this process and, in the environment returned, in every other."""
    import spot.pipeline.preview  # noqa: F401 - what keeps a name of the real pipeline imports it first
    from tests.support.fake import sitecustomize as fake

    for name, module in fake.MODULES.items():
        parent, _, child = name.rpartition(".")
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(sys.modules[parent], child, module, raising=False)
    return {**os.environ, "PYTHONPATH": str(Path(fake.__file__).parent)}


@pytest.fixture(scope="session")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a small run of the laptop world has finished: to read, and to copy."""
    from filelock import FileLock

    from tests.support.laptop import PLANTED, run

    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # shared by the workers: the first one makes it
    folder, done = base / "laptop", base / "laptop.done"
    with FileLock(base / "laptop.lock"):
        if not done.exists():
            folder.mkdir()
            with pytest.MonkeyPatch.context() as patch:
                for name, key in PLANTED.items():
                    patch.setenv(name, key)
                run(folder, "run")
            done.touch()
    return folder
