"""The configuration reference, written from the schema: types, defaults, valid values, comments, options."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import itertools
import re
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import MISSING as ABSENT
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from omegaconf import MISSING, OmegaConf

from spot import config
from spot.config import benchmarks, compose, generator, groups, hardware, loss, oracle
from spot.utils.errors import UserError

MODULES = (
    config,
    groups,
    loss,
    oracle,
    generator,
    hardware,
    benchmarks,
)  # where ranges are checked
WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything"}


@dataclass(frozen=True)
class Key:
    """One key of the configuration, as the reference shows it."""

    path: str  # loss.delta.mode
    type: str
    default: str
    valid: str  # range or choices; empty where the type says it all
    says: str  # the comment beside it


def schemas() -> dict[str, type]:
    """The dataclass of every group of conf/ that has one, and of the run itself under ""."""
    hints = typing.get_type_hints(config.Config)
    found = {
        name: _dataclass(hint) for name, hint in hints.items() if (compose.CONF / name).is_dir()
    }
    typed = {name: kind for name, kind in found.items() if kind is not None}
    return {"": config.Config, **typed, "benchmark": config.BenchmarkConfig}


def keys(group: str) -> list[Key]:
    """All keys of a group, nested ones with their path. `""`: the keys that belong to no group."""
    chosen = schemas()
    if group:
        return list(_keys(chosen[group], group, _yaml_comments(group)))
    own = _keys(config.Config, "", _yaml_comments(""))
    return [key for key in own if key.path not in chosen]


def _keys(kind: type, prefix: str, yaml: dict[str, str]) -> Iterator[Key]:
    """The keys of a dataclass and of those within it; what another group holds is left to its page."""
    hints, said, checked = typing.get_type_hints(kind), comments(kind), valid(kind)
    others = [group for group in schemas().values() if group is not kind]
    for field in fields(kind):
        path, hint = f"{prefix}.{field.name}" if prefix else field.name, hints[field.name]
        inner, by_name = _dataclass(hint), typing.get_origin(hint) is dict
        elsewhere = inner is None or inner in others
        if elsewhere or by_name or _is_optional(hint):
            says = said.get(field.name, "") or yaml.get(path, "")
            yield Key(path, _words(hint), _default(field), checked.get(field.name, ""), says)
        if inner is not None and not elsewhere:
            yield from _keys(inner, f"{path}.<name>" if by_name else path, yaml)


# ---- what the dataclasses say ------------------------------------------------------------------


def comments(kind: type) -> dict[str, str]:
    """The comment beside, within or above each field of a dataclass, by the field's name."""
    source = textwrap.dedent(inspect.getsource(kind))
    lines: dict[int, tuple[str, bool]] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = token.line.strip().startswith("#")
            lines[token.start[0]] = (token.string.lstrip("# ").strip(), alone)
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            inside = [
                lines[n][0] for n in range(node.lineno, (node.end_lineno or 0) + 1) if n in lines
            ]
            above = lines.get(node.lineno - 1)
            if not inside and above is not None and above[1] and " " in above[0]:  # no heading
                inside = [above[0]]
            found[node.target.id] = re.sub(
                r"^[A-Z_]{3,}(; )?", "", " ".join(inside)
            )  # a constant's name
    return found


def valid(kind: type) -> dict[str, str]:
    """The ranges and choices that a dataclass checks, by field: its own checks are run and listened to.

    A check that waits for a value is reached by giving each optional field one in turn.
    """
    check = getattr(kind, "__post_init__", None)
    if check is None:
        return {}
    usual = {f.name: None if _required(f) else _value(f) for f in fields(kind)}
    found: dict[str, str] = {}
    with _listening(found):
        for given in [{}, *({name: "?"} for name, value in usual.items() if value is None)]:
            bare = object.__new__(kind)
            vars(bare).update(usual | given)
            with suppress(
                UserError, TypeError, AttributeError, KeyError
            ):  # "?" is no value, and none is needed
                check(bare)
    return found


@contextmanager
def _listening(found: dict[str, str]) -> Iterator[None]:
    """In this block `in_range` and `one_of` write down what they would check."""

    def in_range(
        key: str, value: Any, low: float, high: float | None = None, *, open_low: bool = False
    ) -> None:
        sign = ">" if open_low else "≥"
        end = "" if high is None else f", ≤ {high:g}"
        found[key.rpartition(".")[2]] = f"{sign} {low:g}{end}"

    def one_of(key: str, value: Any, valid: tuple[str, ...]) -> None:
        found[key.rpartition(".")[2]] = " · ".join(f"`{each}`" for each in valid)

    with ExitStack() as stack:
        for module in MODULES:
            for name, double in (("in_range", in_range), ("one_of", one_of)):
                if hasattr(module, name):
                    stack.enter_context(patch.object(module, name, double))
        yield


def _dataclass(hint: Any) -> type | None:
    """The dataclass in `X`, `X | None` or `dict[str, X]`."""
    kinds = [each for each in (hint, *typing.get_args(hint)) if isinstance(each, type)]
    return next((kind for kind in kinds if is_dataclass(kind)), None)


def _is_optional(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def _words(hint: Any) -> str:
    """A type as a reader says it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join("null" if a is type(None) else _words(a) for a in arguments)
    if origin is list:
        return f"list of {_words(arguments[0])}"
    if origin is dict:
        return f"{_words(arguments[1])} by name"
    group = next((name for name, kind in schemas().items() if kind is hint), None)
    if group:
        return f"[keys of `{group}`]({group}.md#keys)"
    return WORDS.get(hint, "keys below")


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is ABSENT and field.default_factory is ABSENT


def _value(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default is not ABSENT else field.default_factory()  # type: ignore[misc]


def _default(field: dataclasses.Field[Any]) -> str:
    if _required(field):
        return "required"
    value = _value(field)
    if is_dataclass(value):
        return ""
    return "set by each option" if value == MISSING else f"`{shown(value)}`"


def shown(value: Any) -> str:
    """A value as it is typed on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---- what the YAML files say -------------------------------------------------------------------


def options(group: str) -> list[tuple[str, str]]:
    """The options of a group with the first line of their file."""
    files = sorted((compose.CONF / group).glob("*.yaml"))
    return [(file.stem, _first_comment(file)) for file in files]


def _first_comment(file: Path) -> str:
    """The first comment of a file up to the end of its sentence, on one line."""
    lines = [x for x in file.read_text("utf-8").splitlines() if "@package" not in x]
    comment = [x[1:] for x in itertools.takewhile(lambda x: x.startswith("#"), lines)]
    says = ""
    for line in comment:
        code = line.startswith("  ") and "=" in line
        says += f" `{line.strip()}`" if code else f" {line.strip()}"
        if re.search(r"[.)`]:?$", says) or (says.endswith(":") and not code):
            break
    says = says.strip().rstrip(":")
    return says if says.endswith((".", "`")) else f"{says}."


def _yaml_comments(group: str) -> dict[str, str]:
    """The comment beside each key in the files of a group, by path; the fullest file first."""
    files = list((compose.CONF / group).glob("*.yaml")) if group else [compose.CONF / "config.yaml"]
    files.sort(key=lambda file: (-file.read_text("utf-8").count(" # "), file.name))
    found: dict[str, str] = {}
    for file in files:
        parents: list[tuple[int, str]] = [(-1, group)] if group else []
        for line in file.read_text("utf-8").splitlines():
            if not (match := re.match(r"( *)([\w@/]+):(?:[^#]|#(?! ))*(?:# (.*))?$", line)):
                continue
            depth = len(match[1])
            parents = [p for p in parents if p[0] < depth] + [(depth, match[2])]
            if match[3]:
                found.setdefault(".".join(name for _, name in parents), match[3])
    return found


# ---- pages -------------------------------------------------------------------------------------


def pages() -> dict[str, str]:
    """The pages of the reference: Markdown by the page's path."""
    found = {f"configuration/{group}.md": _page(group) for group in _groups()}
    return found | {"configuration/index.md": _index()}


def _groups() -> list[str]:
    return sorted(path.name for path in compose.CONF.iterdir() if path.is_dir())


def _index() -> str:
    default = OmegaConf.load(compose.CONF / "config.yaml").defaults
    chosen = {k: v for entry in default if not isinstance(entry, str) for k, v in entry.items()}
    rows = [
        f"| [`{group}`]({group}.md) | `{shown(chosen.get(group))}` | {', '.join(f'`{name}`' for name, _ in options(group))} |"
        for group in _groups()
    ]
    return "\n".join(
        [
            "# Configuration",
            "",
            "Every choice is one option of a group, `loss=dpo`, or one key, `data.gamma=0.8`. This reference is "
            "written from the typed schema and the files of `conf/` when the site is built. `spot config` prints "
            "what a command line comes to, with the origin of every value. A misspelt key, a wrong type or a value "
            "out of range ends in one line before anything is loaded.",
            "",
            "| group | usual | options |",
            "|---|---|---|",
            *rows,
            "",
            "`experiments/paper/*.yaml` are studies: `+paper=table2` adds one. `generator@evaluator=…` chooses who "
            "answers benchmarks, from the options of `generator`.",
            "",
            "## Keys of no group",
            "",
            *_table(keys("")),
            "",
        ]
    )


def _page(group: str) -> str:
    lines = [f"# {group}", ""]
    kind = schemas().get(group)
    if kind is not None:
        lines += [inspect.cleandoc(kind.__doc__ or "").splitlines()[0], ""]
    lines += ["| option | |", "|---|---|"]
    lines += [f"| `{group}={name}` | {cell(says)} |" for name, says in options(group)]
    if kind is not None:
        lines += ["", "## Keys", "", *_table(keys(group))]
    lines += ["", "## Files", ""]
    for name, _ in options(group):
        text = (compose.CONF / group / f"{name}.yaml").read_text("utf-8").rstrip()
        body = textwrap.indent(f"```yaml\n{text}\n```", "    ")
        lines += [f'??? note "conf/{group}/{name}.yaml"', "", body, ""]
    return "\n".join(lines)


def _table(rows: list[Key]) -> list[str]:
    head = ["| key | type | default | valid | |", "|---|---|---|---|---|"]
    return head + [
        f"| `{key.path}` | {key.type} | {cell(key.default)} | {key.valid} | {cell(key.says)} |"
        for key in rows
    ]


def cell(text: str) -> str:
    """Text that stays text in a table."""
    parts = re.split(r"(`[^`]*`)", text.replace("|", "\\|"))
    return "".join(x if x.startswith("`") else x.replace("<", "&lt;") for x in parts)
