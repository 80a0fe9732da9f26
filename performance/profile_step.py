"""Where the time of a training step goes, on the laptop loop: `python -m performance.profile_step`.

Takes the pairs of a small laptop run (`spot select`), trains on them as `python train.py` does, under
torch's profiler, and adds up the self time of torch operators inside the optimiser steps. What is left
is Python: packing, bookkeeping, Lightning. The profiler itself slows Python more than operators, so the
share is a lower bound; seconds are those of a second run without it.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

from performance.common import write_results
from spot.config import HardwareConfig, LossConfig
from spot.data.rows import Pair, from_json
from spot.pipeline.policy import SHIPPED
from spot.training.loop import RunOptions, train
from spot.training.module import PairModule

STEP = "spot::step"
WARMUP = 3  # steps that are left out


def laptop_pairs(folder: Path, questions: int) -> list[Pair]:
    """The pairs that `spot select` makes of so many questions."""
    command = [sys.executable, "-m", "spot.cli.main", "select", f"data.questions={questions}"]
    subprocess.run([*command, f"output={folder}"], check=True, capture_output=True)
    files = (folder / "products" / "select").glob("*/rows.jsonl")
    largest = max(files, key=lambda file: file.stat().st_size)  # the other holds the held-out pairs
    return [from_json(Pair, line) for line in largest.read_text().splitlines()]


@contextmanager
def around_steps(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Within, every optimiser step is called through `wrap`."""
    plain = PairModule.training_step
    PairModule.training_step = wrap(plain)  # type: ignore[method-assign]
    try:
        yield
    finally:
        PairModule.training_step = plain  # type: ignore[method-assign]


def run(pairs: list[Pair], loss: str, folder: Path = SHIPPED, precision: str = "fp32") -> None:
    """One epoch as the laptop world trains, without probes."""
    config = LossConfig(loss, beta=0.1, learning_rate=1e-4, epochs=1)
    options = RunOptions(HardwareConfig(tokens_per_pack=2048, precision=precision))
    with tempfile.TemporaryDirectory() as out:
        train(folder, Path(out), pairs, [], config, 0, options)


def step_seconds(pairs: list[Pair], loss: str, *model: Any) -> list[float]:
    """Seconds of every step after the warm-up, unprofiled. model: folder and precision of another one."""
    seconds: list[float] = []

    def timed(step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            begin = time.perf_counter()
            result = step(*arguments)
            seconds.append(time.perf_counter() - begin)
            return result

        return call

    with around_steps(timed):
        run(pairs, loss, *model)
    return seconds[WARMUP:]


def operator_share(pairs: list[Pair], loss: str) -> tuple[float, Counter[str]]:
    """Share of the steps' time in torch operators, and the self time of each, in microseconds."""

    def recorded(step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with record_function(STEP):
                return step(*arguments)

        return call

    with around_steps(recorded), profile(activities=[ProfilerActivity.CPU]) as profiler:
        run(pairs, loss)
    events = profiler.events() or []
    windows = [e.time_range for e in events if e.name == STEP][WARMUP:]
    operators: Counter[str] = Counter()
    for event in events:
        inside = any(w.start <= event.time_range.start <= w.end for w in windows)
        if inside and event.name.startswith("aten::"):
            operators[event.name] += event.self_cpu_time_total
    return sum(operators.values()) / sum(w.end - w.start for w in windows), operators


def main() -> None:
    """Print and write the share for a loss with and one without a reference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=1500)
    parser.add_argument(
        "--python", action="store_true", help="print the most expensive Python functions"
    )
    parser.add_argument("--no-write", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pairs = laptop_pairs(Path(folder), arguments.questions)
    if arguments.python:
        with cProfile.Profile() as python:
            run(pairs, "bco")
        pstats.Stats(python).sort_stats("tottime").print_stats(35)
        return
    rows = []
    for loss in ("bco", "sft"):
        seconds = step_seconds(pairs, loss)
        share, operators = operator_share(pairs, loss)
        total = sum(operators.values())
        top = ", ".join(f"{k[6:]} {100 * v / total:.0f}%" for k, v in operators.most_common(5))
        rows.append(
            {
                "loss": loss,
                "pairs": len(pairs),
                "steps": len(seconds),
                "seconds a step": round(median(seconds), 4),
                "in torch operators": f"{100 * share:.0f}%",
                "most expensive operators": top,
            }
        )
    if arguments.no_write:
        print(*rows, sep="\n")
    else:
        write_results("profile_step", rows, "python -m performance.profile_step")


if __name__ == "__main__":
    main()
