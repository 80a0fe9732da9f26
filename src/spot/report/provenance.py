"""Where a study comes from: commands that repeat it, its products with their hashes, versions."""

from __future__ import annotations

import shlex
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from spot.report.load import FinishedRun, Study
from spot.utils.redact import scrubbed

SWEEP_FILE = "multirun.yaml"  # what Hydra writes of a sweep


@dataclass(frozen=True)
class Made:
    """A product: what runs call it, its folder below `products/`, the hash of its content."""

    names: list[str]
    folder: str
    digest: str
    counts: dict[str, int]
    runs: int  # that used it


def sweep_choices(folder: Path) -> list[str]:
    """What the command line of a sweep chose; empty where the folder is no sweep's."""
    path = folder / SWEEP_FILE
    if not path.exists():
        return []
    tree: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [str(choice) for choice in tree["hydra"]["overrides"]["task"]]


def command(study: Study) -> str:
    """What repeats the study: the sweep's own command where it is known, else the first run's."""
    chosen = sweep_choices(study.folder) if study.folder else []
    if chosen:
        return shlex.join(["python", "train.py", "-m", *scrubbed(chosen)])
    return run_command(study.runs[0])


def run_command(run: FinishedRun) -> str:
    return str(scrubbed(run.record["command"]))


def products(study: Study) -> list[Made]:
    """Every product once, in the order of the first run that names it."""
    names: dict[Path, list[str]] = defaultdict(list)
    users: dict[Path, set[int]] = defaultdict(set)
    manifests: dict[Path, dict[str, Any]] = {}
    for number, run in enumerate(study.runs):
        for name in run.products:
            path = run.product(name)
            users[path].add(number)
            if name not in names[path]:
                names[path].append(name)
            manifests[path] = run.manifest(name)
    return [
        Made(names[path], f"{m['stage']}/{m['key']}", m["digest"], m["counts"], len(users[path]))
        for path, m in manifests.items()
    ]


def versions(study: Study) -> dict[str, str]:
    """Versions of what the results may depend on, the git revision last; several where runs differ."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for run in study.runs:
        manifest = run.manifest("scores")
        for name, version in manifest["versions"].items():
            found[name][str(version)] = None
        if manifest["revision"]:
            found["revision"][
                manifest["revision"][:12] + "+" * manifest["revision"].endswith("+")
            ] = None
    revision = found.pop("revision", None)
    found |= {"revision": revision} if revision else {}
    return {name: ", ".join(of) for name, of in found.items()}


def machines(study: Study) -> list[str]:
    """What the runs trained on, as far as they tell."""
    return list(dict.fromkeys(_machine(run) for run in study.runs))


def _machine(run: FinishedRun) -> str:
    """`hardware=8xh800: 8 gpu, bf16, deepspeed`; and what the run says of its processor, if anything."""
    hardware = run.record["config"].get("hardware", {})
    count = int(hardware.get("nodes", 1)) * int(hardware.get("devices", 1))
    parts = [f"{count} × {hardware.get('accelerator', 'cpu')}"]
    parts += [str(hardware[key]) for key in ("precision", "strategy") if hardware.get(key)]
    parts += [str(of) for of in [run.record.get("machine")] if of]
    name = hardware.get("name")
    return (f"hardware={name}: " if name else "") + ", ".join(parts)
