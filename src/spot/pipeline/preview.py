"""Which products of a run exist and which would be made, without making any.

The stages run with a `PreviewRun` in the place of a `Run`: it notes each product and makes none. A product
that is missing has no content yet, and later products are named by content, so those are "unknown until"
the stage before them. Their stand-ins are named by what is known, so that the jobs of a sweep which
will share a product are counted as sharing it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from spot.config import PAID, Config, ModelConfig
from spot.data import artifacts, run_record
from spot.data.rows import WRONG, Pair
from spot.oracle import build
from spot.pipeline import clients, parts, policy, responses, stages, way
from spot.pipeline.plan.work import ERROR_RATE
from spot.pipeline.plan.work import attempts as count_attempts
from spot.pipeline.policy import Policy
from spot.pipeline.run import Run
from spot.utils.terminal import count

UNKNOWN = "?"  # begins the digest of what does not exist yet
REUSE, RESUME, MAKE = "reuse", "resume", "make"


@dataclass(frozen=True)
class MissingProduct:
    """Stands in for an `artifacts.Product` that does not exist yet."""

    folder: Path
    stage: str
    key: str
    settings: Any
    inputs: Any
    complete: bool = False

    @property
    def digest(self) -> str:
        return f"{UNKNOWN}{self.stage}:{self.key}"


@dataclass(frozen=True)
class Preview:
    """One product of a run: whether it exists, and what is known of it."""

    name: str  # as in run.json
    stage: str
    key: str  # the same for two jobs exactly where they share the product
    action: str  # REUSE | RESUME | MAKE
    until: str | None = None  # what must be done before it has a name on disk
    note: str = ""
    to_correct: int | None = None  # rectify: attempts that the Oracle would be asked about
    assumed: bool = False  # whether `to_correct` is an estimate
    journal: Path | None = None  # of a paid Oracle, where its attempts exist


@dataclass
class PreviewRun:
    """In the place of `spot.pipeline.run.Run`: notes every product and makes none."""

    config: Config
    folder: Path = Path("run")
    round: int = 1
    first: Any = None
    start: Policy | None = None
    generators: clients.Generators = field(default_factory=clients.Generators)  # never starts any
    previews: dict[str, Preview] = field(default_factory=dict)  # by the product's name
    existing: dict[str, artifacts.Product] = field(default_factory=dict)  # by digest
    missing: dict[str, str] = field(
        default_factory=dict
    )  # digest of a stand-in → what it waits for

    @property
    def root(self) -> Path:
        return Path(self.config.output) / "products"

    @property
    def logs(self) -> Path:
        return self.folder

    def stage(
        self, name: str, target: artifacts.Product, make: Callable[[], None]
    ) -> artifacts.Product:
        """The product, or its stand-in."""
        name = name if self.round == self.config.rounds else f"round{self.round}/{name}"
        return self._note(name, target, target.stage)

    def _note(self, name: str, target: artifacts.Product, until: str) -> artifacts.Product:
        """until: what later products wait for while this one is missing."""
        self.previews[name] = _preview(self, name, target)
        if target.complete:
            self.existing[target.digest] = target
            return target
        stand_in = MissingProduct(
            target.folder, target.stage, target.key, target.settings, target.inputs
        )
        self.missing[stand_in.digest] = until
        return cast(artifacts.Product, stand_in)

    def weights(self, read: artifacts.Product | None) -> Policy:
        """The starting weights, or a stand-in for those that are yet to be downloaded or pretrained."""
        model = self.config.model
        unusable = _is_folder(model.path) or (model.path is None and model.pretrain is None)
        if policy.is_here(model) or unusable:
            return policy.prepare(model, self.root)  # which says why they are unusable
        if model.path is not None:
            digest = f"{UNKNOWN}model:{model.path}@{model.revision}"
            self.missing[digest] = f"{model.path} is downloaded"
            return Policy(model.name, Path(model.path), digest)
        made = self.student(read)
        return Policy(model.name, made.folder / "model", made.digest)

    def student(self, read: artifacts.Product | None) -> artifacts.Product:
        """The student, or its stand-in."""
        model = self.config.model
        recipe = policy.recipe(model)
        if read is not None and not read.complete and recipe["corpus"] == "data":
            target = artifacts.product(self.root, "model", recipe, {"texts": read.digest})
        else:
            texts = parts.split(self.config, read)[0] if read and read.complete else None
            target = policy.student(model, self.root, texts)[0]
        return self._note("model", target, "the student is pretrained")

    def fewest(self, pools: Mapping[str, artifacts.Product], most: int | None) -> int | None:
        """As many pairs as the smallest pool has, or a stand-in for their number."""
        known = [self.existing.get(pool.digest) for pool in pools.values()]
        found = [len(artifacts.read_rows(pool.folder, Pair)) for pool in known if pool is not None]
        if len(found) == len(pools):
            return min([*found, *([most] if most is not None else [])], default=None)
        waits = json.dumps([*(pool.digest for pool in pools.values()), most])
        number = f"{UNKNOWN}select:{artifacts.hash_text(waits)}"
        self.missing[number] = "select"
        return cast(int, number)

    def named(self, name: str) -> artifacts.Product | None:
        """The last round's product of that name, if it exists."""
        key = self.previews[name].key
        return next((product for product in self.existing.values() if product.key == key), None)

    def write_card(self) -> None:
        """Nothing is written."""


def preview(config: Config, until: str | None = None) -> list[Preview]:
    """The products of a run that ends after the stage `until`, in their order."""
    return list(_previewed(config, until).previews.values())


def existing_pairs(config: Config) -> tuple[list[Pair], int] | None:
    """The pairs that exist already and how many attempts were wrong; None before selection.

    Downloads nothing: for weights that are not on this machine the answer is None.
    """
    model = _local(config.model)
    lacks = model.path is not None and not policy.is_here(model)
    if lacks or not (PreviewRun(config).root / "select").exists():
        return None
    run = _previewed(config, "select")
    pairs, attempts = run.named("pairs"), run.named("attempts")
    if pairs is None or attempts is None:
        return None
    return artifacts.read_rows(pairs.folder, Pair), attempts.counts.get(WRONG, 0)


def preview_exports(folder: Path) -> list[Preview]:
    """The scores that `spot evaluate <run folder>` would make. Raises UserError where it would."""
    from spot.pipeline import exports

    trained = exports.trained(folder)
    run = PreviewRun(trained.config, round=trained.config.rounds)
    stages.evaluate(cast(Run, run), "scores", trained.model, trained.attempts)
    if run_record.is_finished(folder):
        exports.score(cast(Run, run), exports.read(folder))
    return list(run.previews.values())


def _previewed(config: Config, until: str | None) -> PreviewRun:
    result = PreviewRun(replace(config, model=_local(config.model)))
    run = cast(Run, result)
    if until == "pretrain":
        stages.pretrain(run)
    elif until == "evaluate":
        way.measure(run)
    else:
        way.way(run, until)
    return result


def _is_folder(path: str | None) -> bool:
    """Whether the model is meant to be a folder, and not a name on the hub."""
    if path is None:
        return False
    return path.startswith(("/", ".", "~")) or Path(path).expanduser().exists()


def _local(model: ModelConfig) -> ModelConfig:
    """The same model as a local folder, where the hub's own cache holds it already."""
    path = model.path
    if path is None or _is_folder(path):
        return model
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = str(policy.download(path, model.revision, here=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return model
    return replace(model, path=folder, revision=None)


# ---- what is known of a product ------------------------------------------------------------------


def _preview(run: PreviewRun, name: str, target: artifacts.Product) -> Preview:
    made = Preview(name, target.stage, target.key, MAKE)
    values = [*target.inputs.values(), *target.settings.values()]
    if waits := [until for digest, until in run.missing.items() if digest in values]:
        return _with_work(run, replace(made, until=waits[-1]), target)
    if target.complete:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in target.counts.items())
        return replace(made, action=REUSE, note=counts)
    rows = target.folder / artifacts.PARTIAL
    done = rows.read_bytes().count(b"\n") if rows.exists() else 0
    if done or (target.folder / artifacts.RESUME).exists():
        made = replace(made, action=RESUME, note=f"{done:,} rows exist" if done else "")
    return _with_work(run, made, target)


def _with_work(run: PreviewRun, preview: Preview, target: artifacts.Product) -> Preview:
    """With how much there is to do, where that is known."""
    config, work = run.config, ""
    if target.stage == "rectify":
        return _corrections(run, preview, target)
    if target.stage == "respond":
        work = _responses(config, target)
    elif target.stage == "train" and (pairs := run.existing.get(target.inputs["pairs"])):
        rows = len(artifacts.read_rows(pairs.folder, Pair))
        steps = math.ceil(rows * config.loss.epochs / config.loss.batch_pairs)
        work = f"{count(rows, 'pair')}, {count(steps, 'step')}"
    return replace(preview, note=_joined(work, preview.note))


def _joined(*notes: str) -> str:
    return ", ".join(filter(None, notes))


def _responses(config: Config, target: artifacts.Product) -> str:
    """`2,000 responses and all of math500`, whose questions are not counted here."""
    if "benchmarks" not in target.settings:
        attempts = count_attempts(config)
        return "" if attempts is None else count(attempts, "response")
    tasks = config.benchmarks.tasks.values()
    known = sum(t.questions * t.trials for t in tasks if t.questions is not None)
    whole = ", ".join(t.name for t in tasks if t.questions is None)
    parts = (count(known, "response") if known else "", f"all of {whole}" if whole else "")
    return " and ".join(filter(None, parts))


def _corrections(run: PreviewRun, preview: Preview, target: artifacts.Product) -> Preview:
    """How many attempts the Oracle would be asked about."""
    config, part = run.config, target.settings["part"]
    attempts = run.existing.get(target.inputs["attempts"])
    if attempts is not None:
        count = len(parts.wrong(config, attempts, part, run.first))
        journal = None
        if config.oracle.kind in PAID:
            digests = responses.verdict_digests(attempts)
            journal = build.journal_path(config.oracle, digests, Path(config.output))
        note = _joined(f"{count:,} wrong attempts", preview.note)
        return replace(preview, note=note, to_correct=count, journal=journal)
    total = count_attempts(config)
    if total is None:
        return replace(preview, note="wrong attempts", assumed=True)
    wrong = round(ERROR_RATE * total)
    held_out = min(config.data.held_out, wrong)
    count = held_out if part == "held_out" else wrong - held_out
    note = f"about {count:,} wrong attempts ({ERROR_RATE:.0%} assumed)"
    return replace(preview, note=note, to_correct=count, assumed=True)
