"""From overrides to a checked configuration, and from Hydra's complaints to one clear line.

Everything here happens before anything heavy is imported: a sweep is checked job by job before its
first job starts.
"""

from __future__ import annotations

import copy
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.version import setbase
from omegaconf import DictConfig, ListConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException, ValidationError

from spot import config as schema
from spot.config import BenchmarkConfig, Config, suggestions
from spot.config.arguments import expected, short
from spot.config.model_name import model_name
from spot.config.text import SCHEMAS, FileConfigSource, keep_text, without_schema
from spot.utils.errors import UserError, first_line, guess

CONF = Path(__file__).resolve().parents[3] / "conf"
LONGEST = 200  # characters of a key; file names end soon after


def register() -> None:
    """Make the schemas known to Hydra; each YAML of a group names its schema in its defaults list."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for group, node in SCHEMAS.items():
        store.store(group=group, name="schema", node=node)
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
    OmegaConf.register_new_resolver("folder_or", folder_or, replace=True)
    OmegaConf.register_new_resolver("cpu_precision", cpu_precision, replace=True)
    Plugins.instance()  # Hydra's own readers of files, before ours
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource


def folder_or(folder: str, otherwise: str) -> str:
    """The folder where it is there (a part of one, too, which is then refused), else the other."""
    return folder if Path(folder).is_dir() else otherwise


def cpu_precision(known: str = "/proc/cpuinfo") -> str:
    """bf16 where the processor has units that multiply matrices in it (Intel's AMX), else fp32.

    known: Linux' list of what the processor can do; without one fp32.
    """
    try:
        return "bf16" if "amx_bf16" in Path(known).read_text(encoding="utf-8").split() else "fp32"
    except OSError:
        return "fp32"


def sweep_name(study: str | None, overrides: list[str]) -> str:
    """The folder of a sweep, the same whenever it is typed again, so that it resumes: the study, else `sweep`.

    What the command line adds is part of the name: other settings, other folder.
    """
    own = re.compile(r"\+\w+=\w+$|output=")  # the study's file itself (+paper=table2)
    added = [line for line in overrides if not own.match(line)]
    # a study's folder does not depend on their order, the numbers of a sweep's jobs do
    words = [study, *sorted(added)] if study else added or ["sweep"]
    text = "__".join(re.sub(r"[^\w.=,+-]", "-", word) for word in words)
    return (
        text if len(text) <= 100 else f"{text[:90]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    )


@cache
def loader() -> ConfigLoaderImpl:
    """Hydra's loader of conf/, experiments/ and the schemas; one for the whole process."""
    if not CONF.is_dir():
        raise UserError(f"{CONF} is missing: install spot from a clone, `make install`.")
    register()
    setbase("1.3")
    setup_globals()
    return ConfigLoaderImpl(create_config_search_path(str(CONF)))


def compose(overrides: Iterable[str] = (), until: str | None = None) -> Config:
    """The checked configuration of one run. Raises UserError, in one line, for any mistake."""
    return _checked(*_composed(list(overrides), RunMode.RUN), until)


def benchmark(name: str, overrides: list[str]) -> BenchmarkConfig:
    """One file of conf/benchmark/, with `key=value` overrides of its keys. Raises UserError."""
    _check_option("benchmark", name, _options("benchmark"))
    lines = [f"+benchmark@benchmarks.tasks.{name}={name}"]
    lines += [f"benchmarks.tasks.{name}.{line}" for line in overrides]
    return compose(lines, "elicit").benchmarks.tasks[name]


@dataclass(frozen=True)
class Expanded:
    """What a command line stands for: one run, or the jobs of a sweep in their order."""

    jobs: list[tuple[list[str], Config]]  # the overrides of each, and its checked configuration
    sweep: bool
    varies: dict[str, list[str]]  # key → the values that the sweep gives it
    folder: Path  # of the run or the sweep, as it would be named now


def expand(overrides: list[str], sweep: bool = False, until: str | None = None) -> Expanded:
    """The checked configurations of a run, or of every job of a sweep. Raises UserError.

    An experiment file may ask for a sweep itself (`hydra.mode: MULTIRUN`).
    """
    tree, parsed = _composed(overrides, RunMode.MULTIRUN if sweep else RunMode.RUN)
    if not sweep and tree.hydra.mode != RunMode.MULTIRUN:
        folder = Path(tree.hydra.run.dir)
        return Expanded([(overrides, _checked(tree, parsed, until))], False, {}, folder)
    lines = _sweep_lines(tree)
    jobs = BasicSweeper.split_arguments(lines, None)[0]
    configs = {n: compose(jobs[n], until) for n in _by_distance(jobs)}
    varies = {
        line.get_key_element(): [str(value) for value in line.sweep_string_iterator()]
        for line in lines
        if line.is_sweep_override()
    }
    numbered = [(job, configs[n]) for n, job in enumerate(jobs)]
    return Expanded(numbered, True, varies, Path(tree.hydra.sweep.dir))


def _composed(overrides: list[str], mode: RunMode) -> tuple[DictConfig, list[Override]]:
    """Hydra's tree for the overrides, and the overrides parsed."""
    parsed = [_parse(line) for line in overrides]
    for override in parsed:
        _check_options(override)
    with _explained(parsed):
        return _tree(parsed, mode), parsed


def _tree(overrides: list[Override], mode: RunMode) -> DictConfig:
    """What Hydra composes from the overrides.

    Hydra applies `key=value`, `+key=value` and `~key` to the tree that the chosen options make. That
    tree is composed once for each choice of options; Hydra's own settings are left to Hydra.
    """
    valued = [override for override in overrides if not override.is_sweep_override()]
    chosen = [override for override in valued if _chooses(override)]
    tree = copy.deepcopy(_base(tuple(str(override.input_line) for override in chosen), mode))
    for override in valued:
        if override not in chosen:
            _refuse_unknown(tree, override)
            _refuse_empty(override)
            ConfigLoaderImpl._apply_overrides_to_config([override], tree)
    lines = [str(override.input_line) for override in overrides]
    if any(override.is_hydra_override() for override in overrides):
        return loader().load_configuration("config", lines, mode, validate_sweep_overrides=False)
    tree.hydra.overrides.task = lines
    tree.hydra.runtime.cwd = os.getcwd()
    return tree


@lru_cache(64)
def _base(chosen: tuple[str, ...], mode: RunMode) -> DictConfig:
    """The tree of a choice of options, which nobody may change."""
    return loader().load_configuration("config", list(chosen), mode)


def _chooses(override: Override) -> bool:
    """Whether Hydra takes it for a choice of a group's option, and not for a value."""
    is_group = loader().repository.group_exists(override.key_or_group)
    return is_group and not isinstance(override.value(), dict)


def _checked(tree: DictConfig, overrides: list[Override], until: str | None) -> Config:
    """The tree of one run as checked dataclasses."""
    for override in overrides:
        if override.is_sweep_override():
            raise UserError(f"{override.input_line} names several values: add -m to sweep.")
    with flag_override(tree, ["struct", "readonly"], False):
        option = tree.pop("hydra").runtime.choices.model
    with _explained(overrides):
        settle(tree, str(option))
        if tree.evaluator is not None:
            with _named_evaluator():
                OmegaConf.to_object(tree.evaluator)
        return schema.typed(tree, until)


def settle(tree: DictConfig, option: str) -> None:
    """Set what follows from other keys: the name of a model given by its path, and a world's seeds."""
    name_model(tree.model, option)
    for key in schema.WORLD_SEEDS if tree.world else ():
        if (seed := OmegaConf.select(tree, key)) is not None:
            OmegaConf.update(tree, key, seed + tree.world)


def name_model(model: DictConfig, option: str) -> None:
    """Call a model by its path, where that is not its option's own and nobody has named it."""
    if model.path is not None:
        own = _base((f"model={option}",), RunMode.RUN).model
        if model.path != own.path and model.name == own.name:
            model.name = model_name(model.path)


def _sweep_lines(master: DictConfig) -> list[Override]:
    """What Hydra's sweeper will expand: an experiment's parameters and the command line, which wins."""
    params = master.hydra.sweeper.get("params") or {}
    lines = [f"{key}={value}" for key, value in params.items()]
    parsed = [_parse(line) for line in [*lines, *master.hydra.overrides.task]]
    return list({override.get_key_element(): override for override in parsed}.values())


def _by_distance(jobs: list[list[str]]) -> list[int]:
    """Jobs that differ least from the first one first, so that a bad value is found early."""
    return sorted(
        range(len(jobs)), key=lambda n: sum(a != b for a, b in zip(jobs[n], jobs[0], strict=True))
    )


@cache
def _parse(line: str) -> Override:
    line = keep_text(line)
    try:
        override = OverridesParser.create(config_loader=loader()).parse_override(line)
        if not 0 < len(override.key_or_group) <= LONGEST:
            raise HydraException(f"{line} has no key")
        override.config_loader = loader()  # for glob(*)
        return without_schema(override)
    except HydraException as error:
        raise UserError(suggestions.unreadable(line, _all_options())) from error


def _check_options(override: Override) -> None:
    """Refuse an option that its group does not have."""
    group = override.key_or_group
    options = _options(group)
    if not options or override.is_delete():
        return
    values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
    for value in values:
        _check_option(override.get_key_element(), value, options)


def _check_option(group: str, value: Any, options: list[str]) -> None:
    if value not in options:
        name = "null" if value is None else str(value)
        what = f"{short(name)} is unknown" if name else " is empty"
        close = suggestions.other_place(group, name, _all_options())
        close = close or guess(name, options) or guess(name.lower(), options)
        raise UserError(f"{group}={what}: {close}choose one of {', '.join(options)}.")


@cache
def _all_options() -> dict[str, list[str]]:
    """The options of every group, without Hydra's own."""
    found = {group: _options(group) for group in loader().list_groups("") if group != "hydra"}
    return {group: options for group, options in found.items() if options}


def _options(group: str) -> list[str]:
    return [name for name in loader().repository.get_group_options(group) if name != "schema"]


@contextmanager
def _explained(overrides: list[Override]) -> Iterator[None]:
    """Turn whatever Hydra or OmegaConf raises inside into a UserError of one line."""
    try:
        yield
    except UserError as error:  # raised in a __post_init__; OmegaConf appends lines of its own
        raise UserError(str(error).splitlines()[0]) from None
    except (HydraException, OmegaConfBaseException, AssertionError, ValueError) as error:
        raise UserError(_explain(overrides, error)) from error


@contextmanager
def _named_evaluator() -> Iterator[None]:
    """The schema of generators calls itself `generator`: name the one that was meant."""
    try:
        yield
    except UserError as error:
        raise UserError(re.sub(r"\bgenerator\.", "evaluator.", str(error))) from None


def _explain(overrides: list[Override], error: Exception) -> str:
    """One line for a failed composition: a group or key that is added wrongly, a wrong type, or Hydra's words."""
    for override in overrides:
        line = override.input_line
        if f"Could not override '{override.get_key_element()}'" in str(error):
            if override.package:
                return f"{line} is unknown: what takes an @ is generator@evaluator=<option>."
            return f"{line}: write +{line}."
        if override.is_delete() and f"override {line}" in str(error):
            return f"{line}: a key cannot be taken out, only set: {override.key_or_group}=<value>."
        twice = ("Multiple values for", "force-add of config groups")
        if str(error).startswith(twice) and (override.is_add() or override.is_force_add()):
            return (
                f"{line} chooses {override.key_or_group} once more: write {str(line).lstrip('+')}."
            )
        if f"An item is already at '{override.key_or_group}'" in str(error):
            return f"{line} adds what is there already: write {str(line).lstrip('+')}."
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ValidationError):
        cause = cause.__cause__
    return _one_line(error) if cause is None else _wrong_type(cause, overrides)


def _refuse_unknown(tree: DictConfig, override: Override) -> None:
    """Refuse a key that the tree does not have: Hydra lets a plus add what no schema has."""
    node: Any = tree
    parts = override.key_or_group.replace("/", ".").split(".")
    for depth, part in enumerate(parts):
        parent, path = (".".join(parts[:n]) for n in (depth, depth + 1))
        if isinstance(node, ListConfig):
            return
        if not isinstance(node, DictConfig) or node._is_none():
            if path.startswith("evaluator."):
                why = "choose who evaluates first, generator@evaluator=<option>"
            else:
                why = f"{parent} has no keys here, it is {short(str(node))}"
            raise UserError(f"{path} is unknown: {why}.")
        kind = OmegaConf.get_type(node)
        keys = [f.name for f in fields(kind)] if is_dataclass(kind) else [str(k) for k in node]
        if part not in keys and not (part == "hydra" and depth == 0):
            if (override.is_add() or override.is_force_add()) and not is_dataclass(kind):
                return  # a mapping by name
            if not parent:
                keys = sorted({*keys, *(f"+{group}" for group in _extra_groups(tree))})
            valid = f"keys of {parent}" if parent else "keys"
            raise UserError(
                f"{short(path)} is unknown: {suggestions.did_you_mean(path, keys)}{valid}: {', '.join(keys) or 'none'}."
            )
        node = node._get_node(part)


def _refuse_empty(override: Override) -> None:
    """Refuse `key=` without a value; `key=''` is an empty text."""
    if (
        not override.is_delete()
        and str(override.input_line).endswith("=")
        and override._value == ""
    ):
        raise UserError(
            f"{override.input_line} is empty: give a value, {override.key_or_group}=…, or leave it out."
        )


def groups() -> dict[str, list[str]]:
    """The options of every group; a plus stands before those that the main file does not choose from."""
    extra = _extra_groups(_base((), RunMode.RUN))
    plain = [g for g in loader().list_groups("") if g not in ("hydra", *extra) and _options(g)]
    return {("+" if group in extra else "") + group: _options(group) for group in [*plain, *extra]}


def _extra_groups(base: DictConfig) -> list[str]:
    """Groups that are not in the defaults list and need a plus, such as +paper."""
    known = {*map(str, base), *base.hydra.runtime.choices, "hydra", "benchmark"}
    return [g for g in loader().list_groups("") if g not in known and _options(g)]


def _wrong_type(error: ValidationError, overrides: list[Override]) -> str:
    key = str(error.full_key)
    value = next((o.get_value_element_as_str() for o in overrides if o.key_or_group == key), None)
    named = key if value is None else f"{key}={short(value)}"
    if keys := suggestions.held(key):
        return f"{named} is of the wrong type: it holds keys, {keys}."
    if kind := expected(error):
        return f"{named} is of the wrong type: it must be {kind}."
    if "Invalid type assigned: dict" in str(error):
        return (
            f"{named} cannot be added on the command line: write it into the group's file in conf/."
        )
    if "not Optional" in str(error):
        return f"{named} cannot be null."
    return f"{named} is of the wrong type: {first_line(error)}."


def _one_line(error: BaseException) -> str:
    """Hydra's message and its cause's, each cut to its first line."""
    causes = [error, *([error.__cause__] if error.__cause__ is not None else [])]
    if missing := re.search(r"missing mandatory value: (\w+)", str(error)):
        return f"{missing[1]} is missing: choose one, {missing[1]}=<option>."
    key = next((str(k) for e in causes if (k := getattr(e, "full_key", None))), None)
    lines = [*([key] if key else []), *(first_line(e) for e in causes)]
    return ": ".join(dict.fromkeys(lines)) + "."
