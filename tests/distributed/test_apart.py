"""One rank in a process of its own, as a GPU's is: the same training as in the command's process."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import commands
from tests.unit.runs import without_timings

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(600)]
COMMAND = [sys.executable, commands.TRAIN, *commands.SMALL, "hardware=cpu"]
# Every Python process of the command loads this: the processor is taken for a GPU in this one respect.
APART = """
import time
from spot.config.hardware import HardwareConfig
from spot.training.module import PairModule

HardwareConfig.apart, step = True, PairModule.training_step

def slow(self, *arguments):
    time.sleep(0.1)
    return step(self, *arguments)

PairModule.training_step = slow
"""


def test_one_rank_of_its_own_trains_as_the_command_itself_does(tmp_path: Path) -> None:
    commands.finish(tmp_path, COMMAND)
    product = commands.checkpoint(tmp_path)
    kept = shutil.move(product, tmp_path / "before")

    (tmp_path / "sitecustomize.py").write_text(APART)
    apart = {"PYTHONPATH": str(tmp_path)}
    with commands.start(tmp_path, COMMAND, apart) as started:
        started.until(lambda: max(commands.states(tmp_path), default=0) >= 2)
        assert started.rank(0).pid != started.process.pid
        started.process.send_signal(signal.SIGINT)
        assert started.ends(60) == 130
        assert not started.left(5)
        assert started.lines()[-1] == "spot: interrupted; the same command goes on from here."
    lines = commands.finish(tmp_path, COMMAND, apart)
    assert any("goes on after step" in line for line in lines)

    assert commands.distance(commands.weights(product), commands.weights(kept)) == 0
    assert without_timings(product) == without_timings(kept)
    assert details(product).keys() == details(kept).keys()
    assert (commands.runs(tmp_path)[-1]["folder"] / "logs" / "tensorboard").is_dir()


def details(product: Path) -> dict[str, Any]:
    """What the manifest says of the training."""
    return dict(json.loads((product / "manifest.json").read_text())["details"])
