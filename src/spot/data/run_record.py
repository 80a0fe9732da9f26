"""`run.json`: what a run is, what it made and how it stands. Written by spot.pipeline.run, read here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spot.utils.errors import UserError

RUN_FILE = "run.json"
EVALUATION = "evaluation.json"  # where `spot evaluate` once left its record
COMPLETE = "complete"


def read(folder: Path) -> dict[str, Any]:
    """The record in a run's folder; empty where there is none. Raises UserError when it is damaged."""
    for name in (RUN_FILE, EVALUATION):
        try:
            record = json.loads((folder / name).read_text(encoding="utf-8"))
            if isinstance(record, dict):
                return {"until": "evaluate"} | record if name == EVALUATION else record
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ValueError:
            pass
        raise damaged(folder / name)
    return {}


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
