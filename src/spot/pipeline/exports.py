"""Scores of the weights that training left on its way: ability over steps (the paper's Figure 2).

With `save.exports=<steps>` the trained product holds weights-only folders beside the trained model.
They are evaluated afterwards, on the run's own benchmarks and by the same stage, so that what was
evaluated once is reused and what was interrupted goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from spot.config import Config, from_plain
from spot.data import artifacts, run_record
from spot.data.rows import Score
from spot.data.run_record import RUN_FILE
from spot.evaluation.statistics import by_benchmark, question_means, summarise
from spot.pipeline import policy, stages
from spot.pipeline.run import Run
from spot.report.load import EXPORTED, EXPORTED_QUESTIONS, FinishedRun, load
from spot.utils.cells import as_csv
from spot.utils.errors import UserError, first_line
from spot.utils.files import check_output, write_aside

EXPORTS = "exports"  # folder of the trained product
COLUMNS = ["step", "benchmark", "domain", "accuracy", "low", "high", "questions", "trials"]
BY_QUESTION = ["step", "benchmark", "question", "percent"]


@dataclass(frozen=True)
class Exported:
    """A finished run and the weights it exported, by their step, the earliest first."""

    run: FinishedRun
    config: Config  # as recorded; products are where this run's are, wherever we are started
    weights: dict[int, Path]
    last: int  # step of the trained model


def evaluate(run_folder: Path, domain: str | None = None) -> Path:
    """Evaluate the exports of the finished run in `run_folder` and write its `exports.csv`.

    Beside it `exports_by_question.csv` has the mean over trials of every question, of exports alone.

    domain: of the benchmarks that are asked; None: all of the run's own.
    A row is the accuracy of one benchmark after so many optimiser steps, in percent with its 95%
    interval over questions; step 0 is the base and the last step the trained model, both as the run
    scored them. Of several rounds the last one's steps are measured, without a step 0: what that
    round started with is not the base. Raises UserError where there is no finished run or no export.
    """
    exported = read(run_folder, domain)
    if not exported.weights:
        raise UserError(
            f"{run_folder} exported no weights: train with save.exports=<steps> to keep some."
        )
    check_output(run_folder, "run", "folder")
    scores = {exported.last: exported.run.product("scores")}
    if exported.config.rounds == 1:
        scores[0] = exported.run.product("base_scores")
    made = score(Run(exported.config, run_folder), exported)
    scores |= {step: product.folder for step, product in made.items()}
    tasks = exported.config.benchmarks.tasks
    rows = [row for step in sorted(scores) for row in _rows(step, scores[step], list(tasks))]
    write_aside(run_folder / EXPORTED, as_csv(rows, COLUMNS))
    means = [row for step in sorted(made) for row in _means(step, made[step].folder)]
    write_aside(run_folder / EXPORTED_QUESTIONS, as_csv(means, BY_QUESTION))
    return run_folder / EXPORTED


def read(run_folder: Path, domain: str | None = None) -> Exported:
    """What there is to evaluate, on benchmarks of a domain. Raises UserError where there is no finished run."""
    if not run_record.is_finished(run_folder):
        raise UserError(
            f"{run_folder} holds no finished run: give a run's folder, with its run.json."
        )
    (run,), _ = load(run_folder)
    checkpoint = run.product("checkpoint")
    last = int(run.manifest("checkpoint")["details"]["steps"])
    folders = (f for f in (checkpoint / EXPORTS).glob("step_*") if (f / "config.json").exists())
    weights = {int(folder.name.removeprefix("step_")): folder for folder in sorted(folders)}
    weights.pop(last, None)
    config = config_of(run.record, run.folder, checkpoint)
    kept = {n: t for n, t in config.benchmarks.tasks.items() if domain in (None, t.domain)}
    config = replace(config, benchmarks=replace(config.benchmarks, tasks=kept))
    return Exported(run, config, weights, last)


@dataclass(frozen=True)
class Trained:
    """What a finished run or `spot train` trained, and what its scores need."""

    config: Config
    model: policy.Policy
    attempts: artifacts.Product
    base_scores: Path | None  # where they are


def trained(run_folder: Path) -> Trained:
    """What the run in `run_folder` trained. Raises UserError where nothing was trained to its end."""
    record = run_record.read(run_folder)
    products = {name: run_folder / at for name, at in record.get("products", {}).items()}
    if record.get("status") != run_record.COMPLETE or "checkpoint" not in products:
        raise UserError(
            f"{run_folder} has no finished training: give a run of `spot run` or `spot train` that is "
            "complete; spot runs lists them."
        )
    config = config_of(record, run_folder, products["checkpoint"])
    made = artifacts.finished(products["checkpoint"])
    attempts = artifacts.finished(products[first_attempts(config)])
    model = policy.Policy(config.arm or config.loss.name, made.folder / "model", made.digest)
    return Trained(config, model, attempts, products.get("base_scores"))


def config_of(record: Mapping[str, Any], folder: Path, checkpoint: Path) -> Config:
    """The run's configuration, with its products where they are now."""
    try:
        config = from_plain(record["config"])
    except OmegaConfBaseException as error:
        raise UserError(
            f"{folder / RUN_FILE} is of another version of spot ({first_line(error)}): "
            "run its command again."
        ) from error
    return replace(config, output=str(checkpoint.parents[2]))


def first_attempts(config: Config) -> str:
    """The product whose questions are held out: the first round's in all rounds."""
    return "attempts" if config.rounds == 1 else "round1/attempts"


def score(run: Run, exported: Exported) -> dict[int, artifacts.Product]:
    """The scores of every export, made or reused by `run`."""
    config = exported.config
    attempts = artifacts.finished(exported.run.product(first_attempts(config)))
    scores = {}
    for step, weights in exported.weights.items():
        model = replace(config.model, path=str(weights), revision=None)
        made = policy.prepare(model, run.root)
        scores[step] = stages.evaluate(run, f"scores_at_step_{step}", made, attempts)
    return scores


def _means(step: int, folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of one evaluation by BY_QUESTION."""
    for name, scores in by_benchmark(artifacts.read_rows(folder, Score)).items():
        for question, percent in question_means(scores).items():
            values = step, name, question, round(percent, 4)
            yield dict(zip(BY_QUESTION, values, strict=True))


def _rows(step: int, folder: Path, tasks: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of one evaluation by COLUMNS, benchmarks in the order of the configuration."""
    scores = by_benchmark(artifacts.read_rows(folder, Score))
    for name in tasks:
        summary = summarise(scores[name])
        accuracy = summary.accuracy
        shares = (round(x, 2) for x in (accuracy.value, accuracy.low, accuracy.high))
        values = step, name, scores[name][0].domain, *shares, accuracy.questions, summary.trials
        yield dict(zip(COLUMNS, values, strict=True))
