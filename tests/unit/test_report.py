"""The report of a synthetic sweep: right numbers, every arm, hostile text as text, verdicts at their edges."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from spot import report, store
from spot.errors import UserError
from spot.evaluation.statistics import Estimate
from spot.records import Pair, Score
from spot.report import verdicts
from spot.report.load import Study, load
from spot.report.page import marked
from spot.report.tables import paper_gains, score_table
from spot.report.verdicts import FAILS, HOLDS, UNCLEAR

HOSTILE = "<script>alert(1)</script> 1 | 2"
DOMAINS = {"sums": "in_domain", "word_problems": "ood", "instructions": "general"}
TASKS = {name: {"name": name, "trials": 2, "domain": d} for name, d in DOMAINS.items()}
QUESTIONS = 40
# Share of questions answered right on (sums, word_problems, instructions).
ARMS = {"sft_plus": (0.75, 0.5, 0.5), "spot_bco": (0.9, 0.6, 0.95), "spot_bce": (0.7, 0.6, 0.95)}
BASE = (0.5, 0.5, 0.95)


def scores(shares, seed: int):
    """Each question right in both trials or in none; a seed moves which ones by a little."""
    for (name, domain), share in zip(DOMAINS.items(), shares, strict=True):
        for q in range(QUESTIONS):
            correct = (q + seed % 3) % QUESTIONS < share * QUESTIONS
            for trial in range(2):
                yield Score(
                    f"{name}/q{q}#{trial}", name, domain, f"q{q}", trial, correct,
                    "correct" if correct else "wrong", "1", "text", "stop", 20, 0,
                )  # fmt: skip


def rows_product(root: Path, stage: str, settings: dict, row_type, rows) -> store.Product:
    target = store.product(root, stage, settings)
    store.compute_rows(target, row_type, lambda done, counts: rows)
    return target


def make_run(sweep: Path, number: int, arm: str, seed: int, shares) -> None:
    root = sweep.parent / "products"
    pair = Pair(
        "a#0", "a", "sums", "rectified", HOSTILE, "3", "one two THREE", "one two four", 1 / 3, 2, 3, 3
    )  # fmt: skip
    products = {
        "pairs": rows_product(root, "select", {"arm": "x"}, Pair, [pair]),
        "held_out": rows_product(root, "select", {"arm": "h"}, Pair, [pair]),
        "base_scores": rows_product(root, "evaluate", {"of": "base"}, Score, scores(BASE, 0)),
        "scores": rows_product(
            root, "evaluate", {"of": arm, "seed": seed}, Score, scores(shares, seed)
        ),
    }
    checkpoint = store.product(root, "train", {"arm": arm, "seed": seed})

    def train(folder: Path) -> None:
        with (folder / "metrics.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["step", "loss", "held_out/rewards/rejected", "probe/instructions"])
            rise = 0.1 if arm == "sft_plus" else -0.1
            for step in range(4):
                table.writerow(
                    [step, 1 / (step + 1), step * rise + 0.001 * seed, "" if step % 2 else 90]
                )

    store.compute_files(checkpoint, train)
    products["checkpoint"] = checkpoint
    folder = sweep / str(number)
    folder.mkdir(parents=True)
    record = {
        "schema": 1,
        "status": "complete",
        "arm": arm,
        "seed": seed,
        "study": "table2",
        "config": {
            "benchmarks": {"tasks": TASKS},
            "data": {"arm": "rectified", "gamma": 0.6},
            "loss": {"name": "bco"},
        },
        "overrides": [f"arm={arm}", f"seed={seed}"],
        "command": f"python train.py arm={arm} seed={seed}",
        "products": {n: f"../../products/{p.stage}/{p.key}" for n, p in products.items()},
        "stages": [
            {"stage": "select", "product": "pairs", "seconds": 1.0, "reused": number > 0, "counts": {"rectified": 1}}
        ],
        "seconds": 2.0,
        "finished": "2026-01-01T00:00:00",
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("outputs") / "sweep"
    number = 0
    for arm, shares in ARMS.items():
        for seed in range(3):
            make_run(folder, number, arm, seed, shares)
            number += 1
    (folder / str(number)).mkdir()  # a job that did not finish
    report.build(folder)
    return folder


def test_the_table_holds_means_and_paired_gains(sweep):
    rows = {row.arm: row for row in score_table(Study(*load(sweep)))}
    assert list(rows) == ["base", *ARMS]
    assert [cell.accuracy.value for cell in rows["base"].cells] == pytest.approx([50, 50, 95, 65])
    bco = rows["spot_bco"].cells
    assert [cell.gain.value for cell in bco] == pytest.approx([40, 10, 0, 50 / 3])
    assert bco[0].gain.excludes_zero
    assert not bco[2].gain.excludes_zero
    assert rows["spot_bco"].seeds == 3


def test_the_papers_numbers_stand_beside(sweep):
    gains = paper_gains(Study(*load(sweep)))
    assert gains["spot_bco", "in_domain"] == pytest.approx(52.1 - 46.8)
    assert gains["spot_bce", "general"] == pytest.approx(85.8 - 83.0)
    assert gains["sft_plus", "ood"] == pytest.approx(30.7 - 29.9)


def test_scores_csv_has_a_row_per_run_and_benchmark(sweep):
    with (sweep / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 + 9 * 3
    row = next(
        r for r in rows if r["arm"] == "sft_plus" and r["seed"] == "0" and r["benchmark"] == "sums"
    )
    assert (row["accuracy"], row["difference"], row["questions"], row["trials"]) == ("75.0", "25.0", "40", "2")  # fmt: skip


def test_the_page_is_one_file_that_shows_text_as_text(sweep):
    page = (sweep / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<svg") == page.count("</svg>") >= 4
    assert not re.search(r'(src|href)="(https?:)?//', page)
    for arm in ("SFT+", "SPoT-BCO", "SPoT-BCE"):
        assert f"<td>{arm}</td>" in page
    assert "Job 9 of the sweep is not finished." in page


def test_the_markdown_has_every_arm_and_its_figures_exist(sweep):
    text = (sweep / "report.md").read_text()
    assert "| SPoT-BCO | 90.0 (+40.0 [" in text
    linked = re.findall(r"\]\((figures/.*?)\)", text)
    assert linked
    assert all((sweep / name).stat().st_size > 1000 for name in linked)


def test_the_same_runs_give_the_same_bytes(sweep):
    before = {p: p.read_bytes() for p in sweep.rglob("*") if p.is_file()}
    report.build(sweep)
    assert {p: p.read_bytes() for p in sweep.rglob("*") if p.is_file()} == before


def test_verdicts_follow_from_the_runs(sweep):
    found = {v.claim.text: v.outcome for v in verdicts.judge(Study(*load(sweep)))}
    assert found["SFT+ gains in-domain"] == HOLDS
    assert found["SFT+ loses general ability"] == HOLDS
    assert found["BCO is no worse than BCE in-domain"] == HOLDS
    assert found["SFT+ pulls the rejected reward up"] == HOLDS
    assert "DPO gains nothing in-domain" not in found  # that arm did not run


@pytest.mark.parametrize(
    ("test", "low", "high", "outcome"),
    [
        (verdicts.gains, 0.1, 2, HOLDS),
        (verdicts.gains, 0, 2, UNCLEAR),
        (verdicts.gains, -3, 0, FAILS),
        (verdicts.loses, -3, -0.1, HOLDS),
        (verdicts.loses, -3, 0, UNCLEAR),
        (verdicts.loses, 0, 2, FAILS),
        (verdicts.keeps, -1, 3, HOLDS),
        (verdicts.keeps, -1.1, 3, UNCLEAR),
        (verdicts.keeps, -4, -1.1, FAILS),
        (verdicts.no_gain, -2, 0, HOLDS),
        (verdicts.no_gain, -2, 1, UNCLEAR),
        (verdicts.no_gain, 0.1, 1, FAILS),
    ],
)
def test_verdicts_at_their_edges(test, low, high, outcome):
    assert test(Estimate(float(np.mean([low, high])), low, high, 100, 5)) == outcome


def test_edited_words_are_marked_and_no_word_is_lost():
    pair = Pair("a", "a", "t", "rectified", "q", "1", "keep this new end", "keep this old end", 0.25, 2, 4, 4)  # fmt: skip
    before, after = marked(pair)
    assert "".join(p.text for p in before) == pair.rejected
    assert "".join(p.text for p in after) == pair.chosen
    assert [p.text.strip() for p in after if p.edited] == ["new"]


def test_a_folder_without_runs_is_a_clear_mistake(tmp_path):
    with pytest.raises(UserError, match="holds no finished run"):
        report.build(tmp_path)
