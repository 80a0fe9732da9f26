"""Generation with a Hugging Face model in this process: the embedded default, and the live probe.

Prompts of similar length share a batch. The batch grows by one token per step over a key-value
cache that is written in place, and finished rows leave it. What a row samples depends on its own
seed only: one uniform number per step, drawn beforehand, picks from its distribution.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils.logging import disable_progress_bar

from spot.chat import prompt_ids
from spot.generation.types import LENGTH, PROMPT_TOO_LONG, STOP, Completion, Request, Sampling

FIRST_ROOM = 128  # new tokens the cache has room for at first; doubled when they are used up
ATTENTION = "spot_generation"  # the name under which transformers finds `_attend`
COMPACT_BELOW = 0.75  # finished rows leave the batch when less than this share of it still runs


class TransformersGenerator:
    """Generates with a model that is in memory, whatever trains it meanwhile."""

    def __init__(
        self, model: Any, tokenizer: Any, batch_size: int = 256, thinking: bool = False
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.thinking = thinking
        self.context_length = int(model.config.max_position_embeddings)
        self.stop_ids = _stop_ids(model, tokenizer)

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, done: Collection[str] = ()
    ) -> Iterator[Completion]:
        """Completions batch by batch, without the `done`.

        Batches are cut from all requests, done or not, so that a resumed run computes the very
        batches of an uninterrupted one and its rows have the same bytes.
        """
        finished = set(done)
        prompts = {
            r.key: prompt_ids(self.tokenizer, r.question, thinking=self.thinking) for r in requests
        }
        if len(prompts) != len(requests):
            raise ValueError("two requests have the same key")
        fits = []
        for request in requests:
            if len(prompts[request.key]) < self.context_length:
                fits.append(request)
            elif request.key not in finished:
                tokens = len(prompts[request.key])
                yield Completion(request.key, "", (), PROMPT_TOO_LONG, tokens)
        fits.sort(key=lambda r: (len(prompts[r.key]), r.key))
        for start in range(0, len(fits), self.batch_size):
            batch = fits[start : start + self.batch_size]
            if all(r.key in finished for r in batch):
                continue
            outputs = self._generate_batch(
                [prompts[r.key] for r in batch], [r.seed for r in batch], sampling
            )
            for request, (ids, reason) in zip(batch, outputs, strict=True):
                if request.key not in finished:
                    text = self.tokenizer.decode(
                        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                    )
                    tokens = len(prompts[request.key])
                    yield Completion(request.key, text, tuple(ids), reason, tokens)

    def _generate_batch(
        self, prompts: list[list[int]], seeds: list[int], sampling: Sampling
    ) -> list[tuple[list[int], str]]:
        """The new token ids, without end of sequence, and the finish reason of each row."""
        device = next(self.model.parameters()).device
        limits = [min(sampling.max_new_tokens, self.context_length - len(p)) for p in prompts]
        uniforms_B_S = torch.from_numpy(_uniforms(seeds, max(limits))).to(device)
        limits_B = torch.tensor(limits, device=device)
        stop_ids = torch.tensor(self.stop_ids, device=device)
        tokens_B_S = torch.zeros(len(prompts), max(limits), dtype=torch.long, device=device)
        lengths_B = torch.zeros_like(limits_B)
        rows = torch.arange(
            len(prompts), device=device
        )  # of the batch, that still run or just ended
        running = torch.ones_like(rows, dtype=torch.bool)
        with _inference(self.model), torch.inference_mode():
            decoder = _Decoder(self.model, prompts, max(limits), device)
            logits_b_V = decoder.read_prompts()
            for step in range(max(limits)):
                next_b = sample(logits_b_V, uniforms_B_S[rows, step], sampling)
                tokens_B_S[rows, step] = next_b
                ended = torch.isin(next_b, stop_ids)
                ends = running & (ended | (limits_B[rows] == step + 1))
                lengths_B[rows[ends]] = torch.where(ended, step, step + 1)[ends]
                running &= ~ends
                count = int(running.sum())
                if count == 0:
                    break
                if count < COMPACT_BELOW * len(rows):
                    decoder.keep(running)
                    rows, next_b, running = rows[running], next_b[running], running[running]
                logits_b_V = decoder.read_tokens(next_b)
        tokens, lengths = tokens_B_S.tolist(), lengths_B.tolist()
        ran_out = [length == limit for length, limit in zip(lengths, limits, strict=True)]
        return [
            (row[:length], LENGTH if out else STOP)
            for row, length, out in zip(tokens, lengths, ran_out, strict=True)
        ]


def load(
    folder: str | Path,
    *,
    batch_size: int = 256,
    thinking: bool = False,
    device: str = "cpu",
    dtype: str = "float32",
) -> TransformersGenerator:
    """A generator of the model and tokenizer saved in `folder` (Hugging Face format)."""
    disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return TransformersGenerator(model.to(device).eval(), tokenizer, batch_size, thinking)


def sample(logits_B_V: Tensor, uniforms_B: Tensor, sampling: Sampling) -> Tensor:
    """The next token of each row, `[B]`: greedy, or by inverse CDF over the limited distribution."""
    if sampling.temperature == 0:
        return logits_B_V.argmax(dim=-1)
    probs_B_k, ids_B_k = limited_distribution(logits_B_V, sampling)
    cdf_B_k = probs_B_k.cumsum(dim=-1)
    threshold_B = uniforms_B * cdf_B_k[:, -1]
    chosen_B = (cdf_B_k <= threshold_B[:, None]).sum(dim=-1)
    last_B = (probs_B_k > 0).sum(dim=-1) - 1  # rounding must not reach a token of no probability
    return ids_B_k.gather(1, torch.minimum(chosen_B, last_B)[:, None])[:, 0]


def limited_distribution(logits_B_V: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Probabilities after temperature, top-k and top-p, and their token ids, both `[B, k]`, descending.

    Top-p keeps the tokens before which less than `top_p` of the mass lies (after top-k), so at
    least one; the others have probability 0. Only k logits are sorted.
    """
    vocabulary = logits_B_V.shape[-1]
    k = min(sampling.top_k, vocabulary) if sampling.top_k > 0 else vocabulary
    values_B_k, ids_B_k = torch.topk(logits_B_V.float(), k, dim=-1)
    probs_B_k = torch.softmax(values_B_k / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        before_B_k = probs_B_k.cumsum(dim=-1) - probs_B_k
        outside_B_k = before_B_k >= sampling.top_p
        outside_B_k[:, 0] = False
        probs_B_k = probs_B_k.masked_fill(outside_B_k, 0.0)
        probs_B_k = probs_B_k / probs_B_k.sum(dim=-1, keepdim=True)
    return probs_B_k, ids_B_k


class _Decoder:
    """A batch of left-padded prompts read once, then one token a step."""

    def __init__(
        self, model: Any, prompts: list[list[int]], new_tokens: int, device: torch.device
    ) -> None:
        self.model = model
        self.prompt_length = max(len(p) for p in prompts)
        self.new_tokens = new_tokens
        self.padding_B = torch.tensor([self.prompt_length - len(p) for p in prompts], device=device)
        padded = [[p[0]] * (self.prompt_length - len(p)) + p for p in prompts]
        self.input_ids_B_P = torch.tensor(padded, device=device)
        self.cache = _Cache()
        self.mask_B_1_1_L = self._make_room(FIRST_ROOM)

    def read_prompts(self) -> Tensor:
        """Logits after each prompt, `[B, V]`. Padding is seen by nobody and has no position."""
        columns_P = torch.arange(self.prompt_length, device=self.padding_B.device)
        real_B_P = columns_P >= self.padding_B[:, None]
        causal_P_P = columns_P[:, None] >= columns_P
        # A padding query sees itself: a row of nothing but -inf would be NaN.
        itself_P_P = columns_P[:, None] == columns_P
        seen_B_1_P_P = ((real_B_P[:, None, :] & causal_P_P) | itself_P_P)[:, None]
        positions_B_P = (columns_P - self.padding_B[:, None]).clamp(min=0)
        return self._forward(self.input_ids_B_P, positions_B_P, seen_B_1_P_P)

    def read_tokens(self, tokens_B: Tensor) -> Tensor:
        """Logits after one more token in each row, `[B, V]`."""
        end = self.cache.length + 1
        if end > self.cache.capacity:
            self.mask_B_1_1_L = self._make_room(2 * (self.cache.capacity - self.prompt_length))
        positions_B_1 = (self.cache.length - self.padding_B)[:, None]
        return self._forward(tokens_B[:, None], positions_B_1, self.mask_B_1_1_L[..., :end])

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only (a boolean mask)."""
        self.cache.keep(rows)
        self.padding_B = self.padding_B[rows]
        self.mask_B_1_1_L = self.mask_B_1_1_L[rows]

    def _make_room(self, new_tokens: int) -> Tensor:
        """Let the cache grow to so many new tokens; the mask over it, `[B, 1, 1, capacity]`."""
        self.cache.capacity = self.prompt_length + min(new_tokens, self.new_tokens)
        columns_L = torch.arange(self.cache.capacity, device=self.padding_B.device)
        hidden_B_L = columns_L < self.padding_B[:, None]
        # Additive: a boolean mask would be converted again in every layer of every step.
        mask_B_L = torch.zeros(hidden_B_L.shape, dtype=self.model.dtype, device=hidden_B_L.device)
        return mask_B_L.masked_fill(hidden_B_L, float("-inf"))[:, None, None]

    def _forward(self, ids_B_T: Tensor, positions_B_T: Tensor, mask: Tensor) -> Tensor:
        logits_B_1_V = self.model(
            input_ids=ids_B_T,
            attention_mask=mask,
            position_ids=positions_B_T,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        self.cache.length += ids_B_T.shape[1]
        return logits_B_1_V[:, -1]


class _Cache:
    """Keys and values of all layers, `[B, heads, capacity, width]`, written in place.

    Speaks the part of transformers' Cache interface that decoder layers use.
    """

    def __init__(self) -> None:
        self.capacity = 0
        self.length = 0  # columns that hold tokens; advanced once all layers have written
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: object
    ) -> tuple[Tensor, Tensor]:
        """Write the new columns; return all columns so far."""
        end = self.length + keys.shape[2]
        stored = self.layers.get(layer_idx)
        if stored is None or stored[0].shape[2] < end:
            stored = (
                self._allocate(keys, stored and stored[0]),
                self._allocate(values, stored and stored[1]),
            )
            self.layers[layer_idx] = stored
        stored[0][:, :, self.length : end] = keys
        stored[1][:, :, self.length : end] = values
        return stored[0][:, :, :end], stored[1][:, :, :end]

    def keep(self, rows: Tensor) -> None:
        self.layers = {i: (keys[rows], values[rows]) for i, (keys, values) in self.layers.items()}

    def _allocate(self, like: Tensor, old: Tensor | None) -> Tensor:
        batch, heads, _, width = like.shape
        new = like.new_empty(batch, heads, self.capacity, width)
        if old is not None:
            new[:, :, : self.length] = old[:, :, : self.length]
        return new


@contextmanager
def _inference(model: Any) -> Iterator[None]:
    """Evaluation mode and attention for one query at a time, then whatever was before."""
    training, attention = model.training, model.config._attn_implementation
    model.eval()
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.train(training)
        model.set_attn_implementation(attention)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """One query `[B, heads, 1, width]` per row over keys `[B, groups, L, width]`; more go to SDPA.

    On a CPU two matrix products over the cache as it lies take half of SDPA's time.
    """
    if query.shape[2] > 1 or query.device.type != "cpu" or query.dtype != torch.float32:
        return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **kwargs)
    batch, heads, _, width = query.shape
    grouped = query.reshape(batch, key.shape[1], heads // key.shape[1], width)
    weights = torch.softmax(grouped @ key.transpose(2, 3) * scaling + mask, dim=-1)
    return (weights @ value).reshape(batch, 1, heads, width), None


AttentionInterface.register(ATTENTION, _attend)


def _uniforms(seeds: list[int], steps: int) -> np.ndarray:
    """`[rows, steps]` in [0, 1): the n-th number of a row depends on its seed and n alone."""
    draws = [np.random.Generator(np.random.PCG64(s)).random(steps) for s in seeds]
    return np.stack(draws).astype(np.float32)


def _stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """What ends a response: the tokenizer's end of sequence, and the model's own list."""
    configured = model.generation_config.eos_token_id if model.can_generate() else None
    if not isinstance(configured, (list, tuple)):
        configured = [configured]
    ids = {tokenizer.eos_token_id, *configured} - {None}
    return sorted(int(i) for i in ids)
