"""Runs and sweeps on this machine and how they stand, read from their folders.

Nothing is written, nothing heavy is imported, and hardly a row is read: states come from `run.json` and a
sweep's `jobs.json`, scores from the report's `scores.csv`. Files that are half written count as not
there yet.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from spot.config import arm_label
from spot.config.model_name import model_name
from spot.data import run_record
from spot.data.artifacts import ROWS
from spot.data.rows import Attempt, from_json
from spot.data.run_record import COMPLETE, EVALUATION, INTERRUPTED, RUN_FILE
from spot.pipeline import heartbeat, slurm
from spot.pipeline.sweep_jobs import JOBS
from spot.utils import terminal
from spot.utils.cells import original
from spot.utils.errors import UserError

STATES = ("running", "failed", INTERRUPTED, "waiting", COMPLETE)  # what wants most attention first
METRICS = "metrics.csv"
DEEPEST = 3  # folders between outputs/runs or outputs/sweeps and a run
NAMED = ("seed", "arm", "loss", "data.arm", "study", "output")  # keys that a job's name covers
TAIL = 64 << 10  # bytes that are read from the end of a log


@dataclass(frozen=True)
class Mean:
    """Percent, and the difference to the base where there is one."""

    value: float
    gain: float | None


@dataclass(frozen=True)
class RunStatus:
    """One run, or one job of a sweep."""

    folder: Path
    state: str
    record: Mapping[str, Any] = field(default_factory=dict)  # run.json
    job: Mapping[str, Any] = field(default_factory=dict)  # what jobs.json says of it

    @property
    def overrides(self) -> list[str]:
        return list(self._known("overrides") or [])

    @property
    def arm(self) -> str:
        """The paper's name for its choices, else what tells them apart."""
        config = self.record.get("config")
        if not self._known("arm") and config:
            return arm_label(None, config["loss"]["name"], config["data"]["arm"])
        return str(self._known("arm") or "")

    @property
    def what(self) -> str:
        """The arm, or the command of a run that was not to go the whole way."""
        until, config = self.record.get("until"), self.record.get("config") or {}
        if not until:
            return self.arm
        model = config.get("model") or {}
        path = model.get("path")
        own = {"train": self.arm, "select": (config.get("data") or {}).get("arm"),
               "evaluate": model_name(path) if path else model.get("name")}.get(until)  # fmt: skip
        return f"spot {until}" + (f" · {own}" if own else "")

    @property
    def seed(self) -> int | None:
        seed = self._known("seed")
        return None if seed is None else int(seed)

    @property
    def study(self) -> str:
        return str(self._known("study") or "")

    @property
    def error(self) -> str:
        """Why it failed."""
        return str(self.job.get("error") or self.record.get("error") or "")

    @property
    def at(self) -> float:
        """When it ended, else began, else its folder was made. s, Unix time; 0: never."""
        for key in ("finished", "started"):
            if key in self.record:
                return datetime.fromisoformat(self.record[key]).timestamp()
        return self.folder.stat().st_mtime if self.folder.exists() else 0.0

    @property
    def progress(self) -> str:
        """The stage it is in and how far: `train 46 of 125`. Empty when it is in none."""
        stage = (self.record.get("current") or {}).get("stage", "")
        label, done, total = heartbeat.read_progress(self.folder) or ("", 0, 0)
        counted = {"Training steps": "train", "pretraining": stage}.get(label, label)
        if stage != counted or done == total:
            return str(stage)
        return f"{stage or label} {done}" + (f" of {total}" if total else "")

    @property
    def products(self) -> dict[str, Path]:
        """Folders by the product's name, of what was made so far."""
        return {name: self.folder / at for name, at in self.record.get("products", {}).items()}

    @property
    def checkpoint(self) -> Path | None:
        """The folder that its training writes or wrote."""
        current = self.record.get("current") or {}
        if current.get("stage") == "train":
            return (self.folder / current["folder"]).resolve()
        made = self.products.get("checkpoint")
        return made.resolve() if made else None

    @property
    def disk_use(self) -> int:
        """Bytes of its folder and of the products that it made itself."""
        stages = self.record.get("stages", ())
        made = [self.products[s["product"]] for s in stages if not s["reused"]]
        if current := self.record.get("current"):
            made.append(self.folder / current["folder"])
        return sum(map(size, {self.folder, *made}))

    @cached_property
    def scores(self) -> dict[str, Mean]:
        """Means over benchmarks by domain, and `average` over all."""
        return means(read_table(self.folder / "scores.csv")) if self.state == COMPLETE else {}

    def _known(self, key: str) -> Any:
        value = self.record.get(key)
        return self.job.get(key) if value is None else value


@dataclass(frozen=True)
class SweepStatus:
    """A folder of runs."""

    folder: Path
    jobs: tuple[RunStatus, ...]
    alive: bool = False

    @property
    def at(self) -> float:
        return max((job.at for job in self.jobs), default=0.0)

    @property
    def study(self) -> str:
        return next((job.study for job in self.jobs if job.study), "")

    @property
    def counts(self) -> Counter[str]:
        return Counter(job.state for job in self.jobs)

    @property
    def state(self) -> str:
        """Running as long as a job is; else the state that wants most attention."""
        if self.alive and self.counts["waiting"]:
            return "running"
        return next((state for state in STATES if self.counts[state]), "waiting")

    @cached_property
    def arms(self) -> dict[str, list[RunStatus]]:
        """Jobs by arm; an arm is also named by what else differs, `spot_bco data.gamma=0.4`."""
        common = (
            set.intersection(*(set(job.overrides) for job in self.jobs)) if self.jobs else set()
        )
        groups: dict[str, list[RunStatus]] = defaultdict(list)
        for job in self.jobs:
            own = [line for line in job.overrides if line not in common and not _is_named(line)]
            groups[" ".join([job.arm or "run", *own])].append(job)
        return dict(groups)


def _is_named(override: str) -> bool:
    return override.lstrip("+~").partition("=")[0] in NAMED


# ---- finding them ------------------------------------------------------------------------------


def find(output: Path) -> list[RunStatus | SweepStatus]:
    """All runs and sweeps below an output folder, the newest first."""
    found = [look_at_sweep(f) if is_sweep(f) else look(f) for f in _candidates(output)]
    return sorted(found, key=lambda one: (one.at, str(one.folder)), reverse=True)


def is_sweep(folder: Path) -> bool:
    """Whether a launcher left its jobs there, or runs with numbers for names lie there."""
    if any((folder / name).exists() for name in (JOBS, "multirun.yaml")):
        return True
    return not is_run(folder) and bool(_numbered(folder))


def is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in (RUN_FILE, EVALUATION, ".hydra"))


def look(folder: Path) -> RunStatus:
    """The run in a folder, by what it left there itself."""
    record = _read(folder)
    status = record.get("status")
    if status == "running" and not heartbeat.is_alive(folder):
        status = INTERRUPTED  # killed: nobody was left to write it down
    return RunStatus(folder, str(status) if status in STATES else INTERRUPTED, record)


def look_at_sweep(folder: Path) -> SweepStatus:
    """A sweep's jobs: those its launcher recorded, or without a record those that left something."""
    alive = heartbeat.is_alive(folder)
    planned = read_json(folder / JOBS).get("jobs")
    if not isinstance(planned, list):
        return SweepStatus(folder, tuple(map(look, _numbered(folder))), alive)
    queued = slurm.queued(folder)
    jobs = (
        _as_launched(look(folder / name), job, alive, queued.get(name))
        for job in planned
        if (name := str(job["name"]))
    )
    return SweepStatus(folder, tuple(jobs), alive)


def _as_launched(
    run: RunStatus, job: Mapping[str, Any], alive: bool, queued: str | None
) -> RunStatus:
    """A job as its folder has it, corrected by what its launcher recorded and what SLURM says."""
    state = run.state
    if queued == "waiting" or (queued and state == INTERRUPTED):
        state = queued  # put back into the queue, or about to leave its first trace
    elif alive and job["state"] in ("waiting", "running"):
        state = job["state"]  # what an earlier sweep left in the folder does not count
    elif job["state"] == "failed" and state != COMPLETE:
        state = "failed"
    return replace(run, state=state, job=job)


def _numbered(folder: Path) -> list[Path]:
    """Folders of runs that are named by number, in order."""
    found = (path for path in folder.glob("*/") if path.name.isdigit() and is_run(path))
    return sorted(found, key=lambda path: int(path.name))


def _candidates(output: Path) -> Iterator[Path]:
    """Folders of runs and sweeps, without looking into them."""
    waiting = [(path, 0) for name in ("runs", "sweeps") if (path := output / name).is_dir()]
    while waiting:
        folder, depth = waiting.pop()
        if depth and (is_run(folder) or is_sweep(folder)):
            yield folder
        elif depth < DEEPEST:
            waiting += [(path, depth + 1) for path in folder.glob("*/")]


def locate(name: str, output: Path) -> RunStatus | SweepStatus:
    """A run or sweep by folder, by `newest`, or by number: 3, or 3/12 for a sweep's job 12.

    output: the folder whose runs have the numbers.
    """
    folder = Path(name)
    if folder.is_dir() and (is_run(folder) or is_sweep(folder)):
        return look_at_sweep(folder) if is_sweep(folder) else _in_its_sweep(folder)
    number, _, job = name.partition("/")
    if not named(name):
        raise UserError(f"{name} is not the folder of a run or a sweep: spot runs lists them.")
    found = find(output)
    index = 0 if name == "newest" else int(number) - 1
    if not 0 <= index < len(found):
        raise UserError(f"{name} is not there: spot runs output={output} lists {len(found)}.")
    one = found[index]
    if not job:
        return one
    jobs = {run.folder.name: run for run in one.jobs} if isinstance(one, SweepStatus) else {}
    if job not in jobs:
        raise UserError(
            f"{name} is not there: {one.folder} has {terminal.count(len(jobs), 'job')}."
        )
    return jobs[job]


def named(name: str) -> bool:
    """Whether it stands for a run in the list: `newest`, 3, or 3/12."""
    number, slash, job = name.partition("/")
    known = number.isdecimal() and (job.isdecimal() or not slash)
    return (name == "newest" or known) and not Path(name).exists()


def _in_its_sweep(folder: Path) -> RunStatus:
    """A run; where it is a sweep's, with what the launcher recorded."""
    folder = folder.resolve() if (folder.resolve().parent / JOBS).exists() else folder
    jobs = look_at_sweep(folder.parent).jobs if (folder.parent / JOBS).exists() else ()
    return next((job for job in jobs if job.folder.name == folder.name), look(folder))


# ---- files that may be growing -----------------------------------------------------------------


def _read(folder: Path) -> dict[str, Any]:
    try:
        return run_record.read(folder)
    except (OSError, UserError):
        return {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty when it is missing, half written or none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_table(path: Path) -> list[dict[str, str]]:
    """The whole rows of a CSV file; empty when it is not there."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    whole = (row for row in rows if None not in row and None not in row.values())
    return [{name: original(cell) for name, cell in row.items()} for row in whole]


def some_attempts(product: Path, verdict: str, most: int) -> list[Attempt]:
    """The first attempts with this verdict; fewer where the product is damaged or gone."""
    found: list[Attempt] = []
    with suppress(OSError, ValueError), (product / ROWS).open(encoding="utf-8") as file:
        for line in file:
            row = from_json(Attempt, line) if f'"{verdict}"' in line else None
            if row is not None and row.verdict == verdict:
                found.append(row)
            if len(found) == most:
                break
    return found


def log_lines(folder: Path) -> list[str]:
    """The end of a job's log, line by line, without empty ones."""
    try:
        with (folder / "job.log").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            text = file.read().decode(errors="replace").replace("\r", "\n")
    except OSError:
        return []
    return [line.strip() for line in text.split("\n") if line.strip()]


def means(rows: Sequence[Mapping[str, str]]) -> dict[str, Mean]:
    """Macro means over the trained model's benchmarks, by domain and as `average`."""
    own = [row for row in rows if row.get("arm") != "base" and row.get("accuracy")]
    groups: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for row in own:
        groups[row["domain"]].append(row)
        groups["average"].append(row)
    return {name: _mean(group) for name, group in groups.items()}


def _mean(rows: Sequence[Mapping[str, str]]) -> Mean:
    gains = [float(row["difference"]) for row in rows if row.get("difference")]
    value = fmean(float(row["accuracy"]) for row in rows)
    return Mean(value, fmean(gains) if len(gains) == len(rows) else None)


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # deleted meanwhile
                total += os.lstat(os.path.join(place, name)).st_size
    return total
