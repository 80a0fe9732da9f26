"""Models that were trained elsewhere beside the arms of a study."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

from spot import report as pages
from spot.cli.commands import report
from spot.data.rows import Score
from spot.report import archive, tables
from spot.report.external import external
from spot.report.load import Study, load
from spot.utils.errors import UserError
from tests.support.runs import MadeRun, made_scores, made_study, rows_product


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """An arm on two seeds, 10 points above its base, and a model from elsewhere, 20 above."""
    runs = [MadeRun("bco", seed=seed, right={"sums": 50}) for seed in (0, 1)]
    made_study(tmp_path, runs)
    rows = made_scores(runs[0], {**runs[0].base, "sums": 60})
    scores = rows_product(tmp_path / "products", "evaluate", {"of": "grpo"}, Score, rows)
    place = os.path.relpath(scores.folder, tmp_path / "sweep")
    (tmp_path / "sweep/external.json").write_text(json.dumps({"grpo": place}))
    return Study(*load(tmp_path / "sweep"), tmp_path / "sweep")


def gains(study: Study) -> dict[str, float]:
    return {
        row.arm: row.cells[0].gain.value
        for row in tables.score_table(study)[1:]
        if row.cells[0].gain
    }


def test_it_is_a_row_of_its_own_and_no_arm(study: Study) -> None:
    assert list(study.arms) == ["spot_bco"]
    assert gains(study) == pytest.approx({"spot_bco": 10, "grpo": 20})
    rows = [row for row in tables.score_rows(study) if row["arm"] == "grpo"]
    sums = next(row for row in rows if row["benchmark"] == "sums")
    assert (sums["accuracy"], sums["difference"], sums["seed"]) == (60, 20, "")
    assert [arm for arm, _ in tables.answers(study)] == ["base", "spot_bco", "grpo"]


def test_the_pages_say_it_and_the_archive_keeps_it(study: Study, tmp_path: Path) -> None:
    packed = archive.pack(tmp_path / "sweep", tmp_path / "packed/study.tar.gz")
    for source in (tmp_path / "sweep", packed):
        page = pages.build(source, tmp_path / "page")
        assert "Trained elsewhere" in page.read_text()
        assert "same random numbers: grpo." in page.with_name("report.md").read_text()
        with page.with_name("scores.csv").open() as file:
            assert sum(row["arm"] == "grpo" for row in csv.DictReader(file)) == 3
    with archive.opened(packed) as folder:
        assert gains(Study(*load(folder), folder)) == gains(study)


@pytest.mark.parametrize("text", ["[", "[]", '["a"]', "{"])
def test_a_damaged_list_is_named(study: Study, tmp_path: Path, text: str) -> None:
    (tmp_path / "sweep/external.json").write_text(text)
    with pytest.raises(UserError, match=r"external\.json"):
        external(Study(*load(tmp_path / "sweep"), tmp_path / "sweep"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("grpo", "external=grpo cannot be read: write external="),
        ("[name=grpo]", "cannot be read"),
        ("[name=grpo,model=]", "cannot be read"),
        ("[model=x,name=grpo]", "cannot be read"),
        ("[name=a,model=x,name=a,model=y]", "gives a name twice"),
    ],
)
def test_what_is_typed_wrong(study: Study, tmp_path: Path, given: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        report([str(tmp_path / "sweep"), f"external={given}"])


def test_a_dry_run_says_what_would_be_measured(study: Study, tmp_path: Path, capsys: Any) -> None:
    report([str(tmp_path / "sweep"), "external=[name=grpo,model=some/folder]"], dry=True)
    assert "scores   of some/folder, as grpo" in capsys.readouterr().out
