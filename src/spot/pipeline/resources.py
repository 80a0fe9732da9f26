"""What a training takes of this machine, found without torch: packages, a login, memory and disk."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from spot.config import Config, plain
from spot.pipeline import plan
from spot.pipeline.plan.account import GIB, Plan
from spot.pipeline.plan.disk import File, for_jobs
from spot.pipeline.preview import REUSE, preview
from spot.pipeline.workspace import has_key
from spot.training.memory_model import width
from spot.utils.errors import UserError
from spot.utils.machine import memory
from spot.utils.progress import say_once

TRAINS = (None, "train")  # commands, by the stage they end with, that train at their end
PACKAGES = {  # what a key of `hardware` imports: module, package, what does without it
    ("optimizer", "adamw8bit"): ("bitsandbytes", "bitsandbytes", "adamw"),
    ("attention", "flash"): ("flash_attn", "flash-attn", "varlen"),
    ("logprobs", "liger"): ("liger_kernel", "liger-kernel", "torch"),
    ("strategy", "deepspeed"): ("deepspeed", "deepspeed", "single"),
}


def packages(config: Config) -> None:
    """Raise UserError where a package that training would import is not installed."""
    for (key, value), (module, package, instead) in PACKAGES.items():
        if getattr(config.hardware, key) == value and importlib.util.find_spec(module) is None:
            raise UserError(
                f"hardware.{key}={value} needs {package}, which is not installed: pip install "
                f"{package}, or choose hardware.{key}={instead}."
            )


def login(config: Config) -> None:
    """Raise UserError where W&B is to be online and nobody could log in."""
    if config.logger.wandb and config.logger.wandb_mode == "online" and not has_key():
        raise UserError(
            "logger.wandb_mode=online needs a key: set WANDB_API_KEY in the environment, or choose "
            "logger.wandb_mode=offline and upload later (wandb sync)."
        )


def memories(config: Config) -> None:
    """Raise UserError where offloading takes more than this machine's memory."""
    if (needs := _plan(config)) is None:
        return
    wanted = needs.memory.host * config.hardware.devices
    if wanted > memory():
        offloaded = "parameters" if config.hardware.offload_parameters else "optimizer"
        raise UserError(
            f"hardware.offload_{offloaded}=true takes {wanted / GIB:,.0f} GiB of this machine's memory, "
            f"which has {memory() / GIB:,.0f}: take more machines, hardware.nodes, or leave it out."
        )


def say_what_is_short(config: Config) -> None:
    """Say where loading may take more than this machine's memory, and a step more than a device's."""
    if (needs := _plan(config)) is None:
        return
    hardware = config.hardware
    each = width(hardware) * needs.shape.parameters
    whole = hardware.accelerator == "gpu" and hardware.deepspeed and not hardware.in_parts
    if whole and (loaded := hardware.devices * each) > memory():
        say_once(
            f"training may take {loaded / GIB:,.0f} GiB of this machine's memory while every rank loads the "
            f"model, and it has {memory() / GIB:,.0f}: hardware.zero_stage=3 loads tensor by tensor."
        )
    if needs.fits is False:
        say_once(f"training, as planned (spot plan): {needs.verdict}")


def disk(configs: Sequence[Config], until: str | None) -> None:
    """Raise UserError where the disk has no room for what these jobs, one after the other, will write."""
    if until not in TRAINS:
        return
    output = Path(configs[0].output)
    place = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if sum(file.size for file in _files(configs)) <= free:
        return
    wanted = _files([config for config in configs if not _is_trained(config, until)])
    size = sum(file.size for file in wanted) - _begun(configs, until)
    if size > free:
        largest = max(wanted, key=lambda file: file.size)
        raise UserError(
            f"output={output} has {free / GIB:,.1f} GiB free, and up to {size / GIB:,.1f} will be written "
            f"({largest.name}: {largest.size / GIB:,.1f}): give another disk, output=<folder>, or write "
            "less, save.optimizer=false save.exports=0."
        )


def _files(configs: Sequence[Config]) -> list[File]:
    """What jobs write; of those that differ in what no file's size depends on, one is planned."""
    planned: dict[str, Plan | None] = {}
    found = []
    for config in configs:
        key = json.dumps(plain(config) | {"seed": 0, "arm": None})
        if key not in planned:
            planned[key] = _plan(config)
        if (needs := planned[key]) is not None:
            found.append(needs.files)
    return for_jobs(found)


def _plan(config: Config) -> Plan | None:
    """None for a model whose shape is not known here."""
    with suppress(UserError):
        return plan.plan(config)
    return None


def _is_trained(config: Config, until: str | None) -> bool:
    return all(one.action == REUSE for one in preview(config, until) if one.stage == "train")


def _begun(configs: Sequence[Config], until: str | None) -> int:
    """Bytes that a training which was interrupted has left, and goes on from."""
    folders = {
        Path(config.output) / "products" / one.stage / one.key
        for config in configs
        for one in preview(config, until)
        if one.stage == "train" and one.until is None and one.action != REUSE
    }
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
