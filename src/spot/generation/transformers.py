"""Generation with a Hugging Face model in this process: the embedded default, and the live probe.

Requests are cut into waves of several batches, longest prompts first. Within a wave a batch is
refilled as its rows finish. What a row samples depends on its own seed only: one uniform number per
token picks from its distribution.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from spot.data import chat
from spot.generation.agreement import differ
from spot.generation.decoding import Row, decode
from spot.generation.folder import check_folder, context_length
from spot.generation.types import LENGTH, PROMPT_TOO_LONG, STOP, Completion, Request, Sampling
from spot.utils.errors import UserError, first_line

WAVE = 4  # batches


class TransformersGenerator:
    """Generates with a model that is in memory, whatever trains it meanwhile."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        batch_size: int = 256,
        thinking: bool = False,
        name: str = "",
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.thinking = thinking
        self.name = name
        self.context_length = context_length(model.config)
        self.stop_ids = _stop_ids(model, tokenizer)

    def generate(
        self, requests: Sequence[Request], done: Collection[str] = ()
    ) -> Iterator[Completion]:
        """Completions as rows finish, without the `done`.

        Raises UserError where the GPU's memory is too small, and ValueError where two requests have the
        same key or a prompt has no tokens.
        """
        try:
            yield from self._generate(requests, done)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"The GPU's memory does not hold generator.batch={self.batch_size} responses at once: halve "
                "it, or choose generator=vllm."
            ) from error

    def _generate(self, requests: Sequence[Request], done: Collection[str]) -> Iterator[Completion]:
        """What `generate` yields.

        Waves are cut from all requests, done or not, and computed whole if any row of them is
        missing, so that a resumed run meets the very batches of an uninterrupted one and its rows
        have the same bytes.
        """
        finished = set(done)
        prompts = self._prompts(requests)
        fits = []
        for request in requests:
            tokens = len(prompts[request.key])
            if tokens < self.context_length:
                fits.append(request)
            elif request.key not in finished:
                yield Completion(request.key, "", (), PROMPT_TOO_LONG, tokens, 0, self.name)
        fits.sort(key=lambda r: (-len(prompts[r.key]), r.key))
        for sampling in sorted({replace(r.sampling, max_new_tokens=0) for r in fits}, key=repr):
            alike = [r for r in fits if replace(r.sampling, max_new_tokens=0) == sampling]
            size = WAVE * self.batch_size
            for wave in (alike[i : i + size] for i in range(0, len(alike), size)):
                if all(r.key in finished for r in wave):
                    continue
                choose = partial(sample, sampling=sampling)
                rows = [self._row(request, prompts[request.key]) for request in wave]
                for row, ids in decode(self.model, rows, choose, self.stop_ids, self.batch_size):
                    if row.key not in finished:
                        yield self._completion(row, ids)

    def ready(self) -> None:
        """The model is in memory."""

    def close(self) -> None:
        """Let go of the model, and of the GPU's memory."""
        self.model = None
        torch.cuda.empty_cache()

    def _prompts(self, requests: Sequence[Request]) -> dict[str, list[int]]:
        """Token ids by key; trials of one question share them."""
        by_chat: dict[str, list[int]] = {}
        prompts: dict[str, list[int]] = {}
        for request in requests:
            said = repr(request.messages)
            if said not in by_chat:
                by_chat[said] = chat.chat_ids(self.tokenizer, request.messages, self.thinking)
            if request.key in prompts:
                raise ValueError(f"two requests have the same key {request.key}")
            if not by_chat[said]:
                raise ValueError(f"the prompt of {request.key} has no tokens")
            prompts[request.key] = by_chat[said]
        return prompts

    def _row(self, request: Request, prompt: list[int]) -> Row:
        limit = min(request.sampling.max_new_tokens, self.context_length - len(prompt))
        return Row(request.key, prompt, request.seed, limit)

    def _completion(self, row: Row, ids: list[int]) -> Completion:
        text = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        reason = LENGTH if len(ids) == row.limit else STOP
        return Completion(row.key, text, tuple(ids), reason, len(row.prompt), len(ids), self.name)


def load(
    folder: str | Path,
    *,
    batch_size: int = 256,
    thinking: bool = False,
    name: str = "",
    device: str = "cpu",
    dtype: str = "float32",
) -> TransformersGenerator:
    """A generator of the model and tokenizer saved in `folder` (Hugging Face format).

    name: what completions say answered them. dtype: torch's name, or auto for that of the weights.

    Raises UserError where files are missing or damaged, or lack a tensor of the model, or where it does
    not fit the device.
    """
    tokenizer = check_folder(folder)
    model = _load_model(folder, dtype).eval()
    try:
        model = model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise UserError(
            f"The model cannot be put on the GPU ({first_line(error)}): choose hardware=cpu, or "
            "generator=vllm."
        ) from error
    check_decoding(model)
    return TransformersGenerator(model, tokenizer, batch_size, thinking, name)


def _load_model(folder: str | Path, dtype: str) -> Any:
    disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            output_loading_info=True,
            use_safetensors=True,
        )
    except Exception as error:  # whatever transformers meets in files of others
        raise UserError(
            f"{folder} cannot be loaded ({first_line(error)}): copy the model again."
        ) from error
    model, report = loaded
    if missing := report["missing_keys"]:  # transformers would make them up
        raise UserError(f"The weights in {folder} lack {min(missing)}: copy the model again.")
    return model


@torch.inference_mode()
def check_decoding(model: Any) -> None:
    """Refuse a model that would be sampled from another distribution than that of its own forward pass.

    Two rows of unequal length are made to say given tokens, and the logits they meet are compared.
    """
    words = min(model.get_input_embeddings().num_embeddings, 97)
    said = [[i * 7 % words for i in range(n)] for n in (9, 6)]  # 4 tokens of each are new
    rows = [Row(str(i), ids[:-4], 0, 4) for i, ids in enumerate(said)]
    met: list[Tensor] = []

    def choose(logits_B_V: Tensor, _: Tensor) -> Tensor:
        met.append(logits_B_V)
        return torch.tensor([ids[len(met) - 5] for ids in said], device=logits_B_V.device)

    try:
        list(decode(model, rows, choose, [], batch_size=2))
        ours = torch.stack(met, dim=1)  # [2, 4, V]
        own = [model(torch.tensor([ids[:-1]], device=ours.device), use_cache=False) for ids in said]
        wanted = torch.stack([output.logits[0, -4:] for output in own])
        logps, theirs = (logits.float().log_softmax(-1) for logits in (ours, wanted))
        why = "its log-probs are others" if differ(logps, theirs, model.dtype) else ""
    except Exception as error:  # a cache or an attention that is not as ours
        why = first_line(error)
    if why:
        raise UserError(
            f"generator=transformers does not decode this model ({model.config.model_type}) as its own "
            f"forward pass does ({why}): choose generator=vllm."
        )


def sample(logits_B_V: Tensor, uniforms_B: Tensor, sampling: Sampling) -> Tensor:
    """The next token of each row, `[B]`: greedy, or by inverse CDF over the limited distribution."""
    if sampling.temperature == 0:
        return logits_B_V.argmax(dim=-1)
    probs_B_k, ids_B_k = limited_distribution(logits_B_V, sampling)
    cdf_B_k = probs_B_k.cumsum(dim=-1)
    total_B_1 = cdf_B_k[:, -1:].contiguous()
    chosen_B_1 = torch.searchsorted(cdf_B_k, uniforms_B[:, None] * total_B_1, right=True)
    # Rounding must not reach a token of no probability: the last one that has any completes the sum.
    last_B_1 = torch.searchsorted(cdf_B_k, total_B_1)
    return ids_B_k.gather(1, torch.minimum(chosen_B_1, last_B_1))[:, 0]


def limited_distribution(logits_B_V: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Probabilities after temperature, top-k and top-p, and their token ids, both `[B, k]`.

    Descending, unless nothing is limited. Top-p keeps the tokens before which less than `top_p` of
    the mass lies (after top-k), so at least one; the others have probability 0. Only k logits are
    sorted.
    """
    vocabulary = logits_B_V.shape[-1]
    k = min(sampling.top_k, vocabulary) if sampling.top_k > 0 else vocabulary
    if k == vocabulary and sampling.top_p >= 1:
        ids_V = torch.arange(vocabulary, device=logits_B_V.device)
        probs_B_V = torch.softmax(logits_B_V.float() / sampling.temperature, dim=-1)
        return probs_B_V, ids_V.expand_as(probs_B_V)
    values_B_k, ids_B_k = torch.topk(logits_B_V.float(), k, dim=-1)
    probs_B_k = torch.softmax(values_B_k / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        before_B_k = probs_B_k.cumsum(dim=-1) - probs_B_k
        outside_B_k = before_B_k >= sampling.top_p
        outside_B_k[:, 0] = False
        probs_B_k = probs_B_k.masked_fill(outside_B_k, 0.0)
        probs_B_k = probs_B_k / probs_B_k.sum(dim=-1, keepdim=True)
    return probs_B_k, ids_B_k


def _stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """What ends a response: the end of a turn and of a sequence, and the model's own list."""
    configured = model.generation_config.eos_token_id if model.can_generate() else None
    if not isinstance(configured, (list, tuple)):
        configured = [configured]
    ids = {*chat.stop_ids(tokenizer), *configured} - {None}
    return sorted(int(i) for i in ids)
