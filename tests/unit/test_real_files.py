"""Files as people have them: of every format, encoding and habit; what is left out is counted."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from spot.config import FieldsConfig
from spot.data.dapo import read_problems
from spot.data.hub import load_rows
from spot.data.jsonl import import_attempts, read_questions
from spot.grading.registry import Verifier
from spot.oracle import human_sheet
from spot.oracle.human import Solutions
from spot.oracle.types import Task
from spot.utils.errors import UserError

TEXT = ["4", "nan", "NaN", "null", "inf", "-inf", "", "  ", "<NA>"]
VALUES = [
    "4",
    math.nan,
    None,
    math.inf,
    -math.inf,
    "",
    " \n",
    "nan",
    True,
    {"a": 1},
    [],
    ["1", "2"],
]


def read(path: Path, **settings: Any) -> tuple[list[tuple[str, str, str]], dict[str, int]]:
    found, dropped = read_questions(
        load_rows(path=path), FieldsConfig(), **{"on_bad_row": "drop", **settings}
    )
    return [(q.id, q.text, q.answer) for q in found], dropped


def table(rows: list[dict[str, Any]], separator: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    "name",
    [
        *("rows.csv", "rows.tsv", "rows.CSV.gz", "rows.json", "rows.jsonl", "rows.ndjson"),
        *("rows.jsonl.gz", "rows.json.gz", "rows.parquet", "stream.arrow", "file.arrow"),
    ],
)
def test_no_value_is_no_answer_in_every_format(name: str, tmp_path: Path) -> None:
    path, kind = tmp_path / name, name.lower().removesuffix(".gz").rpartition(".")[2]
    values: list[Any] = VALUES if kind in ("json", "jsonl", "ndjson") else TEXT
    if kind in ("parquet", "arrow"):
        values = ["4", math.nan, None, math.inf]
        columns = {"question": list("abcd"), "answer": [4.0, *values[1:]]}
        if kind == "parquet":
            pa.parquet.write_table(pa.table(columns), path)
        else:
            make = pa.ipc.new_stream if name.startswith("stream") else pa.ipc.new_file
            made = pa.table(columns)
            with make(str(path), made.schema) as writer:
                writer.write_table(made)
    else:
        rows = [{"question": chr(97 + n), "answer": value} for n, value in enumerate(values)]
        text = {"csv": table, "tsv": lambda rows: table(rows, "\t"), "json": json.dumps}.get(kind, lines)(rows)  # fmt: skip
        data = text.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    questions, dropped = read(path)
    assert [(text, float(answer)) for _, text, answer in questions] == [("a", 4.0)]
    assert dropped == {"no_answer": len(values) - 1}
    with pytest.raises(UserError, match="no answer in the field 'answer'"):
        read(path, on_bad_row="error")


@pytest.mark.parametrize("answer", ["#### nan", "####", "So it is ####", "-nan", "#N/A", "−inf"])
@pytest.mark.parametrize("answer_format", ["last", "boxed"])
def test_a_solution_that_ends_in_no_value_has_no_answer(
    answer: str, answer_format: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"question": "a", "answer": text} for text in (answer, "7 + 1 = 8 #### 8")]
    if answer_format == "boxed":
        rows += [{"question": "b", "answer": rf"It is \boxed{{{no}}}."} for no in ("", " ", "null")]
    path.write_text(lines(rows))
    questions, dropped = read(path, answer_format=answer_format)
    assert [found[2] for found in questions] == ["8"]
    assert dropped == {"no_answer": len(rows) - 1}


def test_a_decimal_and_a_list_of_one_are_answers_and_bytes_are_not(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pa.parquet.write_table(pa.table({"question": ["a"], "answer": [Decimal("4.50")]}), path)
    assert read(path)[0] == [("row-000001", "a", "4.50")]
    rows = {"question": list("abc"), "answer": [["1"], ["1", "2"], []]}
    pa.parquet.write_table(pa.table(rows), path)
    assert read(path) == ([("row-000001", "a", "1")], {"no_answer": 2})
    pa.parquet.write_table(pa.table({"question": ["a", "b"], "answer": [b"1", b"2"]}), path)
    with pytest.raises(UserError, match="no usable row \\(no_answer 2\\)"):
        read(path)


def test_a_cell_may_be_as_long_as_a_line_of_json(tmp_path: Path) -> None:
    long = "x" * 300_000
    (tmp_path / "rows.csv").write_text(table([{"question": long, "answer": "1"}]))
    (tmp_path / "rows.jsonl").write_text(lines([{"question": long, "answer": "1"}]))
    assert read(tmp_path / "rows.csv")[0][0][1:] == read(tmp_path / "rows.jsonl")[0][0][1:]
    short = {"question": "b", "answer": "2"}
    longer = {"question": "x" * (17 << 20), "answer": "1"}
    for name, write in (("rows.csv", table), ("rows.jsonl", lines)):
        (tmp_path / name).write_text(write([short, longer, short | {"question": "c"}]))
        questions, dropped = read(tmp_path / name)
        assert ([text for _, text, _ in questions], dropped) == (["b", "c"], {"line_too_long": 1})


GOOD = "question,answer\na,1\nb,2\n"
JSON = '{"question": "a", "answer": "1"}\n{"question": "b", "answer": "2"}\n'


@pytest.mark.parametrize(
    ("name", "content", "dropped"),
    [
        ("mark.csv", b"\xef\xbb\xbf" + GOOD.encode(), {}),
        ("utf16.csv", GOOD.encode("utf-16"), {}),
        ("utf16.tsv", GOOD.replace(",", "\t").encode("utf-16"), {}),
        ("spaces.csv", GOOD.replace("question,answer", " question , answer").encode(), {}),
        ("semicolons.csv", GOOD.replace(",", ";").encode(), {}),
        ("tabs.csv", GOOD.replace(",", "\t").encode(), {}),
        ("windows.csv", GOOD.replace("\n", "\r\n").encode(), {}),
        ("mac.csv", GOOD.replace("\n", "\r").encode(), {}),
        ("quoted.csv", b'"question","answer"\n"a","1"\n"b","2"\n', {}),
        ("comma in a name.csv", b'"question";"answer";"a, b, c"\na;1;\nb;2;\n', {}),
        ("latin.csv", GOOD.encode() + "é,3\n".encode("latin-1"), {"not_utf8": 1}),
        ("nul.csv", GOOD.encode() + b"\0\0\0\n", {"malformed_row": 1}),
        ("quote.csv", b'question,answer\na,1\n"x"y,3\nb,2\n', {"malformed_row": 1}),
        ("more.csv", GOOD.encode() + b"c,3,4\n\nd\n", {"malformed_row": 2}),
        ("mark.jsonl", b"\xef\xbb\xbf" + JSON.encode(), {}),
        ("utf16.jsonl", JSON.encode("utf-16"), {}),
        ("windows.jsonl", JSON.replace("\n", "\r\n").encode(), {}),
        ("mac.jsonl", JSON.replace("\n", "\r").encode(), {}),
        ("two marks.jsonl", JSON.replace("\n{", "\n\ufeff{").encode(), {}),
        ("latin.jsonl", JSON.encode() + '{"question": "é"}\n'.encode("latin-1"), {"not_utf8": 1}),
        ("nul.jsonl", JSON.encode() + b"\0" * 99, {"malformed_json": 1}),
        ("list.jsonl", JSON.encode() + b"[1]\n3\n", {"not_an_object": 2}),
        ("torn.jsonl", JSON.encode() + b'{"question": "c", "ans', {"malformed_json": 1}),
        (
            "twice.jsonl",
            JSON.encode() + b'{"question": "c", "answer": "1", "answer": "2"}\n',
            {"malformed_json": 1},
        ),
        ("digits.jsonl", JSON.encode() + b'{"question": "c", "answer": ' + b"9" * 5000 + b"}\n", {"malformed_json": 1}),
        ("deep.jsonl", JSON.encode() + b'{"question":' * 99_999 + b"\n", {"malformed_json": 1}),
        ("mark.json", b"\xef\xbb\xbf[" + JSON.strip().replace("\n", ",").encode() + b"]", {}),
        ("utf16.json", f"[{JSON.strip()}]".replace("\n", ",").encode("utf-16"), {}),
        ("mixed.json", b"[" + JSON.strip().replace("\n", ",").encode() + b",3,null]", {"not_an_object": 2}),
        ("packed.jsonl.gz", gzip.compress(JSON.encode()), {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_ugly_files_are_read_and_counted(
    name: str, content: bytes, dropped: dict[str, int], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    questions, counts = read(tmp_path / name)
    assert ([q[1:] for q in questions], counts) == ([("a", "1"), ("b", "2")], dropped)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("header.csv", b"question,answer\n", "is empty"),
        ("blank.jsonl", b"\n \n", "is empty"),
        ("open.csv", b'question,answer\na,1\n"b,2\nc,3\n', "a quote in line 3 is never closed"),
        ("twice.csv", b"question,answer,answer\na,1,2\n", "two columns are called 'answer'"),
        ("torn.jsonl.gz", gzip.compress(JSON.encode() * 99)[:60], "cannot be read"),
        ("none.csv.gz", b"no gzip", "cannot be read"),
        ("bad.arrow", b"nothing", "cannot be read"),
        ("utf16.jsonl", JSON.encode("utf-16")[:-1], "cannot be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_one_line(
    name: str, content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("ids", "named"),
    [
        (["x", "y", "z"], ["x", "y", "z"]),
        ([7, 10**30, "a"], ["7", str(10**30), "a"]),
        (["x", "x", "z"], ["row-000001", "row-000002", "row-000003"]),  # a name of something else
        (["x", None, "z"], ["row-000001", "row-000002", "row-000003"]),
        (["x", math.nan, "z"], ["row-000001", "row-000002", "row-000003"]),
        ([{"a": 1}, "y", "z"], ["row-000001", "row-000002", "row-000003"]),
    ],
)
def test_an_id_is_used_without_being_told(ids: list[Any], named: list[str], tmp_path: Path) -> None:
    rows = [{"id": name, "question": f"q{n}", "answer": "1"} for n, name in enumerate(ids)]
    (tmp_path / "rows.jsonl").write_text(lines(rows))
    assert [q[0] for q in read(tmp_path / "rows.jsonl")[0]] == named
    few, _ = read(tmp_path / "rows.jsonl", limit=2)
    assert [q[0] for q in few] == named[:2], "how many are asked changes no name"


def test_an_id_that_was_told_must_be_there(tmp_path: Path) -> None:
    rows = [{"k": k, "question": "q", "answer": "1"} for k in ("a", 7.0, math.nan, " ", "a", None)]
    (tmp_path / "rows.jsonl").write_text(lines(rows))
    found, dropped = read_questions(
        tmp_path / "rows.jsonl", FieldsConfig(id="k"), on_bad_row="drop"
    )
    assert [q.id for q in found] == ["a", "7.0"]
    assert dropped == {"no_id": 3, "duplicate_id": 1}


def test_responses_and_dapo_count_the_same(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", "answer": value, "r": "so 4"} for n, value in enumerate(VALUES)]
    (tmp_path / "rows.jsonl").write_text(lines(rows))
    fields = FieldsConfig(response="r")
    with Verifier() as verifier:
        found, dropped = import_attempts(
            tmp_path / "rows.jsonl", fields, "last", verifier.verdicts, on_bad_row="drop"
        )
    assert (len(found), dropped) == (1, {"no_answer": len(VALUES) - 1})
    rows = [{"prompt": f"problem {n}", "solution": value} for n, value in enumerate(VALUES)]
    (tmp_path / "dapo.jsonl").write_text(lines(rows))
    problems, dropped = read_problems(load_rows(path=tmp_path / "dapo.jsonl"), on_bad_row="drop")
    assert (len(problems), dropped) == (1, {"no_answer": len(VALUES) - 1})


@pytest.mark.parametrize("attempt", ["one\ntwo = 3", "one\r\ntwo = 3"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_a_correction_are_the_attempts(attempt: str, end: str, tmp_path: Path) -> None:
    task = Task("q#0", "how many?", "2", attempt, "rectified", "q")
    right = attempt.replace("3", "2")
    written = "\ufeff" + right.replace("\r\n", "\n").replace("\n", end)
    path = tmp_path / "solutions.jsonl"
    path.write_text("\ufeff" + lines([{"id": "q", "solution": written}]).replace("\n", "\r\n"))
    assert Solutions(path).correct(task) == right
    sheet = tmp_path / "sheet.csv"
    human_sheet.write(sheet, [task], {"q#0": written})
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        sheet.write_bytes(sheet.read_text("utf-8-sig").replace("\r\n", end).encode(encoding))
        assert human_sheet.read(sheet, [task]) == {"q#0": right}
        human_sheet.write(sheet, [task], {"q#0": written})


def test_a_solution_that_is_no_text_corrects_nothing(tmp_path: Path) -> None:
    path = tmp_path / "solutions.jsonl"
    no = [math.nan, None, "", " \r\n", "nan"]
    path.write_text(lines([{"id": f"q{n}", "solution": value} for n, value in enumerate(no)]))
    with pytest.raises(UserError, match="holds no correction"):
        Solutions(path)
    task, sheet = Task("q#0", "how many?", "2", "1", "rectified", "q"), tmp_path / "sheet.csv"
    for value in ("nan", "NULL", " \r\n"):
        human_sheet.write(sheet, [task], {"q#0": value})
        assert human_sheet.read(sheet, [task]) == {}
