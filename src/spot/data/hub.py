"""Rows of a data set of the Hugging Face hub, or of files in the formats that it knows.

From the hub a data set is read at one pinned commit, through the user's own cache (`HF_HOME`). A file
or folder of the user's never needs a network. Lines of text are read here and not by `datasets`,
which guesses types: to it the answer `2020-01-01` is a date and `007` in a table is 7.0.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from spot.config import DataConfig
from spot.data.jsonl import (
    LONGEST_LINE,
    NOT_UTF8,
    UNREADABLE,
    NumberedRow,
    Problem,
    Source,
    object_or_problem,
    open_text,
    read_objects,
    unique_keys,
)
from spot.utils import digests
from spot.utils.errors import UserError

# Text also packed, .gz.
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
REACH_TIMEOUT = 10  # seconds to wait for the hub's first answer
ELSEWHERE = (
    "download the data set where there is one (hf download {dataset} --repo-type dataset "
    "--revision {revision} --local-dir <folder>), bring it here and set {group}.path=<folder>"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ABBREVIATED = re.compile(r"[0-9a-f]{6,39}")


class Where(NamedTuple):
    """A split of a data set of the hub, and the group of the configuration that names it."""

    dataset: str
    subset: str | None
    split: str
    revision: str
    group: str

    @property
    def elsewhere(self) -> str:
        return ELSEWHERE.format(**self._asdict())


def load_rows(
    dataset: str | None = None,
    subset: str | None = None,
    split: str = "train",
    revision: str | None = None,
    path: str | Path | None = None,
    group: str = "data",
) -> Source:
    """The rows of one split, in their order.

    With `path` nothing else is asked: of a folder, which is a data set as one downloads it from the
    hub, `subset` and `split` are read; a file (JSON Lines, JSON, CSV, TSV, Parquet) is read whole.
    Without it `dataset` is a hub id, read at `revision`: a full commit hash, or the name of a branch,
    of which the newest commit is read (a benchmark's only: what is trained on must stay the same). group: of the configuration, for messages.

    Raises UserError, with the next step, for what cannot be found, reached, opened or understood.
    """
    if path is not None:
        path = Path(path).expanduser()
        where = Where(str(path), subset, split, "", group)
        return _folder(path, where) if path.is_dir() else _file(path)
    if not dataset:
        raise UserError(f"{group}.hub is missing: name a data set, or set {group}.path.")
    if not revision:
        raise UserError(
            f"{group}.revision is missing: give the 40 digits of a commit (the data set's page, Files, "
            f"History), so that {dataset} stays the same."
        )
    moves = not _COMMIT.fullmatch(revision)
    if _ABBREVIATED.fullmatch(revision) or (moves and group == "data"):
        raise UserError(f"{group}.revision={revision} is not a commit: give all 40 digits of one.")
    return _hub(Where(dataset, subset, split, revision, group))


def rows_of(data: DataConfig) -> Source:
    """The rows that the group `data` names."""
    return load_rows(data.hub, data.subset, data.split, data.revision, data.path)


def identity_of(data: DataConfig) -> dict[str, Any]:
    """What determines them."""
    return identity(data.hub, data.subset, data.split, data.revision, data.path)


def identity(
    dataset: str | None = None,
    subset: str | None = None,
    split: str = "train",
    revision: str | None = None,
    path: str | Path | None = None,
) -> dict[str, Any]:
    """What determines the rows of `load_rows`, to name a product by: contents, not places."""
    if path is None:
        return {"dataset": dataset, "subset": subset, "split": split, "revision": revision}
    path = Path(path).expanduser()
    if not path.is_dir():
        return {"file": digests.hash_file(_existing(path))}
    files = {
        file.relative_to(path).as_posix(): digests.hash_file(file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(part[0] == "." for part in file.relative_to(path).parts)
    }
    return {"files": files, "subset": subset, "split": split}


# ------------------------------------------------------------------------------------ files


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path} does not exist: give the path of a file or a folder.")
    return path


def _file(path: Path) -> Source:
    suffix = Path(_existing(path).name.lower().removesuffix(".gz")).suffix
    name = str(path)
    if suffix in (".jsonl", ".ndjson"):
        return Source(name, read_objects(path), "line")
    if suffix == ".json":
        return _json(path)
    if suffix in (".csv", ".tsv"):
        return Source(name, _readable(path, _table(path)), "line")
    if suffix in (".parquet", ".arrow"):
        return Source(name, _readable(path, _columns(path)))
    raise UserError(f"{path} is of no known format: give one of {', '.join(SUFFIXES)}.")


def _json(path: Path) -> Source:
    """One list of objects; many a `.json` of the hub is JSON Lines, though."""
    try:
        with open_text(path) as file:
            text = file.read()
        if not text.lstrip().startswith("["):
            return Source(str(path), read_objects(path), "line")
        values = json.loads(text, object_pairs_hook=unique_keys)
    except (*UNREADABLE, RecursionError) as error:
        raise _unreadable(path, error) from error
    return Source(str(path), [(n, object_or_problem(v)) for n, v in enumerate(values, start=1)])


def _table(path: Path) -> Iterator[NumberedRow]:
    """Rows of a table with a header; all values are text. A row is numbered by its last line."""
    csv.field_size_limit(sys.maxsize)  # the row is measured instead, as in the other formats
    with open_text(path) as file:
        first = file.readline()
        reader = csv.reader(chain([first], file), delimiter=delimiter(first), strict=True)
        header = [name.strip() for name in next(reader, [])]
        if twice := next((n for i, n in enumerate(header) if n and n in header[:i]), None):
            raise ValueError(f"two columns are called {twice!r}")
        while True:
            begun = reader.line_num + 1
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "end of data" in str(error):
                    raise ValueError(f"a quote in line {begun} is never closed") from None
                yield reader.line_num, Problem("malformed_row", f"malformed row ({error})")
                continue
            if values:  # not a blank line
                yield reader.line_num, _table_row(header, values)


def _table_row(header: list[str], values: list[str]) -> dict[str, Any] | Problem:
    if sum(map(len, values)) > LONGEST_LINE:
        return Problem("line_too_long", f"the row has more than {LONGEST_LINE} characters")
    if len(values) != len(header):
        fields = f"{len(values)} fields where the header has {len(header)}"
        return Problem("malformed_row", fields)
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return NOT_UTF8
    return dict(zip(header, values, strict=True))


def delimiter(head: str) -> str:
    """What separates the columns of a table: of commas, semicolons and tabs, which its first line has most."""
    bare = re.sub(r'"[^"]*"', "", head)
    return max(",;\t", key=bare.count)


def _columns(path: Path) -> Iterator[NumberedRow]:
    """Rows of a Parquet or Arrow file (`datasets` writes a stream)."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    if path.suffix.lower() == ".parquet":
        with ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=4096)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
        return
    with pa.memory_map(str(path)) as source:
        try:
            table = pa.ipc.open_stream(source).read_all()
        except pa.ArrowInvalid:
            table = pa.ipc.open_file(source).read_all()
        yield from enumerate((row for b in table.to_batches() for row in b.to_pylist()), start=1)


def _folder(path: Path, where: Where) -> Source:
    """A data set as it lies on the hub: subsets and splits by its README.md, or by file names."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        rows = load_dataset(str(path), where.subset, split=where.split, streaming=True)
    except (DatasetsError, OSError, ValueError) as error:
        raise _unfit(where, error) from error
    return Source(str(path), _readable(path, enumerate(rows, start=1), DatasetsError))


def _readable(
    path: Path, rows: Iterable[NumberedRow], *kinds: type[Exception]
) -> Iterator[NumberedRow]:
    """The rows; an error in the midst of them names the file."""
    expected: tuple[type[Exception], ...] = (*UNREADABLE, csv.Error, *kinds)
    try:
        yield from rows
    except expected as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} cannot be read ({_first_line(error)}): fix the file, or give another."
    )


def _unfit(where: Where, error: Exception) -> UserError:
    chosen = f"{where.group}.subset={where.subset or 'null'} {where.group}.split={where.split}"
    return UserError(
        f"{where.dataset} has no data for {chosen} ({_first_line(error)}): choose others."
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__


# ------------------------------------------------------------------------------------ hub


def _hub(where: Where) -> Source:
    """Downloads what the cache lacks. With HF_HUB_OFFLINE=1 the cache must have it."""
    from datasets import config, load_dataset_builder
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import HTTPError

    offline = config.HF_HUB_OFFLINE
    dataset, revision, elsewhere = where.dataset, where.revision, where.elsewhere
    gated = False
    if not offline:
        gated, revision = _reach(where)
    try:
        builder = load_dataset_builder(dataset, where.subset, revision=revision)
        # offline, `datasets` takes whatever commit its cache has
        if _COMMIT.fullmatch(revision) and builder.hash != revision:
            raise UserError(f"{dataset} is cached at {builder.hash} only: {elsewhere}.")
        builder.download_and_prepare()
        rows = builder.as_dataset(split=where.split)
    except DatasetNotFoundError as error:
        if gated:
            raise UserError(_closed(dataset)) from error
        raise UserError(f"{_first_line(error)}: check {where.group}.hub.") from error
    except (ConnectionError, HTTPError) as error:
        why = "HF_HUB_OFFLINE=1, and it is not in the cache" if offline else _first_line(error)
        raise UserError(f"{dataset} cannot be downloaded ({why}): {elsewhere}.") from error
    except (DatasetsError, OSError, ValueError) as error:
        raise _unfit(where, error) from error
    return Source(dataset, enumerate(rows, start=1))


def _reach(where: Where) -> tuple[bool, str]:
    """Whether the data set is gated, and its commit. One request: `datasets` would try for half a minute.

    Raises UserError when the hub does not answer, or has no such data set or commit.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        info = HfApi().dataset_info(where.dataset, revision=where.revision, timeout=REACH_TIMEOUT)
    except (HFValidationError, HTTPError) as error:
        raise UserError(_explained(error, where)) from error
    return bool(info.gated), str(info.sha or where.revision)


def _explained(error: Exception, where: Where) -> str:
    """What the hub's refusal means, and the next step."""
    from huggingface_hub import constants, errors

    dataset, group = where.dataset, where.group
    match error:
        case errors.HFValidationError():
            return (
                f"{group}.hub={dataset} is not a hub id: write <owner>/<name>, or set {group}.path."
            )
        case errors.GatedRepoError():
            return _closed(dataset)
        case errors.RepositoryNotFoundError():
            return (
                f"{group}.hub={dataset} is not on the hub: check its name; if it is private, "
                "set HF_TOKEN to a token that may read it."
            )
        case errors.RevisionNotFoundError():
            commit = f"{group}.revision={where.revision}"
            return f"{commit} is not a commit of {dataset}: take one from its page."
        case errors.HfHubHTTPError():
            status = error.response.status_code
            advice = "check HF_TOKEN" if status in (401, 403) else "try later"
            return f"The hub answered {status} for {dataset}: {advice}, or {where.elsewhere}."
    return (
        f"The hub ({constants.ENDPOINT}) cannot be reached for {dataset}: set HF_HUB_OFFLINE=1 "
        f"if the cache has it; otherwise {where.elsewhere}."
    )


def _closed(dataset: str) -> str:
    return (
        f"{dataset} is gated: accept its terms at https://huggingface.co/datasets/{dataset} and set "
        "HF_TOKEN to a token of that account."
    )
