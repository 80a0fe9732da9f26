"""Students made on this machine: a tokenizer, a small Qwen3 and their pretraining.

The laptop world's student reads a seeded synthetic corpus word by word, digits one by one; a student for
text of your own learns byte pairs from it. Both chat through a template like Qwen3's.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from spot.config import PretrainConfig
from spot.data import laptop_corpus as corpus
from spot.data import laptop_world
from spot.data.chat import prompt_ids, response_ids
from spot.oracle.rule import collected, rewrite
from spot.training.checkpoint import declare_dtype, save_model
from spot.utils.progress import track

Rows = Sequence[tuple[str, str]]  # (question, response)

END, PAD, UNKNOWN = "<|im_end|>", "<|endoftext|>", "<|unknown|>"
SPECIAL = (PAD, "<|im_start|>", END, UNKNOWN, "<think>", "</think>")
# A word or a sign with the blank before it; single digits; the opening of a box.
WORDS = r"\n+| ?\$\\boxed\{| ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|im_start|>assistant\\n' -}}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}"
    "{{- '<think>\\n\\n</think>\\n\\n' -}}"
    "{%- endif -%}"
    "{%- endif -%}"
)
IGNORED = -100
POOL = 32  # batches whose rows are sorted by length together


# ------------------------------------------------------------------------------------ tokenizers


def arithmetic_tokenizer() -> PreTrainedTokenizerFast:
    """Word by word and digit by digit over everything the laptop world says."""
    splitter = pre_tokenizers.Split(Regex(WORDS), "isolated")
    words = {word for text in _world_texts() for word, _ in splitter.pre_tokenize_str(text)}
    words |= {str(d) for d in range(10)} | {f" {d}" for d in range(10)}
    words |= {"user", "assistant", "system", "\n", "\n\n"}
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Fuse()
    return _chatting(tokenizer)


def new_tokenizer_from_text(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte pairs learned from `texts`; any text can be written, and digits stand alone."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _chatting(tokenizer)


def _chatting(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _world_texts() -> Iterator[str]:
    """Enough questions and responses to hold every word."""
    for row in islice(corpus.rows(0), 4000):
        yield from row
    rng = random.Random(0)
    for _ in range(50):
        chain = laptop_world.draw_chain(rng, "pretraining")
        yield collected(chain)
        yield rewrite(laptop_world.work(chain))


# ------------------------------------------------------------------------------------ the model


def new_model(tokenizer: Any, settings: PretrainConfig, context_length: int) -> Qwen3ForCausalLM:
    """A Qwen3 with fresh weights (from torch's global seed) for the tokenizer's vocabulary."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=3 * settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        head_dim=settings.width // settings.heads,
        max_position_embeddings=context_length,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


# ------------------------------------------------------------------------------------ pretraining


def make(
    folder: Path, settings: PretrainConfig, context_length: int = 256, rows: Rows | None = None
) -> dict[str, Any]:
    """Make a student: tokenizer, weights and `manifest.json` in `folder`, in Hugging Face format.

    With `settings.corpus == "data"` it learns from `rows`; otherwise from the laptop world's corpus.
    The same settings and thread count give the same bytes on the same machine. Returns the manifest.
    """
    started = time.monotonic()
    torch.set_flush_denormal(True)  # vanishing gradients cost a multiple otherwise
    torch.manual_seed(settings.seed)
    if settings.corpus == "data":
        assert rows, "a student of the data needs rows"
        tokenizer = new_tokenizer_from_text([t for row in rows for t in row], settings.vocabulary)
        source = _shuffled_forever(rows, settings.seed)
    else:
        tokenizer = arithmetic_tokenizer()
        source = corpus.rows(settings.seed)
    model = new_model(tokenizer, settings, context_length)
    curve, dropped = _pretrain(model, tokenizer, source, settings, context_length)
    save_model(model.half(), tokenizer, folder)
    declare_dtype(folder, torch.float32)  # stored in half precision, always loaded as fp32
    manifest = {
        "settings": asdict(settings),
        "context_length": context_length,
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "loss_last": round(sum(curve[-50:]) / len(curve[-50:]), 4),
        "dropped_over_long": dropped,
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - started, 1),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, tokenizers)},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def _pretrain(
    model: Qwen3ForCausalLM,
    tokenizer: Any,
    source: Iterator[tuple[str, str]],
    settings: PretrainConfig,
    context_length: int,
) -> tuple[list[float], int]:
    """AdamW, 5% warm-up, cosine to zero. The loss of each step, and how many rows were too long."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _warm_cosine(step, settings.steps)
    )
    model.train()
    curve: list[float] = []
    counter = {"dropped": 0}
    batches = _batches(source, tokenizer, settings, context_length, counter)
    for inputs, labels in track(islice(batches, settings.steps), "pretraining", settings.steps):
        logits = model(input_ids=inputs, use_cache=False).logits
        loss = cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        curve.append(float(loss.detach()))
    return curve, counter["dropped"]


def _warm_cosine(step: int, steps: int) -> float:
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _batches(
    source: Iterator[tuple[str, str]],
    tokenizer: Any,
    settings: PretrainConfig,
    context_length: int,
    counter: dict[str, int],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids and labels `[batch, length]`, filled up on the right: a causal model never sees that."""
    rng = random.Random(settings.seed)
    while True:
        pool: list[tuple[list[int], list[int]]] = []
        while len(pool) < POOL * settings.batch:
            question, response = next(source)
            prompt = prompt_ids(tokenizer, question)
            ids = prompt + response_ids(tokenizer, response)
            if len(ids) > context_length:
                counter["dropped"] += 1
                continue
            pool.append((ids, [IGNORED] * len(prompt) + ids[len(prompt) :]))
        pool.sort(key=lambda row: len(row[0]))
        starts = list(range(0, len(pool), settings.batch))
        rng.shuffle(starts)
        for start in starts:
            rows = pool[start : start + settings.batch]
            yield (
                _padded([ids for ids, _ in rows], tokenizer.pad_token_id),
                _padded([labels for _, labels in rows], IGNORED),
            )


def _padded(rows: list[list[int]], filler: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])


def _shuffled_forever(rows: Rows, seed: int) -> Iterator[tuple[str, str]]:
    rng = random.Random(seed)
    order = list(rows)
    while True:
        rng.shuffle(order)
        yield from order
