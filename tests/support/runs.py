"""Finished runs and sweeps with chosen scores and curves, written as the pipeline writes them."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from spot.data import artifacts
from spot.data.rows import Pair, Response, Score
from spot.report.load import Study, load

DOMAINS = {"sums": "in_domain", "word_problems": "ood", "instructions": "general"}
BASE = {"sums": 40, "word_problems": 40, "instructions": 90}  # percent right
TRIVIAL = {"sums": 2.0, "word_problems": 4.0, "instructions": 12.0}
HOSTILE = "<script>alert(1)</script> 1 | 2"
PAIR = Pair(
    "a#0", "a", "sums", "rectified", HOSTILE, "3", "one two THREE", "one two four", 1 / 3, 2, 3, 3
)
ARMS = {  # loss and data of each
    "sft": ("sft", "direct"),
    "rft": ("sft", "self"),
    "sft_plus": ("sft", "rectified"),
    "spot_bco": ("bco", "rectified"),
    "spot_bce": ("bce", "rectified"),
    "bco_direct": ("bco", "direct"),
}


@dataclass(frozen=True)
class MadeRun:
    """A finished run whose scores and curves are chosen.

    right and base: percent of questions answered right, by benchmark (what `right` leaves out is the
    base's); always the first ones, so that two runs differ by exactly the questions between, or from
    question `-shift` on. curves: columns of metrics.csv, a value a step from step 0, None where
    nothing was logged. config: dotted keys over the defaults.
    """

    loss: str = "bco"
    data: str = "rectified"
    seed: int = 0
    right: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    pairs: int = 8  # selected
    trials: int = 1
    verdict: str = "wrong"  # of what is not right
    details: Mapping[str, Any] = field(default_factory=dict)  # of every score
    study: str = "made"
    questions: int = 100
    domains: Mapping[str, str] = field(default_factory=lambda: DOMAINS)
    base: Mapping[str, float] = field(default_factory=lambda: BASE)
    shift: int = 0
    over_long: Sequence[str] = ()
    overrides: Sequence[str] = ()
    asked: bool = False  # whether the base's prompts are kept
    # of held-out pairs: change ratio, log π_θ/π_ref of y⁺ in the middle and at the end; y⁻ has 4 tokens, KL 0.4
    watched: Sequence[tuple[float, float, float]] = ()

    @property
    def arm(self) -> str:
        names = {choice: arm for arm, choice in ARMS.items()}
        return names.get((self.loss, self.data), self.loss)


def made_study(folder: Path, runs: Sequence[MadeRun]) -> Study:
    """Write the runs as a sweep below `folder` and load it."""
    for number, run in enumerate(runs):
        write_run(folder / "sweep", number, run)
    return Study(*load(folder / "sweep"))


def make_run(
    sweep: Path, number: int, arm: str, seed: int, shares: Sequence[float], extra: str = "",
    study: str = "table2", domains: Mapping[str, str] = DOMAINS, overrides: Sequence[str] = (),
) -> None:  # fmt: skip
    """A run of the report's tests: 40 questions asked twice, an eventful training, hostile texts.

    shares: of questions answered right, a benchmark each. extra: `key=value` choices.
    """
    loss, data = ARMS.get(arm, (arm, "rectified"))
    choices = {key: yaml.safe_load(value) for key, _, value in (c.partition("=") for c in extra.split())}  # fmt: skip
    base = dict.fromkeys(domains, 50) | {[*domains][-1]: 95}
    run = MadeRun(
        loss, data, seed, percent(shares, domains), eventful(arm, seed),
        {"data.pairs": 4000, **choices}, pairs=1, trials=2, study=study, questions=40, domains=domains,
        base=base, shift=seed % 3, over_long=["a", "b"] if arm == "sft_plus" else [],
        overrides=[*extra.split(), *overrides],
    )  # fmt: skip
    write_run(sweep, number, run)


def percent(shares: Sequence[float], domains: Iterable[str] = DOMAINS) -> dict[str, float]:
    return {name: round(100 * share, 6) for name, share in zip(domains, shares, strict=True)}


def eventful(arm: str, seed: int) -> dict[str, list[float | None]]:
    """Four steps in which SFT+ pulls y⁻ up and BCE collapses."""
    rejected, chosen = 0.1 if arm == "sft_plus" else -0.1, -0.2 if arm == "spot_bce" else 0.3
    return {
        "loss": [1 / (step + 1) for step in range(4)],
        "held_out/rewards/rejected": [step * rejected + 0.001 * seed for step in range(4)],
        "held_out/rewards/chosen": [step * chosen for step in range(4)],
        "probe/instructions": [90, None, 90, None],
        "gradients/shared": [0.01 / (step + 1) for step in range(4)],
        "gradients/chosen_edited": [0.05 / (step + 1) for step in range(4)],
        "held_out/kl/edited": [0.1 * step for step in range(4)],
    }


def write_run(sweep: Path, number: int, run: MadeRun) -> None:
    """The folder `sweep/<number>`, and its products beside the sweep."""
    root, mine = sweep.parent / "products", {"run": number, "arm": run.arm, "seed": run.seed}
    base = made_scores(run, run.base, base=True)
    products = {
        "pairs": rows_product(root, "select", {"arm": run.data}, Pair, [PAIR]),
        "held_out": rows_product(root, "select", {"of": run.watched}, Pair, held_out(run)),
        "base_scores": rows_product(root, "evaluate", {"on": [*run.domains]}, Score, base),
        "scores": rows_product(
            root, "evaluate", mine, Score, made_scores(run, {**run.base, **run.right})
        ),
    }
    if run.asked:
        products["base_benchmark_responses"] = rows_product(
            root, "respond", {"on": [*run.domains]}, Response, made_responses(run)
        )
    rate = run.config.get("loss.learning_rate", 1e-4)
    settings = {"loss": {"beta": run.config.get("loss.beta", 0.1), "learning_rate": rate}, **mine}
    products["checkpoint"] = artifacts.product(root, "train", settings)
    artifacts.compute_files(products["checkpoint"], lambda out: _train(out, run))
    folder = sweep / str(number)
    write_record(
        folder, run.arm, run.seed, {name: product.folder for name, product in products.items()},
        [_stage("select", "pairs", {run.data: run.pairs, "duplicate": 2, "change_ratio_above_gamma": 1}, number > 0),
         _stage("rectify", "held_out_rectifications", {"ok": 6, "wrong": 1})],
        study=run.study, config=_config(run),
        overrides=[f"arm={run.arm}", f"seed={run.seed}", *run.overrides],
    )  # fmt: skip


def write_record(
    folder: Path, arm: str, seed: int, products: Mapping[str, Path], stages: Sequence[Any] = (),
    **values: Any,
) -> None:  # fmt: skip
    """run.json in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "schema": 1, "status": "complete", "arm": arm, "seed": seed, "study": None, "config": {},
        "overrides": [], "command": f"python train.py arm={arm} seed={seed}", "seconds": 2.0,
        "finished": "2026-01-01T00:00:00",
        "products": {name: os.path.relpath(path, folder) for name, path in products.items()},
        "stages": list(stages),
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record | values))


def _stage(
    stage: str, product: str, counts: Mapping[str, int], reused: bool = False, seconds: float = 1.0
) -> dict[str, Any]:
    return {"stage": stage, "product": product, "seconds": seconds, "reused": reused, "counts": counts}  # fmt: skip


def _config(run: MadeRun) -> dict[str, Any]:
    tasks = {
        name: {"name": name, "trials": run.trials, "domain": domain, "questions": run.questions}
        for name, domain in run.domains.items()
    }
    config: dict[str, Any] = {
        "rounds": 1,
        "loss": {"name": run.loss, "beta": None, "epochs": 2, "delta": {"mode": "ema", "decay": 0.9}},
        "data": {"arm": run.data, "gamma": 0.6, "pairs": run.pairs, "path": None},
        "benchmarks": {"name": "made", "tasks": tasks},
        "arm": run.arm,
        "seed": run.seed,
    }  # fmt: skip
    for key, value in run.config.items():
        *path, last = key.split(".")
        at = config
        for name in path:
            at = at.setdefault(name, {})
        at[last] = value
    return config


def made_scores(run: MadeRun, right: Mapping[str, float], base: bool = False) -> Iterator[Score]:
    """Every trial of every question; all trials of a question are right or none."""
    shift, details = (0, {}) if base else (run.shift, dict(run.details))
    for name, domain in run.domains.items():
        for q in range(run.questions):
            correct = 100 * ((q + shift) % run.questions) < right[name] * run.questions
            verdict = "correct" if correct else "wrong" if base else run.verdict
            for trial in range(run.trials):
                yield Score(
                    f"{name}/q{q}#{trial}", name, domain, f"q{q}", trial, correct, verdict, "1",
                    "text", "stop", 20, 0, details=details,
                )  # fmt: skip


def made_responses(run: MadeRun) -> Iterator[Response]:
    """What the base was asked and wrote."""
    for score in made_scores(run, run.base, base=True):
        asked = f"{HOSTILE} {score.question_id}?"
        yield Response(score.id, asked, "text", "stop", 9, score.tokens, "base", score.seed)


def held_out(run: MadeRun) -> list[Pair]:
    changed = enumerate(ratio for ratio, _, _ in run.watched)
    return [replace(PAIR, id=f"h{n}", change_ratio=ratio) for n, ratio in changed] or [PAIR]


def rows_product(
    root: Path, stage: str, settings: Mapping[str, Any], row_type: type, rows: Iterable[Any]
) -> artifacts.Product:
    target = artifacts.product(root, stage, dict(settings))
    artifacts.compute_rows(
        target, row_type, lambda done, counts: rows, details=lambda rows: {"trivial": TRIVIAL}
    )
    return target


def _train(out: Path, run: MadeRun) -> dict[str, Any]:
    with (out / "metrics.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["step", *run.curves])
        for step in range(max((len(values) for values in run.curves.values()), default=0)):
            values = [curve[step] for curve in run.curves.values()]
            table.writerow([step, *("" if value is None else value for value in values)])
    for place in (1, 2) if run.watched else ():
        (out / "held_out").mkdir(exist_ok=True)
        lines = [f"h{n},4,{of[place]},-1,0.4" for n, of in enumerate(run.watched)]
        text = "\n".join(["pair,tokens,chosen,rejected,kl", *lines])
        (out / "held_out" / f"step_{place:08d}.csv").write_text(text + "\n")
    return {
        "max_start_reward": 2e-7 * (run.seed + 1), "kernels": {"attention": "sdpa"},
        "kernel_error": 3e-8, "over_long": list(run.over_long),
    }  # fmt: skip


# ---- runs for listings -------------------------------------------------------------------------

SCORES = """arm,seed,benchmark,domain,questions,trials,accuracy,low,high,difference,difference_low,difference_high
base,,sums,in_domain,300,2,22.0,18.0,26.0,,,
base,,words,ood,300,2,30.0,26.0,34.0,,,
dpo,{seed},sums,in_domain,300,2,44.0,40.0,48.0,22.0,17.5,26.5
dpo,{seed},words,ood,300,2,29.0,25.0,33.0,-1.0,-3.5,1.5
"""


def listed_run(output: Path, number: int, overrides: Sequence[str] = ()) -> Path:
    """A run with its scores.csv, and products whose rows fill no disk but are 64 GB long."""
    run = output / "runs" / "2026-01-01" / f"00-00-00-{number:06d}"
    product = output / "products" / "train" / f"{number:016x}"
    product.mkdir(parents=True)
    with (product / "rows.jsonl").open("wb") as file:
        file.truncate(64 << 30)
    (product / "metrics.csv").write_text("step,loss,delta\n0,,\n1,2.5,0.1\n2,1.5,\n")
    products = {"attempts": output / "products" / "elicit" / "0", "checkpoint": product}
    stages = [_stage("elicit", "attempts", {"wrong": 7}, True, 69.7), _stage("train", "checkpoint", {}, False, 43.9)]  # fmt: skip
    write_record(
        run, "dpo", number, products, stages, overrides=list(overrides),
        command="python train.py arm=dpo", config={"seed": number, "rounds": 3},
        finished=f"2026-01-01T00:00:{number % 60:02d}+00:00",
    )  # fmt: skip
    (run / "scores.csv").write_text(SCORES.format(seed=number))
    return run
