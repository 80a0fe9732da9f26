"""The frozen reference: the policy's start, scored once per token and kept on disk.

Scores come from the trainer's own packs, attention and dtype, so that at step 0 every reward is zero
but for rounding. They are stored per pair, in the pair's own order (all of y⁺, then what y⁻ does not
share with it), and so do not depend on which rows met in a pack. A chosen-only row uses the first
|y⁺| of them: one file serves every loss, seed and batch size of a sweep.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from spot.config import HardwareConfig
from spot.training import collectives
from spot.training.forward import PLAIN, Computing, Kernels, check_finite, pack_logprobs
from spot.training.packing import Pack, PackingSettings, PairTokens, step_packs
from spot.training.precision import DTYPES
from spot.training.strategy import zero_config
from spot.training.weights import load, load_in_parts
from spot.utils.files import write_aside

log = logging.getLogger(__name__)
FORMAT = 3
TOGETHER = 256  # pairs that packs are made of at once
HELD_OUT, TO_BASE = "held_out", "held_out_to_base"  # prefixes of metrics


class Reference(Protocol):
    """Whatever knows log π_ref of a pack's scored tokens."""

    def of(self, pack: Pack) -> Tensor:
        """fp32 [N], in the pack's order and on its device."""


@dataclass(frozen=True)
class Weights:
    """A model whose log-probs are asked for; `identity` is what `model_identity` says of it."""

    folder: Path
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class References:
    """What a training is measured against.

    held_out: by the prefix of its metrics; `held_out` is the reference of the loss, and in a round
    after the first `held_out_to_base` is the first round's start.
    """

    training: Reference | None  # None: the loss has none
    held_out: Mapping[str, Reference]
    at_start: bool = True  # the policy starts at the reference, so that all rewards begin at 0


@dataclass(frozen=True)
class ReferenceScores:
    """log π_ref of every scored token, fp32, by pair id."""

    by_id: dict[str, Tensor]

    def of(self, pack: Pack) -> Tensor:
        """The pack's scored tokens [N], in the pack's order and on its device."""
        parts = [self.by_id[i][:n] for i, n in zip(pack.ids, pack.scored, strict=True)]
        return torch.cat(parts).to(pack.targets.device)


@dataclass(frozen=True)
class LiveReference:
    """A frozen model beside the policy: scored for every pack, when it is needed.

    No module, so that Lightning and DeepSpeed neither move, divide, optimise nor save it. All ranks
    must ask for as many packs: the model may be divided over them.
    """

    model: Any
    kernels: Kernels = PLAIN

    @torch.no_grad()
    def of(self, pack: Pack) -> Tensor:
        with self.kernels.inside(self.model):
            return pack_logprobs(self.model, pack, self.kernels)


@torch.no_grad()
def score(
    model: Any, pairs: Sequence[PairTokens], settings: PackingSettings, kernels: Kernels = PLAIN
) -> Tensor:
    """Log-probs [scored] of all pairs, one after the other, under the model as it is; on the CPU.

    Ranks share the work and all get the whole.
    """
    settings = replace(settings, parts=False)
    mine: dict[str, Tensor] = {}
    longest_first = sorted(pairs, key=lambda pair: -pair.tokens(settings))
    with kernels.inside(model):
        for i in range(0, len(pairs), TOGETHER):
            some = longest_first[i : i + TOGETHER]
            for pack in step_packs(some, settings, collectives.rank(), collectives.ranks()):
                logps = pack_logprobs(model, pack.to(model.device), kernels)
                check_finite(pack, logps, "of the reference")
                if pack.counted:
                    mine.update(zip(pack.ids, logps.cpu().split(pack.scored), strict=True))
    zeros = torch.zeros(max((pair.scored(settings) for pair in pairs), default=0))
    parts = [mine.get(pair.id, zeros[: pair.scored(settings)]) for pair in pairs]
    return collectives.all_reduce_sum(torch.cat([zeros[:0], *parts]).to(collectives.device())).cpu()


def reference_scores(
    model: Callable[[], Any],
    pairs: Sequence[PairTokens],
    settings: PackingSettings,
    kernels: Kernels,
    folder: Path | None,
    identity: Mapping[str, Any],
) -> ReferenceScores:
    """The scores from `folder` when it has them, else computed and written there (None: not kept).

    `model` is called where they are computed; `identity` is its, see `model_identity`. Pairs are scored
    with their y⁻ even for a loss that leaves it out: one file for all. Rank 0 reads and writes.
    """
    settings = replace(settings, rejected=True)
    lengths = [pair.scored(settings) for pair in pairs]
    identity = {**identity, "tokens": pairs_digest(pairs)}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    values = None
    if folder is not None and pairs and collectives.rank() == 0:
        values = _read(folder, key, sum(lengths))
    if collectives.broadcast_object(values is not None):
        known = torch.empty(sum(lengths)) if values is None else values
        values = collectives.broadcast(known.to(collectives.device())).cpu()
    else:
        values = score(model(), pairs, settings, kernels)
        if folder is not None and pairs and collectives.rank() == 0:
            _write(folder, key, values, identity)
    parts = values.split(lengths)
    return ReferenceScores({pair.id: part for pair, part in zip(pairs, parts, strict=True)})


def make_references(
    kind: str,
    pairs: Sequence[PairTokens] | None,
    held_out: Sequence[PairTokens],
    folder: Path | None,
    tether: Weights,
    base: Weights | None,
    computing: Computing,
    model: Any,
) -> References:
    """The references of training and of the held-out pairs, as `reference=kind` asks for.

    `model` has the weights that training starts with. tether: what the loss is measured against, those
    same weights or `base`, the first round's start in a later round. cached: each pair is scored once,
    or `folder` has the scores. copy | engine: a live model, loaded anew, since the policy will move
    away from it. `pairs` is None for a loss without a reference.
    """
    packing, kernels, hardware = computing.packing, computing.kernels, computing.hardware
    freeze = partial(_frozen, hardware=hardware, device=model.device)

    @cache
    def first() -> Any:
        """Beside the policy until its scores are there, before activations and moments take memory."""
        assert base is not None
        return freeze("engine" if hardware.in_parts else "copy", base.folder)

    def scores(some: Sequence[PairTokens], of: Weights) -> Reference:
        scorer = first if of is base else lambda: model
        return reference_scores(scorer, some, packing, kernels, folder, of.identity)

    training: Reference | None
    if kind == "cached":
        training = None if pairs is None else scores(pairs, tether)
        watched = scores(held_out, tether)
    else:
        watched = LiveReference(freeze(kind, tether.folder), kernels)
        training = None if pairs is None else watched
    if base is None:
        return References(training, {HELD_OUT: watched})
    to_base = watched if tether is base else scores(held_out, base)
    return References(training, {HELD_OUT: watched, TO_BASE: to_base}, tether is not base)


def _frozen(kind: str, folder: Path, hardware: HardwareConfig, device: Any) -> Any:
    if kind == "copy":
        return load(folder, hardware, device).to(device).requires_grad_(False)
    import deepspeed

    zero = zero_config(replace(hardware, zero_stage=3, offload_optimizer=False), clip=0.0)
    model = load_in_parts(folder, hardware, zero).requires_grad_(False)
    engine, *_ = deepspeed.initialize(model=model, config=zero, dist_init_required=False)
    return engine.module


def model_identity(weights: str, tokenizer: Any, computing: Computing) -> dict[str, Any]:
    """All but the pairs that scores depend on; `weights` is a digest. Pack size only rounds."""
    hardware = computing.hardware
    return {
        "format": FORMAT,
        "weights": weights,
        "tokenizer": tokenizer_digest(tokenizer),
        "dtype": str(DTYPES[hardware.precision]),
        "device": hardware.device,
        "kernels": computing.kernels.versions(),
        "share_prefix": computing.packing.share_prefix,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def pairs_digest(pairs: Sequence[PairTokens]) -> str:
    """Hash of ids and token ids, in order."""
    digest = hashlib.sha256()
    for pair in pairs:
        for part in (pair.prompt, pair.chosen, pair.rejected):
            digest.update(b"none" if part is None else f"{len(part)} ".encode() + part.tobytes())
        digest.update(f"{pair.id}\0".encode())
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """Hash of the vocabulary, special tokens and chat template."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    template = getattr(tokenizer, "chat_template", None)
    text = repr((vocabulary, str(tokenizer.special_tokens_map), template))
    return hashlib.sha256(text.encode()).hexdigest()


def _read(folder: Path, key: str, tokens: int) -> Tensor | None:
    """The cached values [tokens], or None when they are missing, torn or not what was asked for."""
    manifest = folder / f"{key[:16]}.json"
    if not manifest.exists():
        return None
    try:
        stored = json.loads(manifest.read_text())
        data = manifest.with_suffix(".safetensors").read_bytes()
        if stored["key"] != key or stored["sha256"] != hashlib.sha256(data).hexdigest():
            raise ValueError("its content is not what its manifest says")
        values = load_tensors(data)["logps"]
        if values.shape != (tokens,):
            raise ValueError(f"it holds {tuple(values.shape)} values, not {tokens}")
        return values
    except (OSError, ValueError, KeyError) as error:
        log.warning("reference scores %s are not usable (%s): scored again", manifest.stem, error)
        return None


def _write(folder: Path, key: str, values: Tensor, identity: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = save_tensors({"logps": values.contiguous()})
    stored = {"key": key, "sha256": hashlib.sha256(data).hexdigest(), "of": identity}
    write_aside(folder / f"{key[:16]}.safetensors", data)
    write_aside(
        folder / f"{key[:16]}.json", json.dumps(stored, indent=1, sort_keys=True).encode() + b"\n"
    )
