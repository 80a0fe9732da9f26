"""The pair page: y⁻ beside y⁺ with the edited words marked, in one file that opens from disk.

Texts travel in deflated chunks, which a browser inflates as they are looked at: y⁺ repeats most of
y⁻, so thousands of long pairs stay small. Nothing in the page can reach a network, and no script but
the page's own can run (its Content-Security-Policy names their hashes).
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from spot.config.arguments import read as read_arguments
from spot.data import artifacts
from spot.data.rows import Attempt, Pair, Question, Rectification, Score, from_json
from spot.data.run_record import RUN_FILE
from spot.data.word_diff import Alignment, Piece, align
from spot.oracle.postprocess import COMMENTED, OK, REWRITTEN, clean
from spot.utils.errors import UserError
from spot.utils.files import check_output, write_aside

USAGE = "spot pairs <run folder | product folder | pairs.jsonl> [out=<file.html>]"
GIVE = (
    "give a run's folder, a product's (outputs/products/select/… or rectify/…) or a .jsonl of pairs"
)
ASSETS = "report/templates/pairs"
SCRIPTS = ("texts.js", "list.js", "page.js")
CHUNK = 400_000  # characters: inflated and parsed in some milliseconds
TITLE = 90  # characters of a question in the list
SHOWN_TRY = 20_000  # characters of a reply that was not taken
KINDS: dict[str, Any] = {"select": Pair, "rectify": Rectification}
OTHERS = (Attempt, Score, Question)
VERIFIED = (OK, REWRITTEN, COMMENTED)  # what is judged only after the answer was found right
Rows = Sequence[Pair] | Sequence[Rectification]


@dataclass
class Arguments:
    """Of `spot pairs`."""

    out: str | None = None


def command(arguments: list[str]) -> None:
    """`spot pairs <source> [out=<file.html>]`: write the page and print where it is."""
    sources, given = read_arguments(Arguments, arguments, "pairs", named=True)
    if len(sources) != 1 or not sources[0]:
        raise UserError(f"name one source of pairs: {USAGE}.")
    source = Path(sources[0])
    out = default_out(source) if given.out is None else Path(given.out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"out={out} is not a page: give a name that ends in .html.")
    check_output(out, "out")
    print(f"pairs: {out} ({build(source, out):,} shown)", flush=True)


def default_out(source: Path) -> Path:
    """In a run's folder, beside a file; a product's folder is left alone: then where we are."""
    if source.is_file():
        return source.with_suffix(".html")
    if (source / RUN_FILE).is_file():
        return source / "pairs.html"
    return Path(f"pairs-{source.resolve().name}.html")


def build(source: Path, out: Path) -> int:
    """Write the page of a run's, a product's or a file's rows; returns how many there are.

    Raises UserError when the source cannot be shown.
    """
    listing = read(source)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_aside(out, page(listing).encode(errors="replace"))
    return len(listing.entries)


# ---- sources -----------------------------------------------------------------------------------


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

    @property
    def words(self) -> Alignment | None:
        """None where there is nothing to compare."""
        return align(self.before, self.after) if self.before and self.after else None


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
        raise UserError(f"{path} names no pairs: run its command again, or {GIVE}.") from None


def _product(folder: Path) -> Listing:
    """A finished product of select or rectify, checked against its manifest."""
    if not (folder / artifacts.MANIFEST).exists():
        if (folder / artifacts.PARTIAL).exists():
            raise UserError(f"{folder} is unfinished: run the command that makes it to its end.")
        if runs := sorted(folder.glob(f"*/{RUN_FILE}")):
            first = runs[0].parent
            raise UserError(f"{folder} is a sweep: name one of its runs, spot pairs {first}.")
        raise UserError(f"{folder} is neither a run nor a product: {GIVE}.")
    manifest = artifacts.read_manifest(folder)
    stage, settings = str(manifest.get("stage")), manifest["settings"]
    if stage not in KINDS:
        raise UserError(f"{folder} was made by {stage} and holds no pairs: {GIVE}.")
    listing = _listing(
        f"{stage} {folder.resolve().name}", artifacts.read_rows(folder, KINDS[stage])
    )
    chosen = {"γ": settings.get("gamma"), "seed": settings.get("seed")}
    listing.facts.update({k: str(value) for k, value in chosen.items() if value is not None})
    if dropped := (manifest.get("details") or {}).get("dropped"):
        counts = (f"{len(ids):,} {reason.replace('_', ' ')}" for reason, ids in dropped.items())
        listing.facts["dropped before"] = ", ".join(counts)
    return listing


def _file_rows(path: Path) -> list[Any]:
    """Rows of a JSONL file: all pairs, or all rectifications."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: {GIVE}.") from None
    rows: list[Any] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        kind = type(rows[0]) if rows else _kind(path, number, line)
        try:
            rows.append(from_json(kind, line))
        except ValueError:
            raise UserError(
                f"{path}: line {number} is no {kind.__name__} as the first is: correct or delete it."
            ) from None
    return rows


def _kind(path: Path, number: int, line: str) -> type:
    """What the first row of a file is."""
    for kind in (*KINDS.values(), *OTHERS):
        with suppress(ValueError):
            from_json(kind, line)
            if kind in KINDS.values():
                return kind
            raise UserError(f"{path}: holds {kind.__name__.lower()}s; {GIVE}.")
    raise UserError(f"{path}: line {number} is neither a pair nor a correction; {GIVE}.")


def _listing(name: str, rows: Rows) -> Listing:
    entries = [_entry(row) for row in rows]
    corrections = [row for row in rows if isinstance(row, Rectification)]
    if not corrections:
        return Listing(name, "pair", "arm", entries)
    facts = {
        "oracle": ", ".join(Counter(row.oracle for row in corrections)),
        "mode": ", ".join(Counter(row.mode for row in corrections)),
    }
    return Listing(name, "correction", "outcome", entries, facts)


def _entry(row: Pair | Rectification) -> Entry:
    if isinstance(row, Pair):  # selection has verified it once more
        return Entry(
            row.id, row.question, row.answer, row.rejected, row.chosen, row.arm, True, True,
            ratio=row.change_ratio, prefix=row.common_prefix,
            tokens=(row.rejected_tokens, row.chosen_tokens),
        )  # fmt: skip
    tries = list(row.detail.get("tries") or ())
    after = row.chosen
    if not after and tries:
        after = clean(str(tries[-1].get("text") or ""), row.rejected)
    return Entry(
        row.id, row.question, row.answer, row.rejected, after, row.outcome, row.outcome == OK,
        row.outcome in VERIFIED, row.extracted, row.detail.get("change_ratio"),
        row.detail.get("common_prefix"), tries=tries,
    )  # fmt: skip


# ---- the file ----------------------------------------------------------------------------------


def page(listing: Listing) -> str:
    """The whole page. Same rows, same bytes."""
    aligned = [entry.words for entry in listing.entries]
    chunks = list(_chunks(listing.entries, aligned))
    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [_katex(), "\n".join(_asset(name) for name in SCRIPTS)]
    return environment.get_template("page.html.j2").render(
        listing=listing,
        css=Markup(_asset("page.css")),
        scripts=[Markup(script) for script in scripts],
        hashes=Markup(" ".join(f"'sha256-{_hash(script)}'" for script in scripts)),
        license=Markup(_asset("katex_license.txt")),
        index=_packed(_index(listing, aligned) | {"counts": [count for count, _ in chunks]}),
        chunks=[text for _, text in chunks],
    )


def _index(listing: Listing, aligned: Sequence[Alignment | None]) -> dict[str, Any]:
    """What the list, the filters and the histogram need of all rows, column by column.

    How far y⁺ is from y⁻ is in tokens where all rows say so, otherwise in words.
    """
    entries = listing.entries
    both = list(zip(entries, aligned, strict=True))
    in_tokens = all(
        entry.ratio is not None and entry.prefix is not None for entry, words in both if words
    )
    measures = [
        (entry.ratio, entry.prefix)
        if in_tokens or words is None
        else (words.change_ratio, words.prefix)
        for entry, words in both
    ]
    return {
        "name": listing.name,
        "unit": "tokens" if in_tokens else "words",
        "id": [entry.id for entry in entries],
        "title": [" ".join(entry.question.split())[:TITLE] for entry in entries],
        "kind": [entry.kind for entry in entries],
        "taken": [int(entry.taken) for entry in entries],
        "verified": [int(entry.verified) for entry in entries],
        "ratio": [None if ratio is None else round(ratio, 4) for ratio, _ in measures],
        "prefix": [prefix for _, prefix in measures],
        "tokens": [entry.tokens for entry in entries],
        "length": [len(entry.before or "") + len(entry.after) for entry in entries],
    }


def _chunks(
    entries: Sequence[Entry], aligned: Sequence[Alignment | None]
) -> Iterator[tuple[int, str]]:
    """`(rows, their texts, packed)`, as many rows as fit into CHUNK characters, one at least."""
    rows: list[Any] = []
    size = 0
    for entry, words in zip(entries, aligned, strict=True):
        cuts = [lengths(words.before), lengths(words.after)] if words else [None, None]
        tries = [_try(each, entry.taken) for each in entry.tries]
        texts = [entry.question, entry.answer, entry.extracted, entry.before, entry.after]
        rows.append([*texts, *cuts, tries])
        size += len(entry.before or "") + len(entry.after) + len(entry.question)
        if size >= CHUNK:
            yield len(rows), _packed(rows)
            rows, size = [], 0
    if rows:
        yield len(rows), _packed(rows)


def lengths(pieces: Sequence[Piece]) -> list[int]:
    """Of each piece in UTF-16 code units, which is how a browser counts."""
    return [len(piece.text.encode("utf-16-le", "surrogatepass")) // 2 for piece in pieces]


def _try(each: dict[str, Any], taken: bool) -> dict[str, Any]:
    """One request to the Oracle; its text is worth its room where nothing was taken."""
    names = ("prompt", "outcome", "reason", "model_version", "cost")
    known = {name: each[name] for name in names if each.get(name) not in (None, "")}
    text = "" if taken else str(each.get("text") or "")
    return known | ({"text": text[:SHOWN_TRY]} if text else {})


def _packed(value: Any) -> str:
    """JSON, deflated, in base64: no character of it means anything to a browser."""
    text = json.dumps(value, separators=(",", ":"))  # ASCII, so half a surrogate pair is text, too
    return base64.b64encode(zlib.compress(text.encode(), 6)).decode()


def _asset(name: str) -> str:
    return (resources.files("spot") / ASSETS / name).read_text(encoding="utf-8")


def _katex() -> str:
    """KaTeX, as the package sphinxcontrib-katex carries it."""
    package = metadata.distribution("sphinxcontrib-katex")
    path = Path(str(package.locate_file("sphinxcontrib/katex.min.js")))
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: pip install --force-reinstall sphinxcontrib-katex."
        ) from None


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
