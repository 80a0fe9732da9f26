"""Composing is Hydra's to the last value, and `spot config` shows what would run and what differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from spot.config import compose, difference
from tests.support.command_line import spot


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["arm=rft", "model=qwen3_8b", "hardware=8xh800", "benchmarks=paper_tables"],
        ["seed=3", "arm=dpo", "loss.beta=0.3", "loss=bco"],
        ["generator@evaluator=vllm", "oracle=gemini", "data=dapo", "+oracle.extra.a=1"],
        ["data.fields={id: key}", "+paper=table2", "arm=dft", "++data.gamma=0.5"],
        ["data.path=x", "data=gsm8k_attempts", "~benchmarks.tasks.held_out", "output='${seed}-o'"],
        ["hydra.run.dir=elsewhere", "benchmarks.tasks.sums.trials=2"],
    ],
    ids=" ".join,
)
def test_a_cached_tree_is_the_one_that_hydra_composes(overrides: list[str]) -> None:
    expected = compose.loader().load_configuration("config", overrides, compose.RunMode.RUN)
    for _ in "twice":
        tree = compose._composed(overrides, compose.RunMode.RUN)[0]
        assert tree.hydra.overrides == expected.hydra.overrides
        assert tree.hydra.runtime.choices.loss == expected.hydra.runtime.choices.loss
        for each in (tree, expected):
            OmegaConf.set_readonly(each, False)
        assert _resolved(tree) == _resolved(expected)
        compose._checked(tree, [], None)  # which takes the tree apart


def _resolved(tree: object) -> object:
    plain = OmegaConf.to_container(tree, resolve=False)
    assert isinstance(plain, dict)
    return OmegaConf.to_container(
        OmegaConf.create({k: v for k, v in plain.items() if k != "hydra"}), resolve=True
    )


def test_yaml_is_the_configuration_that_runs(tmp_path: Path) -> None:
    said = ["arm=dpo", "data.prompt='a: {question} # b'"]
    read = yaml.safe_load(spot(tmp_path, "config", *said).stdout)
    assert read == difference.resolved(compose.compose(said))
    assert read["data"]["prompt"] == "a: {question} # b"
    assert (read["arm"], read["loss"]["beta"]) == ("dpo", 1.0), "β as it was tuned for the model"


def test_parts_a_diff_and_json(tmp_path: Path) -> None:
    parts = spot(tmp_path, "config", "loss.delta", "seed").stdout
    delta = {"mode": "ema", "decay": 0.9, "micro_batch": None}
    assert yaml.safe_load(parts) == {"loss": {"delta": delta}, "seed": 0}
    shown = spot(tmp_path, "config", "--diff", "benchmarks=quick", "~benchmarks.tasks.sums").stdout
    assert yaml.safe_load(shown)["benchmarks.tasks.instructions.questions"] == 20
    assert "# default: 300\n" in shown
    assert "# absent: benchmarks.tasks.sums\n" in shown
    nothing = spot(tmp_path, "config", "--diff", "seed=0").stdout
    assert nothing == "# nothing differs from `python train.py`\n"
    study = json.loads(spot(tmp_path, "config", "--json", "--diff", "+paper=table2").stdout)
    assert study["config"]["study"] == "table2"
    assert study["default"]["data.questions"] != study["config"]["data.questions"]
    assert study["sweep"]["jobs"] == 30
    assert list(study["sweep"]["varies"]) == ["arm", "seed"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dta"], "dta did you mean data?"),
        (["loss.dleta"], "loss.dleta loss.delta"),
        (["seed.x"], "seed.x no part parts:"),
        ([""], "empty parts:"),
        (["--yaml"], "--yaml --diff --json"),
    ],
)
def test_a_part_that_is_not_there_is_named(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = spot(tmp_path, "config", *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    for word in words.split():
        assert word in done.stderr
