"""One W&B run for each job: opened, continued, filled from metrics.csv, ended with its exit code.

Offline, nothing leaves this machine: the run lies below `<run folder>/logs/wandb/` in
`offline-run-<time>-<id>`, and `wandb sync <that folder>` uploads it, as `wandb sync
outputs/sweeps/table1/*/logs/wandb` does a whole sweep. It lets the later of two folders of one id
replace the earlier, so each is made whole: whoever goes on with a run first writes again what
metrics.csv has, and the shorter folders go. Online, W&B itself continues the run and gets only the
steps it has not.
"""

from __future__ import annotations

import csv
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import Logger

from spot.config import arm_label
from spot.data import artifacts
from spot.pipeline import heartbeat, tracking
from spot.utils.files import write_aside
from spot.utils.progress import say

KEPT = "wandb.json"  # the id of a job's W&B run
INIT_SECONDS = 60.0  # before a job goes on offline
FINISH_SECONDS = 120.0  # for what is left to upload; what is not sent then stays for `wandb sync`


@contextmanager
def opened(
    folder: Path, config: Mapping[str, Any], training: Path | None = None
) -> Iterator[wandb.Run]:
    """The W&B run of the job in `folder`, whose resolved configuration is `config`.

    training: the folder of the training that is going on in it, whose earlier W&B run is continued.
    Online only with a key; where W&B cannot be reached, offline. No process of W&B is left afterwards.
    """
    logs = folder / "logs"
    run_id = _id(folder, config, training)
    logs.mkdir(parents=True, exist_ok=True)
    code = 0
    try:
        run = _start(logs, run_id, config, **_labels(folder, config))
        try:
            yield run
        except BaseException as error:
            code = heartbeat.exit_code(error)
            raise
        finally:
            _finish(run, code)
        if run.settings.mode == "offline":
            _remove_shorter(Path(run.settings.sync_dir), run_id)
    finally:
        wandb.teardown()


def log(run: wandb.Run, step: int, values: Mapping[str, float]) -> None:
    """Log the values of one optimiser step, unless W&B has them from before the run was continued."""
    if step >= run.step:
        run.log(dict(values), step=step)


def replay(run: wandb.Run, table: Path, before: int | None = None) -> None:
    """Log what metrics.csv holds, up to the step `before`."""
    with table.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            step = int(row.pop("step"))
            if before is None or step < before:
                log(run, step, {name: float(value) for name, value in row.items() if value})


def replay_round(run: wandb.Run, name: str, table: Path) -> None:
    """Log what metrics.csv holds of a round before the last, as `<name>/<metric>` over `<name>/step`.

    W&B's own step counts on: its earlier values are the last round's and cannot be added to.
    """
    axis = f"{name}/step"
    run.define_metric(f"{name}/*", step_metric=axis)
    known = run.summary.get(axis, -1)  # what W&B has from before the run was continued
    with table.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values = {f"{name}/{metric}": float(text) for metric, text in row.items() if text}
            if values[axis] > known:
                run.log({**values, axis: int(values[axis])})


class StepLogger(Logger):
    """What training logs to: W&B's step is the optimiser step, its names are those of metrics.csv.

    table: metrics.csv, from which the steps before the first one logged here are taken.
    """

    def __init__(self, run: wandb.Run, table: Path) -> None:
        super().__init__()
        self.run, self.table = run, table
        self.started = False

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return self.run.id

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The configuration is logged when the run is opened."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step is None:  # Lightning's own, of which there are none
            return
        if not self.started and step > 0:
            replay(self.run, self.table, before=step)
        self.started = True
        log(self.run, step, metrics)

    def complete(self) -> None:
        """Where no step was left to do, those of metrics.csv are all there is to log."""
        if not self.started:
            replay(self.run, self.table)


def _id(folder: Path, config: Mapping[str, Any], training: Path | None) -> str:
    """The id of the W&B run of the training that goes on, else of the folder, else a new one.

    Ids are kept in files and not made of paths: a folder made afresh, another configuration in it, or
    another machine with the same paths must not continue a finished run.
    """
    digest = artifacts.hash_text(json.dumps(config, sort_keys=True))
    own = folder / "logs" / KEPT
    going_on = training / artifacts.RESUME / KEPT if training else None
    name = None
    if going_on is not None and going_on.exists():
        name = json.loads(going_on.read_text())["id"]
    elif own.exists():
        kept = json.loads(own.read_text())
        name = kept["id"] if kept["config"] == digest else None
    name = name or secrets.token_hex(6)
    for place in filter(None, (own, going_on)):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_aside(place, json.dumps({"id": name, "config": digest}) + "\n")
    return name


def _labels(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What W&B finds a run by. Jobs of a sweep are a group, named like the sweep's folder."""
    swept = (folder.parent / "multirun.yaml").exists()  # Hydra writes it before the first job
    arm = arm_label(config["arm"], config["loss"]["name"], config["data"]["arm"])
    return {
        "name": " ".join([f"{arm}-{config['seed']}", *[f"#{folder.name}"] * swept]),
        "group": folder.parent.name if swept else None,
        "tags": [tag for tag in (arm, config["study"], f"seed {config['seed']}") if tag],
    }


def _start(logs: Path, run_id: str, config: Mapping[str, Any], **labels: Any) -> wandb.Run:
    """Open it, offline if it has to be."""
    if config["logger"]["wandb_mode"] == "online":
        if not tracking.has_key():
            say("W&B stays offline: WANDB_API_KEY is not set; `wandb sync` uploads it later.")
            return _init("offline", logs, run_id, config, **labels)
        there = set(logs.glob("wandb/run-*"))
        try:
            run = _init("online", logs, run_id, config, **labels)
            say(f"W&B: {run.url}")
            return run
        except wandb.Error as error:
            reason = str(error).strip().splitlines()[0]
            say(f"W&B stays offline, `wandb sync` uploads it later: {reason}")
            wandb.teardown()
            for empty in set(logs.glob("wandb/run-*")) - there:
                shutil.rmtree(empty)
    return _init("offline", logs, run_id, config, **labels)


def _init(
    mode: str, logs: Path, run_id: str, config: Mapping[str, Any], **labels: Any
) -> wandb.Run:
    """Only what we log: no code, no environment, no command line, no console."""
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        x_disable_meta=True,
        x_save_requirements=False,
        x_disable_stats=mode == "offline",  # a folder that is made again has none of them
        init_timeout=INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
        finish_timeout_raises=True,
    )
    return wandb.init(
        mode=mode,  # type: ignore[arg-type]
        id=run_id,
        resume="allow" if mode == "online" else None,
        project=config["logger"]["project"],
        dir=logs,
        job_type="train",
        config={**config, "versions": artifacts.versions(), "revision": artifacts.revision()},
        settings=settings,
        **labels,
    )


def _finish(run: wandb.Run, code: int) -> None:
    """End it with this exit code; a slow network does not keep the job waiting for ever."""
    try:
        run.finish(exit_code=code)
    except TimeoutError:
        rest = f"wandb sync --include-online {run.settings.sync_dir}"
        say(f"W&B did not take all within {FINISH_SECONDS:.0f} s; the rest: {rest}")


def _remove_shorter(whole: Path, run_id: str) -> None:
    """Remove the folders of the same run that this one continues."""
    for folder in whole.parent.glob(f"offline-run-*-{run_id}"):
        if folder.resolve() != whole.resolve():
            shutil.rmtree(folder)
