"""A key that takes text takes it as it was typed, also where YAML or Hydra would see a number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from spot.config import compose
from spot.config.groups import FieldsConfig
from spot.config.loss import DeltaConfig
from spot.config.text import FileConfigSource, keep_text
from tests.support.command_line import spot


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return config


@pytest.mark.parametrize(
    "line",
    [
        *("model.revision=6404e09", "oracle.model=4.10", "data.subset=1_000", "data.subset=-1"),
        *("model.revision=0123", "oracle.model=true", "logger.project=007", "output=1e3"),
        *("data.subset=nan", "data.subset=1:30", "data.subset=0x1f", "data.fields.id=00"),
        *("++data.split=1.0", "benchmarks.tasks.sums.revision=12e3", "model.path=/a/b (c)"),
        *("data.path=/home/o'neil/a[1].jsonl", "data.path=/a{b}", "oracle.model=a(b"),
        *("oracle.base_url=http://a/b?c=d=e", "model.path=/données/m", "oracle.model=é:1.0"),
    ],
)
def test_text_is_kept_as_typed(line: str) -> None:
    key, _, value = line.lstrip("+").partition("=")
    assert _at(compose.compose([line]), key) == value


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("data.subset=null", None),
        ("data.subset='null'", "null"),
        ("data.subset='1_000'", "1_000"),
        ("data.subset= 4.10 ", "4.10"),
        ("model.path='a,1,b'", "a,1,b"),
        ("data.subset=${data.split}", "train"),
        ("generator.arguments=[--seed,1_0,'2.50',true]", ["--seed", "1_0", "2.50", "true"]),
        ("+oracle.extra.top_p=0.50", 0.5),
        (
            "data.fields={id: 1_0, question: 'a, b: 4.10', answer: 4.10}",
            FieldsConfig("1_0", "a, b: 4.10", "4.10"),
        ),
        ("loss.delta={mode: zero, decay: 0.50}", DeltaConfig("zero", 0.5)),
        ("data.questions=1_000", 1000),
        ("data.gamma=1e-1", 0.1),
        ("model.thinking=True", True),
    ],
)
def test_null_quotes_lists_and_numbers_stay_what_they_are(line: str, value: object) -> None:
    assert _at(compose.compose([line]), line.lstrip("+").partition("=")[0]) == value


def test_a_sweep_keeps_text_too() -> None:
    asked = compose.expand(["model.revision=6404e09,7e10,abc", "seed=1_0"], sweep=True)
    assert [config.model.revision for _, config in asked.jobs] == ["6404e09", "7e10", "abc"]
    again = [compose.compose(job).model.revision for job, _ in asked.jobs]
    assert again == ["6404e09", "7e10", "abc"], "a job is the command that a person would type"


def test_the_run_itself_gets_what_was_typed(tmp_path: Path) -> None:
    said = spot(tmp_path, "run", "model.revision=6404e09", "oracle.model=4.10", "--cfg", "job")
    read = yaml.safe_load(said.stdout)
    assert (read["model"]["revision"], read["oracle"]["model"]) == ("6404e09", "4.10")


def test_the_environment_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVISION", "6404e09")
    assert compose.compose(["model.revision=${oc.env:REVISION}"]).model.revision == "6404e09"


def test_yaml_files_keep_text(tmp_path: Path) -> None:
    files = {
        "model/mine": "name: 4.10\npath: 0123\nrevision: 6404e09\nthinking: yes\ncontext_length: 1_000\n",
        "paper/mine": "# @package _global_\ndata:\n  <<: {subset: 1_000, split: no}\n  matched: [1, 2.50]\n"
        "  questions: 1_000\nlogger: {project: 007}\noracle: {model: on, prompt: ~, extra: {n: 1.50}}\n"
        "hydra: {sweeper: {params: {model.revision: 6404e09, data.subset: '1_0,2_0', seed: '1,2'}}}\n",
        "benchmark/mine": "# @package _group_\nrevision: 12e3\ntrials: 5\n",
    }
    read = {}
    for name, text in files.items():
        file = tmp_path / f"{name}.yaml"
        file.parent.mkdir()
        file.write_text(text)
        read[name] = FileConfigSource("test", str(tmp_path)).load_config(name).config
    assert read["model/mine"] == {
        "name": "4.10", "path": "0123", "revision": "6404e09", "thinking": True, "context_length": 1000,
    }  # fmt: skip
    assert read["benchmark/mine"] == {"revision": "12e3", "trials": 5}
    study = read["paper/mine"]
    assert study.data == {
        "subset": "1_000", "split": "no", "matched": ["1", "2.50"], "questions": 1000
    }  # fmt: skip
    assert (study.logger.project, study.oracle.model, study.oracle.prompt) == ("007", "on", None)
    assert study.oracle.extra == {"n": 1.5}
    params = study.hydra.sweeper.params
    assert params["seed"] == "1,2"
    assert keep_text(f"data.subset={params['data.subset']}") == "data.subset='1_0','2_0'"
    assert params["model.revision"] == "'6404e09'"
