"""Trainings that many ranks carry out one after the other: `python -m tests.distributed.cases <file>`.

Starting DeepSpeed costs more than such a training, so one start does many. A case is a dict, so that
it travels as JSON; `start` runs a list of them on two ranks, `run` one of them in this process.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.support.processes import free_port

ROOT = Path(__file__).resolve().parents[2]


def run(case: dict[str, Any]) -> dict[str, Any]:
    """Train as the case says, below `case["out"]`; what TrainResult tells."""
    from dataclasses import asdict

    from spot.config import HardwareConfig, LoraConfig, ProbeConfig, SaveConfig
    from spot.data.rows import Pair
    from spot.training.loop import RunOptions, train
    from tests.unit.runs import loss

    pairs = [Pair(**row) for row in json.loads(Path(case["pairs"]).read_text())]
    options = RunOptions(
        HardwareConfig(tokens_per_pack=case.get("budget", 2048), **case.get("hardware", {})),
        reference=case.get("reference", "cached"),
        lora=LoraConfig(**case.get("lora", {})),
        save=SaveConfig(**case.get("save", {"optimizer": False})),
        probe=ProbeConfig(every=case.get("probe_every", 1)),
    )
    held_out = case.get("held_out", 5)
    with inspected() as seen:
        result = train(
            Path(case["policy"]),
            Path(case["out"]),
            pairs[held_out:],
            pairs[:held_out],
            loss(case["method"], epochs=case.get("epochs", 2)),
            case.get("seed", 0),
            options,
        )
    return asdict(result) | seen


@contextmanager
def inspected() -> Iterator[dict[str, str]]:
    """What stands at the end of the training: dtypes of gradients and masters, rotary frequencies."""
    from spot.training.checkpoint_callback import CheckpointCallback

    seen: dict[str, str] = {}
    write = CheckpointCallback.on_train_end

    def look(callback: CheckpointCallback, trainer: Any, module: Any) -> None:
        inner = module.model.base_model.rotary_emb.inv_freq
        exact = 1 / 10_000 ** (torch.arange(0, 8, 2).float() / 8)
        seen["rotary"] = f"{inner.dtype} {torch.equal(inner, exact)}"
        optimizer = getattr(trainer.model, "optimizer", None)
        seen["gradients"] = str(getattr(optimizer, "gradient_accumulation_dtype", None))
        for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
            if parts := getattr(optimizer, name, None):
                seen["masters"] = str(parts[0].dtype)
        write(callback, trainer, module)

    CheckpointCallback.on_train_end = look  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        CheckpointCallback.on_train_end = write  # type: ignore[method-assign]


def start(
    cases: list[dict[str, Any]], file: Path, largest_file: int | None = None
) -> dict[Path, subprocess.Popen[bytes]]:
    """Two ranks that run all cases, by their logs; no file may grow beyond `largest_file` bytes."""
    file.write_text(json.dumps(cases))
    port, processes = free_port(), {}
    for rank in range(2):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
        place |= {"MASTER_ADDR": "127.0.0.1", "NODE_RANK": 0}
        log = file.with_suffix(f".rank{rank}.log")
        with log.open("w") as output:
            processes[log] = subprocess.Popen(
                [sys.executable, "-m", "tests.distributed.cases", str(file)],
                cwd=ROOT,
                env={**os.environ, **{k: str(v) for k, v in place.items()}, "OMP_NUM_THREADS": "1"},
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=partial(_limit, largest_file) if largest_file else None,
            )
    return processes


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def finish(processes: dict[Path, subprocess.Popen[bytes]], timeout: float = 400) -> None:
    """Wait for the ranks. A failure shows what they wrote."""
    try:
        codes = [process.wait(timeout) for process in processes.values()]
    finally:
        for process in processes.values():
            process.kill()
    told = "\n".join(f"{log.name}:\n{log.read_text()[-3000:]}" for log in processes)
    assert codes == [0] * len(codes), told


def main() -> None:
    from spot.pipeline.distributed.rank import leave

    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(1)
    for case in json.loads(Path(sys.argv[1]).read_text()):
        result = run(case)
        if os.environ["RANK"] == "0":
            (Path(case["out"]) / "result.json").write_text(json.dumps(result))
    leave()


if __name__ == "__main__":
    main()
