"""Scores of the weights that training left on its way: ability over steps (the paper's Figure 2).

With `save.exports=<steps>` the trained product holds weights-only folders beside the trained model. They
are evaluated afterwards, on the run's own benchmarks and by the same stage, so that what was evaluated
once is reused and what was interrupted goes on.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from spot.config import Config, from_plain
from spot.data import artifacts
from spot.data.rows import Score
from spot.evaluation.statistics import by_benchmark, summarise
from spot.pipeline import policy, stages
from spot.pipeline.run import Run
from spot.report.load import EXPORTED, RUN_FILE, FinishedRun, load
from spot.utils.errors import UserError
from spot.utils.files import write_aside

EXPORTS = "exports"  # folder of the trained product
COLUMNS = ["step", "benchmark", "domain", "accuracy", "low", "high", "questions", "trials"]


def evaluate(run_folder: Path) -> Path:
    """Evaluate the exports of the finished run in `run_folder` and write its `exports.csv`.

    A row is the accuracy of one benchmark after so many optimiser steps, in percent with its 95%
    interval over questions; step 0 is the base and the last step the trained model, both as the run
    scored them. Of several rounds the last one's steps are measured, without a step 0: what that
    round started with is not the base. Raises UserError where there is no finished run or no export.
    """
    if not (run_folder / RUN_FILE).exists():
        raise UserError(
            f"{run_folder} holds no finished run: give a run's folder, with its run.json."
        )
    (finished,), _ = load(run_folder)
    checkpoint = finished.product("checkpoint")
    last = int(finished.manifest("checkpoint")["details"]["steps"])
    exported = {step: path for step, path in found(checkpoint).items() if step < last}
    if not exported:
        raise UserError(
            f"{checkpoint} has no exported weights: train with save.exports=<steps> to keep some."
        )
    # Products are where this run's are, whatever the folder we were started in.
    config = replace(rebuilt(finished), output=str(checkpoint.parents[2]))
    this = Run(config, run_folder)
    # held-out questions are the first round's in all rounds
    attempts = existing(finished.product("attempts" if config.rounds == 1 else "round1/attempts"))
    scores = {last: finished.product("scores")}
    if config.rounds == 1:
        scores[0] = finished.product("base_scores")
    for step, folder in exported.items():
        weights = policy.prepare(replace(config.model, path=str(folder), revision=None), this.root)
        scores[step] = stages.evaluate(this, f"scores_at_step_{step}", weights, attempts).folder
    rows = [row for step in sorted(scores) for row in _rows(step, scores[step], finished)]
    write_aside(run_folder / EXPORTED, _table(rows))
    return run_folder / EXPORTED


def found(checkpoint: Path) -> dict[int, Path]:
    """Exported weights of a trained product by their step, the earliest first."""
    folders = (checkpoint / EXPORTS).glob("step_*")
    by_step = {
        int(f.name.removeprefix("step_")): f for f in folders if (f / "config.json").exists()
    }
    return dict(sorted(by_step.items()))


def rebuilt(run: FinishedRun) -> Config:
    """The configuration that a run recorded, checked again."""
    try:
        return from_plain(run.record["config"])
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{run.folder / RUN_FILE} is of another version of spot ({reason}): "
            "run its command again."
        ) from error


def existing(folder: Path) -> artifacts.Product:
    """A complete product, from where it lies."""
    manifest = artifacts.read_manifest(folder)
    return artifacts.Product(
        folder, manifest["stage"], manifest["key"], manifest["settings"], manifest["inputs"]
    )


def _rows(step: int, folder: Path, run: FinishedRun) -> Iterator[Mapping[str, Any]]:
    """The rows of one evaluation, benchmarks in the order of the configuration."""
    scores = by_benchmark(artifacts.read_rows(folder, Score))
    for name in run.record["config"]["benchmarks"]["tasks"]:
        summary = summarise(scores[name])
        accuracy = summary.accuracy
        yield {
            "step": step,
            "benchmark": name,
            "domain": scores[name][0].domain,
            "accuracy": round(accuracy.value, 2),
            "low": round(accuracy.low, 2),
            "high": round(accuracy.high, 2),
            "questions": accuracy.questions,
            "trials": summary.trials,
        }


def _table(rows: list[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
