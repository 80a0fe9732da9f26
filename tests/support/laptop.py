"""The small run of the laptop world that many tests read, and what there is in a folder of such runs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from tests.support.command_line import spot

SMALL = [
    *("data.questions=80", "data.pairs=24", "data.held_out=8", "benchmarks=quick"),
    *("loss.epochs=1", "loss.batch_pairs=8", "save.every=1"),
    *("probe.pairs=4", "probe.questions=4", "probe.ability_every=2"),
    *("generator.batch=80", "generator.max_new_tokens=96"),
]

PLANTED = {  # keys in the environment of the run that many tests read
    name: f"planted-{number}-0123456789abcdef0123456789abcdef"
    for number, name in enumerate(
        (
            "OPENAI_API_KEY",
            "GOOGLE_API_KEY",
            "GEMINI_API_KEY",
            "HF_TOKEN",
            "WANDB_API_KEY",
            "MY_KEY",
        )
    )
}


def run(folder: Path, *arguments: str) -> str:
    """`spot …` with the small settings, which must succeed; what it printed, errors last."""
    done = spot(folder, *arguments, *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def copy(laptop: Path, folder: Path, without: tuple[str, ...] = ()) -> Path:
    """The finished run in a folder of the test's own; `without` the products of some stages."""
    shutil.copytree(laptop, folder, dirs_exist_ok=True)
    for stage in without:
        shutil.rmtree(folder / "outputs" / "products" / stage)
    return folder


def last_run(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The newest run's folder and its run.json."""
    file = max((folder / "outputs" / "runs").glob("*/*/run.json"), key=os.path.getmtime)
    return file.parent, json.loads(file.read_text())


def products(folder: Path) -> dict[str, Path]:
    """The folders of the newest run's products, by name."""
    run, record = last_run(folder)
    return {name: (run / path).resolve() for name, path in record["products"].items()}


def content(folder: Path) -> dict[str, bytes]:
    """Rows and weights of every product, by path below the store."""
    base = folder / "outputs" / "products"
    files = [*base.glob("*/*/rows.jsonl"), *base.glob("train/*/model/*.safetensors")]
    return {str(path.relative_to(base)): path.read_bytes() for path in files}
