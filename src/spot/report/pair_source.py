"""Where the pair page's rows come from: a run, a product of select or rectify, or a JSONL file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spot.data import artifacts
from spot.data.rows import Attempt, Pair, Question, Rectification, Score, from_json
from spot.oracle.postprocess import COMMENTED, OK, REWRITTEN, clean
from spot.utils.errors import UserError

RUN_FILE = "run.json"
KINDS = {"select": Pair, "rectify": Rectification}
OTHERS = {"attempts": Attempt, "scores": Score, "questions": Question}
VERIFIED = (OK, REWRITTEN, COMMENTED)  # what is judged only after the answer was found right
GIVE = (
    "give a run's folder, a product's (outputs/products/select/… or rectify/…) or a .jsonl of pairs"
)


@dataclass(frozen=True)
class Entry:
    """What the page shows of one row.

    `after` of a correction that was not taken is what the Oracle last wrote, if it is known.
    ratio: R_LCS and prefix: common prefix, both in tokens; None where the row does not hold them.
    """

    id: str
    question: str
    answer: str
    before: str | None
    after: str
    kind: str  # a pair's arm, a correction's outcome
    taken: bool
    verified: bool  # its final answer equals the truth
    extracted: str | None = None
    ratio: float | None = None
    prefix: int | None = None
    tokens: tuple[int | None, int] | None = None  # of y⁻ and y⁺
    tries: Sequence[dict[str, Any]] = ()


@dataclass(frozen=True)
class Listing:
    """All rows of one source, by id, and what to say about them."""

    name: str
    what: str  # pair | correction
    grouped_by: str  # what `kind` is: arm | outcome
    entries: list[Entry]
    facts: dict[str, str] = field(default_factory=dict)


def read(source: Path) -> Listing:
    """The rows of a run's pairs, of a product or of a file. Raises UserError, one line, if there are none."""
    if source.is_file():
        listing = _listing(source.name, _file_rows(source))
    elif (source / RUN_FILE).is_file():
        listing = _product(_pairs_of_run(source))
        listing.facts["run"] = source.resolve().name
    elif source.is_dir():
        listing = _product(source)
    else:
        raise UserError(f"{source} is not there: {GIVE}.")
    if not listing.entries:
        raise UserError(
            f"{source} holds no rows: there is nothing to show. For other rows, {GIVE}."
        )
    return listing


def _pairs_of_run(folder: Path) -> Path:
    path = folder / RUN_FILE
    try:
        return folder / str(json.loads(path.read_text(encoding="utf-8"))["products"]["pairs"])
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{path} names no pairs: delete it and run its command again, or {GIVE}."
        ) from None


def _product(folder: Path) -> Listing:
    """A finished product of select or rectify, checked against its manifest."""
    if not (folder / artifacts.MANIFEST).exists():
        if (folder / artifacts.PARTIAL).exists():
            raise UserError(f"{folder} is unfinished: run the command that makes it to its end.")
        if any(folder.glob(f"*/{RUN_FILE}")):
            first = min(folder.glob(f"*/{RUN_FILE}")).parent
            raise UserError(f"{folder} is a sweep: name one of its runs, spot pairs {first}.")
        raise UserError(f"{folder} is no run and no product: {GIVE}.")
    manifest = artifacts.read_manifest(folder)
    stage = str(manifest.get("stage"))
    if stage not in KINDS:
        raise UserError(f"{folder} was made by {stage} and holds no pairs: {GIVE}.")
    rows = artifacts.read_rows(folder, KINDS[stage])
    listing = _listing(f"{stage} {folder.resolve().name}", rows)
    listing.facts.update(_facts(manifest))
    return listing


def _facts(manifest: dict[str, Any]) -> dict[str, str]:
    """What a reader asks first about a product."""
    settings = manifest["settings"]
    said = {"γ": settings.get("gamma"), "seed": settings.get("seed")}
    facts = {name: str(value) for name, value in said.items() if value is not None}
    dropped = (manifest.get("details") or {}).get("dropped") or {}
    if dropped:
        counts = (f"{len(ids):,} {reason.replace('_', ' ')}" for reason, ids in dropped.items())
        facts["dropped before"] = ", ".join(counts)
    return facts


def _file_rows(path: Path) -> list[Any]:
    """Rows of a JSONL file: all pairs, or all rectifications."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: {GIVE}.") from None
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not filled:
        return []
    kind = next((kind for kind in KINDS.values() if _is(kind, filled[0][1])), None)
    if kind is None:
        other = next((name for name, other in OTHERS.items() if _is(other, filled[0][1])), None)
        found = f"holds {other}" if other else f"line {filled[0][0]} is no pair and no correction"
        raise UserError(f"{path}: {found}; {GIVE}.")
    rows = []
    for number, line in filled:
        try:
            rows.append(from_json(kind, line))
        except ValueError:
            raise UserError(
                f"{path}: line {number} is no {kind.__name__} as the first is: mend or delete it."
            ) from None
    return rows


def _is(kind: Any, line: str) -> bool:
    try:
        from_json(kind, line)
    except ValueError:
        return False
    return True


def _listing(name: str, rows: Sequence[Any]) -> Listing:
    if rows and isinstance(rows[0], Rectification):
        oracles = Counter(row.oracle for row in rows)
        facts = {"oracle": ", ".join(oracles), "mode": ", ".join({row.mode: 0 for row in rows})}
        return Listing(name, "correction", "outcome", [_correction(row) for row in rows], facts)
    return Listing(name, "pair", "arm", [_pair(row) for row in rows])


def _pair(row: Pair) -> Entry:
    return Entry(
        id=row.id,
        question=row.question,
        answer=row.answer,
        before=row.rejected,
        after=row.chosen,
        kind=row.arm,
        taken=True,
        verified=True,  # selection has verified it once more
        ratio=row.change_ratio,
        prefix=row.common_prefix,
        tokens=(row.rejected_tokens, row.chosen_tokens),
    )


def _correction(row: Rectification) -> Entry:
    tries = list(row.detail.get("tries") or ())
    after = row.chosen
    if not after and tries:
        after = clean(str(tries[-1].get("text") or ""), row.rejected)
    return Entry(
        id=row.id,
        question=row.question,
        answer=row.answer,
        before=row.rejected,
        after=after,
        kind=row.outcome,
        taken=row.outcome == OK,
        verified=row.outcome in VERIFIED,
        extracted=row.extracted,
        ratio=row.detail.get("change_ratio"),
        prefix=row.detail.get("common_prefix"),
        tries=tries,
    )
