"""Tiny random models and pairs, made on the spot."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

CHARACTERS = "0123456789+-= abcdefghijklmnopqrstuvwxyz."
SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 1,
}


def build_model(
    kind: str = "qwen3", vocabulary: int = 45, tied: bool = True, seed: int = 0, **size: int
) -> Any:
    """A random causal LM, in train mode, with weights large enough that tokens matter."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config, model = {
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }[kind]
    made = model(
        config(
            vocab_size=vocabulary, tie_word_embeddings=tied, initializer_range=0.1, **SIZE | size
        )
    )
    return made.train()


def build_tokenizer() -> Any:
    """One token a character, and a chat template of three special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = ["<eos>", "<pad>", "<user>", "<assistant>"]
    vocabulary = {token: i for i, token in enumerate([*specials, *CHARACTERS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<eos>",
        pad_token="<pad>",
        additional_special_tokens=specials[2:],
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<user>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return tokenizer


def build_pairs(count: int, seed: int = 0, with_rejected: bool = True) -> list[Any]:
    """Rectified pairs of random text: y⁺ leaves y⁻ somewhere."""
    from spot.data.rows import Pair

    rng = random.Random(f"pairs {seed}")
    pairs = []
    for i in range(count):
        question, rejected, rest = (
            "".join(rng.choices(CHARACTERS, k=rng.randint(*k))) for k in ((4, 9), (6, 24), (1, 9))
        )
        pairs.append(
            Pair(
                id=f"pair-{seed}-{i}",
                question_id=f"question-{i}",
                task="sums",
                arm="rectified" if with_rejected else "self",
                question=question,
                answer="1",
                chosen=rejected[: rng.randint(0, len(rejected))] + "x=" + rest,
                rejected=rejected if with_rejected else None,
                change_ratio=None,
                common_prefix=None,
                chosen_tokens=0,
                rejected_tokens=None,
            )
        )
    return pairs


@pytest.fixture(name="build_model", scope="session")
def _build_model() -> Any:
    return build_model


@pytest.fixture(name="build_pairs", scope="session")
def _build_pairs() -> Any:
    return build_pairs


@pytest.fixture(scope="session")
def pairs() -> list[Any]:
    return build_pairs(20)


@pytest.fixture(scope="session")
def held_out() -> list[Any]:
    return build_pairs(6, seed=1)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A folder in Hugging Face format with a random Qwen3 and its tokenizer."""
    folder = tmp_path_factory.mktemp("policy")
    build_model().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all else of a report."""
    from spot.report import figures

    blank = dict.fromkeys(figures.FIGURES, "<svg ></svg>")
    monkeypatch.setattr(figures, "draw_all", lambda study, folder: blank)
