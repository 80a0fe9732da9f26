"""What runs leave on disk, read in passing: products' makers, tables and logs that may be growing.

Files that are missing or half written count as not there yet.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from spot.data import artifacts

TAIL = 64 << 10  # bytes that are read from the end of a log
LOCKED_BY = re.compile(r"process (\d+) on (\S+)")
Owner = tuple[int, str]  # process and host


@dataclass(frozen=True)
class Made:
    """A product and who made it, or makes it."""

    folder: Path
    at: float  # s, Unix time: when its maker began
    complete: bool

    @property
    def stage(self) -> str:
        return self.folder.parent.name


def makers(products: Path) -> dict[Owner, list[Made]]:
    """Products by the process that made them, in the order it began them."""
    found: dict[Owner, list[Made]] = defaultdict(list)
    for lock in products.glob(f"*/*/{artifacts.LOCK}"):
        try:
            text, at = lock.read_text(encoding="utf-8"), lock.stat().st_mtime
        except OSError:  # deleted meanwhile
            continue
        if match := LOCKED_BY.match(text):
            complete = (lock.parent / artifacts.MANIFEST).exists()
            found[int(match[1]), match[2]].append(Made(lock.parent, at, complete))
    return {owner: sorted(made, key=lambda one: one.at) for owner, made in found.items()}


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += size(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:  # deleted meanwhile
        pass
    return total


@dataclass(frozen=True)
class Mean:
    """Percent, and the difference to the base where there is one."""

    value: float
    gain: float | None


def read_scores(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's scores.csv: the base's and its own. Empty without a report."""
    return read_table(folder / "scores.csv")


def means(rows: Sequence[Mapping[str, str]]) -> dict[str, Mean]:
    """Macro means over the trained model's benchmarks, by domain and as `average`."""
    own = [row for row in rows if row.get("arm") != "base" and row.get("accuracy")]
    groups = {domain: [r for r in own if r["domain"] == domain] for domain in _domains(own)}
    if own:
        groups["average"] = own
    return {name: _mean(of) for name, of in groups.items()}


def _mean(rows: Sequence[Mapping[str, str]]) -> Mean:
    gains = [float(row["difference"]) for row in rows if row.get("difference")]
    value = fmean(float(row["accuracy"]) for row in rows)
    return Mean(value, fmean(gains) if len(gains) == len(rows) else None)


def _domains(rows: Sequence[Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(row["domain"] for row in rows))


def read_table(path: Path) -> list[dict[str, str]]:
    """The whole rows of a CSV file that may be growing; empty when it is not there."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    return [row for row in rows if None not in row and None not in row.values()]


def last_step(metrics: Path) -> int | None:
    """The step of the last whole row, read from the file's end."""
    lines = _tail(metrics).split("\n")[:-1]
    steps = (line.partition(",")[0] for line in reversed(lines))
    return next((int(step) for step in steps if step.isdecimal()), None)


def last_line(folder: Path) -> str:
    """What a run wrote last, if it is a sweep's, whose jobs write to a file."""
    lines = log_lines(folder)
    return lines[-1] if lines else ""


def log_lines(folder: Path) -> list[str]:
    """The end of job.log, line by line, without empty ones."""
    text = _tail(folder / "job.log").replace("\r", "\n")
    return [line.strip() for line in text.split("\n") if line.strip()]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty when it is missing, half written or none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def chosen(overrides: Sequence[str]) -> dict[str, str]:
    """Overrides by key."""
    pairs = (line.lstrip("+~").partition("=") for line in overrides)
    return {key: value for key, _, value in pairs}


def typed(folder: Path) -> list[str]:
    """What Hydra noted of the command line of a run."""
    lines = read_yaml(folder / ".hydra" / "overrides.yaml")
    return lines if isinstance(lines, list) else []


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; None when it is missing or half written."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
