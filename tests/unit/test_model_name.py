"""A model is called as its folder or hub entry, unless somebody names it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spot.config.compose import compose
from spot.config.model_name import model_name
from spot.pipeline.policy import SHIPPED

CACHE = "/home/jane/.cache/huggingface/hub"
HASH = "b968826d9c46dd6066d109eabc6255188de91218"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Qwen/Qwen3-8B", "Qwen3-8B"),
        ("gpt2", "gpt2"),
        ("/data/models/Qwen3-8B", "Qwen3-8B"),
        ("/data/models/Qwen3-8B/", "Qwen3-8B"),
        ("/data/models/Qwen3-8B/hf", "Qwen3-8B/hf"),
        ("/data/Qwen3-8B/checkpoint-100", "Qwen3-8B/checkpoint-100"),
        ("/data/grpo/global_step_100/actor/huggingface", "grpo/global_step_100/actor/huggingface"),
        ("/runs/maths/epoch=3/model", "maths/epoch=3/model"),
        (f"{CACHE}/models--Qwen--Qwen3-8B/snapshots/{HASH}", "Qwen3-8B"),
        (f"{CACHE}/models--gpt2/snapshots/{HASH}", "gpt2"),
        (f"/srv/Llama-3/{HASH[:16]}/model", f"Llama-3/{HASH[:16]}/model"),
        ("/home/jane/hf", "hf"),
        ("/Users/jane/model", "model"),
        ("/root/model", "model"),
        ("/model", "model"),
        ("/mnt/models/hf", "hf"),
        ("~/student", "student"),
        ("../Phi-3/model", "Phi-3/model"),
    ],
)
def test_names(path: str, name: str) -> None:
    assert model_name(path) == name


def test_a_path_names_the_model_unless_it_is_the_options_own(tmp_path: Path) -> None:
    def named(*overrides: str) -> str:
        return compose(overrides).model.name

    folder = tmp_path / "Granite-3" / "hf"
    assert named("model=tiny_bpe", f"model.path={folder}", "data=arithmetic") == "Granite-3/hf"
    assert named("model=qwen3_8b", f"model.path={folder}") == "Granite-3/hf"
    assert named(f"model.path={folder}", "model.name=mine") == "mine"
    assert named("model=qwen3_8b") == "qwen3_8b"
    assert named("model=qwen3_8b", "model.path=Qwen/Qwen3-8B") == "qwen3_8b"
    assert named("model.path=Qwen/Qwen3-4B") == "Qwen3-4B"
    assert named() == "tiny"
    assert named("model=qwen3_8b", "model.path=null") == "qwen3_8b"


@pytest.mark.slow
def test_rows_name_the_folder_of_the_model(tmp_path: Path) -> None:
    folder = shutil.copytree(SHIPPED, tmp_path / "Student-1" / "hf")
    command = [sys.executable, "-m", "spot.cli.main", "elicit", f"model.path={folder}"]
    command += ["data.questions=2", f"output={tmp_path / 'out'}"]
    subprocess.run(command, check=True, cwd=tmp_path)
    (file,) = tmp_path.glob("out/products/elicit/*/rows.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row["model"] for row in rows} == {"Student-1/hf"}
