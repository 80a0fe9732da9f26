"""Responses that lm-evaluation-harness and Inspect saved, as the rows that `spot grade` reads.

lm-eval (`--log_samples`): samples_<task>_<time>.jsonl, a line for each question and filter, with the data
set's own fields in `doc`. It does not keep why a response ended: those that were cut off count as whole.
Inspect: a log, `.json` or `.eval` (a zip with a file for each sample), with such fields in `metadata`.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spot.data.jsonl import Problem, read_objects
from spot.utils.errors import UserError, first_line

Row = dict[str, Any]
ZSTANDARD = 93  # of the methods of a zip


def rows(path: Path, fields: Mapping[str, str]) -> Iterator[tuple[int, Row | Problem]]:
    """`(line or number of the sample, row)` of a file of ours, of lm-eval's or of Inspect's.

    fields: of the benchmark, whose names the question and the answer of Inspect get. Raises UserError.
    """
    if (samples := _inspect(path)) is not None:
        named = {role: fields.get(role, role).partition("|")[0] for role in ("question", "answer")}
        for number, sample in enumerate(samples, 1):
            yield number, _of_inspect(sample, named)
        return
    kept = None  # of lm-eval's filters: a response is in the file once for each
    for line, row in read_objects(path):
        if isinstance(row, Problem) or not {"doc", "resps", "filter"} <= row.keys():
            yield line, row
            continue
        kept = kept or row["filter"]
        if row["filter"] == kept:
            for response in row["resps"][0] if row["resps"] else [None]:
                own = {"id": f"doc-{row.get('doc_id', line)}"}
                yield line, {**own, **row["doc"], "response": response}


def _inspect(path: Path) -> list[Row] | None:
    """The samples of an Inspect log, by their id and epoch; None for another file."""
    try:
        if path.suffix == ".eval":
            with zipfile.ZipFile(path) as log:
                members = [one for one in log.infolist() if one.filename.startswith("samples/")]
                samples = [json.loads(_content(path, log, one)) for one in members]
        elif path.suffix == ".json":
            log_ = json.loads(path.read_bytes())
            if not (isinstance(log_, dict) and "eval" in log_ and "samples" in log_):
                return None
            samples = log_["samples"]
        else:
            return None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        if path.suffix == ".json":  # JSON Lines, perhaps
            return None
        raise UserError(
            f"{path} cannot be read ({first_line(error)}): write it as JSON, inspect log convert --to json."
        ) from error
    return sorted(samples, key=lambda sample: (str(sample["id"]), sample["epoch"]))


def _content(path: Path, log: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """What a file of a zip holds, by Zstandard, too, which Inspect packs with and zipfile reads from 3.14 on."""
    if member.compress_type != ZSTANDARD:
        return log.read(member)
    import pyarrow

    with path.open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(30)  # its last two numbers: the lengths of the name and of what follows
        file.seek(sum(struct.unpack("<HH", header[26:])), 1)
        packed = pyarrow.BufferReader(file.read(member.compress_size))
    with pyarrow.CompressedInputStream(packed, "zstd") as stream:
        return bytes(stream.read())


def _of_inspect(sample: Row, named: Mapping[str, str]) -> Row:
    """A sample's metadata, its question and answer under the benchmark's names, and the response."""
    asked, target = sample.get("input"), sample.get("target")
    if isinstance(asked, list):
        asked = next((_text(m["content"]) for m in reversed(asked) if m["role"] == "user"), None)
    given = {named["question"]: asked, named["answer"]: target, **(sample.get("metadata") or {})}
    output = sample.get("output") or {}
    chosen = (output.get("choices") or [{}])[0]
    said = chosen.get("stop_reason")
    return given | {
        "id": str(sample["id"]),
        "trial": sample["epoch"] - 1,
        "response": _text((chosen.get("message") or {}).get("content")),
        "finish_reason": None if said == "unknown" else said,
    }


def _text(content: Any) -> Any:
    """What a message says, without what its model thought."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    return content
