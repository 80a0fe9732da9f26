"""Where the value of every key came from: the command line, a file, a default, or a computation.

Hydra composes a configuration by merging one source after the other: schemas, YAML files, then what the
command line says. Here the same sources are merged in the same order, and after each merge it is noted
which keys that source set. So an origin is what really happened, however the options were chosen.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf._utils import split_key

from spot.config import SFT_LIKE, Config, resolved_loss
from spot.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
COLUMN = 44  # where the origins begin, unless the value is longer
TYPED, SWEPT, FILE, SCHEMA, COMPUTED = "command line", "sweep", "file", "schema", "computed"
Path_ = tuple[str, ...]  # a key, by its parts


@dataclass(frozen=True)
class Origin:
    """Where one value came from.

    kind: command line | sweep | file | schema | computed. where: what was typed, the file, the
    dataclass, or the key it was computed from. option: the group and option of the file (`loss=bco`),
    chosen_by: who chose it (a file, or the command line). raw: the value before it was resolved.
    """

    kind: str
    where: str
    option: str | None = None
    chosen_by: str | None = None
    raw: str | None = None

    def __str__(self) -> str:
        if self.kind == SCHEMA:
            return f"default of {self.where}"
        if self.kind != FILE:
            return f"{self.kind}: {self.where}"
        chosen = f" ({self.option}, {self.chosen_by})" if self.chosen_by else ""
        return f"{self.where}{chosen}" + (f": {self.raw}" if self.raw else "")


@dataclass(frozen=True)
class Value:
    """The resolved value of one key, and its origin."""

    value: Any
    origin: Origin


Values = dict[Path_, Value]


def trace(loader: ConfigLoaderImpl, overrides: Sequence[str], swept: Iterable[str] = ()) -> Values:
    """Every key that Hydra composes from `overrides`, in the order of the configuration.

    swept: those of the overrides that a sweep adds, as opposed to the command line.
    """
    parsed, repository = loader._parse_overrides_and_create_caching_repo("config", list(overrides))
    found = loader.compute_defaults_list("config", list(overrides), RunMode.RUN)
    swept = set(swept)
    who = {
        o.get_key_element().lstrip("+"): SWEPT if o.input_line in swept else TYPED for o in parsed
    }
    layers = [
        (default, loader._load_single_config(default, repository)) for default in found.defaults
    ]
    files = {str(d.config_path): _file(str(layer.path), d) for d, layer in layers}
    tree = OmegaConf.create()
    origins: dict[Path_, Origin] = {}
    for default, layer in layers:
        tree.merge_with(layer.config)
        origin = None
        if not layer.is_schema_source:
            option, by = _choice(default, found.overrides, who)
            origin = Origin(FILE, files[str(default.config_path)], option, files.get(by or "", by))
        origins = _noted(origins, tree, _leaves(layer.config), origin)
    for override in found.config_overrides:
        loader._apply_overrides_to_config([override], tree)
        line = str(override.input_line)
        origin = Origin(SWEPT if line in swept else TYPED, line)
        origins = _noted(origins, tree, _set_by(override), origin)
    return {key: _value(tree, key, origin) for key, origin in origins.items()}


def _noted(
    origins: dict[Path_, Origin], tree: DictConfig, touched: Iterable[Path_], origin: Origin | None
) -> dict[Path_, Origin]:
    """After one merge: `touched` is from its source, whatever else is new from the schema."""
    now = dict.fromkeys(_leaves(tree))
    mine = {_leaf(path, now) for path in touched}
    result = {}
    for key in now:
        if key in mine and origin is not None:
            result[key] = origin
        elif key in mine or key not in origins:
            result[key] = Origin(SCHEMA, _schema(tree, key))
        else:
            result[key] = origins[key]
    return result


def _leaf(path: Path_, leaves: Mapping[Path_, Any]) -> Path_:
    """The leaf that a path is, or is inside of (an element of a list)."""
    return next((path[:n] for n in range(len(path), 0, -1) if path[:n] in leaves), path)


def _leaves(node: Container, path: Path_ = ()) -> Iterator[Path_]:
    """The keys of a tree that hold a value: a number, a text, null, a list or an empty mapping."""
    assert isinstance(node, DictConfig)
    for key in node:
        here = (*path, str(key))
        if here[0] in ("hydra", "defaults") or OmegaConf.is_missing(node, key):
            continue
        child = node._get_node(key)
        if _has_keys(child):
            yield from _leaves(cast(DictConfig, child), here)
        else:
            yield here


def _has_keys(node: Any) -> bool:
    if not isinstance(node, DictConfig) or node._is_none() or node._is_interpolation():
        return False
    return len(node) > 0


def _set_by(override: Override) -> Iterator[Path_]:
    """The keys that one override of the command line sets."""
    path = tuple(split_key(override.key_or_group))
    if path[0] == "hydra" or override.is_delete():
        return
    value = override.value()
    if isinstance(value, dict) and value:
        yield from ((*path, *below) for below in _leaves(OmegaConf.create(value)))
    else:
        yield path


def _schema(tree: DictConfig, key: Path_) -> str:
    """The dataclass that a key belongs to."""
    node: Any = tree
    for part in key[:-1]:
        node = node._get_node(part)
    kind = OmegaConf.get_type(node)
    return kind.__name__ if kind is not None and kind is not dict else "the schema"


def _file(source: str, default: ResultDefault) -> str:
    """A configuration file as one would open it from the repository."""
    folder = Path(source.removeprefix("file://"))
    file = folder / f"{default.config_path}.yaml"
    return file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else str(file)


def _choice(
    default: ResultDefault, choices: Any, who: Mapping[str, str]
) -> tuple[str | None, str | None]:
    """The group and option that brought a file in, and who overrode the usual option, if anyone."""
    group, _, option = str(default.config_path).rpartition("/")
    if group:
        for place in (f"{group}@{default.package}", group):
            if choices.known_choices.get(place) == option:
                by = choices.override_metadata.get(place)
                return f"{place}={option}", who.get(place) or (by and by.containing_config_path)
    return None, None  # the main file, or one that another option is built on


def _value(tree: DictConfig, key: Path_, origin: Origin) -> Value:
    parent: Any = tree
    for part in key[:-1]:
        parent = parent._get_node(part)
    node = parent._get_node(key[-1])
    if node._is_interpolation():
        origin = replace(origin, raw=str(node._value()))
    value = parent[key[-1]]
    return Value(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value, origin)


# ---- what is computed ----------------------------------------------------------------------------


def computed(values: Values, config: Config) -> Values:
    """The same with what a run computes from it: the arm's name, its learning rate and its β."""
    result = dict(values)
    if config.arm is not None:
        result["arm",] = Value(config.arm, Origin(COMPUTED, "from loss.name and data.arm"))
    loss = resolved_loss(config)
    rate = "learning_rate_sft" if config.loss.name in SFT_LIKE else "learning_rate_reward"
    resolved = {
        "learning_rate": (loss.learning_rate, f"model.{rate}"),
        "beta": (loss.beta, "the paper's value, 0.1"),
    }
    name = next((n for n in (config.arm, config.loss.name) if n in config.model.tuned), None)
    for key, (value, usual) in resolved.items():
        if getattr(config.loss, key) is not None:
            continue
        tuned = None if name is None else getattr(config.model.tuned[name], key)
        source = usual if tuned is None else f"model.tuned.{name}.{key}"
        place = tuple(source.split("."))
        beside = f", {values[place].origin.where}" if place in values else ""
        result["loss", key] = Value(value, Origin(COMPUTED, f"{source}{beside}"))
    return result


# ---- how it is shown -----------------------------------------------------------------------------


def parts(values: Values, names: Sequence[str]) -> Values:
    """The parts of a configuration that `names` ask for (`data`, `loss.delta`). Raises UserError."""
    wanted = [tuple(name.split(".")) for name in names]
    for name, path in zip(names, wanted, strict=True):
        if not any(key[: len(path)] == path for key in values):
            words = sorted({".".join(key[:depth]) for key in values for depth in (1, len(path))})
            close = difflib.get_close_matches(name, words, n=1)
            guess = f"did you mean {close[0]}? " if close else ""
            top = ", ".join(dict.fromkeys(key[0] for key in values))
            raise UserError(
                f"{name or 'an empty word'} is no part of the configuration: {guess}parts: {top}."
            )
    return {
        key: value
        for key, value in values.items()
        if not wanted or any(key[: len(path)] == path for path in wanted)
    }


def different(values: Values, usual: Values) -> Values:
    """What `usual` has otherwise, or not at all."""
    return {
        key: value
        for key, value in values.items()
        if key not in usual or usual[key].value != value.value
    }


def gone(values: Values, usual: Values) -> list[str]:
    """The highest keys of `usual` that these values do not have."""
    have = {key[:depth] for key in values for depth in range(1, len(key) + 1)}
    missing = [key for key in usual if key not in have]
    highest = (next(k[:n] for n in range(1, len(k) + 1) if k[:n] not in have) for k in missing)
    return list(dict.fromkeys(".".join(key) for key in highest))


def nested(values: Values) -> dict[str, Any]:
    """The values as a tree of mappings."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        node = tree
        for part in key[:-1]:
            node = node.setdefault(part, {})
        node[key[-1]] = value.value
    return tree


def as_yaml(values: Values, usual: Values | None = None, origins: bool = True) -> str:
    """YAML, one line a value, with its origin (and what is `usual`) behind it as a comment."""
    lines: list[str] = []
    above: Path_ = ()
    for key, value in values.items():
        shared = next(
            (n for n, ab in enumerate(zip(above, key, strict=False)) if ab[0] != ab[1]), 0
        )
        for depth in range(shared, len(key) - 1):
            lines.append(f"{'  ' * depth}{_scalar(key[depth])}:")
        text = f"{'  ' * (len(key) - 1)}{_scalar(key[-1])}: {_scalar(value.value)}"
        said = str(value.origin)
        if usual is not None:
            said += f"; usually {_scalar(usual[key].value)}" if key in usual else "; usually absent"
        lines.append(f"{text:<{COLUMN}} # {said}" if origins else text)
        above = key
    return "\n".join(lines)


def as_json(values: Values) -> dict[str, Any]:
    """The tree of values, and the origin of each by its dotted key."""
    kept = {
        ".".join(key): {k: v for k, v in asdict(value.origin).items() if v is not None}
        for key, value in values.items()
    }
    return {"config": nested(values), "origins": kept}


def _scalar(value: Any) -> str:
    text = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, width=sys.maxsize, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")
