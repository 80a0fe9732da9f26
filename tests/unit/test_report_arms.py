"""What tells runs apart, what differs from the defaults, and the paper's rows beside them."""

import csv
import json
from pathlib import Path

import pytest

from spot import report
from spot.config.difference import defaults, flat
from spot.report import paper
from spot.report.arm_names import arm_names, differences
from spot.report.load import Study, load
from spot.report.style import label
from spot.report.tables import columns, funnels, score_table
from spot.utils.redact import scrubbed
from tests.support.runs import make_run

ROWS = {
    "direct_2k": "data.arm=direct data.pairs=2000",
    "rectified_2k": "data.pairs=2000",
    "rectified_4k_any": "data.gamma=1.0",
    "rectified_4k": "",
}
PRINTED = {"direct_2k": 45.2, "rectified_2k": 50.4, "rectified_4k_any": 51.9, "rectified_4k": 53.3}
NINE = {
    **dict.fromkeys(("aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench"), "in_domain"),
    **dict.fromkeys(("gpqa_diamond", "connect4"), "ood"),
    "ifeval": "general",
}  # fmt: skip


SETTINGS = {
    "rounds": 1, "data.arm": "rectified", "data.pairs": 4000, "data.gamma": 0.6, "loss.name": "bco",
    "loss.beta": 0.1, "loss.delta.mode": "ema", "loss.delta.decay": 0.9, "oracle.kind": "rule",
    "oracle.resample": 0, "seed": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("runs", "labels"),
    [
        ([{}, {"seed": 3, "logger.wandb": True}], ["", ""]),
        ([{"data.gamma": 0.2}, {}], ["γ=0.2", "γ=0.6"]),
        ([{"data.pairs": 500}, {"data.pairs": 2000}], ["500 pairs", "2k pairs"]),
        (
            [
                {},
                {"loss.delta.decay": 0.5},
                {"loss.delta.mode": "cumulative"},
                {"loss.delta.mode": "zero", "loss.delta.decay": 0.5},  # a decay that nothing reads
            ],
            ["δ ema, decay 0.9", "δ ema, decay 0.5", "δ cumulative", "δ zero"],
        ),
        # No more is named than tells apart.
        ([{}, {"oracle.kind": "self", "oracle.resample": 8}], ["Oracle rule", "Oracle self"]),
        ([{}, {"rounds": 2, "data.pairs": 2000}], ["1 round", "2 rounds"]),
    ],
)
def test_arms_are_named_by_the_settings_that_have_an_effect(runs, labels):
    names = arm_names([("spot_bco", SETTINGS | run) for run in runs])
    assert [label(name) for name in names] == [
        ", ".join(["SPoT-BCO", *filter(None, [told])]) for told in labels
    ]


def test_what_an_arm_is_does_not_count_as_a_difference():
    arms = {"sft_plus": "sft", "spot_bco": "bco", "dpo": "dpo"}
    runs = [(arm, SETTINGS | {"loss.name": loss}) for arm, loss in arms.items()]
    assert arm_names(runs) == list(arms)


@pytest.fixture(scope="module")
def table3(tmp_path_factory) -> Path:
    sweep = tmp_path_factory.mktemp("outputs") / "sweep"
    for number, (row, choices) in enumerate(ROWS.items()):
        arm = "bco_direct" if row == "direct_2k" else "spot_bco"
        make_run(
            sweep, number, arm, 0, (0.5 + 0.1 * number, 0.5, 0.95), choices, "table3",
            overrides=[f"+paper/table3={row}"],
        )  # fmt: skip
    return sweep


def test_the_rows_of_table_3_have_readable_names_and_the_papers_numbers(table3):
    study = Study(*load(table3))
    assert [label(arm) for arm in study.arms] == [
        "BCO on direct answers, 2k pairs",
        "SPoT-BCO, 2k pairs, γ=0.6",
        "SPoT-BCO, 4k pairs, γ=1",
        "SPoT-BCO, 4k pairs, γ=0.6",
    ]
    beside = paper.beside(study)
    printed = [beside.value(arm, "average") for arm in study.arms]
    assert printed == list(PRINTED.values())
    assert beside.gain("base", "average") is None
    assert [row.cells[-1].paper for row in score_table(study)] == [47.1, *PRINTED.values()]


def test_a_study_at_the_papers_scale_has_its_numbers_benchmark_by_benchmark(tmp_path, no_figures):
    sweep = tmp_path / "outputs" / "sweep"
    for number, arm in enumerate(("sft", "spot_bco")):
        make_run(sweep, number, arm, 0, [0.6] * 8 + [0.9], study="table1", domains=NINE)
    study = Study(*load(sweep))
    titles = [column.title for column in columns(study)]
    shown = dict(zip(titles, score_table(study)[2].cells, strict=True))
    assert list(shown)[-1] == "average"
    assert [shown[name].paper for name in ("aime24", "in-domain mean", "connect4", "ifeval", "average")] == [
        28.0, 52.1, 36.0, 84.8, 53.3,
    ]  # fmt: skip
    assert shown["connect4"].paper_gain == pytest.approx(36.0 - 10.9)
    text = report.build(sweep).with_name("report.md").read_text()
    assert "| Llama-3.1-8B-Instruct | " in text
    sizes = (30, 30, 500, 272, 675, 198, 500, 541)  # amc23 has 40 here and there
    names = [name.replace("_", " ") for name in NINE if name != "amc23"]
    said = ", ".join(f"{name} (40 of {size})" for name, size in zip(names, sizes, strict=True))
    assert f"not its benchmarks: {said}." in text


def test_jobs_with_different_benchmarks_share_a_table(tmp_path):
    sweep = tmp_path / "outputs" / "sweep"
    make_run(sweep, 0, "spot_bco", 0, (0.9, 0.6, 0.95))
    two = {"sums": "in_domain", "extra": "ood"}
    make_run(sweep, 1, "spot_bce", 0, (0.8, 0.7), domains=two)
    study = Study(*load(sweep))
    assert study.benchmarks == ["sums"]
    assert [c.title for c in columns(study)] == ["sums", "average", "word problems", "instructions", "extra"]  # fmt: skip
    base, bco, bce = (["–" if not c.measured else round(c.accuracy.value) for c in row.cells] for row in score_table(study))  # fmt: skip
    assert base == [50, 50, 50, 95, "–"]
    assert bco == [90, 90, 60, 95, "–"]
    assert bce == [80, 80, "–", "–", 70]
    report.build(sweep)
    rows = list(csv.DictReader((sweep / "scores.csv").open()))
    assert [(r["arm"], r["benchmark"]) for r in rows if r["benchmark"] == "extra"] == [("spot_bce", "extra")]  # fmt: skip


def test_an_earlier_rounds_products_are_shown_and_break_nothing(tmp_path, no_figures):
    sweep = tmp_path / "outputs" / "runs"
    make_run(sweep, 0, "spot_bco", 0, (0.9, 0.6, 0.95), "rounds=2")
    path = sweep / "0" / "run.json"
    record = json.loads(path.read_text())
    for name in ("pairs", "checkpoint", "held_out"):
        record["products"][f"round1/{name}"] = record["products"][name]
    record["stages"][0] |= {"round": 2}
    first = {"product": "round1/pairs", "round": 1, "counts": {"rectified": 5}}
    record["stages"].insert(0, record["stages"][0] | first)
    path.write_text(json.dumps(record))
    page = report.build(sweep / "0").read_text()
    ((_, steps),) = funnels(Study(*load(sweep / "0")))
    assert [(step.name, step.total) for step in steps] == [("pairs, round 1", 5), ("pairs", 4)]
    assert '<div class="name">pairs, round 1</div>' in page


def test_differences_to_the_defaults_say_which_arm_has_what():
    usual = {"loss": {"name": "bco", "epochs": 2}, "data": {"pairs": 4000, "new": 1}, "seed": 0}
    bco = {"loss": {"name": "bco", "epochs": 3}, "data": {"pairs": 4000}, "seed": 0}
    sft = {"loss": {"name": "sft", "epochs": 3}, "data": {"pairs": 4000}, "seed": 1}
    found = differences({"spot_bco": [bco, bco | {"seed": 1}], "sft_plus": [sft]}, usual)
    assert [(d.key, d.default, d.values) for d in found] == [
        ("loss.name", "bco", [("bco", ["spot_bco"]), ("sft", ["sft_plus"])]),
        ("loss.epochs", "2", [("3", [])]),
    ]


def test_the_defaults_are_those_of_the_command():
    composed = flat(defaults())
    assert (composed["arm"], composed["loss.name"], composed["model.name"]) == ("spot_bco", "bco", "tiny")  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("python train.py output=/home/me/x 'data.path=/srv/a b/rows.jsonl' -m", "python train.py output=…/x 'data.path=…/rows.jsonl' -m"),
        ("http://10.0.0.7:8000/v1", "http://…/v1"),
        ("half of 3/4 is 3/8, and/or", "half of 3/4 is 3/8, and/or"),
        ("~/models/qwen", "…/qwen"),
        ("file:///home/me/x", "…/x"),
        ("s3://bucket-corp/x", "s3://…/x"),
        ("hdfs:///user/me/x", "hdfs://…/x"),
        ("HTTP://host.corp/v1", "HTTP://…/v1"),
        ("ws://host.corp:80/live", "ws://…/live"),
        ("grpc://host.corp:80", "grpc://…"),
        ("http://[::1]:80/v1", "http://…/v1"),
        ("http://me:word@host.corp:80/a/v1?key=word", "http://…/v1"),
        ("10.0.0.1:8000", "…:8000"),
        ("oracle.base_url=host.corp:8000", "oracle.base_url=…:8000"),
        ("me@host.corp:/srv/x", "…/x"),
        ("PATH:/home/me/x", "PATH:…/x"),
        ("{a:/home/me/b}", "{a:…/b}"),
        ("a|/home/me/x", "a|…/x"),
        ("../../home/me/x", "…/x"),
        ("~me/x/y", "…/y"),
        (r"C:\Users\me\x", "…/x"),
        ("//nas/share/x", "…/x"),
        ("/home/jane doe/secret/x.jsonl", "…/x.jsonl"),
        ("data.path=/home/jane doe/secret/x.jsonl", "data.path=…/x.jsonl"),
        ("python train.py 'data.path=/home/jane doe/x.jsonl' seed=0", "python train.py 'data.path=…/x.jsonl' seed=0"),
        ("data.paths=[/home/me/x,/srv/y]", "data.paths=[…/x,…/y]"),
        ("/home/me", "…"),
        ("output=/Users/me/", "output=…"),
        (r"C:\Users\me", "…"),
        ("key=sk-0123456789abcdef", "key=…"),
        ("oracle.api_key=word", "oracle.api_key=…"),
    ],
)  # fmt: skip
def test_no_form_of_a_place_or_a_key_is_told(text, told):
    assert scrubbed(text) == told
    assert scrubbed(told) == told


def test_a_key_is_hidden_and_the_name_of_its_variable_is_not():
    value = {"api_key": "word", "key_name": "OPENAI_API_KEY", "max_new_tokens": 128, "key": None}
    assert scrubbed(value) == value | {"api_key": "…"}
    plain = "generator.max_new_tokens=128 model=Qwen/Qwen3-8B@v1.0 +paper/table3=a at 2026-01-01T00:00:00"
    assert scrubbed(plain) == plain


def test_the_papers_own_table_has_the_rows_that_it_prints_elsewhere(tmp_path):
    sweep = tmp_path / "outputs" / "sweep"
    for number, arm in enumerate(("sft_plus", "spot_bco", "dpo")):
        make_run(sweep, number, arm, 0, (0.9, 0.6, 0.95))
    rows = paper.tables_of(Study(*load(sweep)))
    assert [(row.table, row.row) for row in rows[:3]] == [("table1", "base"), ("table1", "SFT+"), ("table1", "SPoT-BCO")]  # fmt: skip
    assert {row.table for row in rows[3:]} == {"table2"}
    assert {row.model for row in rows} == {"qwen3_8b"}  # Table 2 has one model
