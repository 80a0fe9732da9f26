"""`spot <command> …`: the whole way or one stage of it, with the same configuration and overrides.

A mistake ends here, in one line and before anything heavy is imported: torch and the pipeline are
loaded only when the configuration (of every job, for a sweep) has been checked.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from spot import config
from spot.cli import manual
from spot.config import compose, origins
from spot.pipeline.distributed import nodes
from spot.utils.errors import FULL, UNUSABLE, RankError, UserError

COMMANDS = {name: command.summary for name, command in manual.COMMANDS.items()}
HELP = frozenset({"-h", "--help"})
DRY_RUN = "--dry-run"
TRAINING = ("run", "train")  # commands that get as far as training
MAKES = {  # what the last line of a command names
    "run": "report",
    "elicit": "attempts",
    "rectify": "rectifications",
    "select": "pairs",
    "train": "checkpoint",
}
ELSEWHERE = {  # commands that take no configuration, and what each calls with its arguments
    "compare": "spot.cli.commands:compare",
    "grade": "spot.cli.commands:grade",
    "connect4": "spot.cli.commands:connect4",
    "config": "spot.cli.commands:config",
    "report": "spot.cli.commands:report",
    "completion": "spot.cli.completion:command",
    "pairs": "spot.report.pair_page:command",
    "runs": "spot.pipeline.run_status:command",
    "show": "spot.pipeline.run_status:show",
    "dashboard": "spot.report.dashboard:command",
    "workspace": "spot.pipeline.workspace:command",
}


def main(argv: list[str] | None = None) -> None:
    """The console script `spot`. Its exit codes are those of `manual.EXIT_CODES`."""
    arguments = sys.argv[1:] if argv is None else argv
    with mistakes_in_one_line():
        command, rest = _command(arguments)
        if command == "help":
            print(manual.overview())
        elif command == "version":
            print(f"spot {importlib.metadata.version('spot')}")
        elif HELP & set(rest):
            _help(command, [argument for argument in rest if argument not in HELP])
        elif DRY_RUN in rest:
            from spot.cli import dry_run

            dry_run.command(command, [argument for argument in rest if argument != DRY_RUN])
        elif command in ELSEWHERE:
            module, _, function = ELSEWHERE[command].partition(":")
            getattr(importlib.import_module(module), function)(rest)
        elif command == "evaluate" and (run := named_run(rest)) is not None:
            _evaluate_exports(run)
        elif command == "evaluate":
            from spot.cli import commands

            _with_hydra(command, commands.evaluated(rest))
        elif command == "plan":
            _plan(rest)
        elif command == "correct":
            _correct(rest)
        else:
            _with_hydra(command, rest)
        sys.stdout.flush()  # here, where a closed pipe is expected


@contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """Show the user's mistakes, a full disk and Ctrl-C as one line; let real failures propagate."""
    try:
        yield
    except UserError as error:
        _stop(str(error), 2)
    except (HydraException, OmegaConfBaseException) as error:
        _stop(str(error).strip().splitlines()[0], 2)
    except RankError as error:
        _stop(str(error), 1)
    except KeyboardInterrupt:
        _stop("interrupted; the same command goes on from here.", 130)
    except BrokenPipeError:  # `spot config | head`: nobody reads on, and nobody need be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except OSError as error:
        if error.errno in UNUSABLE and error.filename:
            _stop(f"{error.filename}: {error.strerror}; is output=<folder> right?", 2)
        if error.errno not in FULL:
            raise
        where = f" ({error.filename})" if error.filename else ""
        _stop(f"the disk is full{where}: free some space; the same command goes on from here.", 1)


def _stop(message: str, code: int) -> None:
    print(f"spot: {message}", file=sys.stderr, flush=True)
    raise SystemExit(code)


def _command(arguments: list[str]) -> tuple[str, list[str]]:
    """The command and what follows it; without one (`spot loss=dpo`): run."""
    if not arguments or arguments[0] in (*HELP, "help"):
        wanted = next((name for name in arguments[1:] if not is_override(name)), None)
        return ("help", []) if wanted is None else (_command([wanted])[0], ["--help"])
    first = arguments[0]
    if first == "--version":
        return "version", []
    if first in COMMANDS:
        return first, arguments[1:]
    if is_override(first):
        return "run", arguments
    close = difflib.get_close_matches(first, COMMANDS, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    raise UserError(
        f"{compose.short(first) or 'An empty word'} is no command: {guess}choose one of "
        f"{', '.join(COMMANDS)}."
    )


def is_override(argument: str) -> bool:
    """Whether it is `key=value`, or a flag; a folder may have = in its name, as a sweep's."""
    return argument.startswith(("-", "+", "~")) or ("=" in argument and not Path(argument).is_dir())


def _help(command: str, arguments: list[str]) -> None:
    """A command's own page, and the keys of the configuration where it takes them."""
    text = manual.page(command)
    if manual.COMMANDS[command].configured:
        overrides = [argument for argument in arguments if "=" in argument]
        expanded = compose.expand(overrides, "-m" in arguments, "elicit")
        values = origins.as_yaml(compose.traced(expanded.jobs[0][0]), origins=False)
        text += "\n\n" + manual.keys(compose.groups(), values)
    print(text)


def _with_hydra(command: str, arguments: list[str]) -> None:
    """Check the configuration, then let Hydra make the folder (or expand the sweep) and run it."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through to `main`
    parsed = parse_flags(arguments)
    compose.register()
    if not _only_shows(parsed):
        found = nodes.started()
        if found is not None and found.index > 0:
            _follow(found)
            return
        sweep = compose.check(list(parsed.overrides), parsed.multirun, _until(command))
        if sweep and found is not None:
            raise UserError(f"A sweep starts its own jobs: type it without {found.by}.")
        if sweep and command != "run":
            raise UserError(f"spot {command} takes one configuration: only `spot run` sweeps.")
    # Hydra's own parser takes no flag behind an override.
    flags = [argument for argument in arguments if argument not in parsed.overrides]
    sys.argv = [sys.argv[0], *flags, *parsed.overrides]
    entry = hydra.main(version_base="1.3", config_path=str(compose.CONF), config_name="config")
    entry(_task(command))()


def _follow(found: nodes.Started) -> None:
    """A process that torchrun or srun started beside another: that one keeps the run and its folder."""
    if found.idle:
        return
    from spot.pipeline.distributed import launch

    launch.follow()


def parse_flags(arguments: list[str]) -> argparse.Namespace:
    """Hydra's flags and the overrides, in any order. Raises UserError for a flag it does not have."""
    parser = get_args_parser()

    def refuse(message: str) -> None:
        raise UserError(f"{message}; --help shows what there is.")

    parser.error = refuse  # type: ignore[method-assign, assignment]
    return parser.parse_intermixed_args(arguments)


def _only_shows(parsed: argparse.Namespace) -> bool:
    """Whether the flags ask Hydra to print something, or to look for the configuration elsewhere."""
    flags = "help hydra_help cfg info shell_completion config_path config_name config_dir"
    return any(getattr(parsed, flag) for flag in [*flags.split(), "experimental_rerun"])


def _until(command: str) -> str | None:
    return None if command == "run" else command


def _task(command: str) -> Callable[[DictConfig], None]:
    """What Hydra calls with the composed configuration of one run."""

    def spot(composed: DictConfig) -> None:
        try:  # here already: later, Hydra has added lines of its own
            with mistakes_in_one_line():
                _run(command, composed)
        except Exception:
            traceback.print_exc()
            raise SystemExit(1) from None

    return spot


def _run(command: str, composed: DictConfig) -> None:
    """Hand a checked configuration to the pipeline."""
    found = nodes.started()
    if found is not None and found.index > 0:  # submitit calls this in every task of a job
        _follow(found)
        return
    settings = config.typed(composed, _until(command))
    if command in TRAINING:
        nodes.check(settings.hardware, found)
    if settings.oracle.kind in config.ASKED and command not in ("elicit", "pretrain", "evaluate"):
        from spot.oracle import build

        build.check(settings.oracle, settings.data)
    runtime = HydraConfig.get()
    folder, overrides = Path(runtime.runtime.output_dir), list(runtime.overrides.task)

    from spot.pipeline import heartbeat

    with heartbeat.announced(folder, command, settings, overrides):
        _carry_out(command, settings, folder, overrides)


def _carry_out(
    command: str,
    settings: config.Config,
    folder: Path,
    overrides: list[str],
) -> None:
    """Call the pipeline and say where its results are."""
    from spot.pipeline import way  # imports torch

    if command == "evaluate":
        from spot.evaluation import compare

        scores = way.evaluate(settings, folder, overrides)
        compare.show(compare.read(scores))
        print(f"scores: {folder}", flush=True)
        return
    if command == "pretrain":
        print(f"student: {way.pretrain(settings, folder)}", flush=True)
        return
    session = nodes.session()
    with nullcontext() if session is None else session.leading():
        made = way.run(settings, folder, overrides, _until(command))
    print(f"{MAKES[command]}: {made}", flush=True)


def named_run(arguments: Sequence[str]) -> Path | None:
    """The run that `spot evaluate <run folder>` names. Raises UserError for what is no folder."""
    if len(arguments) != 1 or is_override(arguments[0]):
        return None
    run = Path(arguments[0])
    if not run.is_dir():
        raise UserError(
            f"{run} is no folder: spot evaluate <run folder>, or spot evaluate key=value."
        )
    return run


def _evaluate_exports(run: Path) -> None:
    from spot import report
    from spot.pipeline import exports

    print(f"scores: {exports.evaluate(run)}", flush=True)
    print(f"report: {report.build(run)}")


def _correct(arguments: list[str]) -> None:
    """A page on this machine, and the sheet behind it."""
    settings = compose.compose(arguments, "elicit")

    from spot.pipeline import way

    sheet = way.correct(settings)
    print(f"corrections: {sheet}\nuse them: oracle=human oracle.path={sheet}", flush=True)


def _plan(arguments: list[str]) -> None:
    """Exit code 1 where it does not fit."""
    parsed = parse_flags(arguments)
    if _only_shows(parsed):
        return _with_hydra("run", arguments)
    if compose.check(list(parsed.overrides), parsed.multirun):
        raise UserError(
            "spot plan takes one configuration: add what the sweep varies, arm=dpo seed=0."
        )
    settings = compose.compose(parsed.overrides)

    from spot.pipeline import plan as planning
    from spot.pipeline import preview
    from spot.training.bin_packing import Lengths

    lengths, wrong = None, None
    if known := preview.found(settings):
        pairs, wrong = known
        prompt = settings.plan.prompt_tokens
        lengths = [
            Lengths(prompt, p.chosen_tokens, p.rejected_tokens or 0, p.common_prefix or 0)
            for p in pairs
        ]
    plan = planning.plan(settings, lengths, wrong)
    planning.show(plan)
    raise SystemExit(plan.exit_code)


if __name__ == "__main__":
    main()
