"""What a run would refuse on this machine, found without torch and before anything is made or asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from spot.config import Config
from spot.config.hardware import too_few_gpus
from spot.evaluation import benchmarks
from spot.oracle import build as oracles
from spot.pipeline import clients, policy, questions
from spot.pipeline.plan import sampling
from spot.utils.errors import UserError
from spot.utils.files import check_output
from spot.utils.processes import gpu_count

Check = Callable[[Config], None]
MEASURES = (None, "evaluate")  # commands, by the stage they end with, that ask benchmarks
CORRECTS = (None, "rectify", "select", "train")
TRAINS = (None, "train")


def check(config: Config, until: str | None) -> None:
    """Raise UserError for what could not be carried out, up to the stage `until`."""
    for refuse in checks(config, until):
        refuse(config)


def checks(config: Config, until: str | None) -> Iterator[Check]:
    """Every such check of a command."""
    yield lambda config: check_output(Path(config.output), "output", "folder")
    if until in TRAINS or (config.rounds > 1 and until in CORRECTS):
        yield devices
    elif until != "pretrain":
        yield partial(a_device, until=until)
    if until == "pretrain":
        yield lambda config: policy.check_recipe(config.model)
    else:
        yield clients.check
        yield lambda config: policy.check(config.model, trains=until != "evaluate")
        yield lambda config: sampling.check(config, until)
    if until != "evaluate" or benchmarks.asks_held_out(config.benchmarks.tasks):
        yield partial(questions.check, splits=until in CORRECTS)
    if until in CORRECTS:
        yield lambda config: oracles.check(config.oracle, config.data)
    if until in MEASURES:
        yield lambda config: benchmarks.check(config.benchmarks)


def devices(config: Config) -> None:
    """Raise UserError where this machine has fewer GPUs than the training takes of it."""
    wanted, found = config.hardware.devices, gpu_count()
    if config.hardware.accelerator == "gpu" and found is not None and found < wanted:
        raise UserError(too_few_gpus(wanted, found))


def a_device(config: Config, until: str | None) -> None:
    """Raise UserError where this process would sample on a GPU and there is none."""
    if config.hardware.accelerator == "gpu" and gpu_count() == 0:
        for group, _, _ in sampling.in_process(config, until):
            raise UserError(
                f"{group}=transformers with hardware.accelerator=gpu needs a CUDA device and sees none: "
                "choose hardware=cpu, or another generator."
            )
