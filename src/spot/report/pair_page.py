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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from spot.data.word_diff import Alignment, Piece, align
from spot.report.pair_source import RUN_FILE, Entry, Listing, read
from spot.utils.errors import UserError
from spot.utils.files import write_aside

USAGE = "spot pairs <run folder | product folder | pairs.jsonl> [out=<file.html>]"
ASSETS = "report/templates/pairs"
SCRIPTS = ("texts.js", "list.js", "page.js")
CHUNK = 400_000  # characters: inflated and parsed in some milliseconds
TITLE = 90  # characters of a question in the list
SHOWN_TRY = 20_000  # characters of a reply that was not taken


def command(arguments: list[str]) -> None:
    """`spot pairs <source> [out=<file.html>]`: write the page and say where it is."""
    sources = [text for text in arguments if not text.startswith("out=")]
    outs = [text.removeprefix("out=") for text in arguments if text.startswith("out=")]
    if len(sources) != 1 or len(outs) > 1 or not sources[0] or sources[0].startswith("-"):
        raise UserError(f"name one source of pairs: {USAGE}.")
    source = Path(sources[0])
    out = Path(outs[0]) if outs else default_out(source)
    _check(out)
    count = build(source, out)
    print(f"pairs: {out} ({count:,} shown)", flush=True)


def default_out(source: Path) -> Path:
    """In a run's folder, beside a file; a product's folder is left alone: then where we are."""
    if source.is_file():
        return source.with_suffix(".html")
    if (source / RUN_FILE).is_file():
        return source / "pairs.html"
    return Path(f"pairs-{source.resolve().name}.html")


def build(source: Path, out: Path) -> int:
    """Write the page of a run's, a product's or a file's rows; returns how many there are.

    Raises UserError when the source cannot be shown or the page cannot be written.
    """
    listing = read(source)
    text = page(listing)
    try:
        write_aside(out, text.encode(errors="replace"))
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror}): give another place, out=<file.html>."
        ) from None
    return len(listing.entries)


def _check(out: Path) -> None:
    """Refuse a place for the page before anything is read."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"out={out} is no page: give a name that ends in .html.")
    if out.is_dir() or not out.parent.is_dir():
        raise UserError(f"out={out} cannot be written: give a file in a folder that exists.")


def page(listing: Listing) -> str:
    """The whole page. Same rows, same bytes."""
    aligned = [_aligned(entry) for entry in listing.entries]
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
        index=_packed(_index(listing, aligned, [count for count, _ in chunks])),
        chunks=[text for _, text in chunks],
    )


# ---- rows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """How far y⁺ is from y⁻, in tokens where the rows say so and in words otherwise."""

    ratio: float | None
    prefix: int | None


def _aligned(entry: Entry) -> Alignment | None:
    """None where there is nothing to compare."""
    return align(entry.before, entry.after) if entry.before and entry.after else None


def _index(
    listing: Listing, aligned: Sequence[Alignment | None], counts: Sequence[int]
) -> dict[str, Any]:
    """What the list, the filters and the histogram need of all rows, column by column."""
    entries = listing.entries
    compared = [entry for entry, found in zip(entries, aligned, strict=True) if found]
    in_tokens = all(entry.ratio is not None and entry.prefix is not None for entry in compared)
    measures = [
        Measure(entry.ratio, entry.prefix)
        if in_tokens or found is None
        else Measure(found.change_ratio, found.prefix)
        for entry, found in zip(entries, aligned, strict=True)
    ]
    return {
        "name": listing.name,
        "unit": "tokens" if in_tokens else "words",
        "id": [entry.id for entry in entries],
        "title": [" ".join(entry.question.split())[:TITLE] for entry in entries],
        "kind": [entry.kind for entry in entries],
        "taken": [int(entry.taken) for entry in entries],
        "verified": [int(entry.verified) for entry in entries],
        "ratio": [None if m.ratio is None else round(m.ratio, 4) for m in measures],
        "prefix": [m.prefix for m in measures],
        "tokens": [entry.tokens for entry in entries],
        "length": [len(entry.before or "") + len(entry.after) for entry in entries],
        "counts": list(counts),  # rows of each chunk
    }


def _chunks(
    entries: Sequence[Entry], aligned: Sequence[Alignment | None]
) -> Iterator[tuple[int, str]]:
    """`(rows, their texts, packed)`, as many rows as fit into CHUNK characters, one at least."""
    rows: list[Any] = []
    size = 0
    for entry, found in zip(entries, aligned, strict=True):
        rows.append(_body(entry, found))
        size += len(entry.before or "") + len(entry.after) + len(entry.question)
        if size >= CHUNK:
            yield len(rows), _packed(rows)
            rows, size = [], 0
    if rows:
        yield len(rows), _packed(rows)


def _body(entry: Entry, found: Alignment | None) -> list[Any]:
    """The texts of a row, and where they are cut."""
    cuts = [lengths(found.before), lengths(found.after)] if found else [None, None]
    tries = [_try(each, entry.taken) for each in entry.tries]
    texts = [entry.question, entry.answer, entry.extracted, entry.before, entry.after]
    return [*texts, *cuts, tries]


def lengths(pieces: Sequence[Piece]) -> list[int]:
    """Of each piece in UTF-16 code units, which is how a browser counts."""
    texts = (piece.text for piece in pieces)
    return [
        len(t) if t.isascii() else len(t.encode("utf-16-le", "surrogatepass")) // 2 for t in texts
    ]


def _try(each: dict[str, Any], taken: bool) -> dict[str, Any]:
    """One request to the Oracle; its text is worth its room where nothing was taken."""
    names = ("prompt", "outcome", "reason", "model_version", "cost")
    told = {name: each[name] for name in names if each.get(name) not in (None, "")}
    text = "" if taken else str(each.get("text") or "")
    return told | ({"text": text[:SHOWN_TRY]} if text else {})


def _packed(value: Any) -> str:
    """JSON, deflated, in base64: no character of it means anything to a browser."""
    text = json.dumps(value, separators=(",", ":"))  # ASCII, so half a surrogate pair is text, too
    return base64.b64encode(zlib.compress(text.encode(), 6)).decode()


# ---- assets ------------------------------------------------------------------------------------


def _asset(name: str) -> str:
    return (resources.files("spot") / ASSETS / name).read_text(encoding="utf-8")


def _katex() -> str:
    """KaTeX, as the package sphinxcontrib-katex carries it."""
    path = Path(
        str(metadata.distribution("sphinxcontrib-katex").locate_file("sphinxcontrib/katex.min.js"))
    )
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: pip install --force-reinstall sphinxcontrib-katex."
        ) from None


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
