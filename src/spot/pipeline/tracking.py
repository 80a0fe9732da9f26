"""Where metrics go besides metrics.csv, which every run writes: TensorBoard by default, W&B on request.

W&B gets all columns of metrics.csv while training goes on and, when the run is complete, the tables
`scores`, `pairs` and `change_ratios` and the scores as summary values. Rounds before the last come
when the run is complete, as `round1/loss` and so on.

A job is one W&B run, however often it is continued. Offline, nothing leaves this machine: the run lies
below `<run folder>/logs/wandb/` in `offline-run-<time>-<id>`, and `wandb sync <that folder>` uploads
it. There the later of two folders of one id replaces the earlier, so each is made whole: a run that
is continued first logs again what metrics.csv has, and the shorter folders are removed. Online, W&B
itself continues the run and gets only the steps it does not have.
"""

from __future__ import annotations

import csv
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from spot.config import arm_label
from spot.data import artifacts, run_record
from spot.data.rows import Pair
from spot.data.word_diff import inline
from spot.pipeline import heartbeat, run_status
from spot.pipeline.workspace import has_key
from spot.utils.errors import UserError, first_line
from spot.utils.files import write_aside
from spot.utils.progress import say

if TYPE_CHECKING:
    import wandb  # takes a second, which runs without it are spared

AXIS = "trainer/global_step"  # what Lightning calls the optimiser step
ID_FILE = "wandb.json"  # the id of a job's W&B run
INIT_SECONDS = 60.0  # before a job goes on offline
FINISH_SECONDS = 120.0  # for what is left to upload; what is not sent then stays for `wandb sync`
SHOWN_PAIRS = 50
MOST_ROWS = 10_000  # that a W&B table shows
PAIR_COLUMNS = [
    "id", "question", "answer", "edit", "rejected", "chosen",
    "change_ratio", "common_prefix", "rejected_tokens", "chosen_tokens",
]  # fmt: skip


@contextmanager
def loggers(
    names: Sequence[str], folder: Path, config: Mapping[str, Any], training: Path
) -> Iterator[list[Any]]:
    """Lightning loggers for the names among `csv`, `tensorboard` and `wandb`, ended with the block.

    `csv` needs none: training writes `<training>/metrics.csv` itself. folder: the run's, with its
    logs below, or a round's in it; config: the run's, as `spot.config.plain` makes it. A round before
    the last has no W&B run: `publish` adds it to the run's own.
    """
    if unknown := sorted(set(names) - {"csv", "tensorboard", "wandb"}):
        raise UserError(f"Unknown logger {unknown[0]!r}: use csv, tensorboard or wandb.")
    table = training / "metrics.csv"
    boards = [Board(table, folder / "logs", _name(config))] if "tensorboard" in names else []
    if "wandb" not in names or heartbeat.run_folder(folder, config["rounds"]) != folder:
        yield boards
    else:
        with opened(folder, config, training) as logger:
            logger.experiment.summary["status"] = "training"
            yield [*boards, logger]
            logger.replay(table)  # where no step was left to do
            logger.experiment.summary["status"] = "trained"


def publish(folder: Path) -> None:
    """Complete what follows the finished run in `folder`: TensorBoard's curves, W&B's with tables and scores.

    The curves come from metrics.csv, so that a job whose training was reused has them, too.
    """
    record = run_record.read(folder)
    config = record["config"]
    product = {name: folder / path for name, path in record["products"].items()}
    for name in product:
        if name.endswith("checkpoint"):
            artifacts.verify(product[name], "metrics.csv")
    table = product["checkpoint"] / "metrics.csv"
    if config["logger"]["tensorboard"] and not list(folder.glob("logs/tensorboard/*/events.*")):
        board = Board(table, folder / "logs", _name(config))
        board.replay(table)
        board.finalize("success")
    if not config["logger"]["wandb"]:
        return
    import wandb

    pairs = artifacts.read_rows(product["pairs"], Pair)
    ratios = [[p.id, p.change_ratio, p.common_prefix] for p in spread(pairs, MOST_ROWS)]
    scores, summary = _scores(folder)
    with opened(folder, config) as logger:
        logger.replay(table)
        for name in (f"round{number}" for number in range(1, config["rounds"])):
            logger.replay_round(name, product[f"{name}/checkpoint"] / "metrics.csv")
        logger.experiment.log(
            {
                "scores": scores,
                "pairs": wandb.Table(
                    list(PAIR_COLUMNS), [*map(pair_row, spread(pairs, SHOWN_PAIRS))]
                ),
                "change_ratios": wandb.Table(["id", "change_ratio", "common_prefix"], ratios),
            }
        )
        status = {"status": record["status"], "seconds": record["seconds"]}
        logger.experiment.summary.update(summary | status)
        if logger.experiment.settings.mode == "offline":
            say(f"W&B: wandb sync {logger.experiment.settings.sync_dir}")


def _scores(folder: Path) -> tuple[wandb.Table, dict[str, Any]]:
    """What scores.csv has of the run, as a table; and accuracies and gains as summary values."""
    import wandb

    from spot.report import load, tables

    rows = tables.score_rows(load.Study(*load.load(folder)))
    cells = [[None if cell == "" else cell for cell in row.values()] for row in rows]
    own = [row for row in rows if row["arm"] != "base"]
    average = run_status.means([{k: str(v) for k, v in row.items()} for row in own])["average"]
    summary = {f"score/{row['benchmark']}": row["accuracy"] for row in own}
    summary |= {f"gain/{row['benchmark']}": row["difference"] for row in own}
    summary |= {"score/average": average.value, "gain/average": average.gain}
    return wandb.Table(list(tables.CSV_COLUMNS), cells), summary


class Continued(Logger):
    """One of Lightning's loggers that begins with what metrics.csv has of a run that is continued.

    table: metrics.csv, from which the steps before the first one logged here are taken.
    """

    def __init__(self, table: Path | None, **options: Any) -> None:
        super().__init__(**options)
        self.table = table
        self.logged = -1  # the last step that it has

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Lightning knows none: the configuration is in run.json, and in W&B from the start."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the values of one optimiser step, unless they are there from before."""
        if step is None:  # Lightning's own, of which there are none
            return
        if self.table is not None and step > 0:
            table, self.table = self.table, None
            self.replay(table, before=step)
        if step > self.logged:
            self.logged = step
            super().log_metrics(dict(metrics), step)  # type: ignore[safe-super]

    def replay(self, table: Path, before: int | None = None) -> None:
        """Log what metrics.csv holds, up to the step `before`."""
        self.table = None
        for row in _rows(table):
            step = int(row.pop("step"))
            if before is None or step < before:
                self.log_metrics(row, step)


class Board(Continued, TensorBoardLogger):
    """TensorBoard's, in <logs>/tensorboard/<name>; what a killed process had written counts no more."""

    def __init__(self, table: Path, logs: Path, name: str) -> None:
        super().__init__(table, save_dir=logs, name="tensorboard", version=name, purge_step=0)


class StepLogger(Continued, WandbLogger):
    """W&B's, with the names of metrics.csv."""

    def replay_round(self, name: str, table: Path) -> None:
        """Log what metrics.csv holds of a round before the last, as `<name>/<metric>` over `<name>/step`."""
        axis = f"{name}/step"
        self.experiment.define_metric(f"{name}/*", step_metric=axis)
        known = self.experiment.summary.get(axis, -1)  # from before the run was continued
        for row in _rows(table):
            if row["step"] > known:
                values = {f"{name}/{metric}": value for metric, value in row.items()}
                self.experiment.log({**values, axis: int(row["step"])})


def _rows(table: Path) -> Iterator[dict[str, float]]:
    """What was measured at each step of metrics.csv."""
    with table.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield {name: float(value) for name, value in row.items() if value}


@contextmanager
def opened(
    folder: Path, config: Mapping[str, Any], training: Path | None = None
) -> Iterator[StepLogger]:
    """The W&B run of the job in `folder`, whose resolved configuration is `config`.

    training: the folder of the training that is going on in it, whose earlier W&B run is continued.
    Online only with a key; where W&B cannot be reached, offline. No process of W&B is left afterwards.
    """
    import wandb

    # Lightning's loggers do nothing in another rank, for which it takes a RANK left in some shell
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    logger = StepLogger(
        training / "metrics.csv" if training else None,
        id=_id(folder, config, training),
        save_dir=logs,
        project=config["logger"]["project"],
        job_type="train",
        config={**config, "versions": artifacts.versions(), "revision": artifacts.revision()},
        **_labels(folder, config),
    )
    code = 0
    try:
        run = _connect(logger, logs, config["logger"]["wandb_mode"] == "online")
        logger.logged = run.summary.get(AXIS, -1)
        try:
            yield logger
        except BaseException as error:
            code = heartbeat.exit_code(error)
            raise
        finally:
            _finish(run, code)
        if run.settings.mode == "offline":
            _remove_shorter(Path(run.settings.sync_dir), run.id)
    finally:
        wandb.teardown()


def _id(folder: Path, config: Mapping[str, Any], training: Path | None) -> str:
    """The id of the W&B run of the training that goes on, else of the folder, else a new one.

    Ids are kept in files and not made of paths: a folder made afresh, another configuration in it, or
    another machine with the same paths must not continue a finished run.
    """
    digest = artifacts.hash_text(json.dumps(config, sort_keys=True))
    own = folder / "logs" / ID_FILE
    going_on = training / artifacts.RESUME / ID_FILE if training else None
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


def _arm(config: Mapping[str, Any]) -> str:
    return arm_label(config["arm"], config["loss"]["name"], config["data"]["arm"])


def _name(config: Mapping[str, Any]) -> str:
    return f"{_arm(config)}-{config['seed']}"


def _labels(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What W&B finds a run by. Jobs of a sweep are a group, named like the sweep's folder."""
    swept = (folder.parent / "multirun.yaml").exists()  # Hydra writes it before the first job
    arm = _arm(config)
    return {
        "name": " ".join([_name(config), *[f"#{folder.name}"] * swept]),
        "group": folder.parent.name if swept else None,
        "tags": [tag for tag in (arm, config["study"], f"seed {config['seed']}") if tag],
    }


def _connect(logger: StepLogger, logs: Path, online: bool) -> wandb.Run:
    """Open the run, offline if it has to be."""
    import wandb

    if online and not has_key():
        say("W&B stays offline: WANDB_API_KEY is not set; `wandb sync` uploads it later.")
    elif online:
        there = set(logs.glob("wandb/run-*"))
        try:
            run = _init(logger, "online")
            say(f"W&B: {run.url}")
            return run
        except wandb.Error as error:
            say(f"W&B stays offline, `wandb sync` uploads it later: {first_line(error)}")
            wandb.teardown()
            for empty in set(logs.glob("wandb/run-*")) - there:
                shutil.rmtree(empty)
    return _init(logger, "offline")


def _init(logger: StepLogger, mode: str) -> wandb.Run:
    """Only what we log: no code, no environment, no command line, no console."""
    import wandb

    logger._wandb_init.pop("anonymous", None)  # of no effect, and W&B warns of it
    logger._wandb_init |= {  # `offline=True` would set a variable that later runs inherit
        "mode": mode,
        "resume": "allow" if mode == "online" else None,
        "settings": wandb.Settings(
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
        ),
    }
    return logger.experiment


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


def spread(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """At most so many pairs, evenly spread over the change ratios, the smallest first."""
    ordered = sorted(pairs, key=lambda pair: (pair.change_ratio or 0.0, pair.id))
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[place] for place in places]


def pair_row(pair: Pair) -> list[Any]:
    """By PAIR_COLUMNS; `edit` has both responses in one, edited words marked."""
    edit = inline(pair.rejected, pair.chosen) if pair.rejected else None
    values = {**vars(pair), "edit": edit}
    return [values[column] for column in PAIR_COLUMNS]
