"""Models that were trained elsewhere and measured as a study's own: `spot.pipeline.external`."""

from __future__ import annotations

import json

from spot.data import run_record
from spot.report.load import FinishedRun, Study

EXTERNAL = "external.json"  # of a study's folder: by name the folder of a model's scores


def external(study: Study) -> dict[str, list[FinishedRun]]:
    """Models trained elsewhere, by name; each was measured as the first run, and stands beside its base.

    There is nothing of their training. Raises UserError where their list is damaged.
    """
    first = study.runs[0]
    folder = study.folder or first.folder
    try:
        text = (folder / EXTERNAL).read_text(encoding="utf-8")
        places = {str(name): str(folder / place) for name, place in json.loads(text).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError):
        raise run_record.damaged(folder / EXTERNAL) from None
    base = str(first.product("base_scores"))

    def measured(scores: str) -> FinishedRun:
        record = {**first.record, "products": {"scores": scores, "base_scores": base}}
        return FinishedRun(folder, record, first.read)

    return {name: [measured(place)] for name, place in places.items()}
