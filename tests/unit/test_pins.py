"""Versions are pinned twice, for pip and for uv: both install the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_uv_installs_the_versions_that_pip_does() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))["package"]
    locked = {package["name"]: package["version"] for package in lock if package["name"] != "spot"}
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pinned = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    assert len(pinned) > 200
    assert {name: locked.get(name) for name in pinned} == pinned
    # of those beside them, CUDA's come with torch and Liger on a GPU, and none is ours to choose
    ours = (ROOT / "pyproject.toml").read_text("utf-8")
    assert not [name for name in locked if name not in pinned and f'"{name}"' in ours]
