"""A model out of a GGUF file, as a Hugging Face folder that can be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spot.data import chat
from spot.utils.errors import UserError, first_line


def convert(file: Path, folder: Path) -> None:
    """Write the model and the tokenizer of `file` into the empty `folder`, weights in fp32.

    Weights of 4 bits become the numbers they stand for. Raises UserError for a file that is no GGUF of a
    causal language model, and for a tokenizer without a chat template.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**place)
        chat.check(tokenizer)
        model: Any = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{file} cannot be read as a model ({first_line(error)}): give another."
        ) from error
    _split_digits(tokenizer, file)
    del model.config.quantization_config  # it is none any more, and transformers would not save one
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _split_digits(tokenizer: Any, file: Path) -> None:
    """Part digits as SmolLM's tokenizer does: transformers reads a GGUF's vocabulary, not its `pre`."""
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers as pre

    field = GGUFReader(file).fields.get("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        bytes_ = pre.ByteLevel(add_prefix_space=False)
        parts = [pre.Digits(individual_digits=True), bytes_]
        tokenizer.backend_tokenizer.pre_tokenizer = pre.Sequence(parts)
