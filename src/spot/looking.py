"""What of a run is there already and what would be made, without making it.

The stages are walked in the pipeline's order with something in a run's place that only looks. A product
that is missing has no content yet, and later products are named by content: those are "unknown until"
the stage before them. They still have a name in here, made of what is known, so that the jobs of a sweep
which will share a product are counted rightly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from spot import asking, policy, stages, store, unpack
from spot.config import PAID, Config
from spot.errors import UserError
from spot.planning.work import ERROR_RATE
from spot.planning.work import attempts as count_attempts
from spot.policy import Policy
from spot.records import Pair
from spot.run import Run

WAITS = "?"  # begins the digest of what is not there yet
REUSE, RESUME, MAKE = "reuse", "go on", "make"


class UnknownError(Exception):
    """Nothing more can be named before what the message says."""


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
    """In a run's place (`spot.run.Run`): notes every product it is shown and makes none."""

    config: Config
    folder: Path = Path("run")
    session: None = None
    round: int = 1
    first: Any = None
    start: Policy | None = None
    seen: dict[str, Seen] = field(default_factory=dict)
    there: dict[str, store.Product] = field(default_factory=dict)  # by digest
    missing: list[str] = field(default_factory=list)  # digests of what stands for the others

    @property
    def root(self) -> Path:
        return Path(self.config.output) / "products"

    @property
    def logs(self) -> Path:
        return self.folder

    def stage(self, name: str, target: store.Product, make: Callable[[], None]) -> store.Product:
        """The product, or what stands for it."""
        name = self.named(name)
        self.seen[name] = _seen(self, name, target)
        if target.complete:
            self.there[target.digest] = target
            return target
        expected = Expected(target.folder, target.stage, target.key, target.settings, target.inputs)
        self.missing.append(expected.digest)
        return cast(store.Product, expected)

    def named(self, name: str) -> str:
        """A product's name in run.json."""
        return name if self.round == self.config.rounds else f"round{self.round}/{name}"

    def write_card(self) -> None:
        """Nothing is written."""


def look(config: Config, until: str | None = None) -> list[Seen]:
    """The products of a run that ends after the stage `until`, in their order. Makes nothing."""
    config = replace(config, model=_cached(config.model))
    here = Look(config)
    try:
        _walk(here, until)
    except UnknownError as why:
        for name, stage in _names(config, until):
            key = f"{stage}:{name}:{why}"
            here.seen.setdefault(name, Seen(name, stage, key, MAKE, str(why)))
    return list(here.seen.values())


def look_at_exports(run: Path) -> list[Seen]:
    """The scores that `spot evaluate <run folder>` would make. Raises UserError where it would."""
    from spot import exports
    from spot.report.load import RUN_FILE, load

    if not (run / RUN_FILE).exists():
        raise UserError(f"{run} holds no finished run: give a run's folder, with its run.json.")
    (finished,), _ = load(run)
    checkpoint = finished.product("checkpoint")
    exported = exports.found(checkpoint)
    if not exported:
        raise UserError(
            f"{checkpoint} has no exported weights: train with save.exports=<steps> to keep some."
        )
    config = replace(exports.rebuilt(finished), output=str(checkpoint.parents[2]))
    here = Look(config, round=config.rounds)
    attempts = exports.existing(finished.product("attempts"))
    for step, folder in exported.items():
        weights = policy.prepare(replace(config.model, path=str(folder), revision=None), here.root)
        stages.evaluate(cast(Run, here), f"scores_at_step_{step}", weights, attempts)
    return list(here.seen.values())


def _walk(here: Look, until: str | None) -> None:
    """`pipeline.run`, with eyes only."""
    config, this = here.config, cast(Run, here)
    if until == "pretrain":
        target = _student(here, _imported(this))
        here.seen["model"] = _seen(here, "model", target)
        return
    if until == "evaluate":
        attempts = _attempts(this) if stages.needs_attempts(config) else None
        stages.evaluate(this, "scores", _policy(this, attempts), attempts)
        return
    for end in Run.rounds(this, until):
        attempts = _attempts(this)
        here.first = first = here.first or attempts
        if end == "elicit":
            return
        _weights(here, first)
        corrections = stages.rectify(this, first, part="held_out", mode="rectified")
        stages.material(this, attempts, config.data.arm)
        if end == "rectify":
            return
        base = stages.policy(this, first)
        start = stages.policy(this, attempts)
        held_out = stages.select_held_out(this, base, corrections)
        pairs = _select(this, start, attempts)
        if end == "select":
            return
        if until is None:
            stages.evaluate(this, "base_scores", base, first)
        here.start = checkpoint = stages.train(this, start, pairs, held_out)
    if until is None:
        stages.evaluate(this, "scores", checkpoint, first)


def _attempts(this: Run) -> store.Product:
    if this.start is None and this.config.data.fields.response is None:
        _weights(cast(Look, this), None)
    return stages.attempts(this)


def _imported(this: Run) -> store.Product | None:
    return stages.attempts(this) if this.config.data.fields.response is not None else None


def _policy(this: Run, attempts: store.Product | None) -> Policy:
    _weights(cast(Look, this), attempts)
    return stages.policy(this, attempts)


def _select(this: Run, start: Policy, attempts: store.Product) -> store.Product:
    """The pairs; their number, so their name, is unknown while an arm they are matched with is."""
    here, data = cast(Look, this), this.config.data
    try:
        return stages.select(this, start, attempts)
    except UserError:
        pools = [*(f"{arm}_pairs" for arm in data.matched), "matched_pairs"]
        missing = [here.seen.get(here.named(name)) for name in pools]
        if all(pool is None or pool.does == REUSE for pool in missing):
            raise
    made_of = stages.material(this, attempts, data.arm).digest
    pools = [pool.key for pool in missing if pool is not None]
    settings = {"arm": data.arm, "gamma": data.gamma, "pairs": data.pairs, "pools": pools}
    inputs = {"material": made_of, "policy": start.digest, "matched": f"{WAITS}select:{pools[-1]}"}
    target = store.product(this.root, "select", settings, inputs)
    return this.stage("pairs", target, lambda: None)


def _weights(here: Look, attempts: store.Product | None) -> None:
    """Pass if the starting weights are there. Raises UnknownError where they are yet to be had."""
    model = here.config.model
    if here.start is not None or policy.is_here(model):
        return
    if model.path is not None:
        if model.path.startswith(("/", ".", "~")):
            policy.prepare(model, here.root)  # says what is wrong with the folder
        raise UnknownError(f"{model.path} is downloaded")
    target = _student(here, attempts)
    here.seen["model"] = _seen(here, "model", target)
    if not target.complete:
        raise UnknownError("the student is pretrained")


def _student(here: Look, attempts: store.Product | None) -> store.Product:
    """The product that `policy.pretrain` makes."""
    model = here.config.model
    if model.pretrain is None or model.pretrain.corpus != "data":
        return policy.student(model, here.root)[0]
    if attempts is None or not attempts.complete:
        raise UnknownError("elicit")
    texts = unpack.split_attempts(here.config, attempts)[0]
    return policy.student(model, here.root, texts)[0]


def _cached(model: Any) -> Any:
    """The same model as a local folder, where the hub's own cache holds it already."""
    path = model.path
    if path is None or Path(path).expanduser().exists() or path.startswith(("/", ".", "~")):
        return model
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(path, revision=model.revision, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return model
    return replace(model, path=folder, revision=None)


# ---- what is known of a product ------------------------------------------------------------------


def _seen(here: Look, name: str, target: store.Product) -> Seen:
    waits = [digest for digest in target.inputs.values() if digest.startswith(WAITS)]
    if waits:
        last = max(waits, key=lambda one: here.missing.index(one) if one in here.missing else -1)
        stage = last.removeprefix(WAITS).partition(":")[0]
        return _asked(here, Seen(name, target.stage, target.key, MAKE, stage), target)
    if target.complete:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in target.counts.items())
        return Seen(name, target.stage, target.key, REUSE, note=counts)
    rows = target.folder / store.PARTIAL
    done = rows.read_bytes().count(b"\n") if rows.exists() else 0
    begun = f"{done:,} rows are there" if done else ""
    does = RESUME if done or (target.folder / store.RESUME).exists() else MAKE
    found = Seen(name, target.stage, target.key, does, note=begun)
    return _asked(here, found, target)


def _asked(here: Look, seen: Seen, target: store.Product) -> Seen:
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


def _steps(config: Config, pairs: store.Product) -> str:
    rows = len(store.read_rows(pairs.folder, Pair))
    steps = math.ceil(rows * config.loss.epochs / config.loss.batch_pairs)
    return f"{rows:,} pairs, {steps:,} steps"


def _corrections(here: Look, seen: Seen, target: store.Product) -> Seen:
    """How many attempts the Oracle would be asked about."""
    config, part = here.config, target.settings["part"]
    attempts = here.there.get(target.inputs["attempts"])
    if attempts is not None:
        count = len(unpack.wrong_attempts(config, attempts, part, here.first))
        paid = config.oracle.kind in PAID
        journal = asking.journal_path(config, attempts.digest) if paid else None
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


def _names(config: Config, until: str | None) -> Iterator[tuple[str, str]]:
    """What a run consists of at least, as far as `until`: names and stages."""
    ways = {
        "elicit": [("attempts", "elicit")],
        "rectify": [("held_out_rectifications", "rectify")],
        "select": [("held_out", "select"), ("pairs", "select")],
        "train": [("checkpoint", "train")],
    }
    if config.data.arm != "self":
        ways["rectify"].append(("rectifications", "rectify"))
    if until == "evaluate":
        yield "scores", "evaluate"
    elif until == "pretrain":
        yield "model", "model"
    else:
        for stage, names in ways.items():
            if stage == "train" and until is None:
                yield "base_scores", "evaluate"
            yield from names
            if stage == until:
                return
        yield "scores", "evaluate"
