"""Students: exact text, the chat template, repeatable pretraining, and the one that ships."""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from spot.config import PretrainConfig
from spot.data import laptop_corpus, laptop_world
from spot.data.chat import prompt_ids, response_ids
from spot.grading.laptop import DOMAINS
from spot.oracle.rule import collected, rewrite
from spot.training import pretrain

SHIPPED = Path(pretrain.__file__).parent / "assets" / "tiny"


def settings(**changes: Any) -> Any:
    small = {
        "corpus": "arithmetic",
        "vocabulary": 300,
        "layers": 1,
        "width": 16,
        "heads": 2,
        "steps": 3,
        "batch": 4,
        "learning_rate": 1e-2,
        "seed": 0,
    }
    return PretrainConfig(**small | changes)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return pretrain.arithmetic_tokenizer()


def test_everything_the_world_says_comes_back_exactly(tokenizer: Any) -> None:
    texts = [text for row in islice(laptop_corpus.rows(11), 300) for text in row]
    rng = random.Random(11)
    chains = [laptop_world.draw_chain(rng, "sums") for _ in range(50)]
    texts += [collected(chain) for chain in chains]
    texts += [rewrite(laptop_world.work(chain)) for chain in chains]
    for task in ("sums", *(f"benchmark/{name}" for name in DOMAINS)):
        texts += [question.text for question in laptop_world.questions(50, 11, task)]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids, text
        assert tokenizer.decode(ids) == text
    assert len(tokenizer) <= 250


def test_digits_stand_alone_and_a_word_takes_its_blank(tokenizer: Any) -> None:
    ids = tokenizer(r"Find 85 - 7. $\boxed{1}$.", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "Find", " 8", "5", " -", " 7", ".", r" $\boxed{", "1", "}", "$", "."
    ]  # fmt: skip


def test_the_template_closes_thinking_in_the_prompt(tokenizer: Any) -> None:
    assert tokenizer.decode(prompt_ids(tokenizer, "What is 1 + 2?")) == (
        "<|im_start|>user\nWhat is 1 + 2?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert "<think>" not in tokenizer.decode(prompt_ids(tokenizer, "What is 1 + 2?", thinking=True))
    assert response_ids(tokenizer, "3").count(tokenizer.eos_token_id) == 1
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_same_settings_make_the_same_student(tmp_path: Path) -> None:
    manifests = [pretrain.make(tmp_path / name, settings()) for name in "ab"]
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert a == b
    assert manifests[0]["settings"] == vars(settings())
    pretrain.make(tmp_path / "c", settings(seed=1))
    assert (tmp_path / "c" / "model.safetensors").read_bytes() != a


def test_pretraining_learns_and_what_is_saved_loads(tmp_path: Path) -> None:
    manifest = pretrain.make(tmp_path, settings(steps=60, batch=8))
    assert manifest["loss_last"] < 4.0  # ln 144 = 4.97 at the start
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert model.dtype == torch.float32
    assert model.config.max_position_embeddings == 256
    assert loaded.eos_token_id == model.generation_config.eos_token_id
    assert prompt_ids(loaded, "Find 1 + 2.") == prompt_ids(
        pretrain.arithmetic_tokenizer(), "Find 1 + 2."
    )


def test_a_student_of_any_text(tmp_path: Path) -> None:
    rows = [
        (f"How many eggs are {i} dozen?", f"{i} × 12 = {12 * i}\n#### {12 * i}") for i in range(40)
    ]
    rows.append(("Tell me everything.", "long " * 400))
    manifest = pretrain.make(tmp_path, settings(corpus="data"), context_length=128, rows=rows)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for text in (rows[3][1], "Ünseen wörds — 12,5 €"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
    assert len(tokenizer) <= 300
    assert manifest["dropped_over_long"] > 0


def test_only_the_response_is_learned_and_the_filling_is_not(tokenizer: Any) -> None:
    batches = pretrain._batches(laptop_corpus.rows(0), tokenizer, settings(), 256, {"dropped": 0})
    inputs, labels = next(batches)
    assert inputs.shape == labels.shape
    assert inputs.shape[0] == 4
    for ids, wanted in zip(inputs.tolist(), labels.tolist(), strict=True):
        end_of_prompt = ids.index(tokenizer.convert_tokens_to_ids("</think>")) + 2
        assert set(wanted[:end_of_prompt]) == {pretrain.IGNORED}
        learned = [i for i in wanted if i != pretrain.IGNORED]
        assert learned == ids[end_of_prompt : end_of_prompt + len(learned)]
        assert learned.count(tokenizer.eos_token_id) == 1


def test_the_shipped_student_is_small_and_sound() -> None:
    assert (SHIPPED / "model.safetensors").stat().st_size <= 4_000_000
    manifest = json.loads((SHIPPED / "manifest.json").read_text(encoding="utf-8"))
    model = AutoModelForCausalLM.from_pretrained(SHIPPED)
    assert model.dtype == torch.float32
    assert manifest["parameters"] == sum(p.numel() for p in model.parameters())
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    ids = torch.tensor([prompt_ids(tokenizer, "What is 42 + 37 - 15 + 31?")])
    out = model.generate(ids, max_new_tokens=80, do_sample=False)
    assert tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True) == (
        "42 + 37 = 79. 79 - 15 = 64. 64 + 31 = 95. "
        r"Therefore, the final answer is: $\boxed{95}$."
    )
