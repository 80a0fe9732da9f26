"""What a study cost: time, tokens and money by stage, every product counted once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spot.config import NEEDS_REJECTED
from spot.report.load import FinishedRun, Study

STAGES = {  # in the order of the way: what each one's tokens are
    "elicit": "sampled",
    "rectify": "",
    "select": "",
    "train": "trained on",
    "evaluate": "sampled",
}
JUDGED = ("reask", "largest_change", "target", "prompts")  # settings that share a journal


@dataclass(frozen=True)
class Cost:
    """One stage over a study; tokens, tokens a second and USD are None where nothing tells them."""

    stage: str
    products: int
    seconds: float
    reused: int  # times a run found the product ready
    tokens: int | None = None
    what: str = ""  # sampled | trained on
    rate: float | None = None
    dollars: float | None = None


def costs(study: Study) -> list[Cost]:
    """A row a stage, in the order of the way; products that another study made count, too."""
    products: dict[Path, tuple[FinishedRun, str]] = {}
    for run in study.runs:
        for name in run.products:
            products.setdefault(run.product(name), (run, name))
    by_stage: dict[str, list[tuple[FinishedRun, str]]] = {stage: [] for stage in STAGES}
    for run, name in products.values():
        by_stage.setdefault(run.manifest(name)["stage"], []).append((run, name))
    return [_cost(study, stage, of) for stage, of in by_stage.items() if of]


def total(rows: Iterable[Cost]) -> Cost:
    """Time and money of all stages together."""
    rows = list(rows)
    return Cost(
        "all",
        sum(row.products for row in rows),
        sum(row.seconds for row in rows),
        sum(row.reused for row in rows),
        dollars=_sum(row.dollars for row in rows),
    )


def own_seconds(study: Study) -> float:
    """Wall time of the runs themselves, one after another."""
    return sum(float(run.record.get("seconds", 0.0)) for run in study.runs)


def _cost(study: Study, stage: str, products: list[tuple[FinishedRun, str]]) -> Cost:
    manifests = [run.manifest(name) for run, name in products]
    counted = [_tokens(stage, run, name) for run, name in products]
    known = [count for count in counted if count is not None]
    seconds = [_working(manifest) for manifest in manifests]
    timed = sum(s for s, count in zip(seconds, counted, strict=True) if count is not None)
    return Cost(
        stage,
        len(products),
        sum(float(manifest["seconds"]) for manifest in manifests),
        sum(s["reused"] for run in study.runs for s in run.record["stages"] if s["stage"] == stage),
        sum(known) if known else None,
        STAGES.get(stage, ""),
        sum(known) / timed if known and timed else None,
        _dollars(manifests),
    )


def _working(manifest: Mapping[str, Any]) -> float:
    """Seconds in which tokens were made: of a training, its steps."""
    timings = manifest["details"].get("timings", {})
    return float(timings.get("steps", manifest["seconds"]))


def _tokens(stage: str, run: FinishedRun, name: str) -> int | None:
    details = run.manifest(name)["details"]
    if stage == "elicit":
        return details.get("response_tokens", {}).get("total")
    if stage == "train":
        return _trained_on(run, name)
    if stage == "evaluate" and name in ("scores", "base_scores"):
        rows = run.scores if name == "scores" else run.base_scores
        return sum(score.tokens for of in rows.values() for score in of)
    return None


def _trained_on(run: FinishedRun, name: str) -> int | None:
    """Response tokens of the pairs trained on over all epochs, y⁻'s if the loss has a term in them."""
    epochs = run.config.get("loss.epochs")
    pairs = name.removesuffix("checkpoint") + "pairs"
    if epochs is None or pairs not in run.products:
        return None
    both = run.config["loss.name"] in NEEDS_REJECTED
    left_out = set(run.manifest(name)["details"].get("over_long", []))
    return int(epochs) * sum(
        pair.chosen_tokens + (pair.rejected_tokens or 0) * both
        for pair in run.pairs(pairs)
        if pair.id not in left_out
    )


def _dollars(manifests: Iterable[Mapping[str, Any]]) -> float | None:
    """What Oracles were paid, in USD. A journal serves several products, each names its sum so far."""
    paid: dict[str, float] = {}
    for manifest in manifests:
        if spend := manifest["details"].get("spend"):
            asked = {k: v for k, v in manifest["settings"]["oracle"].items() if k not in JUDGED}
            journal = json.dumps([asked, manifest["inputs"]["attempts"]], sort_keys=True)
            paid[journal] = max(paid.get(journal, 0.0), float(spend["recorded"]))
    return sum(paid.values()) if paid else None


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
