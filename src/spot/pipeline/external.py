"""Models that were trained elsewhere, measured as a study's own and put beside its arms."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from spot.config.groups import LoraConfig
from spot.data import artifacts
from spot.pipeline import exports, policy, stages
from spot.pipeline.run import Run
from spot.report.external import EXTERNAL, external
from spot.report.load import Study, load
from spot.utils.errors import UserError
from spot.utils.files import check_output, write_aside


def measure(folder: Path, models: Mapping[str, str]) -> None:
    """Score models, by name a folder or hub id, as the first run of the study in `folder` was.

    Same questions, same random numbers, the same settings of generation and grading; what was scored
    once is reused. The study's `external.json` then has the folder of each model's scores. Raises
    UserError, before anything is generated, where a name is taken or a model is none.
    """
    study = Study(*load(folder), folder)
    first = study.runs[0]
    config = exports.config_of(first.record, first.folder, first.product("checkpoint"))
    asked = replace(config.model, revision=None, lora=LoraConfig())  # as ours is
    chosen = {name: replace(asked, path=path) for name, path in models.items()}
    for name, model in chosen.items():
        if name in ("base", *study.arms) or not re.fullmatch(r"[\w.-]+", name):
            raise UserError(
                f"external name={name} is taken by an arm or not one word: choose another name."
            )
        policy.check(model, trains=False)
    check_output(folder / EXTERNAL, "run")
    attempts = artifacts.finished(first.product(exports.first_attempts(config)))
    run = Run(config, first.folder)
    places = {name: of[0].products["scores"] for name, of in external(study).items()}
    for name, model in chosen.items():
        made = policy.prepare(model, run.root)
        scores = stages.evaluate(run, f"scores_of_{name}", made, attempts)
        places[name] = os.path.relpath(scores.folder, folder)
        write_aside(folder / EXTERNAL, json.dumps(places, indent=1) + "\n")
