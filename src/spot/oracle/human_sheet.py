"""Attempts in a table for a person to correct, in a spreadsheet or on the local page, and back again.

One file for both: comma- or tab-separated (by its suffix), a row an attempt. What spreadsheets
take for a formula gets an apostrophe in front, which reading takes away; they may also save with
semicolons, tabs or in UTF-16, all of which is read.
"""

from __future__ import annotations

import csv
import hashlib
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from spot.data.answers import scalar_text
from spot.data.hub import delimiter
from spot.data.jsonl import LONGEST_LINE, UNREADABLE, open_text
from spot.oracle.types import Task
from spot.utils.cells import defused, original
from spot.utils.errors import UserError, first_line
from spot.utils.files import check_output, write_aside

COLUMNS = ("id", "question", "answer", "attempt", "correction", "fingerprint")
SHEETS = (".csv", ".tsv")


def place(path: str | None, output: str) -> Path:
    """Where the sheet of `spot correct` goes. Raises UserError where it cannot be written."""
    sheet = Path(path or Path(output) / "corrections.csv").expanduser()
    if sheet.suffix.lower() not in SHEETS:
        raise UserError(
            f"oracle.path={sheet} is not a sheet: give a name that ends in .csv or .tsv."
        )
    check_output(sheet, "oracle.path", "table")
    return sheet


def prepare(path: Path, tasks: Sequence[Task]) -> dict[str, str]:
    """Write the sheet of these tasks, with what was corrected in it before; returns that by id."""
    corrections = read(path, tasks) if path.exists() else {}
    write(path, tasks, corrections)
    return corrections


def write(path: Path, tasks: Sequence[Task], corrections: Mapping[str, str]) -> None:
    """Write the whole sheet, or leave the old one: a row a task, its correction or an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    writer.writerow(COLUMNS)
    for task in tasks:
        cells = [task.id, task.question, task.answer, task.response]
        cells += [corrections.get(task.id, ""), _fingerprint(task)]
        writer.writerow([defused(cell) for cell in cells])
    # Excel takes a file without a byte order mark for one in the machine's old code page
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, text.getvalue().encode("utf-8-sig"))


def read(path: Path, tasks: Sequence[Task], *, others: bool = False) -> dict[str, str]:
    """The corrections in a sheet by id; attempts without one are left out.

    Line ends are those of the attempt. Raises UserError, with the row, when the file cannot be read,
    an id is twice in it, or a correction belongs to none of these tasks (`others` may be there: then
    such rows are left out) or to another attempt.
    """
    known = {task.id: task for task in tasks}
    rows = _rows(path)
    head = {name: place for place, name in enumerate(rows[0])} if rows else {}
    if missing := [name for name in COLUMNS if name not in head]:
        raise UserError(
            f"{path} has no column {missing[0]!r}: keep the first row as it is ({', '.join(COLUMNS)})."
        )
    found: dict[str, str] = {}
    seen: dict[str, int] = {}
    for number, row in enumerate(rows[1:], 2):
        cells = {name: original(row[at]) if at < len(row) else "" for name, at in head.items()}
        task_id, correction = cells["id"], cells["correction"]
        if not scalar_text(correction):
            continue
        where = f"{path}, row {number}"
        if (first := seen.setdefault(task_id, number)) != number:
            raise UserError(f"{where}: {task_id} is corrected in row {first} already; keep one.")
        if task_id not in known and others:
            continue
        if task_id not in known:
            raise UserError(f"{where}: there is no attempt {task_id!r}; take the row out.")
        if cells["fingerprint"] != _fingerprint(known[task_id]):
            raise UserError(
                f"{where}: this corrects another text than the attempt {task_id} is now; take the row out."
            )
        found[task_id] = like_the_attempt(correction, known[task_id].response)
    return found


def like_the_attempt(text: str, attempt: str) -> str:
    """`text` with the line ends of the attempt, which editors and browsers change, and no byte order mark."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return lines.replace("\n", "\r\n") if "\r\n" in attempt else lines


def _rows(path: Path) -> list[list[str]]:
    """The cells of a file, however a spreadsheet has separated and encoded them."""
    csv.field_size_limit(sys.maxsize)
    try:
        with open_text(path) as file:
            text = file.read()
        text.encode()
        head = text[:LONGEST_LINE].splitlines()[:1] or [""]
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter(head[0])))
    except UnicodeEncodeError:
        raise UserError(f"{path} is not UTF-8: save it as 'CSV UTF-8'.") from None
    except csv.Error as error:
        raise UserError(f"{path} is not a table ({error}): save it as CSV again.") from None
    except UNREADABLE as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{path} cannot be read ({why}): is the path right?") from None


def _fingerprint(task: Task) -> str:
    """What tells one attempt from another of the same id; no spreadsheet takes it for a number."""
    text = "\0".join((task.question, task.response))
    return "x" + hashlib.sha256(text.encode()).hexdigest()[:12]
