"""The commands that run stages: each stage, `plan` and `correct`.

torch and the pipeline are loaded only when the configuration (of every job, for a sweep) has been
checked.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from spot import config
from spot.cli.arguments import is_override
from spot.cli.errors import mistakes_in_one_line
from spot.config import compose
from spot.config.text import keep_text
from spot.data import run_record
from spot.pipeline.distributed import nodes
from spot.utils.errors import UserError

TRAINING = ("run", "train")  # commands that get as far as training
MAKES = {  # what the last line of a command names
    "run": "report",
    "elicit": "attempts",
    "rectify": "rectifications",
    "select": "pairs",
    "train": "checkpoint",
}


def command(name: str, arguments: argparse.Namespace) -> None:
    """Run the loop or a stage, or say what that would make (`--dry-run`)."""
    overrides = list(arguments.overrides)
    if name == "evaluate":
        if (run := _named_run(overrides)) is not None:
            return _evaluate_exports(run, arguments.dry_run)
        overrides = evaluated(overrides)
    if not arguments.dry_run:
        return _with_hydra(name, arguments, overrides)
    if only_shows(arguments):
        raise UserError("--dry-run goes with keys and -m: leave out Hydra's other flags.")
    if (started := nodes.started()) is not None and started.index > 0:
        return None  # torchrun and srun start many; the first one speaks
    asked = expand(name, arguments, overrides)

    from spot.cli import dry_run

    print(dry_run.HEAD.format(name))
    print("\n".join(dry_run.lines(asked, until(name))))


def expand(name: str, arguments: argparse.Namespace, overrides: list[str]) -> compose.Expanded:
    """The checked configuration of a command, or of a sweep's jobs, which only `run` has."""
    asked = compose.expand(overrides, arguments.multirun, until(name))
    if asked.sweep and name != "run":
        raise UserError(f"spot {name} takes one configuration: only `spot run` sweeps.")
    return asked


def check(name: str, asked: compose.Expanded, found: nodes.Started | None) -> list[str]:
    """Refuse what this machine cannot carry out, of any job, before a folder is made for it.

    Returns what the person at a terminal was asked for, as overrides; a sweep asks nobody, since its
    folder is named by what was typed.
    """
    from spot.pipeline import checks, spending
    from spot.utils.processes import visible_gpus

    jobs = [job for _, job in asked.jobs]
    seen = {json.dumps(config.plain(j) | {"arm": None, "seed": 0, "loss": None}): j for j in jobs}
    if name in TRAINING and not asked.sweep:
        nodes.check(jobs[0].hardware, found)
    dealt = asked.sweep and bool(visible_gpus())
    asks = sys.stdin.isatty() and not asked.sweep
    checks.check(jobs, until(name), list(seen.values()), dealt=dealt, asks=asks)
    if asks and until(name) in checks.CORRECTS:
        return spending.ask(jobs[0], until(name))
    return []


def until(name: str) -> str | None:
    """The stage that a command ends with; None: all of them."""
    return None if name in ("run", "plan", "config") else name


def evaluated(overrides: Sequence[str]) -> list[str]:
    """`benchmark=<name> benchmark.<key>=<value>` spelt out as the configuration has it."""
    named = [a.partition("=")[2] for a in overrides if a.startswith("benchmark=")]
    if not named:
        return list(overrides)
    kept = [a for a in overrides if not a.startswith(("benchmark=", "benchmark."))]
    own = [a.partition(".")[2] for a in overrides if a.startswith("benchmark.")]
    task = f"benchmarks.tasks.{named[-1]}"
    return [
        "benchmarks=one",
        f"+benchmark@{task}={named[-1]}",
        *kept,
        *(f"{task}.{a}" for a in own),
    ]


# ---- with Hydra --------------------------------------------------------------------------------


def _with_hydra(name: str, arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Check the configuration, then let Hydra make the folder (or expand the sweep) and run it."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through to `main`
    here = True
    if not only_shows(arguments):
        found = nodes.started()
        if found is not None and found.index > 0:
            return _follow(found)
        asked = expand(name, arguments, overrides)
        if asked.sweep and found is not None:
            raise UserError(f"A sweep starts its own jobs: type it without {found.by}.")
        here = not asked.sweep or "submitit" not in " ".join(overrides)  # it sends jobs elsewhere
        if here:
            overrides = [*overrides, *check(name, asked, found)]
    compose.register()
    # Hydra's own parser takes no flag behind an override.
    flags = [word for word in arguments.words if word not in arguments.overrides]
    sys.argv = [sys.argv[0], *flags, *map(keep_text, overrides)]
    entry = hydra.main(version_base="1.3", config_path=str(compose.CONF), config_name="config")
    return entry(_task(name, checked=here))()


def only_shows(arguments: argparse.Namespace) -> bool:
    """Whether the flags ask Hydra to print something, or to look for the configuration elsewhere."""
    flags = "help hydra_help cfg info shell_completion config_path config_name config_dir"
    return any(getattr(arguments, flag, None) for flag in [*flags.split(), "experimental_rerun"])


def _follow(found: nodes.Started) -> None:
    """A process that torchrun or srun started beside another: that one keeps the run and its folder."""
    if found.idle:
        return
    from spot.pipeline.distributed import launch

    launch.follow()


def _task(name: str, checked: bool) -> Callable[[DictConfig], None]:
    """What Hydra calls with the composed configuration of one run."""

    def spot(composed: DictConfig) -> None:
        try:  # here already: later, Hydra has added lines of its own
            with mistakes_in_one_line():
                _run(name, composed, checked)
        except Exception:
            traceback.print_exc()
            raise SystemExit(1) from None

    return spot


def _run(name: str, composed: DictConfig, checked: bool) -> None:
    """Hand a configuration to the pipeline. checked: on this machine, for `name` alone."""
    found = nodes.started()
    if found is not None and found.index > 0:  # submitit calls this in every task of a job
        return _follow(found)
    compose.settle(composed, HydraConfig.get().runtime.choices["model"])
    settings = config.typed(composed, until(name))
    if not checked:
        from spot.pipeline import checks

        if name in TRAINING:
            nodes.check(settings.hardware, found)
        checks.check([settings], until(name))
    runtime = HydraConfig.get()
    folder, overrides = Path(runtime.runtime.output_dir), list(runtime.overrides.task)

    from spot.pipeline import run

    with run.recorded(name, settings, folder, overrides):
        _carry_out(name, settings, folder, overrides)
    return None


def _carry_out(name: str, settings: config.Config, folder: Path, overrides: list[str]) -> None:
    """Call the pipeline and say where its results are."""
    from spot.pipeline import way  # imports torch

    if name == "evaluate":
        from spot.evaluation import compare

        scores = way.evaluate(settings, folder, overrides)
        compare.show(compare.read(scores))
        print(f"scores: {folder}", flush=True)
        return
    if name == "pretrain":
        print(f"student: {way.pretrain(settings, folder)}", flush=True)
        return
    session = nodes.session()
    with nullcontext() if session is None else session.leading():
        made = way.run(settings, folder, overrides, until(name))
    if name == "run":
        products = run_record.read(folder).get("products", {})
        if {"scores", "base_scores"} <= products.keys():
            _show_scores(folder / products["scores"], folder / products["base_scores"])
    print(f"{MAKES[name]}: {made}", flush=True)


# ---- without a folder of their own ---------------------------------------------------------------


def _named_run(words: Sequence[str]) -> Path | None:
    """The run that `spot evaluate <run folder>` names. Raises UserError for what is not a folder."""
    named = [Path(word) for word in words if not is_override(word)]
    if not named:
        return None
    run = named[0]
    if not run.is_dir():
        raise UserError(
            f"{run} is not a folder: spot evaluate <run folder>, or spot evaluate key=value."
        )
    if len(words) > 1:
        raise UserError(
            f"spot evaluate {run} asks what the run asked, and takes nothing else: for other choices, "
            f"spot evaluate model.path=<the checkpoint that spot show {run} names> key=value."
        )
    return run


def _evaluate_exports(run: Path, dry: bool) -> None:
    if dry:
        from spot.cli import dry_run

        print(dry_run.HEAD.format("evaluate"))
        print("\n".join(dry_run.export_lines(run)))
        return
    from spot.pipeline import exports, stages
    from spot.pipeline.run import Run

    trained = exports.trained(run)
    scores = stages.evaluate(Run(trained.config, run), "scores", trained.model, trained.attempts)
    _show_scores(scores.folder, trained.base_scores)
    print(f"scores: {os.path.normpath(scores.folder)}", flush=True)
    if run_record.is_finished(run) and exports.read(run).weights:
        from spot import report

        print(f"steps: {exports.evaluate(run)}", flush=True)
        print(f"report: {report.build(run)}")


def _show_scores(scores: Path, base: Path | None) -> None:
    """A model's scores, beside those of the model it was trained from."""
    from spot.evaluation import compare

    after = compare.read(scores, name="trained")
    if base is None:
        compare.show(after)
    else:
        compare.compare(compare.read(base, name="base"), after)


def correct(name: str, arguments: argparse.Namespace) -> None:
    """A page on this machine, and the sheet behind it."""
    settings = compose.compose(arguments.overrides, "elicit")
    from spot.oracle import human_sheet

    sheet = human_sheet.place(settings.oracle.path, settings.output)

    from spot.pipeline import checks, way

    checks.check([settings], "elicit")
    way.correct(settings, sheet)
    print(f"corrections: {sheet}\nuse them: oracle=human oracle.path={sheet}", flush=True)


def plan(name: str, arguments: argparse.Namespace) -> None:
    """Exit code 1 where it does not fit."""
    if only_shows(arguments):
        return _with_hydra("run", arguments, list(arguments.overrides))
    asked = compose.expand(list(arguments.overrides), arguments.multirun)
    if len(asked.jobs) > 1:
        raise UserError(
            "spot plan takes one configuration: add what the sweep varies, arm=dpo seed=0."
        )
    settings = asked.jobs[0][1]

    from spot.pipeline import plan as planning
    from spot.pipeline import preview
    from spot.training.bin_packing import Lengths

    lengths, wrong = None, None
    if known := preview.existing_pairs(settings):
        pairs, wrong = known
        prompt = settings.plan.prompt_tokens
        lengths = [
            Lengths(prompt, p.chosen_tokens, p.rejected_tokens or 0, p.common_prefix or 0)
            for p in pairs
        ]
    result = planning.plan(settings, lengths, wrong)
    planning.show(result)
    raise SystemExit(result.exit_code)


def sbatch(name: str, arguments: argparse.Namespace) -> None:
    """Print a script with which SLURM runs the loop."""
    overrides = list(arguments.overrides)
    asked = compose.expand(overrides, arguments.multirun)
    if asked.sweep:
        raise UserError("spot sbatch takes one configuration: a sweep goes to SLURM by spot run -m "
                        "hydra/launcher=submitit_slurm.")  # fmt: skip
    from spot.pipeline import slurm

    command = [sys.executable, str(compose.CONF.parent / "train.py"), *overrides]
    print(slurm.script(asked.jobs[0][1].hardware, command), end="")
