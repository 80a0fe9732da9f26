"""Reading what a training run left, and making small finished runs with known numbers."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from spot.data import artifacts
from spot.data.rows import Pair, Score
from spot.report.load import Study, load
from spot.training.schedule import Optimisation

OPTIMISATION = Optimisation(learning_rate=3e-3, epochs=2, batch_pairs=8)  # 20 pairs: 5 steps
STEPS = 5
TIMINGS = {"tokens_per_second"}


def rows(out: Path) -> list[dict[str, str]]:
    """metrics.csv, as dicts of text."""
    with (out / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def without_timings(out: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in rows(out)]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest relative L2 distance of any tensor."""
    return max(((a[k].float() - b[k].float()).norm() / b[k].float().norm()).item() for k in b)


# ---- made studies ------------------------------------------------------------------------------

MADE_DOMAINS = {"sums": "in_domain", "word_problems": "ood", "instructions": "general"}
MADE_QUESTIONS = 100
MADE_BASE = {"sums": 40, "word_problems": 40, "instructions": 90}  # percent right


@dataclass(frozen=True)
class MadeRun:
    """A finished run whose scores and curves are chosen, for `made_study`.

    right: percent of questions answered right, by benchmark (default: the base's); always the first
    ones, so that two runs differ by exactly the questions between. curves: columns of metrics.csv,
    a value a step from step 0, None where nothing was logged. config: dotted keys over the defaults.
    """

    loss: str = "bco"
    data: str = "rectified"
    seed: int = 0
    right: Mapping[str, int] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    pairs: int = 8  # selected
    trials: int = 1
    verdict: str = "wrong"  # of what is not right
    details: Mapping[str, Any] = field(default_factory=dict)  # of every score

    @property
    def arm(self) -> str:
        names = {("sft", "direct"): "sft", ("sft", "self"): "rft", ("sft", "rectified"): "sft_plus"}
        names |= {(loss, "rectified"): f"spot_{loss}" for loss in ("bco", "bce")}
        names |= {("bco", "direct"): "bco_direct"}
        return names.get((self.loss, self.data), self.loss)


def made_study(folder: Path, runs: Sequence[MadeRun]) -> Study:
    """Write the runs as a sweep below `folder`, as the pipeline would, and load it."""
    for number, run in enumerate(runs):
        _write_run(folder, number, run)
    return Study(*load(folder / "sweep"))


def _write_run(folder: Path, number: int, run: MadeRun) -> None:
    products = {
        "pairs": _rows(folder, "select", {"run": number}, Pair, []),
        "base_scores": _rows(folder, "evaluate", {}, Score, _scores(MADE_BASE, MadeRun())),
        "scores": _rows(
            folder, "evaluate", {"run": number}, Score, _scores({**MADE_BASE, **run.right}, run)
        ),
    }
    beta = run.config.get("loss.beta", 0.1)
    settings = {"loss": {"beta": beta, "learning_rate": 1e-4}, "run": number}
    products["checkpoint"] = artifacts.product(folder / "products", "train", settings)
    artifacts.compute_files(products["checkpoint"], lambda out: _write_curves(out, run))
    job = folder / "sweep" / str(number)
    job.mkdir(parents=True)
    record = {
        "schema": 1, "status": "complete", "arm": run.arm, "seed": run.seed, "study": "made",
        "config": _config(run), "overrides": [f"arm={run.arm}", f"seed={run.seed}"],
        "command": "python train.py", "seconds": 1.0, "finished": "2026-01-01T00:00:00",
        "products": {n: f"../../products/{p.stage}/{p.key}" for n, p in products.items()},
        "stages": [{"stage": "select", "product": "pairs", "seconds": 1.0, "reused": False,
                    "counts": {run.data: run.pairs, "duplicate": 1}}],
    }  # fmt: skip
    (job / "run.json").write_text(json.dumps(record))


def _config(run: MadeRun) -> dict[str, Any]:
    tasks = {
        name: {"name": name, "trials": 1, "questions": MADE_QUESTIONS, "domain": domain}
        for name, domain in MADE_DOMAINS.items()
    }
    config: dict[str, Any] = {
        "loss": {"name": run.loss, "beta": None, "delta": {"mode": "ema", "decay": 0.9}},
        "data": {"arm": run.data, "gamma": 0.6, "pairs": run.pairs},
        "benchmarks": {"name": "made", "tasks": tasks},
        "arm": run.arm,
        "seed": run.seed,
    }
    for key, value in run.config.items():
        *path, last = key.split(".")
        at = config
        for name in path:
            at = at.setdefault(name, {})
        at[last] = value
    return config


def _scores(right: Mapping[str, int], run: MadeRun) -> Iterator[Score]:
    for name, domain in MADE_DOMAINS.items():
        for q in range(MADE_QUESTIONS):
            correct = 100 * q < right[name] * MADE_QUESTIONS
            for trial in range(run.trials):
                yield Score(
                    f"{name}/q{q}#{trial}", name, domain, f"q{q}", trial, correct,
                    "correct" if correct else run.verdict, "1", "text", "stop", 20, 0,
                    details=dict(run.details),
                )  # fmt: skip


def _rows(
    folder: Path, stage: str, settings: dict[str, Any], row_type: type, rows: Any
) -> artifacts.Product:
    target = artifacts.product(folder / "products", stage, settings)
    artifacts.compute_rows(target, row_type, lambda done, counts: rows)
    return target


def _write_curves(out: Path, run: MadeRun) -> dict[str, Any]:
    steps = range(max((len(values) for values in run.curves.values()), default=0))
    with (out / "metrics.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["step", *run.curves])
        for step in steps:
            values = [curve[step] for curve in run.curves.values()]
            table.writerow([step, *("" if value is None else value for value in values)])
    return {"over_long": []}
