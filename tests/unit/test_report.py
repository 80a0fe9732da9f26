"""The report of a synthetic sweep: right numbers, every arm, hostile text as text, what went wrong told."""

import csv
import json
import math
import re
from pathlib import Path

import pytest

from spot import report
from spot.data.rows import Score
from spot.evaluation.statistics import Estimate
from spot.report import figures, paper, style
from spot.report.load import Study, load
from spot.report.tables import funnels, score_table, trivial_row
from spot.report.warnings import cautions
from spot.utils.errors import UserError
from tests.support.runs import (
    BASE,
    DOMAINS,
    MadeRun,
    made_scores,
    made_study,
    make_run,
    rows_product,
)

# Share of questions answered right on (sums, word_problems, instructions).
ARMS = {"sft_plus": (0.75, 0.5, 0.5), "spot_bco": (0.9, 0.6, 0.95), "spot_bce": (0.7, 0.6, 0.95)}


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
    beside = paper.beside(Study(*load(sweep)))
    assert beside.value("spot_bco", "in_domain") == 52.1
    assert beside.gain("spot_bco", "in_domain") == pytest.approx(52.1 - 46.8)
    assert beside.gain("spot_bce", "general") == pytest.approx(85.8 - 83.0)
    assert beside.gain("sft_plus", "ood") == pytest.approx(30.7 - 29.9)
    page = (sweep / "report.html").read_text()
    assert '>paper 52.1</span> <span class="part">(+5.3)<' in page
    assert "Llama" not in page  # Table 2 has one model


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
    assert 'href="http' not in page.replace('xmlns:xlink="http', "")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<svg") == page.count("</svg>") >= 4
    assert not re.search(r'(src|href)="(https?:)?//', page)
    for arm in ("SFT+", "SPoT-BCO", "SPoT-BCE"):
        assert f">{arm}</span>" in page
    assert "Job 9 is not finished; the same command runs what is missing." in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))  # figures do not share names inside one page


def test_the_markdown_has_every_arm_and_its_figures_exist(sweep):
    text = (sweep / "report.md").read_text()
    for arm, sums in {"SFT+": "75.0 (**+25.0** [", "SPoT-BCO": "90.0 (**+40.0** ["}.items():
        assert f"| {arm} (3) | {sums}" in text
    linked = re.findall(r"\]\((figures/.*?)\)", text)
    assert {"figures/surgery.png", "figures/kl_by_part.png"} <= set(linked)
    assert "figures/distance.png" not in linked  # nothing was logged for it
    assert all((sweep / name).stat().st_size > 1000 for name in linked)


def test_the_same_runs_give_the_same_bytes(sweep):
    before = {p: p.read_bytes() for p in sweep.rglob("*") if p.is_file()}
    report.build(sweep)
    assert {p: p.read_bytes() for p in sweep.rglob("*") if p.is_file()} == before


def test_what_the_trivial_answer_scores_stands_below(sweep):
    assert trivial_row(Study(*load(sweep))) == [2, 4, 12, 6]
    assert re.search(
        r"trivial answer</th><td class=\"n\">2\.0<", (sweep / "report.html").read_text()
    )


def test_the_funnel_counts_what_went_on_and_the_rest_by_reason(sweep):
    ((arms, (step,)),) = funnels(Study(*load(sweep)))
    assert arms == list(ARMS)
    assert (step.total, step.passed) == (4, 1)
    assert step.others == {"duplicate": 2, "change_ratio_above_gamma": 1}
    assert "7 of the wrong responses\nare held out" in (sweep / "report.html").read_text()


def test_cautions_name_what_weakens_the_numbers(sweep):
    found = cautions(Study(*load(sweep)))
    assert "Job 9 is not finished; the same command runs what is missing." in found
    assert "SFT+ pulls y⁻ up: log π_θ/π_ref ends at +3.0 nats held out." in found
    fallen = "log π_θ/π_ref of y⁺ falls to −6.0 nats held out, that of y⁻ to −3.0."
    assert [line for line in found if "collapses" in line] == [f"SPoT-BCE collapses: {fallen}"]
    assert any(line.startswith("Fewer than 4 seeds (SFT+, SPoT-BCO, SPoT-BCE)") for line in found)


def test_what_was_checked_and_dropped_before_training_is_told(sweep):
    page = (sweep / "report.html").read_text()
    assert "Largest reward before the first update: 6.0e-07 (0 but for rounding)." in page
    assert "Attention by sdpa: off from the dense computation by 3.0e-08." in page
    told = [line for line in cautions(Study(*load(sweep))) if "longer than a pack" in line]
    assert told == [
        "SFT+ left out 2 pairs that are longer than a pack: raise hardware.tokens_per_pack to "
        "train on them."
    ]


def test_runs_that_differ_in_more_than_the_seed_are_arms_of_their_own(tmp_path):
    sweep = tmp_path / "outputs" / "sweep"
    for number, gamma in enumerate(("0.4", "0.6")):
        make_run(
            sweep, number, "spot_bco", 0, (0.5 + 0.2 * number, 0.5, 0.95), f"data.gamma={gamma}"
        )
    study = Study(*load(sweep))
    assert list(study.arms) == ["spot_bco data.gamma=0.4", "spot_bco data.gamma=0.6"]
    gains = [row.cells[0].gain for row in score_table(study)]
    assert [g.value for g in gains[1:]] == pytest.approx([0, 20])
    assert style.label("spot_bco data.gamma=0.4") == "SPoT-BCO, γ=0.4"
    assert len(set(style.colours(list(study.arms)).values())) == 2
    assert report.build(sweep).exists()


def test_a_single_run_says_that_its_intervals_are_over_questions(tmp_path):
    make_run(tmp_path / "outputs" / "runs", 0, "spot_bco", 0, (0.9, 0.6, 0.95))
    folder = tmp_path / "outputs" / "runs" / "0"
    page = report.build(folder).read_text()
    assert "One training seed: the intervals cover the choice of questions only." in page
    assert "95%\ninterval over questions;" in page


def test_a_share_of_missing_answers_and_questions_is_told(tmp_path):
    sweep = tmp_path / "outputs" / "runs"
    make_run(sweep, 0, "spot_bco", 0, (0.9, 0.6, 0.95))
    record = json.loads((sweep / "0" / "run.json").read_text())
    asked = {"sums": "in_domain"}
    once = MadeRun(questions=37, trials=1, verdict="unparseable", domains=asked)
    twice = MadeRun(
        questions=40, trials=2, domains={n: d for n, d in DOMAINS.items() if n not in asked}
    )
    rows = [*made_scores(once, {"sums": 0}), *made_scores(twice, BASE)]
    target = rows_product(
        tmp_path / "outputs" / "products", "evaluate", {"of": "fewer"}, Score, rows
    )
    record["products"]["scores"] = f"../../products/evaluate/{target.key}"
    (sweep / "0" / "run.json").write_text(json.dumps(record))
    found = cautions(Study(*load(sweep / "0")))
    assert "SPoT-BCO has questions with fewer trials than asked for: sums (1 of 2)." in found
    assert "SPoT-BCO and the base do not share all questions; the unpaired are left out: sums (3)." in found  # fmt: skip
    assert "SPoT-BCO often gives no usable answer: sums (up to 100%)." in found


def test_numbers_and_cells_are_written_plainly():
    assert [style.signed(v) for v in (3.24, -1.0, -0.04, 0.0)] == ["+3.2", "−1.0", "0.0", "0.0"]
    assert style.cell("a | b\n<i>") == "a \\| b &lt;i>"
    assert style.cell("![x](y) **b** `c` _d_ \\") == r"\!\[x\](y) \*\*b\*\* \`c\` \_d\_ \\"
    assert style.signed(Estimate(1.0, -math.inf, math.inf, 0)) == "–"


def test_verdicts_say_what_they_rest_on(sweep):
    """In the page, in Markdown and as rows."""
    with (sweep / "verdicts.csv").open() as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    pull_up = rows["sft_pull_up"]
    assert (pull_up["outcome"], pull_up["unit"], pull_up["seeds"]) == ("holds", "nats", "3")
    assert float(pull_up["value"]) == pytest.approx(3.01)
    page, text = ((sweep / f"report.{ending}").read_text() for ending in ("html", "md"))
    told = "log π_θ/π_ref of held-out y⁻, at the end"
    assert f"{told} · holds when lower bound above 0</small>" in page
    assert f"| {style.cell(told)} | +3.0 nats | " in text
    assert re.search(
        r"\nOf \d+ claims of the paper \d+ hold|. Of \d+ claims of the paper \d+ hold", text
    )


def test_one_seed_has_no_interval_of_curves_and_fewer_seeds_are_told(tmp_path):
    sweep = tmp_path / "outputs" / "sweep"
    for number, (arm, seed) in enumerate((("sft_plus", 0), ("spot_bco", 0), ("spot_bco", 1))):
        make_run(sweep, number, arm, seed, (0.7, 0.5, 0.9))
    page = report.build(sweep).read_text()
    text = (sweep / "report.md").read_text()
    assert not re.search(r"\bnan|\binf\b", page.partition("resolved configuration")[0] + text)
    assert "| +3.0 nats (1 of 2 seeds) | one seed |" in text
    assert "<small>1 of 2 seeds</small>" in page
    assert "| SFT+ (1) | " in text
    assert "<small>1 seed</small>" in page
    row = next(row for row in page.split("<tr") if "SFT+ pulls r⁻ up" in row and "<td>" in row)
    assert "whisker" not in row.partition("</tr>")[0]
    assert row.partition("</tr>")[0].count("one seed") == 1


def test_a_gradient_that_is_zero_throughout_is_drawn(tmp_path):
    """DPO's prefix cancels exactly: its curve is the finding, and not missing."""
    runs = [
        MadeRun("dpo", curves={"gradients/shared": [0.0, 0.0, 0.0], "delta": [0.0, 0.0, 0.0]}),
        MadeRun("bco", curves={"gradients/shared": [0.0, 0.1, 0.2], "delta": [0.0, 1.0, 2.0]}),
    ]
    study = made_study(tmp_path, runs)
    names = [
        {text.get_text() for text in figures.FIGURES[name](study).axes[0].texts}
        for name in ("surgery", "distance")
    ]
    assert names == [{"DPO", "SPoT-BCO"}, {"SPoT-BCO"}]


def test_a_record_without_its_products_is_a_clear_mistake(tmp_path):
    make_run(tmp_path / "outputs" / "runs", 0, "spot_bco", 0, (0.9, 0.6, 0.95))
    path = tmp_path / "outputs" / "runs" / "0" / "run.json"
    record = json.loads(path.read_text())
    del record["products"]["base_scores"]
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="is damaged: delete it"):
        report.build(path.parent)


def test_a_folder_without_runs_is_a_clear_mistake(tmp_path):
    with pytest.raises(UserError, match="holds no finished run"):
        report.build(tmp_path)
