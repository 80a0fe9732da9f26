"""Weights on their way in and out: from a Hugging Face folder to ranks, and back.

Where each rank holds only a part of every weight (ZeRO-3), no GPU ever holds the model: tensors come
from the files one by one, and are gathered one by one, on their way out into rank 0's host memory.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights
from transformers.utils.logging import disable_progress_bar

from spot.config import HardwareConfig
from spot.training import collectives
from spot.training.precision import DTYPES
from spot.utils.errors import UserError

INDEX = "model.safetensors.index.json"


def model_config(folder: Path) -> Any:
    """The model's configuration, without dropout."""
    return without_dropout(AutoConfig.from_pretrained(folder))


def without_dropout(config: Any) -> Any:
    """The same configuration, changed in place."""
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, float):  # GPT-2's is attn_pdrop
            setattr(config, name, 0.0)
    return config


def skeleton(config: Any) -> Any:
    """The model without memory: shapes and names only."""
    with torch.device("meta"), no_init_weights():
        model: Any = AutoModelForCausalLM.from_config(config)
    model.tie_weights()  # which is a part of the initialisation that was left out
    return model


def load(folder: Path, hardware: HardwareConfig, device: torch.device) -> Any:
    """The whole model in train mode, on `device`."""
    disable_progress_bar()
    where = {"device_map": {"": device}} if device.type == "cuda" else {}
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        config=model_config(folder),
        dtype=DTYPES[hardware.precision],
        use_safetensors=True,
        **where,
    )
    return model.train()


def load_in_parts(folder: Path, hardware: HardwareConfig, zero: dict[str, Any]) -> Any:
    """The model with every weight divided over the ranks; `zero` is DeepSpeed's configuration.

    Rank 0 reads tensor by tensor and the others receive. Transformers' own way reads all files into
    every rank's memory. Raises UserError where the files and the model do not have the same names.
    """
    import deepspeed

    # without dtype= it is the configuration's; given, DeepSpeed 0.19.8 takes bf16 for fp32 on a CPU
    where = "cpu" if hardware.accelerator == "cpu" else None
    with deepspeed.zero.Init(config_dict_or_path=zero, remote_device=where), no_init_weights():
        model: Any = AutoModelForCausalLM.from_config(
            model_config(folder), dtype=DTYPES[hardware.precision]
        )
    model.tie_weights()
    files, names = tensor_files(folder), dict(model.named_parameters())  # a tied weight comes once
    if missing := sorted(names.keys() - files.keys()):
        raise UserError(
            f"{folder} has no tensor {missing[0]}: ZeRO-3 loads models whose files name tensors as the "
            "model does; choose hardware.zero_stage=2."
        )
    for name, parameter in names.items():
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
            if collectives.rank() == 0:
                with safe_open(files[name], "pt") as tensors:
                    tensor = tensors.get_tensor(name)
                if tensor.shape != parameter.shape:
                    shapes = f"{tuple(tensor.shape)}, the model's {tuple(parameter.shape)}"
                    raise UserError(f"{files[name]}: {name} has the shape {shapes}.")
                parameter.copy_(tensor)
    restore_buffers(model)
    return model.train()


def restore_buffers(model: Any) -> None:
    """Give `model` the buffers it has outside of `zero.Init`, which rounds them to the model's dtype.

    A rotary frequency of 0.12345679 becomes 0.12353516 in bf16. The model they are taken from has a
    single layer, and weights that are never touched and so take no memory.
    """
    with no_init_weights():
        exact_model = AutoModelForCausalLM.from_config(shortened(model.config, 1))
    exact = dict(exact_model.named_buffers())
    for name, buffer in model.named_buffers():
        if name not in exact:
            raise UserError(f"ZeRO-3 cannot make the buffer {name} exactly: choose zero_stage=2.")
        buffer.data = exact[name].to(buffer.device)


def shortened(config: Any, layers: int) -> Any:
    """The configuration with so many layers at most."""
    small = copy.deepcopy(config)
    small.num_hidden_layers = min(layers, config.num_hidden_layers)
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[: small.num_hidden_layers]
    return small


def tensor_files(folder: Path) -> dict[str, Path]:
    """Which safetensors file holds each tensor."""
    if (folder / INDEX).exists():
        listed = json.loads((folder / INDEX).read_text())["weight_map"]
        return {name: folder / file for name, file in listed.items()}
    files: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            files |= dict.fromkeys(tensors.keys(), file)
    if not files:
        raise UserError(f"{folder} holds no safetensors: convert the weights, or use zero_stage=2.")
    return files


def whole_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and whole tensors of the model's weights, one by one; all ranks must go along.

    A tied weight comes once. Only rank 0 may rely on the tensors, and only until it asks for the next.
    """
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id"):
            import deepspeed

            with deepspeed.zero.GatheredParameters([parameter]):
                yield name, parameter.detach()
        else:
            yield name, parameter.detach()
