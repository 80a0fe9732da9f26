"""`--dry-run`: what a command would make and what it would reuse; it writes no file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from spot.config import PAID, Config
from spot.config.compose import Expanded
from spot.data import run_record
from spot.pipeline import checks, resources, spending
from spot.pipeline.preview import REUSE, Preview, preview, preview_exports
from spot.pipeline.sweep_jobs import is_complete
from spot.utils.errors import UserError
from spot.utils.terminal import count

HEAD = "dry run of spot {}: nothing is made, asked or written."
ORDER = (
    "model responses attempts rectifications held_out pairs base_benchmark_responses base_scores checkpoint "
    "benchmark_responses scores"
).split()


def lines(asked: Expanded, until: str | None) -> Iterator[str]:
    """What a run that ends after the stage `until`, or a sweep, would make and reuse."""
    return _sweep(asked) if asked.sweep else _run(asked.jobs[0][1], until, asked.folder)


def export_lines(run: Path) -> Iterator[str]:
    """What `spot evaluate <run folder>` would measure."""
    previews = preview_exports(run)
    yield from _lines(previews)
    if len(previews) > 1:
        yield f"  table    exports.csv in {run}"


def _run(config: Config, until: str | None, folder: Path) -> Iterator[str]:
    """One run: every product and what would be done about it."""
    products = preview(config, until)
    yield from _lines(products)
    if until is None and config.probe.afterwards:
        which = config.probe.domain or "all"
        yield f"  evaluate {which} benchmarks on the weights kept every {count(config.save.exports, 'step')}"
    if until in (None, "evaluate"):
        what = "report" if until is None else "record"
        yield f"  {what:<9}in {folder}"
    yield _total(products, config)
    yield from _oracles([(config, products)])
    yield from _refusals([config], until)


def _lines(products: Sequence[Preview]) -> Iterator[str]:
    width = max(24, *(len(one.name) for one in products)) + 1
    for one in products:
        where = f"{one.stage}/{one.key}" if one.until is None else f"unknown until {one.until}"
        note = f"  ({one.note})" if one.note else ""
        name = f"{run_record.words(one.name):<{width}}"
        yield f"  {one.stage:<9}{name}{one.action:<7}{where}{note}"


def _total(products: Sequence[Preview], config: Config) -> str:
    reused = sum(one.action == REUSE for one in products)
    return f"{reused} of {len(products)} products are there, in {config.output}/products."


def _sweep(asked: Expanded) -> Iterator[str]:
    """A sweep: how many products of each kind its jobs need, and how they share them."""
    for key, values in asked.varies.items():
        yield f"  {key:<20} {len(values)} values: {', '.join(values)}"
    folders = [asked.folder / str(number) for number in range(len(asked.jobs))]
    pairs = zip(folders, asked.jobs, strict=True)
    finished = sum(is_complete(folder, *job) for folder, job in pairs)
    jobs = count(len(asked.jobs), "job")
    yield f"{jobs} in {asked.folder}{f', {finished} of them finished already' if finished else ''}."
    previews = [(config, preview(config)) for _, config in asked.jobs]
    everything = [one for _, products in previews for one in products]
    kinds: dict[str, list[Preview]] = {}
    for one in everything:
        kinds.setdefault(one.name, []).append(one)
    width = max(map(len, kinds)) + 1
    for name in sorted(kinds, key=_rank):
        yield _kind_line(f"{run_record.words(name):<{width}}", kinds[name])
    distinct = {(one.stage, one.key): one for one in everything}
    yield _total(list(distinct.values()), asked.jobs[0][1])
    yield from _each_once(_oracles(previews))
    yield from _refusals([config for config, _ in previews], None)


def _rank(name: str) -> tuple[str, int]:
    """Rounds in their order, the last one at the end, and in each the stages."""
    before, _, plain = name.rpartition("/")
    kind = next((n for n, word in enumerate(ORDER) if plain.endswith(word)), 0)
    return before or "~", ORDER.index(plain) if plain in ORDER else kind


def _kind_line(name: str, uses: Sequence[Preview]) -> str:
    distinct = {one.key: one for one in uses}.values()
    there = sum(one.action == REUSE for one in distinct)
    counts = {"there": there, "to make": len(distinct) - there}
    shared = f", for {count(len(uses), 'job')}" if len(uses) > len(distinct) else ""
    return f"  {uses[0].stage:<9}{name}{len(distinct)}{shared:<14}  {', '.join(f'{n} {what}' for what, n in counts.items() if n)}"


def _oracles(previews: Sequence[tuple[Config, Sequence[Preview]]]) -> Iterator[str]:
    """What paid Oracles would be asked, and about what for."""
    by_oracle: dict[str, tuple[Config, dict[str, Preview]]] = {}
    for config, products in previews:
        if config.oracle.kind in PAID:
            known = by_oracle.setdefault(json.dumps(asdict(config.oracle)), (config, {}))[1]
            known |= spending.to_ask(products)
    for config, missing in by_oracle.values():
        yield from _oracle(config, list(missing.values()))


def _oracle(config: Config, missing: Sequence[Preview]) -> Iterator[str]:
    name = f"oracle={config.oracle.kind}"
    if not missing:
        yield f"{name}: nothing to ask."
        return
    calls = spending.calls(config, missing)
    if calls.count is None:
        yield f"{name}: costs are unknown, {calls.note}."
        return
    yield f"{name}: {calls.note}, {calls.price} ({calls.price_note})."
    for path in {one.journal for one in missing if one.journal is not None}:
        if path.exists():
            yield f"  not paid again: the replies in {path}"


def _each_once(lines: Iterable[str]) -> Iterator[str]:
    """Each line once; what several Oracles would be paid each is said to add up."""
    for line, times in Counter(lines).items():
        adds_up = times > 1 and " to correct, " in line
        yield f"{times} settings of the Oracle, each: {line}" if adds_up else line


def _refusals(configs: Sequence[Config], until: str | None) -> Iterator[str]:
    """What the real command would refuse on this machine, as it says it, each once."""
    found = [partial(check, config) for config in configs for check in checks.checks(config, until)]
    found.append(partial(resources.disk, configs, until))
    if until in checks.CORRECTS:
        found += [partial(spending.check, config, until) for config in configs]
    said: dict[str, None] = {}
    for refuse in found:
        try:
            refuse()
        except UserError as error:
            said[f"not ready here: {error}"] = None
    yield from said
