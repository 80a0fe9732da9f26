"""One run: where its products are, what was reused, how long each stage took."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spot.config import Config, plain
from spot.data import artifacts
from spot.data.artifacts import RUN_FILE
from spot.data.held_out import split_attempts
from spot.data.rows import Attempt, Pair
from spot.utils.files import write_aside
from spot.utils.machine import processor
from spot.utils.progress import say

if TYPE_CHECKING:
    from spot.pipeline.policy import Policy


class Run:
    """Keeps the journal that ends as `run.json` in the run's folder."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        overrides: Sequence[str] = (),
    ) -> None:
        self.config = config
        self.folder = folder
        self.round = config.rounds
        self.first: artifacts.Product | None = None  # the first round's attempts
        self.start: Policy | None = None  # a later round's; the first starts where the config says
        self.root = Path(config.output) / "products"
        self._overrides = list(overrides)
        self._products: dict[str, artifacts.Product] = {}
        self._stages: list[dict[str, Any]] = []
        self._started = time.monotonic()

    def stage(
        self, name: str, target: artifacts.Product, make: Callable[[], None]
    ) -> artifacts.Product:
        """Have `make` complete `target`, unless it is complete; note and tell which, and the time.

        `name` is the product's name in `run.json`, behind `round1/` in a round before the last.
        """
        name = self._prefix + name
        if name in self._products and self._products[name].folder == target.folder:
            return target  # noted and told before
        reused = target.complete
        begun = time.monotonic()
        if not reused:
            say(f"{target.stage}: {name.replace('_', ' ')} …")
            make()
        seconds = time.monotonic() - begun
        manifest = artifacts.read_manifest(target.folder)
        self._products[name] = target
        self._stages.append(
            {
                "stage": target.stage,
                "product": name,
                "round": self.round,
                "seconds": round(manifest["seconds"] if reused else seconds, 3),
                "reused": reused,
                "counts": target.counts,
            }
        )
        counts = ", ".join(f"{count} {kind}" for kind, count in target.counts.items())
        how = "reused" if reused else f"{seconds:.1f} s"
        say(f"{target.stage}: {name.replace('_', ' ')} {how}" + (f" ({counts})" if counts else ""))
        return target

    def weights(self, read: artifacts.Product | None) -> Policy:
        """What the first round starts with. read: attempts that a student learns from."""
        from spot.pipeline import policy

        return policy.prepare(self.config.model, self.root, self._texts(read))

    def student(self, read: artifacts.Product | None) -> artifacts.Product:
        """The student of `model.pretrain`, made even where the package ships the same one."""
        from spot.pipeline import policy

        return policy.pretrain(self.config.model, self.root, self._texts(read))

    def _texts(self, read: artifacts.Product | None) -> list[Attempt] | None:
        return None if read is None else split_attempts(self.config.data, read)[0]

    def fewest(self, pools: Mapping[str, artifacts.Product], most: int | None) -> int | None:
        """As many pairs as the poorest pool has, `most` at most; tells which one decides."""
        counts = {name: len(artifacts.read_rows(pool.folder, Pair)) for name, pool in pools.items()}
        if not counts:
            return most
        poorest = min(counts, key=lambda name: counts[name])
        count = counts[poorest]
        if most is not None and most < count:
            return most
        say(f"matched: {count} {'pair' if count == 1 else 'pairs'}, decided by {poorest}")
        return count

    def last(self, stage: str) -> artifacts.Product:
        """What the stage made or reused last."""
        return next(p for p in reversed(self._products.values()) if p.stage == stage)

    @property
    def logs(self) -> Path:
        """Where a training of this round logs to, absolute."""
        return (self.folder / self._prefix).absolute()

    @property
    def _prefix(self) -> str:
        return "" if self.round == self.config.rounds else f"round{self.round}/"

    @property
    def command(self) -> str:
        """What makes this run again."""
        hardware = self.config.hardware
        start = ["python", "train.py"]
        if hardware.nodes > 1:
            counts = f"--nnodes={hardware.nodes}", f"--nproc-per-node={hardware.devices}"
            start = ["torchrun", *counts, "train.py"]
        return shlex.join([*start, *self._overrides])

    def write_card(self) -> None:
        """The card of the round's trained model, with the scores if there are any yet."""
        from spot.report import model_card

        folders = {
            name.removeprefix(self._prefix): product.folder
            for name, product in self._products.items()
            if name.startswith(self._prefix)
        }
        if not {"checkpoint", "pairs"} <= folders.keys():
            return
        model_card.write(folders, plain(self.config), self.command, self.round)

    def complete(self) -> None:
        """Write `run.json`: the run is finished, and this is what it consists of."""
        self.write_card()
        self.record(RUN_FILE)

    def record(self, name: str) -> None:
        """Write what this run consists of to the file `name` in its folder."""
        record = {
            "schema": 1,
            "status": "complete",
            "arm": self.config.arm,
            "seed": self.config.seed,
            "study": self.config.study,
            "config": asdict(self.config),
            "overrides": self._overrides,
            "command": self.command,
            "machine": processor(),
            "products": {
                name: os.path.relpath(product.folder, self.folder)
                for name, product in self._products.items()
            },
            "stages": self._stages,
            "seconds": round(time.monotonic() - self._started, 3),
            "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_aside(self.folder / name, json.dumps(record, indent=1) + "\n")
