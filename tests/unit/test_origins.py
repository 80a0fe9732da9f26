"""`spot config` says of every value who set it, and shows the configuration that would really run."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from spot.cli import commands
from spot.config import compose, origins
from spot.utils.errors import UserError


def values(*overrides: str) -> origins.Values:
    """All values with their origins, computed ones included."""
    asked = compose.expand(list(overrides))
    job, config = asked.jobs[0]
    return origins.computed(compose.traced(job, asked.own), config)


def origin(found: origins.Values, key: str) -> str:
    return str(found[tuple(key.split("."))].origin)


@pytest.mark.parametrize(
    ("overrides", "key", "value", "where"),
    [
        ([], "data.gamma", 0.6, "conf/data/arithmetic.yaml"),
        ([], "oracle.retries", 6, "default of OracleConfig"),
        ([], "model.tuned.bco.learning_rate", None, "default of Tuned"),
        ([], "save.every", 50, "conf/config.yaml"),
        (["data.gamma=0.8"], "data.gamma", 0.8, "command line: data.gamma=0.8"),
        (["data.fields={id: key}"], "data.fields.id", "key", "command line: data.fields={id: key}"),
        (["data.fields={id: key}"], "data.fields.answer", "answer", "default of FieldsConfig"),
        (["loss=dpo"], "loss.name", "dpo", "conf/loss/dpo.yaml (loss=dpo, command line)"),
        (["arm=dft"], "loss.name", "dft", "conf/loss/dft.yaml (loss=dft, conf/arm/dft.yaml)"),
        (["arm=rft"], "data.arm", "self", "conf/arm/rft.yaml (arm=rft, command line)"),
        (["arm=rft", "loss.clip=2"], "loss.clip", 2.0, "command line: loss.clip=2"),
        (["output=o-${seed}"], "output", "o-0", "command line: output=o-${seed}"),
        (["benchmarks=quick"], "benchmarks.tasks.sums.trials", 1, "conf/benchmarks/quick.yaml"),
        (["benchmarks=quick"], "benchmarks.tasks.sums.domain", "in_domain", "conf/benchmark/sums."),
        (["+paper=table2"], "study", "table2", "experiments/paper/table2.yaml"),
        (["+paper=table2"], "data.questions", 12000, "data=arithmetic_large, experiments/paper"),
        (["+paper=table2"], "loss.name", "sft", "conf/loss/sft.yaml (loss=sft, conf/arm/sft_plus"),
        (
            ["+paper=table2", "data.questions=9"],
            "data.questions",
            9,
            "command line: data.questions",
        ),
        (["generator@evaluator=transformers"], "evaluator.top_k", 20, "generator@evaluator="),
    ],
)
def test_a_value_names_who_set_it_last(
    overrides: list[str], key: str, value: Any, where: str
) -> None:
    found = values(*overrides)
    assert found[tuple(key.split("."))].value == value
    assert where in origin(found, key)


def test_what_a_sweep_sets_is_told_from_what_was_typed() -> None:
    found = values("+paper=table3", "probe.pairs=8")
    assert origin(found, "seed") == "sweep: seed=0"
    assert origin(found, "probe.pairs") == "command line: probe.pairs=8"


def test_computed_values_are_those_the_training_uses() -> None:
    usual = values()
    assert (usual["arm",].value, usual["loss", "beta"].value) == ("spot_bco", 1.0)
    assert origin(usual, "loss.beta") == "computed: model.tuned.bco.beta, conf/model/tiny.yaml"
    assert origin(usual, "arm") == "computed: from loss.name and data.arm"
    sft = values("arm=sft")
    assert sft["loss", "beta"].value == 0.1
    assert "model.learning_rate_sft, conf/model/tiny.yaml" in origin(sft, "loss.learning_rate")
    assert origin(values("loss.beta=3"), "loss.beta") == "command line: loss.beta=3"


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["arm=rft", "model=qwen3_8b", "hardware=8xh800", "benchmarks=paper_tables"],
        ["generator@evaluator=vllm", "oracle=gemini", "data=dapo", "+oracle.extra.a=1"],
        [
            "data=gsm8k_attempts",
            "data.path=x",
            "~benchmarks.tasks.held_out",
            "output='${data.path}-o'",
        ],
    ],
    ids=str,
)
def test_the_merges_end_where_hydra_ends(overrides: list[str]) -> None:
    tree = compose.loader().load_configuration("config", overrides, compose.RunMode.RUN)
    del tree._content["hydra"]  # type: ignore[attr-defined]
    expected = OmegaConf.to_container(tree, resolve=True)
    assert origins.nested(compose.traced(overrides)) == expected


def test_yaml_is_the_configuration_again(capsys: pytest.CaptureFixture[str]) -> None:
    commands.config(["arm=dpo", "data.prompt='a: {question} # b'"])
    read = yaml.safe_load(capsys.readouterr().out)
    expected = origins.nested(values("arm=dpo", "data.prompt='a: {question} # b'"))
    assert read == expected
    assert read["data"]["prompt"] == "a: {question} # b"


def test_a_part_a_diff_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    commands.config(["loss.delta"])
    assert yaml.safe_load(capsys.readouterr().out) == {
        "loss": {"delta": {"mode": "ema", "decay": 0.9}}
    }
    commands.config(["--diff", "benchmarks=quick", "~benchmarks.tasks.sums"])
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown)["benchmarks"]["tasks"]["instructions"] == {
        "questions": 20,
        "trials": 1,
    }
    assert "usually 300" in shown
    assert "# not there, and usually is: benchmarks.tasks.sums\n" in shown
    commands.config(["--json", "+paper=table2", "seed"])
    read = json.loads(capsys.readouterr().out)
    assert read["config"] == {"seed": 0}
    assert read["origins"]["seed"] == {"kind": "sweep", "where": "seed=0"}
    assert read["sweep"]["jobs"] == 30
    assert list(read["sweep"]["varies"]) == ["arm", "seed"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dta"], "dta did you mean data?"),
        (["loss.dleta"], "loss.dleta loss.delta"),
        ([""], "empty parts:"),
        (["--yaml"], "--yaml --diff --json"),
    ],
)
def test_a_part_that_is_not_there_is_named(arguments: list[str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        commands.config(arguments)
    for word in words.split():
        assert word in str(caught.value)
