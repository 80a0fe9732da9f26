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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from spot.training import attention
from spot.training.logprobs import token_logprobs
from spot.training.packing import (
    Pack,
    PackingSettings,
    PairTokens,
    build_pack,
    fill_packs,
    row_tokens,
    scored_tokens,
)
from spot.training.saving import write_aside

log = logging.getLogger(__name__)
FORMAT = 1


@dataclass(frozen=True)
class ReferenceScores:
    """log π_ref of every scored token, fp32, by pair id."""

    by_id: dict[str, Tensor]

    def of(self, pack: Pack) -> Tensor:
        """The pack's scored tokens [N], in the pack's order."""
        return torch.cat([self.by_id[i][:n] for i, n in zip(pack.ids, pack.scored, strict=True)])


def pack_logprobs(model: Any, pack: Pack) -> Tensor:
    """fp32 log-probs [N] of a pack's scored tokens. The model's attention must be `packed`."""
    hidden = attention.hidden_states(model, pack)
    return token_logprobs(hidden[pack.sources], model.get_output_embeddings().weight, pack.targets)


@torch.no_grad()
def score(model: Any, pairs: Sequence[PairTokens], settings: PackingSettings) -> dict[str, Tensor]:
    """Per-token log-probs of every pair under the model as it is, by pair id."""
    costs = [row_tokens(pair, settings.share_prefix) for pair in pairs]
    scores: dict[str, Tensor] = {}
    with attention.packed(model):
        for items in fill_packs(costs, settings.token_budget):
            pack = build_pack([pairs[i] for i in items], settings.share_prefix)
            parts = pack_logprobs(model, pack).split(pack.scored)
            scores.update(zip(pack.ids, parts, strict=True))
    return scores


def reference_scores(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[PairTokens],
    settings: PackingSettings,
    folder: Path | None,
) -> ReferenceScores:
    """The scores from `folder` when it has them, else computed and written there (None: not kept).

    The model must still be the policy's start.
    """
    if folder is None or not pairs:
        return ReferenceScores(score(model, pairs, settings))
    identity = _identity(model, tokenizer, pairs, settings)
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    lengths = [scored_tokens(pair, settings.share_prefix) for pair in pairs]
    values = _read(folder, key, sum(lengths))
    if values is None:
        scores = score(model, pairs, settings)
        values = torch.cat([scores[pair.id] for pair in pairs])
        _write(folder, key, values, identity)
    parts = values.split(lengths)
    return ReferenceScores({pair.id: part for pair, part in zip(pairs, parts, strict=True)})


def _identity(
    model: Any, tokenizer: Any, pairs: Sequence[PairTokens], settings: PackingSettings
) -> dict[str, Any]:
    """All that the scores depend on. Pack size is not among it: it only rounds."""
    return {
        "format": FORMAT,
        "weights": weights_digest(model),
        "tokens": _digest(repr([(p.id, p.prompt, p.chosen, p.rejected) for p in pairs])),
        "tokenizer": tokenizer_digest(tokenizer),
        "dtype": str(model.dtype),
        "attention": attention.NAME,
        "share_prefix": settings.share_prefix,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def weights_digest(model: Any) -> str:
    """Hash of names, dtypes, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """Hash of the vocabulary, special tokens and chat template."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    template = getattr(tokenizer, "chat_template", None)
    return _digest(repr((vocabulary, str(tokenizer.special_tokens_map), template)))


def _read(folder: Path, key: str, tokens: int) -> Tensor | None:
    """The cached values [tokens], or None when they are missing, torn or not what was asked for."""
    manifest = folder / f"{key[:16]}.json"
    if not manifest.exists():
        return None
    try:
        said = json.loads(manifest.read_text())
        data = manifest.with_suffix(".safetensors").read_bytes()
        if said["key"] != key or said["sha256"] != hashlib.sha256(data).hexdigest():
            raise ValueError("its content is not what its manifest says")
        values = load_tensors(data)["logps"]
        if values.shape != (tokens,):
            raise ValueError(f"it holds {tuple(values.shape)} values, not {tokens}")
        return values
    except (OSError, ValueError, KeyError) as error:
        log.warning("reference scores %s are not usable (%s): scored again", manifest.stem, error)
        return None


def _write(folder: Path, key: str, values: Tensor, identity: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = save_tensors({"logps": values.contiguous()})
    said = {"key": key, "sha256": hashlib.sha256(data).hexdigest(), "of": identity}
    write_aside(folder / f"{key[:16]}.safetensors", data)
    write_aside(
        folder / f"{key[:16]}.json", json.dumps(said, indent=1, sort_keys=True).encode() + b"\n"
    )
