"""What all tests share: quiet libraries, and what to do when this machine lacks something."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may reach for the network
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"

pytest_plugins = ["tests.support.browser"]


@pytest.fixture
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


FAKE_PIPELINE = '''
"""Stands in for the pipeline in every process a test starts: no model, no torch."""
import json, os, signal, subprocess, sys, time, types


def run(config, folder, overrides=(), until=None):
    from spot.config import plain
    from spot.utils.errors import UserError

    print("ran", until or "all", config.arm, "seed", config.seed, os.environ.get("LOCAL_RANK"))
    print("gpus", os.environ.get("CUDA_VISIBLE_DEVICES"))
    began = time.monotonic()
    if config.seed == 13:
        raise ValueError("thirteen is unlucky")
    if config.seed == 14:
        raise UserError("the file is empty: give another.")
    if config.seed in (97, 98, 99):
        if config.seed == 97:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"], start_new_session=config.seed == 98)
        print("child", child.pid, flush=True)
        time.sleep(600)
    if config.seed == 96:
        print("child", subprocess.Popen(["sleep", "600"], start_new_session=True).pid)
    if config.seed >= 100:
        time.sleep(config.seed / 100)
    print("from", began, "to", time.monotonic())
    record = {"status": "complete", "overrides": list(overrides), "config": plain(config)}
    (folder / "run.json").write_text(json.dumps(record))
    return None if until else folder / "report.html"


def pretrain(config, folder):
    print("pretrained", config.model.name)


def build(folder):
    print("reporting on", sorted(path.parent.name for path in folder.glob("*/run.json")))
    return folder / "report.html"


sys.modules["spot.pipeline.way"] = types.ModuleType("spot.pipeline.way")
vars(sys.modules["spot.pipeline.way"]).update(run=run, pretrain=pretrain)
sys.modules["spot.report"] = types.ModuleType("spot.report")
vars(sys.modules["spot.report"]).update(build=build)
'''


@pytest.fixture
def fake_pipeline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which `spot` and everything it starts have a pipeline that only records."""
    folder = tmp_path_factory.mktemp("fake")
    (folder / "sitecustomize.py").write_text(FAKE_PIPELINE)
    return {**os.environ, "PYTHONPATH": str(folder)}
