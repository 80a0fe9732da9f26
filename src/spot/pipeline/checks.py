"""What a run would refuse on this machine, found without torch and before anything is made or asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from spot.config import Config
from spot.config.hardware import too_few_gpus
from spot.evaluation import benchmarks
from spot.oracle import build as oracles
from spot.pipeline import clients, policy, questions, resources, spending
from spot.pipeline.plan import sampling
from spot.pipeline.preview import REUSE, preview
from spot.utils.errors import UserError
from spot.utils.files import check_output
from spot.utils.processes import gpu_count
from spot.utils.progress import say_once

Check = Callable[[Config], None]
MEASURES = (None, "evaluate")  # commands, by the stage they end with, that ask benchmarks
CORRECTS = (None, "rectify", "select", "train")


def check(
    jobs: Sequence[Config],
    until: str | None,
    distinct: Sequence[Config] | None = None,
    *,
    dealt: bool = False,
    asks: bool = False,
) -> None:
    """Raise UserError for what could not be carried out of any job, up to the stage `until`.

    distinct: those that differ in more than what only training sees; None: all. dealt: a job has the GPUs
    that are free, so one that wants too many leaves the others. asks: a person is asked afterwards what
    the Oracle may cost.
    """
    seen = jobs if distinct is None else distinct
    for job in seen:
        for refuse in checks(job, until):
            if not (dealt and refuse is devices):
                refuse(job)
    resources.disk(jobs, until)
    fetch(seen, until)
    for job in seen:
        if until in CORRECTS and not asks:
            spending.check(job, until)
    for job in seen:
        say_what_is_short(job, until)


def say_what_is_short(config: Config, until: str | None) -> None:
    """Say what is no mistake and may be missed after the run; nothing where a line has refused it."""
    if until in resources.TRAINS:
        resources.say_what_is_short(config)
        ability(config)


def checks(config: Config, until: str | None) -> Iterator[Check]:
    """Every such check of a command."""
    yield lambda config: check_output(Path(config.output), "output", "folder")
    if until in resources.TRAINS or (config.rounds > 1 and until in CORRECTS):
        yield from (devices, resources.packages, resources.login)
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
    if until in resources.TRAINS:
        yield resources.memories


def fetch(configs: Sequence[Config], until: str | None) -> None:
    """Raise UserError where questions of benchmarks cannot be had from the hub that will be asked."""
    if until not in MEASURES:
        return
    try:
        benchmarks.fetch(config.benchmarks for config in configs)
    except UserError:
        if any(_measures(config, until) for config in configs):
            raise


def _measures(config: Config, until: str | None) -> bool:
    """Whether there are scores to make."""
    return any(one.stage == "evaluate" and one.action != REUSE for one in preview(config, until))


def ability(config: Config) -> None:
    """Say where the ability probe would ask nothing though there are general benchmarks."""
    tasks, probe = config.benchmarks.tasks, config.probe
    general = [name for name, task in tasks.items() if task.domain == "general"]
    inert = probe.ability == "training" and not benchmarks.general(tasks, probe)
    if inert and probe.ability_every and general:
        say_once(
            f"probe.ability_every={probe.ability_every} asks nothing: {', '.join(general)} cannot be asked while "
            "training goes on; probe.ability=exports save.exports=<steps> measures it afterwards."
        )


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
