"""A run's rows in the hands of other trainers, each with its own loader."""

from __future__ import annotations

import importlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from spot.data import artifacts, chat
from spot.data.rows import Attempt, Pair, Score
from tests.support.command_line import spot
from tests.support.laptop import copy, last_run, products

FORMATS = ("trl", "trl_sdft", "verl", "prime_rl", "openrlhf", "llama_factory", "jsonl")
ROOT = Path(__file__).parents[2]
STUDENT = ROOT / "src/spot/training/assets/tiny"
PASSED = "output_dir", "max_steps", "save_strategy"  # by the recipe itself
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(laptop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the export of the laptop's run in every format."""
    folder, (run, _) = tmp_path_factory.mktemp("export"), last_run(laptop)
    for name in FORMATS:
        done = spot(folder, "export", str(run), f"format={name}", f"out={folder / name}")
        assert done.returncode == 0, done.stderr
        assert "rows)" in done.stdout
    return folder


def table(file: Path) -> Any:
    from datasets import load_dataset

    kind = "parquet" if file.suffix == ".parquet" else "json"
    return load_dataset(
        kind, data_files=str(file), split="train", cache_dir=str(file.parent / "cache")
    )


def test_every_pair_and_every_question_that_is_not_held_out(laptop: Path, exported: Path) -> None:
    made = products(laptop)
    pairs = artifacts.read_rows(made["pairs"], Pair)
    held_out = {pair.question_id for pair in artifacts.read_rows(made["held_out"], Pair)}
    asked = {a.question_id for a in artifacts.read_rows(made["attempts"], Attempt)} - held_out
    assert held_out
    for name in FORMATS:
        for file in exported.glob(f"{name}/pairs.*"):
            assert len(table(file)) == len(pairs)
        for file in exported.glob(f"{name}/questions.*"):
            assert len(table(file)) == len(asked)
    rows = table(exported / "trl/pairs.jsonl")
    assert [row["chosen"][0]["content"] for row in rows] == [pair.chosen for pair in pairs]
    (info,) = json.loads((exported / "llama_factory/dataset_info.json").read_text()).values()
    assert {*info["columns"].values()} <= {
        *table(exported / "llama_factory/pairs.jsonl").column_names
    }


def options(folder: Path) -> dict[str, Any]:
    """What all of TRL's trainers get: one step, on the processor, and nothing kept."""
    return {
        "output_dir": str(folder), "max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True, "bf16": False,
        "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1,
    }  # fmt: skip


def test_trl_takes_a_step_of_dpo_on_our_token_ids(exported: Path, tmp_path: Path) -> None:
    """With a template that writes the empty think block in a finished turn, too, as Qwen3's does."""
    from trl import DPOConfig, DPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    said = "message['role'] + '\\n'"
    assert said in tokenizer.chat_template
    block = " + ('<think>\\n\\n</think>\\n\\n' if message['role'] == 'assistant' else '')"
    tokenizer.chat_template = tokenizer.chat_template.replace(said, said + block)
    pairs = table(exported / "trl/pairs.jsonl")
    trainer = DPOTrainer(
        str(STUDENT), args=DPOConfig(**options(tmp_path)), train_dataset=pairs, processing_class=tokenizer
    )  # fmt: skip
    line = chat.token_ids(tokenizer, "\n")  # behind the end of a turn
    for pair, theirs in zip(pairs, trainer.train_dataset, strict=True):
        assert theirs["prompt_ids"] == chat.chat_ids(tokenizer, pair["prompt"])
        for side in ("chosen", "rejected"):
            ours = chat.response_ids(tokenizer, pair[side][0]["content"])
            assert theirs[f"{side}_ids"] == [*ours, *line]
    assert trainer.train().training_loss == pytest.approx(math.log(2), abs=1e-3)


def test_the_recipe_takes_a_step_of_grpo_from_what_was_trained(
    laptop: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs/examples/trainers")
    grpo = importlib.import_module("grpo")
    given = {key: value for key, value in options(tmp_path).items() if key not in PASSED}
    start, out = products(laptop)["checkpoint"] / "model", tmp_path / "grpo"
    questions = exported / "trl/questions.jsonl"
    small = {"num_generations": 2, "max_completion_length": 96, "temperature": 1.0}
    grpo.main(str(start), str(questions), str(out), "1", **given, **small)
    assert {file.name for file in out.iterdir()} >= {"model.safetensors", "tokenizer.json"}
    boxed, cut = [{"content": r"so \boxed{2}"}], [{"content": "so 2"}]
    assert grpo.right([boxed, boxed, cut], ["2", "3", "2"]) == [1, 0, 0]


def test_trl_takes_a_step_of_self_distillation(exported: Path, tmp_path: Path) -> None:
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer

    args = SDFTConfig(**options(tmp_path), max_completion_length=16, num_generations=1)
    trainer = SDFTTrainer(
        str(STUDENT), args=args, train_dataset=table(exported / "trl_sdft/pairs.jsonl")
    )
    assert trainer.train().global_step == 1


def test_a_model_from_elsewhere_is_asked_the_same(laptop: Path, tmp_path: Path) -> None:
    """The trained model itself, handed over and back, scores what it scored, answer by answer."""
    folder = copy(laptop, tmp_path)
    (run, record), made = last_run(folder), products(folder)
    back = shutil.copytree(made["checkpoint"] / "model", tmp_path / "back")
    for name in ("spot_bco", "no name"):
        refused = spot(folder, "report", str(run), f"external=[name={name},model={back}]")
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    done = spot(folder, "report", str(run), f"external=[name=back,model={back}]")
    assert done.returncode == 0, done.stderr
    place = json.loads((run / "external.json").read_text())["back"]
    again, before = (
        artifacts.read_rows(at, Score) for at in ((run / place).resolve(), made["scores"])
    )
    assert again == before
    assert json.loads((run / "run.json").read_text()) == record
    assert "Trained elsewhere" in (run / "report.html").read_text()
