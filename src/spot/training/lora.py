"""Adapters of low rank (arXiv 2106.09685) through PEFT: W h becomes W h + α/r · B A h, and W stays.

B begins as zero, so the policy begins as the base, whose scores are the reference. The modules of PEFT
stand in the model itself; packs, recomputation and kernels meet the same layers as without them. Words and
the head get no adapter: packs multiply with the head's matrix, tile by tile.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from spot.config import LoraConfig
from spot.data.model_probe import check_targets
from spot.training import collectives
from spot.training.optimizers import quiet_bitsandbytes
from spot.training.weights import skeleton
from spot.utils.progress import say

NAME = "default"  # PEFT's, of the one adapter
DOWN, UP = f"lora_A.{NAME}.weight", f"lora_B.{NAME}.weight"
PREFIX, FOLDER = "base_model.model.", "adapter"


def announce(lora: LoraConfig, rate: float | None) -> None:
    """Say which rate adapters learn at, where there are some."""
    if lora.rank is not None:
        say(
            f"LoRA: adapters of rank {lora.rank} learn at a rate of {rate:g}, ten times that of all weights "
            "unless loss.learning_rate is given."
        )


def attach(model: Any, lora: LoraConfig, seed: int) -> Any:
    """Give the model's layers their adapters and freeze all else; the same on every rank.

    seed: of A, which is uniform as PEFT draws it, and of dropout, which each rank draws for itself. Raises
    UserError where a target is no matrix of a layer.
    """
    quiet_bitsandbytes()  # which PEFT imports
    from peft import inject_adapter_in_model

    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    check_targets(lora.targets, linear)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "`is_gradient_checkpointing`", FutureWarning
        )  # PEFT's call
        torch.manual_seed(seed)
        inject_adapter_in_model(peft_config(lora), model)
    for parameter in model.parameters():
        if parameter.requires_grad:  # PEFT may widen what it adds
            parameter.data = parameter.data.to(model.dtype)
    torch.manual_seed(seed * collectives.ranks() + collectives.rank())
    return model


def peft_config(lora: LoraConfig, base: str | None = None) -> Any:
    """The adapters as PEFT describes them; base: the folder of the weights they belong to."""
    import peft

    assert lora.rank is not None
    return peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if lora.everywhere else sorted(lora.targets),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )


def drops(model: Any) -> bool:
    """Whether what a layer computes is random: then its random state must be kept to compute it again."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())


@dataclass(frozen=True)
class Adapters:
    """How a model with adapters is written: merged, and the adapters in a folder of their own inside."""

    lora: LoraConfig
    base: Path  # folder of the weights they belong to

    def write(
        self, folder: Path, model: Any, tensors: dict[str, Tensor], dtype: torch.dtype, shard: str
    ) -> None:
        """`folder` as any model's, and `folder`/adapter as PEFT reads it.

        tensors: all of the model's, by name; they are used up, so that weights are in memory once.
        """
        own = {name: tensors.pop(name) for name in list(tensors) if "lora_" in name}
        weights = {}
        for name in list(tensors):
            layer, inside, rest = name.rpartition("base_layer.")
            tensor = tensors.pop(name)
            if inside and rest == "weight":
                tensor = merged(tensor, own[layer + DOWN], own[layer + UP], self.lora)
            weights[layer + rest] = tensor.to(dtype)
        plain = skeleton(model.config)
        plain.generation_config = model.generation_config
        plain.save_pretrained(folder, state_dict=weights, max_shard_size=shard)
        peft_config(self.lora, str(self.base)).save_pretrained(folder / FOLDER)
        named = {PREFIX + name.replace(f".{NAME}.", "."): own[name].contiguous() for name in own}
        save_file(named, folder / FOLDER / "adapter_model.safetensors", {"format": "pt"})


def merged(weight: Tensor, down: Tensor, up: Tensor, lora: LoraConfig) -> Tensor:
    """W + α/r · B A in fp32: [out, in] of [out, in], A [rank, in] and B [out, rank]."""
    assert lora.rank is not None
    return weight.float() + up.float() @ down.float() * (lora.alpha / lora.rank)
