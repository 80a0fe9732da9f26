"""From overrides to a checked configuration, and from Hydra's complaints to one clear line.

Everything here happens before anything heavy is imported: a sweep is checked job by job before its
first job starts.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException, ValidationError

from spot import config as schema
from spot.config import BenchmarkConfig, Config
from spot.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"
KINDS = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}


def register() -> None:
    """Make the schemas known to Hydra; each YAML of a group names its schema in its defaults list."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    groups: dict[str, Any] = {
        "model": schema.ModelConfig,
        "data": schema.DataConfig,
        "oracle": schema.OracleConfig,
        "generator": schema.GeneratorConfig,
        "loss": schema.LossConfig,
        "hardware": schema.HardwareConfig,
        "benchmarks": schema.BenchmarksConfig,
        "benchmark": schema.BenchmarkConfig,
        "logger": schema.LoggerConfig,
    }
    for group, node in groups.items():
        store.store(group=group, name="schema", node=node)
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)


def sweep_name(study: str | None, overrides: list[str], now: str) -> str:
    """The folder of a sweep: a study's, the same every time so that it resumes; else one by time.

    What the command line adds to the study is part of the name: other settings, other folder.
    """
    if study is None:
        return now
    own = re.compile(r"\+\w+=\w+$|output=")  # the study's file itself (+paper=table2)
    added = sorted(line for line in overrides if not own.match(line))
    text = "__".join([study, *(re.sub(r"[^\w.=,+-]", "-", line) for line in added)])
    return (
        text if len(text) <= 100 else f"{text[:90]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    )


@contextmanager
def _hydra() -> Iterator[Any]:
    """A Hydra that knows conf/ and the schemas, for as long as the block lasts."""
    if not CONF.is_dir():
        raise UserError(f"{CONF} is missing: install spot from a clone, `make install`.")
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().hydra


def compose(overrides: Iterable[str] = (), until: str | None = None) -> Config:
    """The checked configuration of one run. Raises UserError, in one line, for any mistake."""
    with _hydra() as hydra:
        return _checked(hydra, *_composed(hydra, list(overrides), RunMode.RUN), until)


def benchmark(name: str, overrides: list[str]) -> BenchmarkConfig:
    """One file of conf/benchmark/, with `key=value` overrides of its keys. Raises UserError."""
    with _hydra() as hydra:
        lines = [f"benchmark@benchmarks.tasks.{name}={name}"]
        options = _options(hydra.config_loader, "benchmark")
        if name not in options:
            raise UserError(
                f"benchmark={name} is unknown: {_guess(name, options)}choose one of {', '.join(options)}."
            )
        lines = [f"+{lines[0]}", *(f"benchmarks.tasks.{name}.{line}" for line in overrides)]
        checked = _checked(hydra, *_composed(hydra, lines, RunMode.RUN), "elicit")
    return checked.benchmarks.tasks[name]


def check(overrides: list[str], sweep: bool = False, until: str | None = None) -> bool:
    """Check a run, or every job of a sweep. Returns whether it is a sweep; raises UserError.

    An experiment file may ask for a sweep itself (`hydra.mode: MULTIRUN`).
    """
    with _hydra() as hydra:
        mode = RunMode.MULTIRUN if sweep else RunMode.RUN
        tree, parsed = _composed(hydra, overrides, mode)
        if not sweep and tree.hydra.mode != RunMode.MULTIRUN:
            _checked(hydra, tree, parsed, until)
            return False
        for job in _by_distance(_jobs(hydra.config_loader, tree)):
            _checked(hydra, *_composed(hydra, job, RunMode.RUN), until)
        return True


def _composed(hydra: Any, overrides: list[str], mode: RunMode) -> tuple[DictConfig, list[Override]]:
    """Hydra's tree for the overrides, and the overrides parsed."""
    parsed = [_parse(hydra.config_loader, line) for line in overrides]
    for override in parsed:
        _check_options(hydra.config_loader, override)
    with _explained(hydra, parsed):
        tree = hydra.compose_config("config", overrides, mode, validate_sweep_overrides=False)
    return tree, parsed


def _checked(hydra: Any, tree: DictConfig, overrides: list[Override], until: str | None) -> Config:
    """The tree of one run as checked dataclasses."""
    loader = hydra.config_loader
    for override in overrides:
        if override.is_sweep_override():
            raise UserError(f"{override.input_line} names several values: add -m to sweep.")
        if override.is_add() and not _options(loader, override.key_or_group):
            line = _unknown_key(loader, tree, override)  # Hydra lets a plus add what no schema has
            if line is not None:
                raise UserError(line)
    with flag_override(tree, ["struct", "readonly"], False):
        tree.pop("hydra")
    with _explained(hydra, overrides):
        return schema.typed(tree, until)


def _jobs(loader: ConfigLoader, master: DictConfig) -> list[list[str]]:
    """The overrides of every job of a sweep, as Hydra's sweeper will expand them."""
    params = master.hydra.sweeper.get("params") or {}
    lines = [f"{key}={value}" for key, value in params.items()]
    lines += list(master.hydra.overrides.task)
    parsed = [_parse(loader, line) for line in lines]
    return BasicSweeper.split_arguments(parsed, None)[0]


def _by_distance(jobs: list[list[str]]) -> list[list[str]]:
    """Jobs that differ least from the first one first, so that a bad value is found early."""
    return sorted(jobs, key=lambda job: sum(a != b for a, b in zip(job, jobs[0], strict=True)))


def _parse(loader: ConfigLoader, line: str) -> Override:
    try:
        return OverridesParser.create(config_loader=loader).parse_override(line)
    except HydraException as error:
        raise UserError(
            f"{line} cannot be read: write key=value (or -m key=a,b to sweep), and quote "
            "text with special characters, key='\"a=b\"'."
        ) from error


def _check_options(loader: ConfigLoader, override: Override) -> None:
    """Refuse an option that its group does not have."""
    group = override.key_or_group
    options = _options(loader, group)
    if not options or override.is_delete():
        return
    values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
    for value in values:
        if value not in options:
            plus, name = "+" if override.is_add() else "", "null" if value is None else str(value)
            raise UserError(
                f"{plus}{group}={name} is unknown: {_guess(name, options)}"
                f"choose one of {', '.join(options)}."
            )


def _options(loader: ConfigLoader, group: str) -> list[str]:
    return [name for name in loader.get_group_options(group) if name != "schema"]


@contextmanager
def _explained(hydra: Any, overrides: list[Override]) -> Iterator[None]:
    """Turn whatever Hydra or OmegaConf raises inside into a UserError of one line."""
    try:
        yield
    except UserError as error:  # raised in a __post_init__; OmegaConf appends lines of its own
        raise UserError(str(error).splitlines()[0]) from None
    except (HydraException, OmegaConfBaseException, AssertionError, ValueError) as error:
        raise UserError(_explain(hydra, overrides, error)) from error


def _explain(hydra: Any, overrides: list[Override], error: Exception) -> str:
    """One line for a failed composition: an unknown key, a wrong type, or Hydra's own words."""
    loader = hydra.config_loader
    groups = [o for o in overrides if _options(loader, o.key_or_group)]
    try:
        base = hydra.compose_config("config", [str(o.input_line) for o in groups], RunMode.MULTIRUN)
    except (HydraException, ValueError):  # a group itself was the mistake
        for override in groups:
            group = override.key_or_group
            if f"Could not override '{group}'" in str(error):
                return f"{override.input_line}: write +{override.input_line}."
        return _one_line(error)
    for override in overrides:
        if override not in groups and (line := _unknown_key(loader, base, override)):
            return line
    if (cause := _validation(error)) is not None:
        return _wrong_type(cause, overrides)
    return _one_line(error)


def _unknown_key(loader: ConfigLoader, tree: DictConfig, override: Override) -> str | None:
    """What is wrong with an override's key, or None when the tree has it (or may be given it)."""
    node: Any = tree
    parts = override.key_or_group.replace("/", ".").split(".")
    for depth, part in enumerate(parts):
        parent = ".".join(parts[:depth])
        path = ".".join(parts[: depth + 1])
        if not isinstance(node, DictConfig) or node._is_none():
            return f"{path} is unknown: {parent} has no keys here, it is {node}."
        kind = OmegaConf.get_type(node)
        keys = [f.name for f in fields(kind)] if is_dataclass(kind) else [str(k) for k in node]
        if part == "hydra" and depth == 0:
            keys.append(part)
        if part not in keys:
            if override.is_add() and not is_dataclass(kind):
                return None  # a mapping by name
            if not parent:
                keys = sorted({*keys, *(f"+{group}" for group in _extra_groups(loader, tree))})
            dotted = [f"{parent}.{key}" if parent else key for key in keys]
            valid = f"keys of {parent}" if parent else "keys"
            return f"{path} is unknown: {_guess(path, dotted)}{valid}: {', '.join(keys) or 'none'}."
        node = node._get_node(part)
    return None


def _extra_groups(loader: ConfigLoader, base: DictConfig) -> list[str]:
    """Groups that are not in the defaults list and need a plus, such as +paper."""
    known = {*map(str, base), "hydra", "benchmark"}
    return [group for group in loader.list_groups("") if group not in known]


def _validation(error: BaseException | None) -> ValidationError | None:
    while error is not None and not isinstance(error, ValidationError):
        error = error.__cause__
    return error


def _wrong_type(error: ValidationError, overrides: list[Override]) -> str:
    key = str(error.full_key)
    value = next((o.get_value_element_as_str() for o in overrides if o.key_or_group == key), None)
    named = key if value is None else f"{key}={value}"
    if match := re.search(r"(?:converted to|not a valid) (\w+)", str(error)):
        return f"{named} is of the wrong type: it must be {KINDS.get(match[1], match[1])}."
    if "not Optional" in str(error):
        return f"{named} cannot be null."
    return f"{named} is of the wrong type: {_first_line(error)}."


def _guess(word: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.6)
    return f"did you mean {close[0]}? " if close else ""


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _one_line(error: BaseException) -> str:
    """Hydra's message and its cause's, each cut to its first line."""
    causes = [error, *([error.__cause__] if error.__cause__ is not None else [])]
    key = next((str(k) for e in causes if (k := getattr(e, "full_key", None))), None)
    lines = [*([key] if key else []), *(_first_line(e) for e in causes)]
    return ": ".join(dict.fromkeys(lines)) + "."
