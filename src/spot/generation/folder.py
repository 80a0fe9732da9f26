"""A model's folder, looked at before anything reads it whole: mistakes are found in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer

from spot.data import chat, model_probe
from spot.utils.errors import UserError, first_line

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def check_folder(folder: str | Path) -> Any:
    """The tokenizer of a model that is saved in `folder` (Hugging Face format) and can chat.

    Raises UserError where a file is missing or damaged, where the tokenizer is missing or knows no
    words, and where it has no chat template. Weights are not read: their headers say how long they
    are, so a copy that was cut off is found.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name one that holds a Hugging Face model.")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json: name a folder that holds a whole model.")
    for file in _weight_files(folder):
        _check_weights(file)
    tokenizer = _tokenizer(folder)
    chat.check(tokenizer)
    return tokenizer


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            shards = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
        except (ValueError, KeyError) as error:
            raise UserError(f"{folder / INDEX} is damaged: copy the model again.") from error
        return [folder / name for name in sorted(shards)]
    model_probe.refuse_pickled(folder)
    raise UserError(f"{folder} has no {WEIGHTS}: copy the model's weights there.")


def _check_weights(file: Path) -> None:
    if not file.is_file():
        raise UserError(f"{file} is missing: copy the model again.")
    try:
        with safe_open(file, framework="np"):
            pass
    except SafetensorError as error:
        raise UserError(
            f"{file} is damaged ({first_line(error)}): copy the model again."
        ) from error


def _tokenizer(folder: Path) -> Any:
    """The tokenizer. Without files of it, transformers makes one without words, or names no file."""
    tokenizer = None
    if model_probe.has_tokenizer(folder):
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # tokenizers raises nothing narrower
            raise UserError(model_probe.unreadable(folder, error)) from error
    if tokenizer is None or len(tokenizer) <= len(tokenizer.added_tokens_decoder):
        raise model_probe.no_tokenizer(folder)
    return tokenizer


def context_length(config: Any) -> int:
    """Tokens of prompt and response that a model of this configuration can hold."""
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not longest:
        raise UserError(
            f"The model's config.json ({config.model_type}) does not say how many tokens it can hold: set "
            "max_position_embeddings there."
        )
    return int(longest)
