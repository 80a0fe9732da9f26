"""The report of a synthetic sweep, and its archive: right numbers, hostile text as text, no place named."""

import csv
import io
import json
import math
import os
import re
import socket
import tarfile
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from scipy import stats

from spot import report
from spot.data import artifacts
from spot.data.rows import Score
from spot.evaluation.statistics import Estimate
from spot.report import archive, figures, paper, provenance, style
from spot.report.claims import FAILS, HOLDS, UNCLEAR
from spot.report.load import Study, load
from spot.report.tables import funnels, score_table, trivial_row
from spot.report.warnings import cautions
from spot.utils.errors import UserError
from tests.support.runs import (
    BASE,
    DOMAINS,
    MadeRun,
    eventful,
    made_scores,
    made_study,
    make_run,
    rows_product,
)

# Share of questions answered right on (sums, word_problems, instructions).
ARMS = {"sft_plus": (0.75, 0.5, 0.5), "spot_bco": (0.9, 0.6, 0.95), "spot_bce": (0.7, 0.6, 0.95)}
GOOD = (0.9, 0.6, 0.95)
MULTIRUN = "hydra:\n  overrides:\n    task: [+paper=table2, output=/secret/place]\n"
STUDIES = sorted((Path(__file__).parents[2] / "experiments" / "laptop").glob("*/runs.tar.gz"))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("secret") / "outputs" / "sweep"
    jobs = [(arm, seed) for arm in ARMS for seed in range(3)]
    for number, (arm, seed) in enumerate(jobs):
        make_run(folder, number, arm, seed, ARMS[arm], "data.path=/secret/x.jsonl")
    (folder / "9").mkdir()  # a job that did not finish
    (folder / "multirun.yaml").write_text(MULTIRUN)
    change(folder / "0", lambda record: record.update(command="python train.py output=/secret/y"))
    report.build(folder)
    return folder


@pytest.fixture
def study(sweep) -> Study:
    return Study(*load(sweep), sweep)


@pytest.fixture(scope="module")
def page(sweep) -> str:
    return (sweep / "report.html").read_text()


@pytest.fixture(scope="module")
def markdown(sweep) -> str:
    return (sweep / "report.md").read_text()


def change(run: Path, how) -> None:
    """Change the record of a run."""
    record = json.loads((run / "run.json").read_text())
    how(record)
    (run / "run.json").write_text(json.dumps(record))


def change_all(sweep: Path, how) -> None:
    for run in sweep.glob("[0-9]*"):
        change(run, how)


class Markup(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


@pytest.fixture
def single(tmp_path) -> Path:
    make_run(tmp_path / "outputs" / "runs", 0, "spot_bco", 0, GOOD)
    return tmp_path / "outputs" / "runs" / "0"


# ---- tables ------------------------------------------------------------------------------------


def test_the_table_holds_means_and_paired_gains(study):
    rows = {row.arm: row for row in score_table(study)}
    assert list(rows) == ["base", *ARMS]
    assert [cell.accuracy.value for cell in rows["base"].cells] == pytest.approx([50, 50, 95, 65])
    bco = rows["spot_bco"].cells
    assert [cell.gain.value for cell in bco] == pytest.approx([40, 10, 0, 50 / 3])
    assert [cell.gain.excludes_zero for cell in bco[:3:2]] == [True, False]
    assert rows["spot_bco"].runs == "3 seeds"
    assert trivial_row(study) == [2, 4, 12, 6]


def test_a_general_benchmark_at_its_trivial_baseline_is_left_out_and_said_so(tmp_path):
    """Nothing can be forgotten there. In-domain it is the start that training lifts, and stays."""
    base = {**BASE, "instructions": 10, "sums": 0}  # trivially 12 and 2
    study = made_study(tmp_path, [MadeRun(base=base, questions=20)])
    assert study.benchmarks == ["sums", "word_problems"]
    assert study.others == ["instructions"]
    said = "as the base scores no more than the best answer given without reading: instructions (10.0% of 12.0%)."
    assert sum(said in caution for caution in cautions(study)) == 1


def test_one_models_interval_is_the_one_that_an_evaluation_prints(tmp_path):
    """2 of 20 right: Clopper-Pearson's, by scipy's own."""
    run = MadeRun(right={"sums": 10}, base={**BASE, "sums": 10}, questions=20)
    base, trained = score_table(made_study(tmp_path, [run]))
    exact = stats.binomtest(2, 20).proportion_ci(method="exact")
    for cell in (base.cells[0], trained.cells[0]):
        ends = cell.accuracy.low, cell.accuracy.high
        assert ends == pytest.approx((100 * exact.low, 100 * exact.high))


def test_the_papers_numbers_stand_beside(study, page):
    beside = paper.beside(study)
    assert beside.value("spot_bco", "in_domain") == 52.1
    assert beside.gain("spot_bco", "in_domain") == pytest.approx(52.1 - 46.8)
    assert beside.gain("spot_bce", "general") == pytest.approx(85.8 - 83.0)
    assert beside.gain("sft_plus", "ood") == pytest.approx(30.7 - 29.9)
    assert '>paper 52.1</span> <span class="part">(+5.3)<' in page
    assert "Llama" not in page  # Table 2 has one model


def test_rows_for_machines(sweep):
    """scores.csv and verdicts.csv."""
    scores, verdicts = (list(csv.DictReader((sweep / f"{name}.csv").open())) for name in ("scores", "verdicts"))  # fmt: skip
    assert len(scores) == 3 + 9 * 3
    row = next(r for r in scores if (r["arm"], r["seed"]) == ("sft_plus", "0"))
    assert [row[k] for k in ("benchmark", "accuracy", "difference", "questions", "trials")] == ["sums", "75.0", "25.0", "40", "2"]  # fmt: skip
    pull_up = next(row for row in verdicts if row["id"] == "sft_pull_up")
    assert [pull_up[k] for k in ("outcome", "unit", "seeds")] == ["holds", "nats", "3"]
    assert float(pull_up["value"]) == pytest.approx(3.01)


def test_the_funnel_counts_what_went_on_and_the_rest_by_reason(study, page):
    ((arms, (step,)),) = funnels(study)
    assert arms == list(ARMS)
    assert (step.total, step.passed) == (4, 1)
    assert step.others == {"duplicate": 2, "change_ratio_above_gamma": 1}
    assert "7 of the wrong responses\nare held out" in page


# ---- pages -------------------------------------------------------------------------------------


def test_whatever_a_study_names_is_text_on_its_page(tmp_path, no_figures):
    """Arms, benchmarks, questions, verdicts, studies, choices, reasons and models trained elsewhere."""

    def hostile(what):
        return f"{what}</script></text><script>alert('{what}')</script><i onload=alert(1)>\"'$x_{{"

    named = {"sums": "in_domain", hostile("benchmark"): "general"}
    made = MadeRun(
        right={"sums": 90}, domains=named, base=dict.fromkeys(named, 50), questions=4,
        curves=eventful("sft_plus", 0), verdict=hostile("verdict"), study=hostile("study"), asked=True,
        config={"data.path": hostile("data"), "model.name": hostile("model")},
        overrides=[f"data.path={hostile('override')}"], over_long=[hostile("pair")],
        details={"warning": hostile("warning")},
    )  # fmt: skip
    made_study(tmp_path, [made, replace(made, loss="sft", seed=1)])
    for run in (tmp_path / "sweep").glob("[01]"):
        record = json.loads((run / "run.json").read_text())
        counts = {hostile("reason"): 3, "rectified": 4}
        record["stages"][0]["counts"] = counts
        record |= {"arm": hostile(f"arm{record['seed']}"), "command": hostile("command")}
        (run / "run.json").write_text(json.dumps(record))
    place = os.path.relpath(tmp_path / "sweep/0" / record["products"]["scores"], tmp_path / "sweep")
    (tmp_path / "sweep/external.json").write_text(json.dumps({hostile("external"): place}))
    page = report.build(tmp_path / "sweep").read_text()
    markup = Markup(page)
    for what in ("benchmark", "arm0", "external", "reason"):
        assert f"{what}&lt;/script&gt;" in page, what
    assert not markup.tags & {"script", "i onload", "iframe", "object", "base", "form"}
    assert not any(name.startswith("on") for name, _ in markup.attributes)
    linked = [value for name, value in markup.attributes if name in ("href", "src", "xlink:href")]
    assert all(value.startswith("#") for value in linked)


def test_the_page_is_one_file_that_shows_text_as_text(page):
    assert "<script" not in page
    assert not re.search(r'(src|href)="(https?:)?//', page.replace('xmlns:xlink="http', ""))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<svg") == page.count("</svg>") >= 4
    for arm in ("SFT+", "SPoT-BCO", "SPoT-BCE"):
        assert f">{arm}</span>" in page
    assert re.search(r"trivial answer</th><td class=\"n\">2\.0<", page)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))  # figures do not share names inside one page


def test_the_markdown_has_every_arm_and_its_figures_exist(sweep, markdown):
    for arm, sums in {"SFT+": "75.0 (**+25.0** [", "SPoT-BCO": "90.0 (**+40.0** ["}.items():
        assert f"| {arm} (3 seeds) | {sums}" in markdown
    linked = re.findall(r"\]\((figures/.*?)\)", markdown)
    assert {"figures/surgery.png", "figures/kl_by_part.png"} <= set(linked)
    assert "figures/distance.png" not in linked  # nothing was logged for it
    assert all((sweep / name).stat().st_size > 1000 for name in linked)


def test_verdicts_say_what_they_rest_on(page, markdown):
    measured = "log π_θ/π_ref of held-out y⁻, at the end"
    assert f"{measured} · holds when interval above 0</small>" in page
    assert f"| {style.cell(measured)} | +3.0 nats | " in markdown
    assert re.search(r"\. \d+ claims: \d+ hold", markdown)


def test_cautions_name_what_weakens_the_numbers(study, page):
    found = cautions(study)
    fallen = "log π_θ/π_ref of y⁺ falls to −6.0 nats held out, that of y⁻ to −3.0."
    assert [line for line in found if "collapses" in line] == [f"SPoT-BCE collapses: {fallen}"]
    assert {
        "Job 9 is not finished; the same command runs what is missing.",
        "SFT+ pulls y⁻ up: log π_θ/π_ref ends at +3.0 nats held out.",
        "SFT+ left out 2 pairs, longer than a pack: raise hardware.tokens_per_pack to train on them.",
    } < set(found)  # fmt: skip
    assert any(line.startswith("Fewer than 4 seeds: ") for line in found)
    assert "Job 9 is not finished" in page
    assert "Largest reward before the first update: 6.0e-07 (0 but for rounding)." in page
    assert "Attention by sdpa: off from the dense computation by 3.0e-08." in page


def test_what_was_forgotten_is_there_to_read(tmp_path, no_figures):
    """40 of 100 right, then 30: a tenth of the questions is lost, none by chance; then without prompts."""
    right = {"sums": 30, "instructions": 95}
    runs = [MadeRun(seed=seed, right=right, trials=2, asked=True) for seed in range(2)]
    made_study(tmp_path, runs)
    page = report.build(tmp_path / "sweep").read_text()
    text = (tmp_path / "sweep" / "report.md").read_text()
    assert "| base, by chance | 0.0 | 0.0 | 0.0 |" in text
    (row,) = re.findall(r"\| SPoT-BCO \| (\*\*\+10\.0\*\* .*)", text)
    assert re.search(r"learnt 0\.0 .* learnt \+5\.0", row)
    lost = list(csv.DictReader((tmp_path / "sweep" / "forgotten.csv").open()))
    assert [(r["question"], r["lost"]) for r in lost] == [(f"q{i}", "100.0") for i in (30, 31, 32)]
    asked = "&lt;script&gt;alert(1)&lt;/script&gt; 1 | 2 q30?"
    assert f'<td class="asked">{asked}</td>' in page
    packed = archive.pack(tmp_path / "sweep", tmp_path / "packed" / "runs.tar.gz")
    assert report.build(packed).read_text() == page  # with the questions that are shown
    with tarfile.open(packed) as file:
        names = [name for name in file.getnames() if "/respond/" in name and "rows" in name]
        (rows,) = (file.extractfile(name).read().decode() for name in names)
    assert "q32?" in rows
    assert "q33?" not in rows
    change_all(tmp_path / "sweep", lambda r: r["products"].pop("base_benchmark_responses"))
    page = report.build(tmp_path / "sweep").read_text()
    assert 'class="asked"' not in page
    assert "their texts are not in what this report was made of" in page


def test_single_trials_say_that_chance_is_not_known(tmp_path, no_figures):
    made_study(tmp_path, [MadeRun(right={"sums": 30})])
    page = report.build(tmp_path / "sweep").read_text()
    assert page.count("one trial: not corrected") == 3
    assert "chance cannot be known and is not taken off" in page
    assert "| base, by chance | – | – | – |" in (tmp_path / "sweep" / "report.md").read_text()


def test_runs_that_differ_in_more_than_the_seed_are_arms_of_their_own(tmp_path):
    sweep = tmp_path / "outputs" / "sweep"
    for number, gamma in enumerate(("0.4", "0.6")):
        shares = (0.5 + 0.2 * number, 0.5, 0.95)
        make_run(sweep, number, "spot_bco", 0, shares, f"data.gamma={gamma}")
    study = Study(*load(sweep))
    assert list(study.arms) == ["spot_bco data.gamma=0.4", "spot_bco data.gamma=0.6"]
    gains = [row.cells[0].gain for row in score_table(study)]
    assert [g.value for g in gains[1:]] == pytest.approx([0, 20])
    assert style.label("spot_bco data.gamma=0.4") == "SPoT-BCO, γ=0.4"
    assert len(set(style.colours(list(study.arms)).values())) == 2
    assert report.build(sweep).exists()


def test_one_seed_has_no_interval_of_curves_and_fewer_seeds_are_told(tmp_path, no_figures):
    sweep = tmp_path / "outputs" / "sweep"
    for number, (arm, seed) in enumerate((("sft_plus", 0), ("spot_bco", 0), ("spot_bco", 1))):
        make_run(sweep, number, arm, seed, (0.7, 0.5, 0.9))
    page = report.build(sweep).read_text()
    text = (sweep / "report.md").read_text()
    assert not re.search(r"\bnan|\binf\b", page.partition("resolved configuration")[0] + text)
    assert "| +3.0 nats (1 of 2 seeds) | one seed |" in text
    assert "<small>1 of 2 seeds</small>" in page
    assert "| SFT+ (1 seed) | " in text
    assert "<small>1 seed</small>" in page
    row = next(row for row in page.split("<tr") if "SFT+ pulls r⁻ up" in row and "<td>" in row)
    assert "whisker" not in row.partition("</tr>")[0]
    assert row.partition("</tr>")[0].count("one seed") == 1


def test_missing_answers_and_questions_are_told(single):
    asked = {"sums": "in_domain"}
    once = MadeRun(questions=37, trials=1, verdict="unparseable", domains=asked)
    others = {n: d for n, d in DOMAINS.items() if n not in asked}
    rows = [*made_scores(once, {"sums": 0}), *made_scores(MadeRun(questions=40, trials=2, domains=others), BASE)]  # fmt: skip
    target = rows_product(single.parents[1] / "products", "evaluate", {"of": "fewer"}, Score, rows)
    change(single, lambda r: r["products"].update(scores=f"../../products/evaluate/{target.key}"))
    found = cautions(Study(*load(single)))
    assert "SPoT-BCO has questions with fewer trials than asked for: sums (1 of 2)." in found
    assert "SPoT-BCO and the base do not share all questions; the unpaired are left out: sums (3)." in found  # fmt: skip
    assert "SPoT-BCO often gives no usable answer: sums (up to 100%)." in found


def test_a_gradient_that_is_zero_throughout_is_drawn(tmp_path):
    """DPO's prefix cancels exactly: its curve is the finding, and not missing."""
    runs = [
        MadeRun("dpo", curves={"gradients/shared": [0.0, 0.0, 0.0], "delta": [0.0, 0.0, 0.0]}),
        MadeRun("bco", curves={"gradients/shared": [0.0, 0.1, 0.2], "delta": [0.0, 1.0, 2.0]}),
    ]
    study = made_study(tmp_path, runs)
    drawn = [figures.FIGURES[name](study).axes[0].texts for name in ("surgery", "distance")]
    names = [{text.get_text() for text in texts} for texts in drawn]
    assert names == [{"DPO", "SPoT-BCO"}, {"SPoT-BCO"}]


def test_numbers_and_text_are_written_plainly():
    assert [style.signed(v) for v in (3.24, -1.0, -0.04, 0.0)] == ["+3.2", "−1.0", "0.0", "0.0"]
    assert style.signed(Estimate(1.0, -math.inf, math.inf, 0)) == "–"
    assert style.cell("a | b\n<i>") == "a \\| b &lt;i>"
    assert style.cell("![x](y) **b** `c` _d_ \\") == r"\!\[x\](y) \*\*b\*\* \`c\` \_d\_ \\"
    seconds = (0.42, 9.97, 59.4, 59.7, 510, 3599.8, 7500)
    assert [style.duration(s) for s in seconds] == ["0.4 s", "10 s", "59 s", "1 min 0 s", "8 min 30 s", "1 h 0 min", "2 h 5 min"]  # fmt: skip
    assert [style.short(n) for n in (950, 62_100, 999_960, 1_240_000)] == ["950", "62.1k", "1M", "1.2M"]  # fmt: skip


# ---- the archive -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(sweep, tmp_path_factory) -> Path:
    return archive.pack(sweep, tmp_path_factory.mktemp("packed") / "made" / "runs.tar.gz")


def test_the_report_is_rebuilt_to_the_byte(sweep, packed):
    rebuilt = report.build(packed).parent
    assert rebuilt == packed.parent  # beside the archive, if nothing else is said
    names = ["report.md", "scores.csv", "verdicts.csv", "report.html"]
    names += [f"figures/{path.name}" for path in (sweep / "figures").iterdir()]
    assert len(names) > 10
    for name in names:
        assert (rebuilt / name).read_bytes() == (sweep / name).read_bytes(), name


def test_the_archive_is_the_same_every_time_and_names_no_place(sweep, packed, tmp_path):
    again = archive.pack(sweep, tmp_path / "again.tar.gz")
    assert again.read_bytes() == packed.read_bytes()
    with tarfile.open(packed) as file:
        entries = file.getmembers()
        files = [file.extractfile(entry) for entry in entries if entry.isfile()]
        text = "".join(each.read().decode() for each in files)
    assert {(entry.mtime, entry.uname) for entry in entries} == {(0, "")}
    assert "secret" not in text
    assert str(sweep) not in text
    assert socket.gethostname() not in re.findall(r"[\w.-]+", text)
    assert not re.search(r'"(/|~)', text)
    assert '"response": "text"' not in text  # what the models wrote stays at home


def test_the_commands_are_those_that_repeat_the_study(study, page):
    assert provenance.command(study) == "python train.py -m +paper=table2 'output=…/place'"
    assert "<pre>python train.py -m +paper=table2 " in page


def test_a_single_run_is_reported_and_packed_as_well(single, tmp_path, no_figures):
    page = report.build(single).read_text()
    assert "One training seed: the intervals cover the choice of questions only." in page
    assert "95%\ninterval over questions, one seed and one world;" in page
    again = report.build(archive.pack(single, tmp_path / "one.tar.gz"), tmp_path / "again")
    assert again.with_name("report.md").read_text() == (single / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("packed", STUDIES, ids=[path.parent.name for path in STUDIES])
def test_the_committed_studies_are_what_their_runs_give(packed, tmp_path):
    report.build(packed, tmp_path)
    tables = sorted(path.name for path in packed.parent.glob("*.csv"))
    assert {"scores.csv", "verdicts.csv", "forgotten.csv"} <= {*tables}
    for name in tables:
        assert table(tmp_path / name) == table(packed.with_name(name))
    rebuilt, committed = (
        (folder / "report.md").read_text(encoding="utf-8") for folder in (tmp_path, packed.parent)
    )
    assert NUMBER.sub("#", rebuilt) == NUMBER.sub("#", committed)
    numbers = [[float(n) for n in NUMBER.findall(text)] for text in (rebuilt, committed)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.11)  # a last digit may round either way
    with tarfile.open(packed) as files:
        products = sum(name.endswith("/manifest.json") for name in files.getnames())
    assert packed.stat().st_size < 30_000 * products


NUMBER = re.compile(r"\d+(?:\.\d+)?")


def table(path: Path) -> list[dict[str, object]]:
    """A table with its numbers as numbers, to two digits."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{k: pytest.approx(float(v), abs=0.011) if NUMBER.fullmatch(v.lstrip("-")) else v for k, v in row.items()} for row in rows]  # fmt: skip


def test_the_three_studies_are_committed():
    assert {path.parent.name for path in STUDIES} >= {"table1", "table2", "table3"}


def test_the_readme_counts_what_table_2_gave():
    """7 of 54 hold, 4 do not and 43 are undecided."""
    with next(p for p in STUDIES if p.parent.name == "table2").with_name("verdicts.csv").open(encoding="utf-8") as file:  # fmt: skip
        found = Counter(row["outcome"] for row in csv.DictReader(file))
    said = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    counts = f"{found[HOLDS]} of {found.total()} hold, {found[FAILS]} do not and {found[UNCLEAR]} are undecided"
    assert counts in said


def test_the_readme_s_table_is_that_of_the_studies():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    said = [numbers(line) for line in readme.splitlines() if line.startswith("|")]
    for name in ("table1", "table2", "table3"):
        folder = next(p.parent for p in STUDIES if p.parent.name == name)
        rows = (folder / "report.md").read_text(encoding="utf-8").split("## ")[1].splitlines()
        shown = [row for row in rows if " seeds)" in row]
        assert len(shown) >= 3
        for row in shown:
            assert numbers(re.sub(r"paper [\d.]+ \([^)]*\)", "", row)) in said, row


@pytest.mark.parametrize(
    ("study", "claims", "intervals"),
    [
        ("pareto", ["bco_above_sft_plus_at_half"], True),
        ("data_scale", ["more_pairs_in_domain", "more_pairs_general"], True),
        ("delta", ["delta_gains"], True),
        ("beta", ["bco_gains"], False),
        ("gamma", ["bco_gains"], False),
        ("oracle_without_truth", ["truth_gains"], True),
        ("self_oracle", ["bco_gains"], False),
    ],
)
def test_the_readme_s_smaller_studies_are_what_they_gave(study, claims, intervals):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (said,) = re.findall(rf"^\| .*`(?:\+paper=)?{study}`\) \|(.*)\|$", readme, re.MULTILINE)
    (packed,) = (path for path in STUDIES if path.parent.name == study)
    with packed.with_name("verdicts.csv").open(encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if row["id"] in claims]
    assert found
    for row in found:
        for name in ("value", "low", "high") if intervals else ("value",):
            assert f"{abs(float(row[name])):.1f}" in said


def numbers(row: str) -> list[str]:
    """What stands in the cells of a Markdown table's row, without the first."""
    return re.findall(r"[−+]?\d+\.\d", "|".join(row.split("|")[2:]))


# ---- mistakes ----------------------------------------------------------------------------------


def test_what_is_no_study_is_a_clear_mistake(sweep, single, tmp_path):
    (tmp_path / "runs.tar.gz").write_text("no archive")
    change(single, lambda record: record["products"].pop("base_scores"))
    for source, problem in {
        tmp_path: "holds no finished run",
        single: "is damaged: delete it",
        tmp_path / "runs.tar.gz": "is not an archive of a study",
        tmp_path / "absent": "is not an archive of a study",
    }.items():
        with pytest.raises(UserError, match=problem):
            report.build(source)
    with pytest.raises(UserError, match=r"must end in \.tar\.gz"):
        archive.pack(sweep, tmp_path / "runs.zip")


@pytest.mark.parametrize("cut", [40, 2000])
def test_a_cut_archive_is_a_clear_mistake(packed, tmp_path, cut):
    (tmp_path / "runs.tar.gz").write_bytes(packed.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"^\S*runs.tar.gz is not an archive of a study [^\n]*$"):
        report.build(tmp_path / "runs.tar.gz", tmp_path / "out")


def test_a_damaged_archive_is_a_clear_mistake(packed, tmp_path):
    content = bytearray(packed.read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "runs.tar.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"runs.tar.gz"):
        report.build(tmp_path / "runs.tar.gz", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "kind", "problem"),
    [
        ("study/run.json", tarfile.SYMTYPE, "^{archive}/study holds no finished run"),
        ("../../escaped", tarfile.REGTYPE, "outside"),
    ],
)
def test_an_archive_writes_no_link_and_nothing_outside(tmp_path, name, kind, problem):
    hostile = tmp_path / "hostile.tar.gz"
    with tarfile.open(hostile, "w:gz") as file:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.size = kind, "nowhere", int(kind == tarfile.REGTYPE)
        file.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(UserError, match=problem.format(archive=re.escape(str(hostile)))):
        report.build(hostile, tmp_path / "out")


# ---- costs -------------------------------------------------------------------------------------


def test_a_shared_product_costs_once(study):
    rows = {row.stage: row for row in provenance.costs(study)}
    # Two select products and one base serve all nine runs; each run has its own training and scores.
    assert {n: row.products for n, row in rows.items()} == {"select": 2, "train": 9, "evaluate": 10}
    assert rows["evaluate"].tokens == 10 * 3 * 40 * 2 * 20
    # One pair of 3 + 3 tokens over 2 epochs; SFT+ does not train on y⁻.
    assert rows["train"].tokens == 2 * 3 * (3 + 6 + 6)
    assert provenance.total(rows.values()).products == 21


def test_a_journals_spend_counts_once(single, no_figures):
    for part, spent in {"held_out": 0.25, "rectifications": 1.5}.items():
        asked = {"kind": "gemini", "model": "pro", "reask": 1, "prompts": part}
        settings, root = {"part": part, "oracle": asked}, single.parents[1] / "products"
        target = artifacts.product(root, "rectify", settings, {"attempts": "a"})
        target.folder.mkdir(parents=True)
        artifacts.finish(target, {"ok": 1}, 3.0, {"spend": {"recorded": spent, "possible": 0.0}})
        place = {f"{part}_corrected": f"../../products/rectify/{target.key}"}
        change(single, lambda record, place=place: record["products"].update(place))
    rows = provenance.costs(Study(*load(single)))
    rectify = next(row for row in rows if row.stage == "rectify")
    assert rectify.dollars == 1.5  # the second sum includes the first
    assert rectify.seconds == 6.0
    assert "$1.50" in report.build(single).read_text()


def test_a_large_sweeps_report_still_fits_a_pull_request(tmp_path, no_figures):
    runs = tmp_path / "outputs" / "sweep"
    for number in range(40):
        make_run(runs, number, "spot_bco", 0, GOOD, f"loss.beta={number + 1}")
    text = report.build(runs).with_name("report.md").read_text(encoding="utf-8")
    assert text.count("| SPoT-BCO, β=") == 2 * 40  # scores and forgetting
    assert len(text) < 65_000
    assert not re.search(r"<[a-z/]", text)
