"""A study as one small file: it rebuilds the report to the byte and tells nothing of the machine."""

import csv
import io
import json
import re
import socket
import tarfile
from pathlib import Path

import pytest

from spot import report
from spot.data import artifacts
from spot.report import archive, provenance
from spot.report.load import Study, load
from spot.report.provenance import command
from spot.report.style import duration, short
from spot.utils.errors import UserError
from tests.support.runs import make_run

LAPTOP = Path(__file__).parents[2] / "experiments" / "laptop"
STUDIES = sorted(LAPTOP.glob("*/runs.tar.gz"))
MULTIRUN = "hydra:\n  overrides:\n    task: [+paper=table2, output=/secret/place]\n"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("secret") / "outputs" / "sweep"
    for number, arm in enumerate(("sft_plus", "spot_bco", "spot_bco")):
        make_run(
            folder,
            number,
            arm,
            number % 2,
            (0.7 + 0.1 * number, 0.5, 0.9),
            "data.path=/secret/x.jsonl",
        )
    (folder / "3").mkdir()  # unfinished
    (folder / "multirun.yaml").write_text(MULTIRUN)
    record = json.loads((folder / "0" / "run.json").read_text())
    record["command"] += " output=/secret/place"
    (folder / "0" / "run.json").write_text(json.dumps(record))
    report.build(folder)
    return folder


@pytest.fixture(scope="module")
def packed(sweep, tmp_path_factory) -> Path:
    return archive.pack(sweep, tmp_path_factory.mktemp("packed") / "made" / "runs.tar.gz")


def test_the_report_is_rebuilt_to_the_byte(sweep, packed, tmp_path):
    page = report.build(packed, tmp_path / "again")
    names = ["report.md", "scores.csv", "verdicts.csv", "report.html"]
    names += [f"figures/{path.name}" for path in (sweep / "figures").iterdir()]
    assert len(names) > 10
    for name in names:
        assert (page.parent / name).read_bytes() == (sweep / name).read_bytes(), name


def test_without_a_folder_it_goes_beside_the_archive(packed):
    assert report.build(packed) == packed.parent / "report.html"


def test_the_archive_is_the_same_every_time_and_names_no_place(sweep, packed, tmp_path):
    again = archive.pack(sweep, tmp_path / "again.tar.gz")
    assert again.read_bytes() == packed.read_bytes()
    with tarfile.open(packed) as file:
        entries = file.getmembers()
        text = "".join(
            file.extractfile(entry).read().decode() for entry in entries if entry.isfile()
        )
    assert {entry.mtime for entry in entries} == {0}
    assert {entry.uname for entry in entries} == {""}
    assert "secret" not in text
    assert str(sweep) not in text
    assert socket.gethostname() not in re.findall(r"[\w.-]+", text)
    assert not re.search(r'"(/|~)', text)
    assert '"response": "text"' not in text  # what the models wrote stays at home


def test_the_commands_are_those_that_repeat_the_study(sweep):
    study = Study(*load(sweep), sweep)
    assert command(study) == "python train.py -m +paper=table2 'output=…/place'"
    assert "<pre>python train.py -m +paper=table2 " in (sweep / "report.html").read_text()


def test_a_single_run_is_packed_as_well(sweep, tmp_path):
    run = sweep / "1"
    packed = archive.pack(run, tmp_path / "one.tar.gz")
    page = report.build(packed, tmp_path / "again")
    report.build(run)
    assert (page.parent / "report.md").read_text() == (run / "report.md").read_text()


def test_what_is_no_archive_is_a_clear_mistake(sweep, tmp_path):
    with pytest.raises(UserError, match=r"must end in \.tar\.gz"):
        archive.pack(sweep, tmp_path / "runs.zip")
    (tmp_path / "runs.tar.gz").write_text("no archive")
    with pytest.raises(UserError, match="is no archive of a study"):
        report.build(tmp_path / "runs.tar.gz")
    with pytest.raises(UserError, match="is no archive of a study"):
        report.build(tmp_path / "absent")


@pytest.mark.parametrize("cut", [40, 2000])
def test_a_cut_archive_is_a_clear_mistake(packed, tmp_path, cut):
    (tmp_path / "runs.tar.gz").write_bytes(packed.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"^\S*runs.tar.gz is no archive of a study [^\n]*$"):
        report.build(tmp_path / "runs.tar.gz")


def test_a_damaged_archive_is_a_clear_mistake(packed, tmp_path):
    content = bytearray(packed.read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "runs.tar.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"runs.tar.gz"):
        report.build(tmp_path / "runs.tar.gz")


def test_an_archive_without_runs_or_with_links_is_named_itself(tmp_path):
    empty = tmp_path / "empty.tar.gz"
    with tarfile.open(empty, "w:gz") as file:
        link = tarfile.TarInfo("study/run.json")
        link.type, link.linkname = tarfile.SYMTYPE, "nowhere"
        file.addfile(link)
    with pytest.raises(UserError, match=rf"^{re.escape(str(empty))}/study holds no finished run"):
        report.build(empty, tmp_path / "out")


def test_an_archive_cannot_write_outside_of_its_folder(tmp_path):
    hostile = tmp_path / "hostile.tar.gz"
    with tarfile.open(hostile, "w:gz") as file:
        entry = tarfile.TarInfo("../../escaped")
        entry.size = 1
        file.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(UserError, match="outside"):
        report.build(hostile, tmp_path / "out")


def test_the_three_studies_are_committed():
    assert {path.parent.name for path in STUDIES} >= {"table1", "table2", "table3"}


@pytest.mark.slow
@pytest.mark.parametrize("packed", STUDIES, ids=[path.parent.name for path in STUDIES])
def test_the_committed_studies_are_what_their_runs_give(packed, tmp_path):
    report.build(packed, tmp_path)
    assert table(tmp_path / "scores.csv") == table(packed.with_name("scores.csv"))
    rebuilt, committed = (
        (folder / "report.md").read_text(encoding="utf-8").splitlines()
        for folder in (tmp_path, packed.parent)
    )
    assert [NUMBER.sub("#", line) for line in rebuilt] == [
        NUMBER.sub("#", line) for line in committed
    ]
    numbers = [[float(n) for n in NUMBER.findall("\n".join(of))] for of in (rebuilt, committed)]
    assert numbers[0] == pytest.approx(
        numbers[1], abs=0.11
    )  # a last printed digit may round either way
    assert packed.stat().st_size < 1_500_000


NUMBER = re.compile(r"\d+(?:\.\d+)?")


def table(path: Path) -> list[dict[str, object]]:
    """scores.csv with its numbers as numbers, to two digits."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{k: pytest.approx(float(v), abs=0.011) if NUMBER.fullmatch(v.lstrip("-")) else v for k, v in row.items()} for row in rows]  # fmt: skip


# ---- costs -------------------------------------------------------------------------------------


def test_a_shared_product_costs_once(sweep):
    rows = {row.stage: row for row in provenance.costs(Study(*load(sweep)))}
    # Two select products and one base serve all three runs; each run has its own training and scores.
    assert {name: row.products for name, row in rows.items()} == {
        "select": 2,
        "train": 3,
        "evaluate": 4,
    }
    assert rows["evaluate"].tokens == 4 * 3 * 40 * 2 * 20
    # One pair of 3 + 3 tokens over 2 epochs; SFT+ does not train on y⁻.
    assert rows["train"].tokens == 2 * (3 + 6 + 6)
    assert provenance.total(rows.values()).products == 9


def test_a_journals_spend_counts_once(tmp_path):
    runs = tmp_path / "outputs" / "runs"
    make_run(runs, 0, "spot_bco", 0, (0.9, 0.6, 0.95))
    record = json.loads((runs / "0" / "run.json").read_text())
    for part, spent in {"held_out": 0.25, "rectifications": 1.5}.items():
        asked = {"kind": "gemini", "model": "pro", "reask": 1, "prompts": part}
        target = artifacts.product(
            tmp_path / "outputs" / "products",
            "rectify",
            {"part": part, "oracle": asked},
            {"attempts": "a"},
        )
        target.folder.mkdir(parents=True)
        artifacts.finish(target, {"ok": 1}, 3.0, {"spend": {"recorded": spent, "possible": 0.0}})
        record["products"][part + "_corrected"] = f"../../products/rectify/{target.key}"
    (runs / "0" / "run.json").write_text(json.dumps(record))
    rectify = next(
        row for row in provenance.costs(Study(*load(runs / "0"))) if row.stage == "rectify"
    )
    assert rectify.dollars == 1.5  # the second sum includes the first
    assert rectify.seconds == 6.0
    assert "$1.50" in report.build(runs / "0").read_text()


def test_times_and_counts_are_written_short():
    assert [duration(s) for s in (0.42, 9.97, 59.4, 59.7, 510, 3599.8, 7500)] == ["0.4 s", "10 s", "59 s", "1 min 0 s", "8 min 30 s", "1 h 0 min", "2 h 5 min"]  # fmt: skip
    assert [short(n) for n in (950, 62_100, 999_960, 1_240_000)] == [
        "950",
        "62.1k",
        "1M",
        "1.2M",
    ]


@pytest.mark.slow
def test_a_large_sweeps_report_still_fits_a_pull_request(tmp_path):
    runs = tmp_path / "outputs" / "sweep"
    for number in range(40):
        make_run(runs, number, "spot_bco", 0, (0.9, 0.6, 0.95), f"loss.beta={number + 1}")
    text = report.build(runs).with_name("report.md").read_text(encoding="utf-8")
    assert text.count("| SPoT-BCO, β=") == 40
    assert len(text) < 65_000
    assert not re.search(r"<[a-z/]", text)
