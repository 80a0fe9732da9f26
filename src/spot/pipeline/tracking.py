"""Where metrics go besides metrics.csv, which every run writes: TensorBoard by default, W&B on request.

W&B gets all columns of metrics.csv while training goes on and, when the run is complete, the tables
`scores`, `pairs` and `change_ratios` and the scores as summary values. How a job's W&B run is
continued, and uploaded when it was kept offline: `spot.pipeline.wandb_run`. Rounds before the last come when
the run is complete, as `round1/loss` and so on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spot.data import artifacts
from spot.data.artifacts import RUN_FILE
from spot.data.rows import Pair
from spot.data.word_diff import inline
from spot.pipeline import heartbeat
from spot.utils.errors import UserError
from spot.utils.progress import say

if TYPE_CHECKING:
    from spot.evaluation.compare import Scores

SHOWN_PAIRS = 50
MOST_ROWS = 10_000  # that a W&B table shows
SCORE_COLUMNS = [
    "benchmark", "domain", "accuracy", "low", "high", "base", "difference", "difference_low",
    "difference_high", "questions", "trials", "trivial", "unparseable", "truncated", "mean_tokens",
]  # fmt: skip
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
    result: list[Any] = []
    if "tensorboard" in names:
        from pytorch_lightning.loggers import TensorBoardLogger

        result.append(TensorBoardLogger(folder / "logs", name="", version="tensorboard"))
    if "wandb" not in names or heartbeat.run_folder(folder, config["rounds"]) != folder:
        yield result
        return
    from spot.pipeline import wandb_run

    with wandb_run.opened(folder, config, training) as run:
        run.summary["status"] = "training"
        logger = wandb_run.StepLogger(run, training / "metrics.csv")
        yield [*result, logger]
        logger.complete()
        run.summary["status"] = "trained"


def publish(folder: Path) -> None:
    """Complete the W&B run of the finished run in `folder`, if it is to have one: tables and scores.

    The curves come from metrics.csv, so that a job whose training was reused has them, too.
    """
    record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    config = record["config"]
    if not config["logger"]["wandb"]:
        return
    import wandb

    from spot.evaluation import compare
    from spot.pipeline import wandb_run

    product = {name: folder / path for name, path in record["products"].items()}
    base, trained = (compare.read(folder, name) for name in ("base_scores", "scores"))
    scores = score_rows(base, trained)
    pairs = artifacts.read_rows(product["pairs"], Pair)
    ratios = [[p.id, p.change_ratio, p.common_prefix] for p in spread(pairs, MOST_ROWS)]
    tables = {
        "scores": (SCORE_COLUMNS, [[row.get(c) for c in SCORE_COLUMNS] for row in scores]),
        "pairs": (PAIR_COLUMNS, [pair_row(pair) for pair in spread(pairs, SHOWN_PAIRS)]),
        "change_ratios": (["id", "change_ratio", "common_prefix"], ratios),
    }
    with wandb_run.opened(folder, config) as run:
        wandb_run.replay(run, product["checkpoint"] / "metrics.csv")
        for name in (f"round{number}" for number in range(1, config["rounds"])):
            wandb_run.replay_round(run, name, product[f"{name}/checkpoint"] / "metrics.csv")
        run.log(
            {name: wandb.Table(list(columns), rows) for name, (columns, rows) in tables.items()}
        )
        for row in scores:
            run.summary[f"score/{row['benchmark']}"] = row["accuracy"]
            run.summary[f"gain/{row['benchmark']}"] = row["difference"]
        run.summary.update({"status": record["status"], "seconds": record["seconds"]})
        if run.settings.mode == "offline":
            say(f"W&B: wandb sync {run.settings.sync_dir}")


def has_key() -> bool:
    """Whether W&B knows who this is: WANDB_API_KEY, or what `wandb login` left in .netrc."""
    from requests.utils import get_netrc_auth

    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return bool(os.environ.get("WANDB_API_KEY") or get_netrc_auth(host))


def score_rows(base: Scores, trained: Scores) -> list[dict[str, Any]]:
    """One row a benchmark and, of several, their average: by SCORE_COLUMNS, in percent.

    Intervals are 95%; differences to the base are paired by question.
    """
    from spot.evaluation.statistics import crossed, macro, paired, summarise

    rows, differences = [], []
    for name, answers in trained.rows.items():
        of = summarise(answers)
        differences.append(paired([trained.means[name]], [base.means[name]]))
        rows.append(
            {
                "benchmark": name,
                "domain": answers[0].domain,
                **_estimates(of.accuracy, crossed(differences[-1:])),
                "base": summarise(base.rows[name]).accuracy.value,
                "questions": of.accuracy.questions,
                "trials": of.trials,
                "trivial": trained.manifest["details"].get("trivial", {}).get(name),
                "unparseable": of.unparseable,
                "truncated": of.truncated,
                "mean_tokens": of.mean_tokens,
            }
        )
    if len(rows) > 1:
        mean = macro([list(trained.means[name].values()) for name in trained.rows])
        of_base = float(np.mean([row["base"] for row in rows]))
        average = {"benchmark": "average", "base": of_base, "questions": mean.questions}
        rows.append(average | _estimates(mean, crossed(differences)))
    return rows


def _estimates(accuracy: Any, difference: Any) -> dict[str, float]:
    return {
        "accuracy": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        "difference": difference.value,
        "difference_low": difference.low,
        "difference_high": difference.high,
    }


def spread(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """At most so many pairs, evenly spread over the change ratios, the smallest first."""
    ordered = sorted(pairs, key=lambda pair: (pair.change_ratio or 0.0, pair.id))
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[place] for place in places]


def pair_row(pair: Pair) -> list[Any]:
    """By PAIR_COLUMNS; `edit` has both responses in one, edited words marked."""
    values = {**vars(pair), "edit": inline(pair.rejected, pair.chosen) if pair.rejected else None}
    return [values[column] for column in PAIR_COLUMNS]
