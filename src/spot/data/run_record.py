"""`run.json`: what a run is, what it made and how it stands. Written by spot.pipeline.run, read here."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from spot.utils.errors import UserError

RUN_FILE = "run.json"
EVALUATION = "evaluation.json"  # where `spot evaluate` once left its record
COMPLETE, INTERRUPTED = "complete", "interrupted"
NAMING = ("loss", "data", "model")  # groups of the configuration that runs are named by
TYPES = {
    "status": str, "arm": str, "study": str, "seed": int, "started": str, "finished": str,
    "config": dict, "products": dict, "current": dict, "stages": list, "overrides": list,
}  # fmt: skip


def read(folder: Path) -> dict[str, Any]:
    """The record in a run's folder; empty where there is none. Raises UserError when it is damaged."""
    for name in (RUN_FILE, EVALUATION):
        try:
            record = json.loads((folder / name).read_text(encoding="utf-8"))
            if isinstance(record, dict) and _is_sound(record):
                return {"until": "evaluate"} | record if name == EVALUATION else record
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ValueError:
            pass
        raise damaged(folder / name)
    return {}


def _is_sound(record: dict[str, Any]) -> bool:
    """Whether what is there is of the type that is written."""
    given = {name: record[name] for name in TYPES if record.get(name) is not None}
    return (
        all(isinstance(value, TYPES[name]) for name, value in given.items())
        and all(_is_moment(given[name]) for name in ("started", "finished") if name in given)
        and all(isinstance(place, str) for place in given.get("products", {}).values())
        and all(isinstance(stage, dict) for stage in given.get("stages", ()))
        and all(
            isinstance(group, dict) for group in map(given.get("config", {}).get, NAMING) if group
        )
    )


def _is_moment(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def is_finished(folder: Path) -> bool:
    """Whether the folder holds a whole run, from questions to scores, that is complete."""
    record = read(folder) if (folder / RUN_FILE).exists() else {}
    return record.get("status") == COMPLETE and record.get("until") is None


def words(product: str) -> str:
    """A product's name as a person reads it."""
    name = product.replace("rectified_rectifications", "corrections")
    return name.replace("direct_rectifications", "direct answers").replace("_", " ")


def damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged: delete it and run its command again.")
