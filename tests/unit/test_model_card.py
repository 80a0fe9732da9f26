"""The model card: what the Hub reads of it, right numbers, and hostile text that stays text."""

import re
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from spot.config import Config, plain, resolved_loss
from spot.config.compose import compose
from spot.data import artifacts
from spot.data.rows import Attempt, Pair, Score
from spot.report import model_card
from tests.support.runs import MadeRun, made_scores, percent, rows_product

HOSTILE = "a | b `c` <d> ***\n---\ntags: [stolen]\n````\n# heading"
COMMAND = "python train.py loss=bco"
PAIR = Pair("a#0", "a", "sums", "rectified", "q", "3", "x y", "x z", 1 / 3, 2, 3, 3)


def products_of(root: Path, config: Config, arm: str = "rectified") -> dict[str, Path]:
    """Products as a run leaves them; what training computed is made up."""
    pairs = rows_product(root, "select", {}, Pair, [PAIR])
    attempt = Attempt("a#0", "a", 0, "t", "q", "1", "r", "stop", 1, None, "wrong", "m", 0)
    attempts = rows_product(root, "elicit", {}, Attempt, [attempt])
    settings = {"loss": asdict(resolved_loss(config))}
    inputs = {"policy": "f00d", "pairs": pairs.digest}
    checkpoint = artifacts.product(root, "train", settings, inputs)

    def train(folder: Path) -> dict:
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")
        kernels = {"attention": "sdpa", "logprobs": "torch"}
        final = {"loss": 0.25, f"probe/{HOSTILE}": 97.5}
        return {"steps": 7, "kernels": kernels, "over_long": [], "final": final}

    artifacts.compute_files(checkpoint, train)
    made = {"attempts": attempts, "pairs": pairs, "checkpoint": checkpoint}
    return {name: product.folder for name, product in made.items()}


def card(root: Path, *overrides: str, command: str = COMMAND, **hostile: str) -> tuple[str, dict]:
    """The text of a card, and the configuration it is about."""
    config = compose(overrides)
    for key, value in hostile.items():
        setattr(config.model, key, value)
    values = plain(config)
    return model_card.write(products_of(root, config), values, command).read_text(), values


def outline(text: str) -> tuple[list[str], list[list[list[str]]]]:
    """Headings and tables as a Markdown reader sees them; the front matter is not Markdown."""
    tokens = MarkdownIt("commonmark").enable("table").parse(ModelCard(text).text)
    headings, tables = [], []
    for before, token in pairwise(tokens):
        content = "".join(child.content for child in token.children or [])
        if before.type == "table_open":
            tables.append([])
        elif before.type in ("th_open", "td_open"):
            tables[-1][-1].append(content)
        elif before.type == "heading_open":
            headings.append(content)
        if before.type == "tr_open":
            tables[-1].append([])
    return headings, tables


def settings(text: str) -> dict[str, str]:
    return dict(outline(text)[1][0])


def test_the_hub_reads_what_it_knows(tmp_path):
    text, _ = card(tmp_path, "model=qwen3_8b", "hardware=8xh800")
    data = ModelCard(text).data
    assert data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": "Qwen/Qwen3-8B",
        "base_model_relation": "finetune",
        "tags": ["spot", "surgical-post-training", "bco", "spot-bco", "rectified"],
    }
    assert outline(text)[0][0] == "Qwen/Qwen3-8B, SPoT-BCO"


@pytest.mark.parametrize("path", [None, "/models/mine", "{folder}", HOSTILE, "a/b\n---\nc", "x"])
def test_only_a_hub_id_is_a_base_model(tmp_path, path):
    here = path.format(folder=tmp_path) if path == "{folder}" else path
    text, _ = card(tmp_path, path=here)
    assert "base_model" not in ModelCard(text).data.to_dict()


def test_it_tells_how_the_model_was_made(tmp_path):
    text, _ = card(tmp_path, "hardware=8xh800", "model=qwen3_8b", "data.gamma=0.4", "seed=3")
    told = settings(text)
    assert told["policy and reference"] == "Qwen/Qwen3-8B"
    assert told["method"] == "SPoT-BCO (loss=bco, data.arm=rectified)"
    assert (told["β"], told["γ"], told["seed"]) == ("0.1", "0.4", "3")
    assert told["learning rate"] == "1e-06, cosine, warm-up 5%"
    assert (told["epochs"], told["pairs a step"], told["optimiser steps"]) == ("2", "32", "7")
    hardware = "8xh800: 8 GPUs, DeepSpeed ZeRO-2, bf16 with fp32 master weights"
    assert told["computed on"] == hardware
    digests = {row[0]: row[1:] for row in outline(text)[1][2]}
    assert digests["policy"] == ["", "f00d"]
    assert digests["attempts"][0] == "1 wrong"
    (pairs,) = (tmp_path / "select").iterdir()
    assert digests["pairs"] == ["1 rectified", artifacts.read_manifest(pairs)["digest"]]
    assert "trained on 1 pair made from its own wrong responses" in text
    assert f"```sh\n{COMMAND}\n```" in text
    assert f"torch {artifacts.versions()['torch']}" in text
    assert f"Git revision {artifacts.revision() or 'unknown'}" in text
    assert "enable_thinking=False" in text


def test_it_says_how_many_rounds_it_was_trained(tmp_path):
    config = compose(["model=qwen3_8b", "rounds=2"])
    products = products_of(tmp_path, config)
    text = model_card.write(products, plain(config), COMMAND).read_text()
    assert "trained in 2 rounds, each from the model of the round before" in text
    assert "in the last on 1 pair made from its own wrong responses" in text
    policy = "the model of round 1, which began with Qwen/Qwen3-8B"
    assert settings(text)["policy and reference"] == policy
    first = model_card.write(products, plain(config), COMMAND, number=1).read_text()
    assert "trained on 1 pair made from" in first
    assert settings(first)["policy and reference"] == "Qwen/Qwen3-8B"


def test_a_method_without_rewards_has_no_beta(tmp_path):
    told = settings(card(tmp_path, "arm=sft_plus")[0])
    assert not {"β", "δ"} & set(told)
    assert told["computed on"] == "cpu: 1 CPU process, fp32"


def test_hostile_text_stays_text(tmp_path):
    command = f"python train.py '{HOSTILE}'"
    text, config = card(tmp_path, command=command, name=HOSTILE, path=HOSTILE, revision=HOSTILE)
    assert ModelCard(text).data.tags == ["spot", "surgical-post-training", "bco", "spot-bco", "rectified"]  # fmt: skip
    headings, tables = outline(text)
    assert headings[1:] == ["Use", "Training", "Data", "How to repeat it", "License"]
    assert [{len(row) for row in table} for table in tables] == [{2}, {2}, {3}]
    metrics = dict(tables[1])
    assert metrics.pop("loss") == "0.25"
    assert list(metrics.values())[1:] == ["97.5"]
    blocks = {t.info: t.content for t in MarkdownIt().parse(ModelCard(text).text) if t.type == "fence"}  # fmt: skip
    assert blocks["sh"].rstrip("\n") == command
    assert yaml.safe_load(blocks["yaml"]) == config


def test_scores_stand_before_and_after_with_their_difference(tmp_path):
    config = compose(["benchmarks=laptop"])
    products = products_of(tmp_path, config)
    path = model_card.write(products, plain(config), COMMAND)
    assert "## Scores" not in path.read_text()
    asked = MadeRun(questions=40, trials=2)
    for name, shares in {"base_scores": (0.5, 0.5, 0.95), "scores": (0.9, 0.6, 0.95)}.items():
        rows = made_scores(asked, percent(shares))
        products[name] = rows_product(tmp_path, "evaluate", {"of": name}, Score, rows).folder
    path = model_card.write(products, plain(config), COMMAND)
    rows = {row[0]: row[1:] for row in outline(path.read_text())[1][0]}
    assert list(rows)[1:] == ["sums", "word problems", "instructions", "average"]
    sums = rows["sums"]
    assert sums[0] == "in-domain · 40 × 2"
    # 20 of 40 questions right: sd 50.6 points, t 2.02, so ± 16.2; 16 of 40 differ: 49.6, ± 15.9. Only 4
    # of 40 wrong: Clopper-Pearson's, exact.
    assert sums[1:] == ["50.0 [33.8, 66.2]", "90.0 [76.3, 97.2]", "+40.0 [+24.1, +55.9]"]
    assert re.match(r"65\.0 \[.*\]", rows["average"][1])
    assert re.match(r"\+16\.7 \[", rows["average"][3])


def test_it_changes_no_product(tmp_path):
    """Two commands that train the same weights share a product, whoever wrote the card last."""
    config = compose([])
    products = products_of(tmp_path, config)
    digest = artifacts.read_manifest(products["checkpoint"])["digest"]
    for command in ("python train.py", "python train.py seed=0"):
        model_card.write(products, plain(config), command)
        artifacts.verify(products["checkpoint"])
        assert artifacts.read_manifest(products["checkpoint"])["digest"] == digest


def test_a_card_tells_no_path_of_the_machine(tmp_path):
    """The model has its folder's name; where that lies, and where the data do, is nobody's business."""
    paths = (
        "model.path=/home/jane/Granite-3/hf",
        "data=jsonl",
        "data.path='/srv/our data/x.jsonl'",
    )
    command = "python train.py 'data.path=/srv/our data/x.jsonl' model.path=/home/jane/Granite-3/hf"
    asked = ("oracle=openai", "oracle.model=big", "oracle.base_url=http://node7:8000/v1")
    text, _ = card(tmp_path, *paths, *asked, command=command)
    assert outline(text)[0][0] == "Granite-3/hf, SPoT-BCO"
    assert settings(text)["policy and reference"] == "Granite-3/hf"
    for private in ("/home", "jane", "/srv", "our data", "node7"):
        assert private not in text
