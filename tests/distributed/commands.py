"""The command line in a folder of its own: start it, watch it, and see what is left of it."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
TRAIN = str(ROOT / "train.py")
SMALL = [
    "data.questions=160",
    "data.pairs=40",
    "data.held_out=12",
    "benchmarks=quick",
    "loss.epochs=1",
    "loss.batch_pairs=4",  # 10 steps
    "probe.pairs=4",
    "probe.ability_every=0",
    "generator.batch=64",
    "generator.max_new_tokens=128",
    "save.every=1",
]
STEPS = 10
LIMIT = 280  # seconds for any command; the longest takes 40 on two slow cores


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the commands see: nothing of torchrun or SLURM that the tests themselves run under."""
    foreign = ("SLURM_", "TORCHELASTIC_", "MASTER_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **(more or {})}


def train(*overrides: str) -> list[str]:
    """`python train.py` with small data on two processes."""
    return [sys.executable, TRAIN, *SMALL, "hardware=2xcpu", *overrides]


@dataclass
class Started:
    """A command that runs in `folder`; screen and errors are in one file, as on a terminal."""

    process: subprocess.Popen[bytes]
    screen: Path
    seen: set[psutil.Process] = field(default_factory=set)  # everything it ever started

    def text(self) -> str:
        return self.screen.read_text()

    def lines(self) -> list[str]:
        return self.text().splitlines()

    def look(self) -> set[psutil.Process]:
        """Note which processes it has started by now."""
        with suppress(psutil.NoSuchProcess):
            self.seen |= set(psutil.Process(self.process.pid).children(recursive=True))
        return self.seen

    def rank(self, number: int) -> psutil.Process:
        """The process of a rank."""
        running = [p for p in self.look() if p.is_running() and "job.json" in " ".join(p.cmdline())]
        return next(p for p in running if p.environ().get("RANK") == str(number))

    def until(self, condition: Callable[[], object], seconds: float = LIMIT) -> None:
        """Wait for the condition, as long as the command runs."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.look()
            assert self.process.poll() is None, f"it ended early:\n{self.text()[-3000:]}"
            assert time.monotonic() < deadline, f"it takes too long:\n{self.text()[-3000:]}"
            time.sleep(0.05)

    def ends(self, seconds: float = LIMIT) -> int:
        """Wait for its end; returns the exit code."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            self.look()
            assert time.monotonic() < deadline, f"it takes too long:\n{self.text()[-3000:]}"
            time.sleep(0.1)
        return self.process.returncode

    def left(self, seconds: float = 0) -> list[psutil.Process]:
        """What it started and still runs after so many seconds."""
        alive = psutil.wait_procs(self.seen, timeout=seconds)[1]
        return [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def start(
    folder: Path, command: list[str], more: Mapping[str, str] | None = None, name: str = "screen"
) -> Iterator[Started]:
    """The running command; whatever is left of it at the end of the block is killed."""
    screen = folder / f"{name}.txt"
    with screen.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(more),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # what a shell has put in the background is deaf to Ctrl-C, and that is inherited
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    started = Started(process, screen)
    try:
        yield started
    finally:
        for left in {*started.look(), *started.left()}:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        process.kill()
        process.wait()


def finish(
    folder: Path, command: list[str], more: Mapping[str, str] | None = None, seconds: float = LIMIT
) -> list[str]:
    """Run the command to its good end and return its lines; it leaves no process behind."""
    with start(folder, command, more) as started:
        assert started.ends(seconds) == 0, started.text()[-5000:]
        assert not started.left(5)
        return started.lines()


@functools.cache
def whole(base: Path) -> Path:
    """A folder with one whole run, as far as this session of tests has none below `base` yet."""
    folder = base / "whole"
    folder.mkdir()
    finish(folder, train())
    return folder


def prepared(base: Path, folder: Path) -> Path:
    """A folder where everything but training and evaluation is done already."""
    finished = whole(base)
    products = folder / "outputs" / "products"
    for stage in ("respond", "elicit", "rectify", "select"):
        shutil.copytree(finished / "outputs" / "products" / stage, products / stage)
    shutil.copytree(finished / "outputs" / "reference", folder / "outputs" / "reference")
    return folder


def spoil(folder: Path) -> str:
    """Let whoever runs the pipeline fail early, and nobody else; returns what it will say."""
    products = folder / "outputs" / "products"
    shutil.rmtree(products / "select")
    for file in products.glob("rectify/*/rows.jsonl"):
        file.write_text(file.read_text().replace("question", "Question"))
    return "rows.jsonl does not match its manifest: the product is damaged."


def runs(folder: Path) -> list[dict]:
    """The records of all runs below a folder, the one that ended first at the beginning."""
    files = sorted(folder.glob("outputs/*/**/run.json"), key=os.path.getmtime)
    return [json.loads(file.read_text()) | {"folder": file.parent} for file in files]


def checkpoint(folder: Path) -> Path:
    """The one product of training."""
    (found,) = (folder / "outputs" / "products" / "train").iterdir()
    return found


def states(folder: Path) -> list[int]:
    """Steps of the states from which training can go on."""
    found = (folder / "outputs" / "products" / "train").glob("*/resume/step_*/state.ckpt")
    return sorted(int(file.parent.name.removeprefix("step_")) for file in found)


def weights(product: Path) -> dict[str, torch.Tensor]:
    return load_file(product / "model" / "model.safetensors")


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest absolute difference of any weight."""
    assert a.keys() == b.keys()
    return max((a[name].float() - b[name].float()).abs().max().item() for name in a)
