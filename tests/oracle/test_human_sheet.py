"""The sheet of attempts: what a person writes into it comes back, whatever a spreadsheet does to it."""

import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot.data.answers import scalar_text
from spot.oracle.human_sheet import prepare, read, write
from spot.oracle.types import Task
from spot.utils.errors import UserError

pytestmark = pytest.mark.oracle

TASKS = [
    Task("q1#0", "Half of $\\frac{4}{3}$?", "2/3", 'It is, I think,\n$\\boxed{1}$; or "2".'),
    Task("q2#0", "<script>alert(1)</script> 漢字?", "-5", "-3 - 2 = -6\r\n=SUM(A1)\r\n"),
    Task("q3#0", "Third?", "+7", "=1+1"),
]
RIGHT = {
    "q1#0": 'It is, I think,\n$\\boxed{2/3}$; or "2".\t;',
    "q2#0": "-3 - 2 = -5\r\n=SUM(A1)\r\n",
}


def cells(path: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline="")))


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_there_and_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"sheet{suffix}"
    assert prepare(path, TASKS) == {}
    assert read(path, TASKS) == {}
    write(path, TASKS, RIGHT)
    assert read(path, TASKS) == RIGHT
    assert prepare(path, TASKS) == RIGHT, "preparing once more keeps what was done"
    assert read(path, TASKS) == RIGHT


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    path = tmp_path / "sheet.csv"
    write(path, TASKS, RIGHT)
    assert path.read_bytes().startswith(b"\xef\xbb\xbf"), "without this mark Excel guesses"
    rows = cells(path)
    assert len(rows) == 1 + len(TASKS)
    formula = re.compile(r"^[=+\-@＝＋－＠]", re.MULTILINE)
    assert [cell for row in rows for cell in row if formula.search(cell)] == ["-5"], "a number"


@pytest.mark.parametrize(
    ("encoding", "delimiter"),
    [("utf-8", ","), ("utf-8-sig", ";"), ("utf-16", "\t"), ("utf-8", "\t")],
)
def test_saved_by_a_spreadsheet(tmp_path: Path, encoding: str, delimiter: str) -> None:
    path = tmp_path / "sheet.csv"
    write(path, TASKS, {})
    head, *rows = cells(path)
    rows[0][head.index("correction")] = "= 2/3,\n$\\boxed{2/3}$; 漢字"
    out = io.StringIO()
    columns = list(reversed(range(len(head))))  # a person may move columns
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\r\n")
    writer.writerows([row[c].replace("\n", "\r\n") for c in columns] for row in [head, *rows])
    path.write_bytes(out.getvalue().encode(encoding))
    assert read(path, TASKS) == {"q1#0": "= 2/3,\n$\\boxed{2/3}$; 漢字"}


@given(attempt=st.text(), correction=st.text().filter(str.strip))
def test_any_text_survives(
    tmp_path_factory: pytest.TempPathFactory, attempt: str, correction: str
) -> None:
    path = tmp_path_factory.mktemp("sheet") / "sheet.csv"
    task = Task("=q#0", attempt, attempt, attempt)
    write(path, [task], {"=q#0": correction})
    lines = correction.replace("\r\n", "\n").replace("\r", "\n")
    if not scalar_text(correction):  # INF, nan: no correction
        assert read(path, [task]) == {}
        return
    back = read(path, [task])["=q#0"]
    assert back.replace("\r\n", "\n") == lines
    assert ("\r\n" in back) == ("\r\n" in attempt and "\n" in lines)


def test_a_long_cell(tmp_path: Path) -> None:
    path = tmp_path / "sheet.csv"
    task = Task("q#0", "?", "1", "word " * 100_000)
    write(path, [task], {"q#0": "wort " * 100_000})
    assert read(path, [task]) == {"q#0": "wort " * 100_000}


def mistaken(change: dict[str, str]) -> bytes:
    """The sheet of TASKS with a correction in its first row and some cells of that row changed."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["id", "question", "answer", "attempt", "correction", "fingerprint"])
    row = {"id": "q1#0", "correction": "So 2/3.", "fingerprint": "x" + "0" * 12} | change
    names = ("id", "question", "answer", "attempt", "correction", "fingerprint")
    writer.writerow([row.get(name, "") for name in names])
    return out.getvalue().encode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (mistaken({"id": "q9#0"}), r"row 2: there is no attempt 'q9#0'"),
        (mistaken({}), r"row 2: this corrects another text"),
        (b"id,question\nq1#0,What?\n", r"no column 'answer'"),
        (b"", r"no column 'id'"),
        ("id,question,Übung".encode("latin-1"), r"save it as 'CSV UTF-8'"),
    ],
)
def test_a_mistake_is_named_with_its_row(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "sheet.csv"
    path.write_bytes(data)
    with pytest.raises(UserError, match=said):
        read(path, TASKS)
    with pytest.raises(UserError):
        prepare(path, TASKS)
    assert path.read_bytes() == data, "what a person wrote is never overwritten unread"


def test_a_row_twice(tmp_path: Path) -> None:
    path = tmp_path / "sheet.csv"
    write(path, [TASKS[0], TASKS[0]], RIGHT)
    with pytest.raises(UserError, match="row 3: q1#0 is corrected in row 2 already"):
        read(path, TASKS)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is the path right"):
        read(tmp_path / "none.csv", TASKS)
