"""What trainings of two ranks are made of, and when two of them are the same."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.distributed import cases
from tests.unit.conftest import build_model, build_pairs, build_tokenizer
from tests.unit.runs import TIMINGS, distance, rows, weights

TWO = {"devices": 2, "strategy": "deepspeed", "reduce_bucket": 5000, "gather_bucket": 5000}


def make_world(folder: Path) -> Path:
    """Policies with a tied head, with an untied one and with wide layers, and 24 pairs.

    ZeRO-3 divides parameters of more than 100,000 elements alone: the wide ones, of 204,800.
    """
    wide = build_model(tied=False, intermediate_size=6400)
    policies = {"tied": build_model(tied=True), "untied": build_model(tied=False), "wide": wide}
    for name, model in policies.items():
        model.save_pretrained(folder / name)
        build_tokenizer().save_pretrained(folder / name)
    pairs = [asdict(pair) for pair in build_pairs(24)]
    (folder / "pairs.json").write_text(json.dumps(pairs))
    return folder


def case(world: Path, name: str, method: str, policy: str = "tied", **more: Any) -> dict[str, Any]:
    """A case of `cases.run`, below `<world>/runs/<name>`."""
    paths = {"policy": world / policy, "pairs": world / "pairs.json", "out": world / "runs" / name}
    return {"method": method, **{k: str(v) for k, v in paths.items()}, **more}


def run_on_two(world: Path, name: str, some: list[dict[str, Any]]) -> None:
    cases.finish(cases.start(some, world / f"{name}.json"))


def columns(out: Path) -> dict[str, list[float | None]]:
    table = rows(out)
    return {
        name: [float(row[name]) if row[name] else None for row in table]
        for name in table[0]
        if name not in TIMINGS
    }


def assert_same(got: Path, wanted: Path, tolerance: float = 1e-5, floor: float = 1e-2) -> None:
    """The same metrics of every step, and the same weights, to a relative difference.

    floor: means of rewards of either sign cancel, and what is left of those below it is rounding.
    """
    a, b = columns(got), columns(wanted)
    assert a.keys() == b.keys()
    for name in b:
        scale = max((abs(v) for v in b[name] if v is not None), default=0.0)
        for step, (x, y) in enumerate(zip(a[name], b[name], strict=True)):
            assert (x is None) == (y is None), (got.name, name, step)
            tie = (
                name.endswith("accuracies") and step <= 1
            )  # both rewards are rounding at the start
            if x is not None and y is not None and not tie:
                bound = tolerance * max(scale, floor)
                close = math.isclose(x, y, rel_tol=tolerance, abs_tol=bound)
                assert close, (got.name, name, step, x, y)
    assert distance(weights(got), weights(wanted)) <= tolerance, got.name
