"""One run and its record, `run.json`: where its products are, what was reused, how it stands."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spot.config import Config, plain
from spot.data import artifacts, run_record
from spot.data.rows import Attempt, Pair
from spot.data.run_record import COMPLETE, INTERRUPTED, RUN_FILE
from spot.pipeline import heartbeat
from spot.pipeline.clients import Generators
from spot.utils import progress, terminal
from spot.utils.errors import UserError, full_disk
from spot.utils.files import write_aside
from spot.utils.machine import processor
from spot.utils.progress import say

if TYPE_CHECKING:
    from spot.pipeline.policy import Policy


class Run:
    """Makes or reuses the products of one run and keeps its record."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        overrides: Sequence[str] = (),
        until: str | None = None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.until = until  # the last stage; None: the whole way
        self.round = config.rounds
        self.first: artifacts.Product | None = None  # the first round's attempts
        self.start: Policy | None = None  # a later round's; the first starts where the config says
        self.holds_out = False  # whether it gets as far as holding attempts out of training
        self.trains = False  # whether a training is what it is for
        self.generators = Generators()
        self.asked: Any = None  # (seed, requests, dropped rows) between sampling and grading
        self.root = Path(config.output) / "products"
        self._overrides = list(overrides)
        self._products: dict[str, artifacts.Product] = {}
        self._stages: list[dict[str, Any]] = []
        self._started = time.monotonic()

    def stage(
        self, name: str, target: artifacts.Product, make: Callable[[], None]
    ) -> artifacts.Product:
        """Have `make` complete `target`, unless it is complete; record which, and the time it took.

        `name` is the product's name in `run.json`, behind `round1/` in a round before the last.
        """
        name = self._prefix + name
        if name in self._products and self._products[name].folder == target.folder:
            return target  # recorded before
        reused = target.complete
        begun = time.monotonic()
        if reused:
            target.check()
        else:
            say(f"{target.stage}: {run_record.words(name)} …")
            self._update(current={"stage": target.stage, "folder": self._relative(target)})
            make()
        seconds = time.monotonic() - begun
        manifest = target.manifest
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
        self._update(current=None, **self._made())
        counts = ", ".join(f"{n:,} {kind.replace('_', ' ')}" for kind, n in target.counts.items())
        how = "reused" if reused else f"{seconds:.1f} s"
        say(f"{target.stage}: {run_record.words(name)} {how}" + (f" ({counts})" if counts else ""))
        return target

    def weights(self, read: artifacts.Product | None) -> Policy:
        """What the first round starts with. read: attempts that a student learns from."""
        from spot.pipeline import policy
        from spot.pipeline.distributed import nodes
        from spot.pipeline.plan import sampling

        found = policy.prepare(self.config.model, self.root, self._texts(read))
        here = replace(self.config.model, path=str(found.folder))  # of a hub id, only now
        sampling.check(replace(self.config, model=here), self.until)
        if self.trains and (others := nodes.session()) is not None:
            self.root.mkdir(parents=True, exist_ok=True)
            others.agree(policy.described(self.config.model, found, self.root))
        return found

    def student(self, read: artifacts.Product | None) -> artifacts.Product:
        """The student of `model.pretrain`, made even where the package ships the same one."""
        from spot.pipeline import policy

        return policy.pretrain(self.config.model, self.root, self._texts(read))

    def _texts(self, read: artifacts.Product | None) -> list[Attempt] | None:
        from spot.pipeline import parts

        return None if read is None else parts.split(self.config, read)[0]

    def fewest(self, pools: Mapping[str, artifacts.Product], most: int | None) -> int | None:
        """As many pairs as the smallest pool has, `most` at most; says which pool decides."""
        counts = {name: len(artifacts.read_rows(pool.folder, Pair)) for name, pool in pools.items()}
        if not counts:
            return most
        poorest = min(counts, key=lambda name: counts[name])
        count = counts[poorest]
        if most is not None and most < count:
            return most
        say(f"matched: {terminal.count(count, 'pair')}, decided by {poorest}")
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

    def write_card(self) -> None:
        """The card of the round's trained model, with the scores if there are any yet."""
        from spot.report import model_card

        folders = {
            name.removeprefix(self._prefix): product.folder
            for name, product in self._products.items()
            if name.startswith(self._prefix)
        }
        if {"checkpoint", "pairs"} <= folders.keys():
            command = command_line(self.config, self._overrides)
            model_card.write(folders, plain(self.config), command, self.round)

    def complete(self) -> None:
        """Write `run.json`: the run is finished, and this is what it consists of."""
        self.write_card()
        record = run_record.read(self.folder)
        if record.get("status") != "running":
            record = beginning(self.config, self._overrides)
        record |= {"status": COMPLETE, "finished": _now(), **self._made()}
        record["seconds"] = round(time.monotonic() - self._started, 3)
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder, record)

    def _made(self) -> dict[str, Any]:
        products = {name: self._relative(product) for name, product in self._products.items()}
        return {"products": products, "stages": self._stages}

    def _relative(self, product: artifacts.Product) -> str:
        return os.path.relpath(product.folder, self.folder)

    def _update(self, **values: Any) -> None:
        """Of a run that is being recorded: what it has made so far, and makes now."""
        record = run_record.read(self.folder)
        if record.get("status") == "running":
            _write(self.folder, record | values)


@contextmanager
def recorded(
    command: str, config: Config, folder: Path, overrides: Sequence[str] = ()
) -> Iterator[None]:
    """Record in `folder` that `spot <command>` runs, how far it is, and how it ended.

    Waits for another process that works there already.
    """
    before = folder / RUN_FILE
    earlier = before.read_bytes() if before.exists() else None
    try:
        with _recording(command, config, folder, overrides):
            yield
    except UserError as error:
        if full_disk(error) is None:
            _forget(folder, earlier)
        raise


def _forget(folder: Path, earlier: bytes | None) -> None:
    """Leave nothing of a run that was refused before its first stage began but an earlier one's record."""
    record = run_record.read(folder)
    if record.get("stages") or record.get("current"):
        return
    own = {RUN_FILE, ".hydra", "spot.log", heartbeat.LOCK, heartbeat.PROGRESS}
    if earlier is not None:
        write_aside(folder / RUN_FILE, earlier)
    elif not {p.name for p in folder.iterdir()} - own:
        shutil.rmtree(folder)


@contextmanager
def _recording(
    command: str, config: Config, folder: Path, overrides: Sequence[str]
) -> Iterator[None]:
    listener = heartbeat.noting(folder)
    with heartbeat.alive(folder):
        _write(folder, beginning(config, overrides, command))
        progress.listeners.append(listener)
        try:
            yield
        except BaseException as error:
            with suppress(OSError):  # a full disk must not hide why the run failed
                _end(folder, heartbeat.exit_code(error), _last_line(error))
            raise
        finally:
            progress.listeners.remove(listener)
        _end(folder, 0)


def beginning(config: Config, overrides: Sequence[str], command: str = "run") -> dict[str, Any]:
    """The record of a run that has made nothing yet. until: the last stage, unless it is the whole way."""
    return {
        "schema": 1,
        "status": "running",
        "until": None if command == "run" else command,
        "arm": config.arm,
        "seed": config.seed,
        "study": config.study,
        "config": asdict(config),
        "overrides": list(overrides),
        "command": command_line(config, overrides, command),
        "machine": processor(),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": _now(),
        "products": {},
        "stages": [],
    }


def command_line(config: Config, overrides: Sequence[str], command: str = "run") -> str:
    """What makes this run again."""
    hardware = config.hardware
    start = ["python", "train.py"] if command == "run" else ["spot", command]
    if command == "run" and hardware.nodes > 1:
        counts = f"--nnodes={hardware.nodes}", f"--nproc-per-node={hardware.devices}"
        start = ["torchrun", *counts, "train.py"]
    return shlex.join([*start, *overrides])


def _end(folder: Path, code: int, error: str = "") -> None:
    record = run_record.read(folder)
    status = COMPLETE if code == 0 else INTERRUPTED if code in heartbeat.STOPPED else "failed"
    if record.get("status") == COMPLETE:  # all is measured: only its page or an upload failed
        status = COMPLETE
    record |= {"status": status, "exit": code, "finished": _now()}
    _write(folder, record | ({"error": error} if error else {}))


def _write(folder: Path, record: Mapping[str, Any]) -> None:
    write_aside(folder / RUN_FILE, json.dumps(record, indent=1) + "\n")


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _last_line(error: BaseException) -> str:
    """The error's last line, which names it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if isinstance(error, (UserError, SystemExit, KeyboardInterrupt)):
        return last
    return f"{type(error).__name__}: {last}" if last else type(error).__name__
