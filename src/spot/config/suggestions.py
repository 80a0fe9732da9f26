"""What a person may have meant who typed a key, an option or a line that is not there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from spot.config import Config
from spot.config.arguments import short
from spot.config.text import SCHEMAS, value_type

CLOSE = 0.7  # of 1, how alike two names are that stand in different groups


def did_you_mean(path: str, siblings: Sequence[str]) -> str:
    """`did you mean data.gamma? ` for a dotted key; siblings: the names where it was looked for."""
    parent, _, name = path.rpartition(".")
    lowered = name.lower()
    near = difflib.get_close_matches(lowered, siblings, n=1)
    found = [f"{parent}.{each}" if parent else each for each in near]
    if lowered in SCHEMAS and lowered != "benchmark":
        found.append(lowered)
    names = {key: key.rpartition(".")[2] for key in _keys()}
    found += [key for key, last in names.items() if last == lowered]
    if not found:
        short_for = [k for k, last in names.items() if "_" in last and _initials(last) == lowered]
        found = sorted(short_for, key=lambda k: (not k.startswith(f"{parent}."), k.count(".")))
    if not found:
        similar = difflib.get_close_matches(lowered, set(names.values()), n=1, cutoff=CLOSE)
        found = [key for key, last in names.items() if last in similar]
    found = [key for key in dict.fromkeys(found) if key != path][:3]
    return f"did you mean {' or '.join(found)}? " if found else ""


def other_place(group: str, value: str, options: Mapping[str, Sequence[str]]) -> str:
    """`write model.path=/folder; ` for a value that is no option of its group."""
    places = {f.name for f in fields(SCHEMAS[group])} if group in SCHEMAS else set()
    suffix = Path(value).suffix
    if suffix and group == "data":
        return f"write data=jsonl data.path={value}; "
    if "/" in value and "path" in places:
        hub = group == "data" and re.fullmatch(r"[\w.-]+/[\w.-]+", value)
        return f"write {'data=hub data.hub' if hub else f'{group}.path'}={value}; "
    other = next((g for g, known in options.items() if g != group and value in known), None)
    return f"did you mean {other}={value}? " if other else ""


def unreadable(line: str, options: Mapping[str, Sequence[str]]) -> str:
    """One line for what Hydra's grammar cannot read."""
    key, equals, value = line.partition("=")
    bare = re.sub(r"\\.", "", value)
    why = "write key=value (or -m key=a,b to sweep), and quote text with special characters, key='\"a=b\"'"
    if not equals:
        why = _without_equals(line, options)
    elif key != key.strip() or re.search(r"\s", key):
        why = (
            f"no space belongs into a key or before =, write {''.join(key.split())}={value.strip()}"
        )
    elif re.search(r"\s[\w.+~]+=", value):
        why = "these are several words, each key=value: leave out the quotes around all of them"
    elif value.endswith(","):
        why = f"a comma at its end: write {key}=a,b without a space (and -m to sweep)"
    elif value.startswith("="):
        why = f"one = is enough, write key=value, {key}={value.lstrip('=')}"
    elif bare.count("'") % 2 or bare.count('"') % 2:
        why = "a quote is not closed: write key=value, and text with a quote in it as key='\"it is 5'\"'"
    elif any(bare.count(left) != bare.count(right) for left, right in ("[]", "{}", "()")):
        why = "a bracket is not closed: write key=value, and text with one in it as key='\"a[b\"'"
    return f"{short(line)} cannot be read: {why}."


def _without_equals(line: str, options: Mapping[str, Sequence[str]]) -> str:
    """For a word without =, such as `loss:bco`, `bco` or `loss`."""
    if line in options:
        return f"write key=value, {line}={'|'.join(options[line][:3])}|…"
    key, *rest = (part.strip() for part in re.split("[:/]", line, maxsplit=1))
    if key in options or value_type(key) is not None:
        return f"write key=value, {key}={''.join(rest) or '<value>'}"
    if group := next((name for name, known in options.items() if line in known), None):
        return f"write key=value, {group}={line}"
    return "write key=value (or -m key=a,b to sweep)"


def held(key: str) -> str:
    """`keys: loss.delta.mode, loss.delta.decay` of a key that holds others; empty for all else."""
    kind = value_type(key)
    if get_origin(kind) is dict:
        return f"{key}.<name>"
    return ", ".join(f"{key}.{f.name}" for f in fields(kind)) if is_dataclass(kind) else ""


def of_flag(word: str) -> str:
    """`write loss=bco` for a key that was typed as a flag, --loss=bco; empty for all else."""
    key, _, value = word.lstrip("-").partition("=")
    return f"write {key}={value or '<value>'}" if value_type(key) is not None else ""


@cache
def _keys() -> tuple[str, ...]:
    """Every key of the configuration, dotted, but what is inside of lists and of mappings by name."""
    found: list[str] = []

    def walk(kind: Any, before: str) -> None:
        for name in get_type_hints(kind):
            inner = value_type(name, kind)
            if is_dataclass(inner):
                walk(inner, f"{before}{name}.")
            else:
                found.append(f"{before}{name}")

    walk(Config, "")
    return tuple(key for key in found if not key.startswith("evaluator."))


def _initials(name: str) -> str:
    return "".join(word[0] for word in name.split("_") if word)
