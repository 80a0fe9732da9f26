"""Runs and sweeps on this machine and the state they are in, read from their folders.

Nothing is written, nothing heavy is imported, and no rows are read: states come from `run.json`,
`process.json` and a sweep's `jobs.json`, scores from the report's `scores.csv`. Files that are half
written count as not there yet.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from spot.config import arm_label
from spot.data.artifacts import EVALUATION, RUN_FILE
from spot.pipeline import heartbeat, traces
from spot.pipeline.sweep_jobs import JOBS
from spot.pipeline.traces import Made, Owner
from spot.utils.errors import UserError

STATES = ("running", "failed", "interrupted", "waiting", "finished")
METRICS = "metrics.csv"
DEEPEST = 3  # folders between outputs/runs or outputs/sweeps and a run
SAID = {"seed", "arm", "loss", "data.arm", "study", "output"}  # what arm and seed tell already


@dataclass(frozen=True)
class Doing:
    """The stage a job is in and how far it is. done and total count rows or optimiser steps."""

    stage: str
    done: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class KnownRun:
    """One run, or one job of a sweep."""

    folder: Path
    state: str
    overrides: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)  # run.json or evaluation.json
    there: heartbeat.Presence | None = None
    error: str = ""  # why its sweep says that it failed
    at: float = 0.0  # s, Unix time: when it ended, else began, else its folder was made; 0: never

    @property
    def arm(self) -> str:
        """The paper's name for its choices, else what tells them apart."""
        known = self.record.get("arm") or self._about.get("arm")
        config = self.record.get("config", {})
        if not known and {"loss", "data"} <= config.keys():
            known = arm_label(None, config["loss"]["name"], config["data"]["arm"])
        return str(known or traces.chosen(self.overrides).get("arm") or "")

    @property
    def seed(self) -> int | None:
        known = self.record.get("seed", self._about.get("seed"))
        typed = traces.chosen(self.overrides).get("seed", "")
        return int(known) if known is not None else int(typed) if typed.isdecimal() else None

    @property
    def study(self) -> str:
        return str(self.record.get("study") or self._about.get("study") or "")

    @property
    def command(self) -> str:
        return str(self.record.get("command") or self._about.get("command") or "")

    @property
    def exit(self) -> int | None:
        return self.there.exit if self.there else None

    @cached_property
    def scores(self) -> dict[str, traces.Mean]:
        """Means over benchmarks by domain, and `average` over all."""
        return traces.means(traces.read_scores(self.folder)) if self.state == "finished" else {}

    @property
    def said(self) -> str:
        """Why it failed, or the last line of its log."""
        why = self.error or (self.there.said if self.there else "")
        return why if why and self.state == "failed" else traces.last_line(self.folder)

    @property
    def _about(self) -> Mapping[str, Any]:
        return self.there.about if self.there else {}


@dataclass(frozen=True)
class Sweep:
    """A folder of runs."""

    folder: Path
    jobs: tuple[KnownRun, ...]
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
    def arms(self) -> dict[str, list[KnownRun]]:
        """Jobs by arm; an arm is also named by what else differs, `spot_bco data.gamma=0.4`."""
        choices = [traces.chosen(job.overrides) for job in self.jobs]
        keys = dict.fromkeys(key for one in choices for key in one if key not in SAID)
        varied = [key for key in keys if len({one.get(key) for one in choices}) > 1]
        names = {_but_seed(job): job.arm for job in self.jobs if job.arm}
        groups: dict[str, list[KnownRun]] = defaultdict(list)
        for job, one in zip(self.jobs, choices, strict=True):
            own = [f"{key}={one[key]}" for key in varied if key in one]
            name = job.arm or names.get(_but_seed(job)) or _choice_of_arm(one)
            groups[" ".join([name or "run", *own])].append(job)
        return dict(groups)


def _but_seed(job: KnownRun) -> frozenset[tuple[str, str]]:
    """What a job shares with those of its arm, which know its name if they have begun."""
    return frozenset(item for item in traces.chosen(job.overrides).items() if item[0] != "seed")


def _choice_of_arm(choices: Mapping[str, str]) -> str:
    """`loss=dpo`: what is known of an arm of which no job has begun."""
    return " ".join(f"{key}={choices[key]}" for key in ("loss", "data.arm") if key in choices)


def find(output: Path) -> list[KnownRun | Sweep]:
    """All runs and sweeps below an output folder, the newest first."""
    found: list[KnownRun | Sweep] = []
    for folder in _candidates(output):
        found.append(look_at_sweep(folder) if is_sweep(folder) else look(folder))
    return sorted(found, key=lambda one: (one.at, str(one.folder)), reverse=True)


def is_sweep(folder: Path) -> bool:
    """Whether a launcher left its jobs there, or runs with numbers for names lie there."""
    if any((folder / name).exists() for name in (JOBS, "multirun.yaml")):
        return True
    return not is_run(folder) and bool(_numbered(folder))


def _numbered(folder: Path) -> list[Path]:
    """Folders of runs that are named by number, in order."""
    found = (path for path in folder.glob("*/") if path.name.isdigit() and is_run(path))
    return sorted(found, key=lambda path: int(path.name))


def is_run(folder: Path) -> bool:
    names = (RUN_FILE, EVALUATION, heartbeat.PROCESS, ".hydra")
    return any((folder / name).exists() for name in names)


def look(folder: Path) -> KnownRun:
    """The run in a folder, by what it left there itself."""
    record = traces.read_json(folder / RUN_FILE) or traces.read_json(folder / EVALUATION)
    there = heartbeat.read(folder)
    overrides = record.get("overrides") or (there and there.about.get("overrides"))
    return KnownRun(
        folder,
        _state(record, there),
        tuple(map(str, overrides or traces.typed(folder))),
        record,
        there,
        at=_time(folder, record, there),
    )


def look_at_sweep(folder: Path) -> Sweep:
    """A sweep's jobs: those its launcher knows of, or without its word those that left something."""
    there = heartbeat.read(folder)
    alive = there is not None and there.alive
    planned = traces.read_json(folder / JOBS).get("jobs")
    if not isinstance(planned, list):
        seen = map(look, _numbered(folder))
        return Sweep(folder, tuple(seen), alive)
    jobs = (_as_launched(look(folder / str(job["name"])), job, alive) for job in planned)
    return Sweep(folder, tuple(jobs), alive)


def _as_launched(own: KnownRun, job: Mapping[str, Any], alive: bool) -> KnownRun:
    """A job as its folder has it, corrected by what its launcher says of it."""
    stated, state = str(job["state"]), own.state
    if stated == "failed" and own.state != "finished":
        state = "failed"
    elif alive and stated in ("waiting", "running"):
        state = stated  # what an earlier sweep left in the folder is of no interest
    elif stated == "waiting" and own.there is None and own.state != "finished":
        state = "interrupted"  # with the sweep, before it began
    overrides = tuple(map(str, job["overrides"]))
    return replace(own, state=state, overrides=overrides, error=str(job.get("error") or ""))


def _state(record: Mapping[str, Any], there: heartbeat.Presence | None) -> str:
    if there is not None and there.alive:
        return "running"
    if record.get("status") == "complete" or (there is not None and there.exit == 0):
        return "finished"
    if there is None or there.exit is None or there.exit in heartbeat.STOPPED:
        return "interrupted"  # killed: nobody was left to say why
    return "failed"


def _time(folder: Path, record: Mapping[str, Any], there: heartbeat.Presence | None) -> float:
    if there is not None:
        return there.ended or there.began
    try:
        return datetime.fromisoformat(str(record["finished"])).timestamp()
    except (KeyError, ValueError):
        return folder.stat().st_mtime if folder.exists() else 0.0


def _candidates(output: Path) -> Iterator[Path]:
    """Folders of runs and sweeps, without looking into them."""
    waiting = [(path, 0) for name in ("runs", "sweeps") if (path := output / name).is_dir()]
    while waiting:
        folder, depth = waiting.pop()
        if depth and (is_run(folder) or is_sweep(folder)):
            yield folder
        elif depth < DEEPEST:
            waiting += [(path, depth + 1) for path in folder.glob("*/")]


# ---- products ----------------------------------------------------------------------------------


def made_by(run: KnownRun, by_owner: Mapping[Owner, Sequence[Made]]) -> list[Made]:
    """The products that an unfinished run made so far, and the one it is at."""
    if run.there is None:
        return []
    made = by_owner.get((run.there.pid, run.there.host), ())
    return [one for one in made if one.at >= run.there.began - 1]  # numbers come round again


def doing(run: KnownRun, made: Sequence[Made]) -> Doing | None:
    """The stage of a run that is not finished; None before its first and between two."""
    at = next((one for one in reversed(made) if not one.complete), None)
    noted = heartbeat.read_progress(run.folder)
    label, done, total = noted or ("", None, None)
    if at is None:
        return Doing(label, done, total) if label == "pretraining" and done != total else None
    if at.stage == "train":
        steps = (done, total) if label.startswith("Training") else (None, None)
        return Doing("train", traces.last_step(at.folder / METRICS) or steps[0], steps[1])
    return Doing(at.stage, done, total) if label == at.stage else Doing(at.stage)


def products_root(run: KnownRun) -> Path:
    """Where the run's products are made."""
    if run.there and "products" in run.there.about:
        return Path(str(run.there.about["products"]))
    above = run.folder.resolve().parents
    return next((path for p in above if (path := p / "products").is_dir()), Path("products"))


def made_of(runs: Sequence[KnownRun]) -> dict[Path, list[Made]]:
    """What each run that is not finished made so far, by its folder."""
    begun = [run for run in runs if run.there is not None and run.state != "finished"]
    owners = {root: traces.makers(root) for root in {products_root(run) for run in begun}}
    return {run.folder: made_by(run, owners[products_root(run)]) for run in begun}


def checkpoint(run: KnownRun, made: Sequence[Made] = ()) -> Path | None:
    """The folder that a run's training writes or wrote."""
    products = run.record.get("products", {})
    if "checkpoint" in products:
        return (run.folder / products["checkpoint"]).resolve()
    return next((one.folder for one in reversed(made) if one.stage == "train"), None)


def disk_use(run: KnownRun, made: Sequence[Made] = ()) -> int:
    """Bytes of the run's folder and of the products that it made itself."""
    stages = run.record.get("stages", ())
    fresh = {stage["product"] for stage in stages if not stage["reused"]}
    products = run.record.get("products", {})
    folders = [run.folder / path for name, path in products.items() if name in fresh]
    return sum(map(traces.size, {run.folder, *folders, *(one.folder for one in made)}))


# ---- commands ----------------------------------------------------------------------------------


def command(arguments: Sequence[str]) -> None:
    """`spot runs [output=outputs] [status=running,failed]`."""
    given = options(arguments, "runs", ("output", "status"))
    states = [state for state in given.get("status", "").split(",") if state]
    if unknown := [state for state in states if state not in STATES]:
        raise UserError(f"status={unknown[0]} is unknown: choose among {', '.join(STATES)}.")
    from spot.cli import display

    display.show_list(_folder(_output(given)), states)


def show(arguments: Sequence[str]) -> None:
    """`spot show <folder | newest | number from spot runs, 3 or 3/12> [output=outputs]`."""
    names = folders(arguments)
    given = options([a for a in arguments if a not in names], "show", ("output",))
    if len(names) != 1 or names[0].startswith("-"):
        raise UserError(
            "name one run: spot show <folder>, spot show newest, or its number in spot runs."
        )
    from spot.cli import display

    display.show_one(locate(names[0], _output(given)))


def locate(name: str, output: Path) -> KnownRun | Sweep:
    """A run or sweep by folder, by `newest`, or by number: 3, or 3/12 for a sweep's job 12.

    output: the folder whose runs have the numbers.
    """
    folder = Path(name)
    if folder.is_dir() and (is_run(folder) or is_sweep(folder)):
        return look_at_sweep(folder) if is_sweep(folder) else _in_its_sweep(folder)
    number, _, job = name.partition("/")
    if name != "newest" and not (number.isdecimal() and (job.isdecimal() or not job)):
        raise UserError(f"{name} is no folder of a run or a sweep: spot runs lists them.")
    found = find(_folder(output))
    index = 0 if name == "newest" else int(number) - 1
    if not 0 <= index < len(found):
        raise UserError(f"{name} is not there: spot runs output={output} has {len(found)} lines.")
    one = found[index]
    if not job:
        return one
    jobs = {seen.folder.name: seen for seen in one.jobs} if isinstance(one, Sweep) else {}
    if job not in jobs:
        raise UserError(f"{name} is not there: {one.folder} has {len(jobs) or 'no'} jobs.")
    return jobs[job]


def _in_its_sweep(folder: Path) -> KnownRun:
    """A run; where it is a sweep's, with what the launcher says of it."""
    above = folder.resolve().parent
    jobs = look_at_sweep(above).jobs if (above / JOBS).exists() else ()
    return next((job for job in jobs if job.folder.name == folder.resolve().name), look(folder))


def _output(given: Mapping[str, str]) -> Path:
    return Path(given.get("output") or "outputs")


def _folder(output: Path) -> Path:
    if not output.is_dir():
        raise UserError(f"output={output} is no folder: name the one that runs write to.")
    return output


def folders(arguments: Sequence[str]) -> list[str]:
    """What is no `key=value`; a sweep's folder may have = in its name."""
    return [word for word in arguments if "=" not in word or Path(word).is_dir()]


def options(arguments: Sequence[str], command: str, keys: Sequence[str]) -> dict[str, str]:
    """`key=value` arguments of `spot <command>`. Raises UserError for another key."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if unknown := [key for key in given if key not in keys]:
        usage = " ".join(f"[{key}=…]" for key in keys)
        raise UserError(f"{unknown[0]} is unknown to spot {command}: write spot {command} {usage}.")
    return given
