"""How a configuration differs from the defaults: for `spot config`, `spot show` and the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from spot.config import Config, plain, resolved_loss


def flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """`{"loss": {"beta": 1}}` → `{"loss.beta": 1}`; lists stay whole, an empty mapping too."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            result |= flat(value, f"{before}{key}.")
        else:
            result[f"{before}{key}"] = value
    return result


def resolved(config: Config) -> dict[str, Any]:
    """The configuration as JSON has it, with the β and the learning rate that training will use."""
    return plain(replace(config, loss=resolved_loss(config)))


def defaults() -> dict[str, Any]:
    """The configuration of `python train.py` without any choice; empty outside of a clone."""
    from spot.config import compose  # Hydra, which reading records does not need

    return plain(compose.compose()) if compose.CONF.is_dir() else {}


def changed(tree: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """The values by dotted key that the default has otherwise, or does not have."""
    usual = flat(default)
    return {k: v for k, v in flat(tree).items() if k not in usual or usual[k] != v}


def absent(tree: Mapping[str, Any], default: Mapping[str, Any], before: str = "") -> list[str]:
    """The keys of the default, of those inside each other the outermost, that the tree lacks."""
    found = []
    for key, value in default.items():
        if key not in tree:
            found.append(f"{before}{key}")
        elif isinstance(value, Mapping) and isinstance(tree[key], Mapping):
            found += absent(tree[key], value, f"{before}{key}.")
    return found


def written(value: Any) -> str:
    """A setting as YAML would have it: `true`, `null`, `0.6`, `[a, b]`."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value, ensure_ascii=False)
