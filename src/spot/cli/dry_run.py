"""`--dry-run`: what a command would make and what it would reuse, and not a file more."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from spot.config import ASKED, PAID, Config
from spot.config.compose import Expanded
from spot.evaluation import benchmarks
from spot.oracle import build as oracles
from spot.pipeline import clients
from spot.pipeline.plan import oracle as costs
from spot.pipeline.preview import REUSE, Seen, look, look_at_exports
from spot.utils.errors import UserError

HEAD = "dry run of spot {}: nothing is made, nobody is asked, nothing is written."


def lines(asked: Expanded, until: str | None) -> Iterator[str]:
    """What a run that ends after the stage `until`, or a sweep, would make and reuse."""
    return _sweep(asked) if asked.sweep else _run(asked.jobs[0][1], until, asked.folder)


def _run(config: Config, until: str | None, folder: Path) -> Iterator[str]:
    """One run: every product with what would be done about it."""
    products = look(config, until)
    yield from _lines(products)
    if until in (None, "evaluate"):
        what = "report" if until is None else "record"
        yield f"  {what:<9}{'in ' + str(folder)}"
    there = sum(seen.does == REUSE for seen in products)
    yield f"{there} of {len(products)} products are there, in {config.output}/products."
    yield from _oracle([(config, products)])
    yield from _refusals(config, until)


def _lines(products: Sequence[Seen]) -> Iterator[str]:
    width = max(24, *(len(seen.name) for seen in products)) + 1
    for seen in products:
        where = f"{seen.stage}/{seen.key}" if seen.until is None else f"unknown until {seen.until}"
        note = f"  ({seen.note})" if seen.note else ""
        name = f"{seen.name.replace('_', ' '):<{width}}"
        yield f"  {seen.stage:<9}{name}{seen.does:<7}{where}{note}"


def _sweep(asked: Expanded) -> Iterator[str]:
    """A sweep: how many products its jobs need of each kind, and how they share them."""
    from spot.pipeline.sweep_jobs import is_complete

    finished = [
        is_complete(asked.folder / str(n), lines, config)
        for n, (lines, config) in enumerate(asked.jobs)
    ]
    for key, values in asked.varies.items():
        yield f"  {key:<20} {len(values)} values: {', '.join(values)}"
    said = f", {sum(finished)} of them finished already" if any(finished) else ""
    jobs = "1 job" if len(asked.jobs) == 1 else f"{len(asked.jobs)} jobs"
    yield f"{jobs} in {asked.folder}{said}."
    looked = [(config, look(config)) for _, config in asked.jobs]
    kinds: dict[str, list[Seen]] = {}
    for _, products in looked:
        for seen in products:
            kinds.setdefault(seen.name, []).append(seen)
    width = max(map(len, kinds)) + 1
    for name in sorted(kinds, key=_rank):
        yield _kind_line(f"{name.replace('_', ' '):<{width}}", kinds[name])
    everything = {(s.stage, s.key): s for _, products in looked for s in products}.values()
    there = sum(seen.does == REUSE for seen in everything)
    yield f"{there} of {len(everything)} products are there, in {asked.jobs[0][1].output}/products."
    yield from _each_once(_oracle(looked))
    yield from dict.fromkeys(line for config, _ in looked for line in _refusals(config, None))


def _rank(name: str) -> tuple[str, int]:
    """Rounds in their order, the last one at the end, and in each the stages."""
    before, _, plain = name.rpartition("/")
    words = "model attempts rectifications held_out pairs base_scores checkpoint scores".split()
    kind = next((n for n, word in enumerate(words) if plain.endswith(word)), 0)
    return before or "~", words.index(plain) if plain in words else kind


def _kind_line(name: str, uses: Sequence[Seen]) -> str:
    distinct = {seen.key: seen for seen in uses}.values()
    there = sum(seen.does == REUSE for seen in distinct)
    missing = len(distinct) - there
    does = [f"{there} there"] if there else []
    does += [f"{missing} to make"] if missing else []
    shared = f", for {len(uses)} jobs" if len(uses) > len(distinct) else ""
    return f"  {uses[0].stage:<9}{name}{len(distinct)}{shared:<14}  {', '.join(does)}"


def _oracle(looked: Sequence[tuple[Config, Sequence[Seen]]]) -> Iterator[str]:
    """What paid Oracles would be asked, and about what for."""
    by_oracle: dict[str, tuple[Config, dict[str, Seen]]] = {}
    for config, products in looked:
        if config.oracle.kind in PAID:
            found = by_oracle.setdefault(json.dumps(asdict(config.oracle)), (config, {}))[1]
            found |= {s.key: s for s in products if s.stage == "rectify" and s.does != REUSE}
    for config, missing in by_oracle.values():
        told = [seen.asks for seen in missing.values()]
        known = sum(count for count in told if count is not None)
        if not missing:
            yield f"oracle={config.oracle.kind}: nothing to ask."
            continue
        calls = costs.calls(config, known) if None not in told else costs.calls(config)
        about = "about " if any(seen.assumed for seen in missing.values()) else ""
        if calls.count is None:
            yield f"oracle={config.oracle.kind}: costs are {calls.note}."
            continue
        yield (
            f"oracle={config.oracle.kind}: {about}{calls.count:,} attempts to correct, {calls.price} "
            f"({calls.price_note})."
        )
        journals = {seen.journal for seen in missing.values() if seen.journal is not None}
        yield from (
            f"  not paid again: the replies in {path}" for path in journals if path.exists()
        )


def _each_once(lines: Iterable[str]) -> Iterator[str]:
    """Each line once; what several Oracles would be paid each is said to add up."""
    for line, times in Counter(lines).items():
        adds_up = times > 1 and "attempts to correct" in line
        yield f"{times} settings of the Oracle, each: {line}" if adds_up else line


def _refusals(config: Config, until: str | None) -> Iterator[str]:
    """What the real command would refuse on this machine, as it says it."""
    checks: list[Callable[[], None]] = []
    if until != "pretrain":
        checks.append(lambda: clients.check(config))
    if until in (None, "evaluate"):
        checks.append(lambda: benchmarks.check(config))
    if config.oracle.kind in ASKED and until not in ("elicit", "pretrain", "evaluate"):
        checks.append(lambda: oracles.check(config.oracle, config.data))
    for check in checks:
        try:
            check()
        except UserError as error:
            yield f"not ready here: {error}"


def export_lines(run: Path) -> Iterator[str]:
    """What `spot evaluate <run folder>` would measure."""
    yield from _lines(look_at_exports(run))
    yield f"  table    exports.csv in {run}"
