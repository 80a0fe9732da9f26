"""What a study chose: how its configuration differs from the defaults, and its runs from each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spot.config import LOSSES, WORLD_SEEDS, difference
from spot.config.difference import flat
from spot.utils.redact import scrubbed

# Settings that move no result: two runs that differ in these alone are one arm.
ASIDE = ("seed", "world", "arm", "study", "output", "logger.", "plan.", "save.", "probe.")
# Keys that name an arm before any other; runs that these separate need no further key.
TELLING = (
    "rounds", "reference_round", "oracle.kind", "oracle.ground_truth", "model.name", "data.source", "data.arm",
    "loss.name", "model.lora.rank", "loss.delta.mode", "loss.delta.decay", "loss.beta", "loss.learning_rate",
    "data.pairs", "data.gamma",
)  # fmt: skip
TASKS = "benchmarks.tasks."


def resolved(config: Mapping[str, Any], loss: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration, flat, with β and the learning rate that its training used.

    Seeds that its world moved are those of world 0: runs of different worlds are one arm.
    """
    used = {f"loss.{k}": v for k, v in loss.items() if k in ("beta", "learning_rate")}
    return in_world_0(flat(config)) | used


def in_world_0(config: dict[str, Any]) -> dict[str, Any]:
    """A flat configuration as it would have been composed in world 0."""
    world = config.get("world", 0)
    return config | {key: config[key] - world for key in WORLD_SEEDS if world and key in config}


# ---- names of arms -----------------------------------------------------------------------------


def arm_names(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """A name for each run of (arm, resolved configuration): the arm, and what differs within an arm.

    `spot_bco data.pairs=2000 data.gamma=0.6`: as few keys as separate the runs, each where it has
    an effect.
    """
    keys = _separating(runs)
    return [" ".join([arm, *_chosen(config, keys)]) for arm, config in runs]


def _separating(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    every = dict.fromkeys([*TELLING, *(key for _, config in runs for key in config)])
    classes = _split(list(range(len(runs))), lambda i: runs[i][0])
    keys = []
    for key in every:
        if key.startswith(ASIDE):
            continue
        finer = [
            part
            for members in classes
            for part in _split(members, lambda i, key=key: _written(runs[i][1], key))  # type: ignore[misc]
        ]
        if len(finer) > len(classes):
            keys.append(key)
            classes = finer
    return keys


def _split(members: Sequence[int], by: Any) -> list[list[int]]:
    parts: dict[Any, list[int]] = defaultdict(list)
    for member in members:
        parts[by(member)].append(member)
    return list(parts.values())


def _chosen(config: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    return [f"{key}={value}" for key in keys if (value := _written(config, key)) is not None]


def _written(config: Mapping[str, Any], key: str) -> str | None:
    """A setting as a word; None where it is absent or has no effect in this run."""
    loss, mode = LOSSES.get(str(config.get("loss.name"))), config.get("loss.delta.mode")
    if (
        key not in config
        or (key == "reference_round" and config.get("rounds") == 1)
        or (key.startswith("loss.delta.") and not (loss and loss.delta))
        or (key == "loss.delta.decay" and mode != "ema")
        or (key == "loss.beta" and (loss is None or loss.token))
        or (key == "data.gamma" and config.get("data.arm") != "rectified")
    ):
        return None
    return "".join(written(config[key]).split())


def written(value: Any) -> str:
    """A setting as YAML would have it, without anybody's folders."""
    return difference.written(scrubbed(value))


# ---- differences to the defaults ---------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """A key, its default, and each value that a run has: (value, arms), no arms where all have it."""

    key: str
    default: str
    values: list[tuple[str, list[str]]]


def differences(
    arms: Mapping[str, Sequence[Mapping[str, Any]]], default: Mapping[str, Any]
) -> list[Difference]:
    """What the runs' recorded configurations, by arm, choose otherwise than the defaults.

    Keys that either side does not know (another version of spot) are left out; so are the seed, and
    benchmarks one by one where they are others than the defaults.
    """
    usual = _compared(default)
    configs = {arm: [_compared(config) for config in of] for arm, of in arms.items()}
    found = []
    for key in dict.fromkeys(key for of in configs.values() for c in of for key in c):
        if key not in usual or key in ("seed", "world", "output", "arm", "study"):
            continue
        values: dict[str, list[str]] = defaultdict(list)
        for arm, of in configs.items():
            for value in dict.fromkeys(written(c[key]) for c in of if key in c):
                values[value].append(arm)
        if set(values) != {written(usual[key])}:
            shared = len(values) == 1
            of_arms = [(value, [] if shared else names) for value, names in values.items()]
            found.append(Difference(key, written(usual[key]), of_arms))
    return found


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flat, with the benchmarks' names as one value."""
    result = in_world_0(flat(config))
    tasks = config.get("benchmarks", {}).get("tasks", {})
    return result | {"benchmarks.tasks": list(tasks)}
