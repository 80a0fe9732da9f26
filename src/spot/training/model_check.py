"""What is checked before the first update: packs give a model's own log-probs, and rewards are 0.

A layout that packs do not compute (ALiBi, a state space, a head that does more than ours) would train
another distribution than the model's, and nothing in the loss would show it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

from spot.generation.agreement import differ
from spot.training.bin_packing import Cost
from spot.training.forward import PLAIN, Kernels, pack_logprobs
from spot.training.packing import PackingSettings, PairTokens, build_pack
from spot.training.weights import model_config
from spot.utils.errors import UserError, first_line

CLOSE = 2e-4  # what log-probs of the small model may differ by in fp32
GRADIENT_BOUND = 1e-3  # relative L2 distance in fp32
LONGEST = 64  # tokens of a prompt and of a response that are compared
WORDS, WIDTH, WINDOW = 128, 64, 3  # of the small model: vocabulary, inner layers, sliding windows
BY_LENGTH = ("longrope", "dynamic")  # kinds of RoPE whose angles depend on the text's length
LAYERS = 2  # of the small model, unless there are more kinds of layers


def own_logprobs(model: Any, pair: PairTokens) -> Tensor:
    """Log-probs of y⁺ and then of y⁻ from the model's own logits, each response a text of its own."""
    parts = []
    for response in (pair.chosen, pair.rejected):
        if response is None:
            continue
        ids = np.concatenate([pair.prompt, response])
        tokens = torch.from_numpy(ids).long().to(model.device)
        logits = model(input_ids=tokens[None], use_cache=False).logits[0, len(pair.prompt) - 1 : -1]
        wide = logits if logits.dtype == torch.float64 else logits.float()
        parts.append(wide.log_softmax(-1).gather(-1, tokens[len(pair.prompt) :, None])[:, 0])
    return torch.cat(parts)


def packed_logprobs(model: Any, pair: PairTokens, kernels: Kernels) -> Tensor:
    """The same from a pack with a shared prefix, as training computes them."""
    pack = build_pack([pair], PackingSettings(10**9, parts=False)).to(model.device)
    with kernels.inside(model):
        return pack_logprobs(model, pack, kernels)[pack.members[pack.slots.argsort(stable=True)]]


@torch.no_grad()
def check_model(model: Any, pair: PairTokens, kernels: Kernels) -> float:
    """How far log-probs of a pack are from the model's own; a UserError where it is too far.

    The beginning of the pair is enough. Where the model is divided over ranks, all must call this with
    the same pair.
    """
    pair = _beginning(pair)
    ours = packed_logprobs(model, pair, kernels)
    with evaluating(model):
        own = own_logprobs(model, pair)
    off = (ours - own).abs().max().item()
    if differ(ours, own, model.dtype):
        raise UserError(
            f"This model ({model.config.model_type}) cannot be trained: log-probs of a pack are off its "
            f"own forward pass by up to {off:.2g}; choose another model."
        )
    return off


def _beginning(pair: PairTokens) -> PairTokens:
    """With prompt and responses cut: the model's own logits of a whole text may not fit the memory."""
    prompt, chosen = pair.prompt[:LONGEST], pair.chosen[:LONGEST]
    rejected = None if pair.rejected is None else pair.rejected[:LONGEST]
    same = rejected is not None and np.array_equal(chosen, rejected)
    return PairTokens(pair.id, prompt, chosen, None if same else rejected)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode within, whatever it was afterwards."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)


# ---- before anything is sampled ------------------------------------------------------------------


@cache
def check_layout(folder: Path) -> None:
    """Refuse a layout that packs do not compute: tried on a small random model of the same layout.

    Takes a second or two and reads config.json only. A layout that cannot be made small is tried when
    its weights are loaded. Raises UserError.
    """
    refused = f"The model in {folder} cannot be trained here"
    try:
        config = model_config(folder)
        kind = config.model_type
    except Exception as error:  # transformers raises what it likes
        raise UserError(
            f"{folder / 'config.json'} cannot be used ({first_line(error)}): copy the model's again."
        ) from error
    if missing := _missing(config):
        raise UserError(
            f"{refused} ({kind}): its config.json has no {missing}; choose another model."
        )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"{refused} ({kind}): it is not a causal language model; choose another model."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model = small_model(config)
            pair = _pair()
            own, own_gradients = _outcome(model, own_logprobs, pair)
        except Exception:  # no fault of the model's
            return
        try:
            Cost.of(model)
            ours, gradients = _outcome(model, packed_logprobs, pair, PLAIN)
        except Exception as error:
            raise UserError(
                f"{refused} ({kind}): packs do not go through it ({first_line(error)}); choose another "
                "model."
            ) from error
    off = (ours - own).abs().max().item()
    distance = ((gradients - own_gradients).norm() / own_gradients.norm()).item()
    if not (off <= CLOSE and distance <= GRADIENT_BOUND):
        raise UserError(
            f"{refused} ({kind}): log-probs of packs are off the model's own by {off:.2g}, gradients by "
            f"{distance:.2g}; choose another model."
        )


def check_length(folder: Path, longest: int) -> None:
    """Refuse texts of up to `longest` tokens where a model turns positions otherwise in long ones.

    Of a pack all texts would be turned as its longest is. Raises UserError.
    """
    config = model_config(folder)
    found = getattr(config, "rope_parameters", None) or {}
    each = [value for value in found.values() if isinstance(value, dict)] or [found]
    limits = [
        rope.get("original_max_position_embeddings") or config.max_position_embeddings
        for rope in each
        if rope.get("rope_type") in BY_LENGTH
    ]
    if limits and longest > min(limits):
        raise UserError(
            f"The model in {folder} turns positions otherwise in texts of more than {min(limits)} tokens, "
            f"which packs do not compute: set model.context_length={min(limits)}, or less."
        )


def _missing(config: Any) -> str:
    """A size that is needed and not there."""
    names = ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size")
    return next((name for name in names if not getattr(config, name, None)), "")


def _outcome(model: Any, compute: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
    """Log-probs and the gradient of their sum by all parameters that have one."""
    model.zero_grad()
    logps = compute(model, *inputs)
    logps.sum().backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    return logps.detach(), torch.cat([g.flatten() for g in grads if g is not None])


def _pair() -> PairTokens:
    """Longer than the small model's windows, with a shared prefix."""
    prompt, shared, chosen, rejected = np.split(
        np.random.default_rng(0).integers(2, WORDS, 24), [6, 10, 16]
    )
    return PairTokens(
        "small", prompt, np.concatenate([shared, chosen]), np.concatenate([shared, rejected])
    )


def small_model(config: Any) -> Any:
    """A random model of this layout: few layers, words and inner units, narrow windows; all else as is.

    Of its gradients only those of words, norms and biases are kept, behind which all others are.
    """
    config = copy.deepcopy(config)
    for name, value in list(vars(config).items()):
        if type(value) is not int:
            continue
        if "intermediate" in name or "ffn" in name or name in ("n_inner", "inner_dim"):
            setattr(config, name, min(value, WIDTH))
        elif name.endswith("_token_id"):
            setattr(config, name, None)
    config.vocab_size = WORDS
    if isinstance(getattr(config, "sliding_window", None), int):
        config.sliding_window = WINDOW
    kinds = list(dict.fromkeys(getattr(config, "layer_types", None) or []))
    count = max(min(LAYERS, config.num_hidden_layers), len(kinds))
    if kinds:
        with suppress(AttributeError):  # some families compute it
            config.layer_types = (kinds * count)[:count]
    config.num_hidden_layers = count
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # a bias, which begins as nothing
                parameter.normal_(std=0.1)
            parameter.requires_grad_(parameter.ndim == 1 or WORDS in parameter.shape)
    return model


def start_bound(dtype: torch.dtype, beta: float, tokens: int) -> float:
    """How far a reward may be from 0 before the first update, when a response has so many tokens.

    Policy and reference are the same weights then, so what is left is rounding: β √tokens times that
    of one token's log-prob. In bf16 a response's was 0.13 √tokens at most (`performance.start_rewards`);
    the bound is eight times that. Another model's scores are off by a part of every token.
    """
    one = {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 1.0)
    return beta * one * math.sqrt(tokens)


def start_histogram(rewards: Tensor, bound: float) -> str:
    """How many of these rewards [n] lie how far from 0, in one line."""
    edges = bound * torch.tensor([0.1, 1.0, 10.0], dtype=rewards.dtype, device=rewards.device)
    counts = torch.bucketize(rewards.abs(), edges).bincount(minlength=4).tolist()
    words = "up to a tenth of it", "up to it", "up to ten times it", "beyond"
    return ", ".join(f"{count} {word}" for count, word in zip(counts, words, strict=True))
