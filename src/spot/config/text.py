"""Text stays as it was typed: `model.revision=6404e09` is not a number, nor is `subset: 1_000` in YAML.

Hydra's grammar and YAML read a word that looks like a number or a truth value as one before the schema can
say that its key holds text. `null` stays what it is: no value.
"""

from __future__ import annotations

import re
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

import yaml
from hydra._internal.core_plugins import file_config_source
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, ListConfig

from spot import config as schema
from spot.config import Config

SCHEMAS: dict[str, Any] = {  # of each group of conf/
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
_GRAMMAR = re.compile(r"""^\s*["'\[{]|,|\$\{""")  # a quote, a list, a sweep, an interpolation
_ENTRIES = re.compile(r"""(\w+)(\s*:\s*)([^\s,{}'"\[\]][^,{}]*)""")  # of a mapping, in braces
_PIECES = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^,\[\](){}'"]+""")


def keep_text(line: str) -> str:
    """An override with what its key takes for text, and Hydra for something else, in quotes."""
    key, equals, value = line.partition("=")
    name = key.lstrip("+~")
    if is_dataclass(value_type(name)):  # {id: 0123}
        return key + equals + _ENTRIES.sub(lambda entry: _kept_entry(name, entry), value)
    if not equals or not value.strip() or not holds_text(name):
        return line
    kept = _PIECES.sub(_quoted_number, value)
    try:
        _parser().parse_override(f"{key}={kept}")
    except HydraException:
        if not _GRAMMAR.search(value):  # a(1), a=b, o'neil
            kept = quoted(value.strip())
    return f"{key}={kept}"


def without_schema(override: Override) -> Override:
    """The override, whose `glob(*)` means the files of its group and not what types them."""
    if isinstance(value := override.value(), Glob):
        value.exclude.append("schema")
    return override


def _kept_entry(key: str, entry: re.Match[str]) -> str:
    kept = keep_text(f"{key}.{entry[1]}={entry[3]}").partition("=")[2]
    return f"{entry[1]}{entry[2]}{kept}"


def holds_text(key: str) -> bool:
    """Whether a dotted key of the configuration, or each of its list, is text."""
    kind = value_type(key)
    return kind is str or (get_origin(kind) is list and get_args(kind)[0] is str)


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's reader of YAML files, which takes the text of text keys as the file has it.

    It has the name of Hydra's own: by the name the registry of a submitit job takes both for one.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        """A file's tree; Hydra says where it goes."""
        result = super().load_config(config_path)
        group = str(Path(config_path).parent)
        package = result.header.get("package") or group
        kind = SCHEMAS.get(group if package == "_group_" else package)
        if package == "_global_" or group == ".":
            kind = Config
        tree = result.config
        file = Path(self.path) / self._normalize_file_name(config_path)
        if isinstance(tree, DictConfig):
            if kind is not None and _restored(tree, None, kind):
                _restored(tree, yaml.load(file.read_text("utf-8"), _AllText), kind)
            _keep_swept(tree, file)
        return result


class _AllText(yaml.SafeLoader):
    """Scalars as they are written; merge keys still merge."""

    yaml_implicit_resolvers: ClassVar = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}


def _restored(node: Any, written: Any, kind: Any) -> bool:
    """Whether a text key below holds something else; with what was written, that takes its place."""
    found = False
    keys: Any = list(node) if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        value, inner = node._get_node(key), value_type(str(key), kind)
        text = None if written is None else written[key]
        if isinstance(value, DictConfig | ListConfig):
            if not (value._is_none() or value._is_missing() or value._is_interpolation()):
                found |= _restored(value, text, inner)
        elif inner is str and isinstance(value._value(), int | float):
            found = True
            if text is not None:
                node[key] = str(text)
    return found


def _keep_swept(tree: DictConfig, file: Path) -> None:
    """The same for what an experiment file sweeps, `hydra.sweeper.params`."""
    params = tree
    for part in ("hydra", "sweeper", "params"):
        params = params.get(part) if isinstance(params, DictConfig) else None
    if not isinstance(params, DictConfig):
        return
    written = yaml.load(file.read_text("utf-8"), _AllText)["hydra"]["sweeper"]["params"]
    for key in [str(key) for key in params]:
        if holds_text(key) and isinstance(written.get(key), str):
            params[key] = keep_text(f"{key}={written[key]}").partition("=")[2]


def value_type(key: str, kind: Any = Config) -> Any:
    """The type under a dotted key of a dataclass (of `X | None`: X); None where there is no such key."""
    for part in key.replace("/", ".").split("."):
        if is_dataclass(kind):
            kind = get_type_hints(kind).get(part)
        elif get_origin(kind) in (dict, list):
            kind = get_args(kind)[-1]
        else:
            return None
        if NoneType in get_args(kind):  # X | None
            kind = next(k for k in get_args(kind) if k is not NoneType)
    return kind


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def _quoted_number(match: re.Match[str]) -> str:
    piece = match[0].strip()
    try:
        value = _parser().parse_rule(piece, "primitive")
    except HydraException:
        return match[0]
    return match[0].replace(piece, quoted(piece)) if isinstance(value, int | float) else match[0]


def quoted(text: str) -> str:
    return str(QuotedString(text, Quote.single).with_quotes())
