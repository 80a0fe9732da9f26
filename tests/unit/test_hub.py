"""Rows of files in every format, and of data sets of a hub: one that this test serves."""

import json
import os
import re
import socket
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spot.config import FieldsConfig
from spot.data.hub import identity, load_rows
from spot.data.jsonl import read_questions
from spot.utils.errors import UserError
from tests.support.hub import COMMIT, Hub, Repository

ROWS = [
    {"question": "a", "answer": "007", "meta": {"id": "x"}},
    {"question": "b, c", "answer": "2020-01-01", "meta": {"id": "y"}},
]
FLAT = [{"question": row["question"], "answer": row["answer"]} for row in ROWS]
OTHER = "b" * 40


def parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def written(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        return parquet(path, ROWS)
    lines = {
        ".jsonl": [json.dumps(row) for row in ROWS],
        ".json": [json.dumps(ROWS, indent=1)],
        ".csv": ["question,answer", "a,007", '"b, c",2020-01-01'],
        ".tsv": ["question\tanswer", "a\t007", "b, c\t2020-01-01"],
    }
    path.write_text("\n".join(lines[suffix]) + "\n")
    return path


# ---- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_values_of_files_stay_as_they_are_written(tmp_path, suffix):
    rows = [row for _, row in load_rows(path=written(tmp_path, suffix)).rows]
    assert rows == (FLAT if suffix in (".csv", ".tsv") else ROWS)


def test_a_json_file_may_hold_json_lines(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    assert list(load_rows(path=path).rows) == [(1, ROWS[0]), (2, ROWS[1])]


def test_rows_of_files_pass_the_same_checks_and_counts(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('question,answer\na,4\n,5\n"c\nd",6\n\ne,7,8\nf,\n')
    with pytest.raises(UserError, match=r"rows\.csv, line 3: no question in the field 'question'"):
        read_questions(load_rows(path=path), FieldsConfig())
    questions, dropped = read_questions(load_rows(path=path), FieldsConfig(), on_bad_row="drop")
    assert [(q.id, q.text, q.answer) for q in questions] == [
        ("row-000002", "a", "4"),
        ("row-000005", "c\nd", "6"),
    ]
    assert dropped == {"no_question": 1, "malformed_row": 1, "no_answer": 1}


def test_rows_that_are_no_lines_are_called_rows(tmp_path):
    path = parquet(tmp_path / "rows.parquet", [*FLAT, {"question": "d", "answer": None}])
    with pytest.raises(UserError, match=r"row 3: no answer in the field 'answer'.*fix the row"):
        read_questions(load_rows(path=path), FieldsConfig())


def test_a_folder_is_a_data_set_as_it_lies_on_the_hub(tmp_path):
    parquet(tmp_path / "en" / "train-00000-of-00002.parquet", ROWS[:1])
    parquet(tmp_path / "en" / "train-00001-of-00002.parquet", ROWS[1:])
    parquet(tmp_path / "cn" / "train-00000-of-00001.parquet", [ROWS[0] | {"question": "甲"}])
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: en\n  data_files:\n  - split: train\n    path: en/train-*\n"
        "- config_name: cn\n  data_files:\n  - split: train\n    path: cn/train-*\n---\n"
    )
    assert list(load_rows(subset="en", path=tmp_path).rows) == [(1, ROWS[0]), (2, ROWS[1])]
    with pytest.raises(UserError, match=r"no data for data\.subset=fr .*'en'.*choose others"):
        load_rows(subset="fr", path=tmp_path)
    with pytest.raises(UserError, match=r"data\.split=test.*choose others"):
        load_rows(subset="en", split="test", path=tmp_path)
    with pytest.raises(UserError, match=r"data\.subset=null"):  # there are two
        load_rows(path=tmp_path)


def test_a_folder_of_files_needs_no_description(tmp_path):
    parquet(tmp_path / "1.parquet", ROWS[:1])
    parquet(tmp_path / "2.parquet", ROWS[1:])
    assert list(load_rows(path=tmp_path).rows) == [(1, ROWS[0]), (2, ROWS[1])]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.jsonl", None, "does not exist"),
        ("rows.xlsx", b"", r"no known format: give one of \.jsonl"),
        ("rows.json", b'[{"a": 1},', r"cannot be read \(.*fix the file"),
        ("rows.csv", b"question,answer\n\xff,1\n", "not UTF-8"),
        ("rows.csv", b'question,answer\n"a,1\n', "cannot be read"),
        ("rows.parquet", b"no", "cannot be read"),
        ("rows.csv", b"", "is empty"),
        ("rows.json", b"[]", "is empty"),
        ("rows.jsonl", b"", "is empty"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_questions(load_rows(path=tmp_path / name), FieldsConfig())
    assert "\n" not in str(error.value)


def test_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match=r"no data for data\.subset=null"):
        load_rows(path=tmp_path)


def test_what_names_a_product_is_the_content(tmp_path):
    one = parquet(tmp_path / "one" / "rows.parquet", ROWS)
    two = parquet(tmp_path / "two" / "rows.parquet", ROWS)
    assert identity(path=one) == identity(path=two)
    assert identity(path=one.parent) == identity(path=two.parent)
    parquet(two, ROWS[:1])
    assert identity(path=one) != identity(path=two)
    assert identity(path=one.parent) != identity(path=two.parent)
    assert identity("a/b", "en", "train", COMMIT)["revision"] == COMMIT
    with pytest.raises(UserError, match="does not exist"):
        identity(path=tmp_path / "absent")


def test_a_data_set_of_the_hub_is_pinned():
    with pytest.raises(UserError, match=r"data\.revision is missing: give the 40 digits"):
        load_rows("owner/name")
    with pytest.raises(UserError, match=r"data\.revision=31dd3095 is not a commit"):
        load_rows("owner/name", revision="31dd3095")
    with pytest.raises(UserError, match=r"data\.revision=main is not a commit"):
        load_rows("owner/name", revision="main")


# ---- the hub -----------------------------------------------------------------------------------

CHILD = """
import json, sys, time
from spot.utils.errors import UserError
from spot.data.hub import load_rows

for case in json.loads(sys.argv[1]):
    began = time.monotonic()
    try:
        said = list(load_rows(*case).rows)
    except UserError as error:
        said = str(error)
    print(json.dumps([said, time.monotonic() - began]))
"""


def ask(home, endpoint, cases, offline="0"):
    env = os.environ | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": offline}
    env.pop("HF_TOKEN", None)
    command = [sys.executable, "-c", CHILD, json.dumps(cases)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(
        seconds < 60 for _, seconds in answers
    )  # one has its answer in seconds, or waits for ever
    return [said for said, _ in answers]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    name, folder = "en/train-00000-of-00001.parquet", tmp_path_factory.mktemp("hub")
    card = (
        "---\nconfigs:\n- config_name: en\n  data_files:\n  - split: train\n    path: en/train-*\n"
    )
    files = {
        "README.md": (card + "---\n").encode(),
        name: parquet(folder / "rows.parquet", ROWS).read_bytes(),
    }
    names = {f"datasets/owner/{state}": state for state in ("good", "gated", "denied", "broken")}
    served = Hub({name: Repository(files, state=state) for name, state in names.items()})
    end = served.start()
    yield served.endpoint
    end()


@pytest.mark.slow
def test_a_data_set_of_a_hub_and_later_without_it(tmp_path, hub):
    good = ["owner/good", "en", "train", COMMIT]
    rows, newest, subset, split, commit, gated, absent, denied, broken, no_id = ask(
        tmp_path,
        hub,
        [
            good,
            ["owner/good", "en", "train", "main", None, "benchmarks.tasks.b"],
            ["owner/good", "fr", "train", COMMIT],
            ["owner/good", "en", "test", COMMIT],
            ["owner/good", "en", "train", OTHER],
            ["owner/gated", None, "train", COMMIT],
            ["owner/absent", None, "train", COMMIT],
            ["owner/denied", None, "train", COMMIT],
            ["owner/broken", None, "train", COMMIT],
            ["no/hub/id", None, "train", COMMIT],
        ],
    )
    assert rows == newest == [[1, ROWS[0]], [2, ROWS[1]]]
    assert re.search(r"no data for data\.subset=fr .*'en'.*: choose others\.", subset)
    assert re.search(r'data\.split=test \(Unknown split "test".*: choose others\.', split)
    assert f"data.revision={OTHER} is not a commit of owner/good" in commit
    assert "accept its terms at" in gated
    assert "HF_TOKEN" in gated
    assert "data.hub=owner/absent is not on the hub" in absent
    assert "HF_TOKEN" in absent
    assert "answered 401 for owner/denied: check HF_TOKEN, or download" in denied
    assert "answered 503 for owner/broken: try later, or download" in broken
    assert "no/hub/id is not a hub id" in no_id
    assert not any(
        "\n" in said for said in (subset, split, commit, gated, absent, denied, broken, no_id)
    )

    again, other_commit, not_cached = ask(
        tmp_path,
        hub,
        [good, ["owner/good", "en", "train", OTHER], ["owner/absent", None, "train", COMMIT]],
        offline="1",
    )
    assert again == rows
    assert f"owner/good is cached at {COMMIT} only" in other_commit
    assert "HF_HUB_OFFLINE=1, and it is not in the cache" in not_cached
    assert "set data.path=<folder>" in not_cached


@pytest.mark.slow
def test_without_a_network_the_next_step_is_said_at_once(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"  # bound and not listening
        (said,) = ask(tmp_path, endpoint, [["owner/name", "en", "train", COMMIT]])
    assert f"The hub ({endpoint}) cannot be reached for owner/name" in said
    assert "set HF_HUB_OFFLINE=1 if the cache has it" in said
    assert "hf download owner/name --repo-type dataset" in said
    assert "set data.path=<folder>" in said
