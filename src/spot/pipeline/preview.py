"""What of a run is there already and what would be made, without making it.

`pipeline.way` is gone with something in a run's place that only looks. A product or a model that is
missing has no content yet, and later products are named by content: those are "unknown until" the stage
before them. They still have a name in here, made of what is known, so that the jobs of a sweep which will
share a product are counted rightly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from spot.config import PAID, Config
from spot.data import artifacts
from spot.data.held_out import split_attempts, wrong_attempts
from spot.data.rows import WRONG, Pair
from spot.oracle import build
from spot.pipeline import policy, stages, way
from spot.pipeline.plan.work import ERROR_RATE
from spot.pipeline.plan.work import attempts as count_attempts
from spot.pipeline.policy import Policy
from spot.pipeline.run import Run

WAITS = "?"  # begins the digest of what is not there yet
REUSE, RESUME, MAKE = "reuse", "go on", "make"


@dataclass(frozen=True)
class Expected:
    """Stands in the place of a product (`store.Product`) that is not there yet."""

    folder: Path
    stage: str
    key: str
    settings: Any
    inputs: Any
    complete: bool = False

    @property
    def digest(self) -> str:
        return f"{WAITS}{self.stage}:{self.key}"


@dataclass(frozen=True)
class Seen:
    """One product of a run: whether it is there, and what is known of it."""

    name: str  # as in run.json
    stage: str
    key: str  # the same for two jobs exactly where they share the product
    does: str  # REUSE | RESUME | MAKE
    until: str | None = None  # what must be there before it has a name on disk
    note: str = ""
    asks: int | None = None  # rectify: attempts the Oracle would be asked about
    assumed: bool = False  # whether `asks` is a guess
    journal: Path | None = None  # of a paid Oracle, where one exists


@dataclass
class Look:
    """In a run's place (`spot.pipeline.run.Run`): notes every product it is shown and makes none."""

    config: Config
    folder: Path = Path("run")
    round: int = 1
    first: Any = None
    start: Policy | None = None
    seen: dict[str, Seen] = field(default_factory=dict)
    there: dict[str, artifacts.Product] = field(default_factory=dict)  # by digest
    missing: dict[str, str] = field(default_factory=dict)  # digest of a stand-in → what is lacking

    @property
    def root(self) -> Path:
        return Path(self.config.output) / "products"

    @property
    def logs(self) -> Path:
        return self.folder

    def stage(
        self, name: str, target: artifacts.Product, make: Callable[[], None]
    ) -> artifacts.Product:
        """The product, or what stands for it."""
        name = name if self.round == self.config.rounds else f"round{self.round}/{name}"
        return self._noted(name, target, target.stage)

    def _noted(self, name: str, target: artifacts.Product, until: str) -> artifacts.Product:
        """until: what later products then wait for."""
        self.seen[name] = _seen(self, name, target)
        if target.complete:
            self.there[target.digest] = target
            return target
        expected = Expected(target.folder, target.stage, target.key, target.settings, target.inputs)
        self.missing[expected.digest] = until
        return cast(artifacts.Product, expected)

    def weights(self, read: artifacts.Product | None) -> Policy:
        """The starting weights, or what stands for those that are yet to be fetched or pretrained."""
        model = self.config.model
        nowhere = model.path is None and model.pretrain is None
        if policy.is_here(model) or _is_folder(model.path) or nowhere:
            return policy.prepare(model, self.root)  # which says what is wrong with the last two
        if model.path is not None:
            digest = f"{WAITS}model:{model.path}@{model.revision}"
            self.missing[digest] = f"{model.path} is downloaded"
            return Policy(model.name, Path(model.path), digest)
        made = self.student(read)
        if made.complete:
            folder = made.folder / "model"
            return policy.prepare(replace(model, path=str(folder), revision=None), self.root)
        return Policy(model.name, made.folder / "model", made.digest)

    def student(self, read: artifacts.Product | None) -> artifacts.Product:
        """The student, or what stands for it."""
        model = self.config.model
        recipe = policy.recipe(model)
        if read is not None and not read.complete and recipe["corpus"] == "data":
            target = artifacts.product(self.root, "model", recipe, {"texts": read.digest})
        else:
            texts = split_attempts(self.config.data, read)[0] if read and read.complete else None
            target = policy.student(model, self.root, texts)[0]
        return self._noted("model", target, "the student is pretrained")

    def fewest(self, pools: Mapping[str, artifacts.Product], most: int | None) -> int | None:
        """As many pairs as the poorest pool has, or what stands for their number."""
        known = [self.there.get(pool.digest) for pool in pools.values()]
        found = [len(artifacts.read_rows(pool.folder, Pair)) for pool in known if pool is not None]
        if len(found) == len(pools):
            return min([*found, *([most] if most is not None else [])], default=None)
        waits = json.dumps([*(pool.digest for pool in pools.values()), most])
        number = f"{WAITS}select:{artifacts.hash_text(waits)}"
        self.missing[number] = "select"
        return cast(int, number)

    def named(self, name: str) -> artifacts.Product | None:
        """The last round's product of that name, if it is there."""
        key = self.seen[name].key
        return next((product for product in self.there.values() if product.key == key), None)

    def write_card(self) -> None:
        """Nothing is written."""


def look(config: Config, until: str | None = None) -> list[Seen]:
    """The products of a run that ends after the stage `until`, in their order. Makes nothing."""
    config = replace(config, model=_cached(config.model))
    here = Look(config)
    _go(here, until)
    return list(here.seen.values())


def found(config: Config) -> tuple[list[Pair], int] | None:
    """The pairs that are there already and how many attempts were wrong; None before selection.

    Makes and fetches nothing: for weights that are not on this machine the answer is None.
    """
    model = _cached(config.model)
    here = Look(replace(config, model=model))
    lacks = model.path is not None and not policy.is_here(model)
    if lacks or not (here.root / "select").exists():
        return None
    _go(here, "select")
    pairs, attempts = here.named("pairs"), here.named("attempts")
    if pairs is None or attempts is None:
        return None
    return artifacts.read_rows(pairs.folder, Pair), attempts.counts.get(WRONG, 0)


def _go(here: Look, until: str | None) -> None:
    run = cast(Run, here)
    if until == "pretrain":
        stages.pretrain(run)
    elif until == "evaluate":
        way.measure(run)
    else:
        way.way(run, until)


def look_at_exports(run: Path) -> list[Seen]:
    """The scores that `spot evaluate <run folder>` would make. Raises UserError where it would."""
    from spot.pipeline import exports

    exported = exports.read(run)
    here = Look(exported.config, round=exported.config.rounds)
    exports.score(cast(Run, here), exported)
    return list(here.seen.values())


def _is_folder(path: str | None) -> bool:
    """Whether the model is meant to be a folder, and not a name on the hub."""
    if path is None:
        return False
    return path.startswith(("/", ".", "~")) or Path(path).expanduser().exists()


def _cached(model: Any) -> Any:
    """The same model as a local folder, where the hub's own cache holds it already."""
    path = model.path
    if path is None or _is_folder(path):
        return model
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(path, revision=model.revision, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return model
    return replace(model, path=folder, revision=None)


# ---- what is known of a product ------------------------------------------------------------------


def _seen(here: Look, name: str, target: artifacts.Product) -> Seen:
    values = [*target.inputs.values(), *target.settings.values()]
    if waits := [until for one, until in here.missing.items() if one in values]:
        return _asked(here, Seen(name, target.stage, target.key, MAKE, waits[-1]), target)
    if target.complete:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in target.counts.items())
        return Seen(name, target.stage, target.key, REUSE, note=counts)
    rows = target.folder / artifacts.PARTIAL
    done = rows.read_bytes().count(b"\n") if rows.exists() else 0
    begun = f"{done:,} rows are there" if done else ""
    does = RESUME if done or (target.folder / artifacts.RESUME).exists() else MAKE
    found = Seen(name, target.stage, target.key, does, note=begun)
    return _asked(here, found, target)


def _asked(here: Look, seen: Seen, target: artifacts.Product) -> Seen:
    """With how much there is to do, where that is known."""
    config = here.config
    said = ""
    if target.stage == "elicit" and (count := count_attempts(config)) is not None:
        said = f"{count:,} responses"
    elif target.stage == "rectify":
        return _corrections(here, seen, target)
    elif target.stage == "evaluate":
        said = _answers(config)
    elif target.stage == "train" and (pairs := here.there.get(target.inputs["pairs"])) is not None:
        said = _steps(config, pairs)
    return replace(seen, note=", ".join(filter(None, (said, seen.note))))


def _answers(config: Config) -> str:
    tasks = config.benchmarks.tasks.values()
    known = sum(t.questions * t.trials for t in tasks if t.questions is not None)
    more = [t.name for t in tasks if t.questions is None]
    said = [f"{known:,} responses"] if known else []
    return " and ".join([*said, *([f"all of {', '.join(more)}"] if more else [])])


def _steps(config: Config, pairs: artifacts.Product) -> str:
    rows = len(artifacts.read_rows(pairs.folder, Pair))
    steps = math.ceil(rows * config.loss.epochs / config.loss.batch_pairs)
    return f"{rows:,} pairs, {steps:,} steps"


def _corrections(here: Look, seen: Seen, target: artifacts.Product) -> Seen:
    """How many attempts the Oracle would be asked about."""
    config, part = here.config, target.settings["part"]
    attempts = here.there.get(target.inputs["attempts"])
    if attempts is not None:
        count = len(wrong_attempts(config.data, attempts, part, here.first))
        paid = config.oracle.kind in PAID
        output = Path(config.output)
        journal = build.journal_path(config.oracle, attempts.digest, output) if paid else None
        note = ", ".join(filter(None, (f"{count:,} wrong attempts", seen.note)))
        return replace(seen, note=note, asks=count, journal=journal)
    total = count_attempts(config)
    if total is None:
        return replace(seen, note="wrong attempts", assumed=True)
    wrong = round(ERROR_RATE * total)
    held_out = min(config.data.held_out, wrong)
    count = held_out if part == "held_out" else wrong - held_out
    note = f"about {count:,} wrong attempts ({ERROR_RATE:.0%} assumed)"
    return replace(seen, note=note, asks=count, assumed=True)
