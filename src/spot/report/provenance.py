"""Where a study comes from and what it cost: commands, products with their hashes, versions, tokens."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from spot.config import LOSSES
from spot.report.load import FinishedRun, Study
from spot.utils.redact import scrubbed

SWEEP_FILE = "multirun.yaml"  # what Hydra writes of a sweep
STAGES = {  # in the order of the way: what each one's tokens are
    "respond": "sampled",
    "elicit": "sampled",
    "rectify": "",
    "select": "",
    "train": "trained on",
    "evaluate": "sampled",
}
JUDGED = ("reask", "largest_change", "target", "prompts")  # settings that share a journal


def sweep_choices(folder: Path) -> list[str]:
    """What the command line of a sweep chose; empty where the folder is no sweep's."""
    path = folder / SWEEP_FILE
    if not path.exists():
        return []
    tree: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [str(choice) for choice in tree["hydra"]["overrides"]["task"]]


def command(study: Study) -> str:
    """What repeats the study: the sweep's own command where it is known, else the first run's."""
    if study.folder and (chosen := sweep_choices(study.folder)):
        return shlex.join(["python", "train.py", "-m", *scrubbed(chosen)])
    return run_command(study.runs[0])


def run_command(run: FinishedRun) -> str:
    return str(scrubbed(run.record["command"]))


@dataclass
class Made:
    """A product: what runs call it, the first run that names it, and which runs used it."""

    run: FinishedRun
    names: list[str] = field(default_factory=list)
    users: set[Path] = field(default_factory=set)

    @property
    def manifest(self) -> dict[str, Any]:
        return self.run.manifest(self.names[0])

    @property
    def folder(self) -> str:
        """Below `products/`."""
        return "{stage}/{key}".format(**self.manifest)


def products(study: Study) -> list[Made]:
    """Every product once, in the order of the first run that names it."""
    found: dict[Path, Made] = {}
    for run in study.runs:
        for name in run.products:
            made = found.setdefault(run.product(name), Made(run))
            made.users.add(run.folder)
            if name not in made.names:
                made.names.append(name)
    return list(found.values())


def versions(study: Study) -> dict[str, str]:
    """Versions of what the results may depend on, the git revision last; several where runs differ."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for run in study.runs:
        manifest = run.manifest("scores")
        for name, version in manifest["versions"].items():
            found[name][str(version)] = None
    for run in study.runs:
        if revision := run.manifest("scores")["revision"]:
            found["revision"][revision[:12] + "+" * revision.endswith("+")] = None
    return {name: ", ".join(several) for name, several in found.items()}


def machines(study: Study) -> list[str]:
    """What the runs trained on, as far as they say."""
    return list(dict.fromkeys(_machine(run) for run in study.runs))


def _machine(run: FinishedRun) -> str:
    """`hardware=8xh800: 8 gpu, bf16, deepspeed`; and what the run says of its processor, if anything."""
    hardware = run.record["config"].get("hardware", {})
    count = int(hardware.get("nodes", 1)) * int(hardware.get("devices", 1))
    known = [*(hardware.get(key) for key in ("precision", "strategy")), run.record.get("machine")]
    parts = [f"{count} × {hardware.get('accelerator', 'cpu')}", *(str(k) for k in known if k)]
    name = hardware.get("name")
    return (f"hardware={name}: " if name else "") + ", ".join(parts)


# ---- costs -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """One stage over a study; tokens, tokens a second and USD are None where they are not known."""

    stage: str
    products: int
    seconds: float
    reused: int  # times a run found the product ready
    tokens: int | None = None
    what: str = ""  # sampled | trained on
    rate: float | None = None
    dollars: float | None = None


def costs(study: Study) -> list[Cost]:
    """A row a stage, in the order of the way, every product counted once, whichever study made it."""
    by_stage: dict[str, list[Made]] = {stage: [] for stage in STAGES}
    for made in products(study):
        by_stage.setdefault(made.manifest["stage"], []).append(made)
    return [_cost(study, stage, made) for stage, made in by_stage.items() if made]


def total(rows: Iterable[Cost]) -> Cost:
    """Time and money of all stages together."""
    rows = list(rows)
    paid = [row.dollars for row in rows if row.dollars is not None]
    return Cost(
        "all",
        sum(row.products for row in rows),
        sum(row.seconds for row in rows),
        sum(row.reused for row in rows),
        dollars=sum(paid) if paid else None,
    )


def own_seconds(study: Study) -> float:
    """Wall time of the runs themselves, one after another."""
    return sum(float(run.record.get("seconds", 0.0)) for run in study.runs)


def _cost(study: Study, stage: str, products: Sequence[Made]) -> Cost:
    counted = [(made, n) for made in products if (n := _tokens(made)) is not None]
    tokens = sum(count for _, count in counted)
    timed = sum(_working_seconds(made.manifest) for made, _ in counted)
    return Cost(
        stage,
        len(products),
        sum(float(made.manifest["seconds"]) for made in products),
        sum(s["reused"] for run in study.runs for s in run.record["stages"] if s["stage"] == stage),
        tokens if counted else None,
        STAGES.get(stage, ""),
        tokens / timed if counted and timed else None,
        _dollars(made.manifest for made in products),
    )


def _working_seconds(manifest: Mapping[str, Any]) -> float:
    """Seconds in which tokens were made: of a training, its steps."""
    return float(manifest["details"].get("timings", {}).get("steps", manifest["seconds"]))


def _tokens(made: Made) -> int | None:
    stage, name, details = made.manifest["stage"], made.names[0], made.manifest["details"]
    if stage in ("respond", "elicit"):
        return details.get("response_tokens", {}).get("total")
    if stage == "train":
        return _trained_on(made.run, name)
    if "responses" in made.manifest["inputs"]:  # graded, and sampled in a product of their own
        return None
    if stage == "evaluate" and name in ("scores", "base_scores"):
        return sum(s.tokens for rows in made.run.scores_of(name).values() for s in rows)
    return None


def _trained_on(run: FinishedRun, name: str) -> int | None:
    """Response tokens of the pairs trained on over all epochs, y⁻'s if the loss has a term in them."""
    epochs = run.config.get("loss.epochs")
    pairs = name.removesuffix("checkpoint") + "pairs"
    if epochs is None or pairs not in run.products:
        return None
    both = LOSSES[run.config["loss.name"]].rejected
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
