"""One run of a paid Oracle in a process of its own, which may be killed: real client, real store.

    python -m tests.oracle.soak gemini http://127.0.0.1:1234 /tmp/out --count 5000 --concurrency 200

Rows go where the pipeline puts them, through `spot.data.artifacts`; the journal lies beside the product. Its
last line of output is JSON: what was spent, and the seconds from the first request to the last row.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from spot.config import OracleConfig
from spot.data.artifacts import Product, compute_rows, product
from spot.data.rows import Rectification
from spot.grading.registry import Verifier
from spot.oracle.async_runner import blocking, rectify
from spot.oracle.journal import Journal
from spot.oracle.postprocess import Judge
from spot.oracle.prompts import prompts
from spot.oracle.task_loop import Budget, OracleTask
from spot.oracle.types import Result, Usage
from tests.oracle import world

# USD a token; sums of these are exact, so that bills are equal or are not
INPUT, CACHED, OUTPUT = 2.0**-20, 2.0**-22, 2.0**-17
MOST_OUTPUT = 400  # tokens; no answer of the server's is longer
MODEL = "oracle-1"
JOURNAL = "oracle.jsonl"


def cost(usage: Usage) -> float:
    """USD."""
    fresh = usage.input - usage.cached
    return fresh * INPUT + usage.cached * CACHED + usage.output * OUTPUT


def bill(usage: dict[str, int]) -> float:
    """What the server charges for a part of its ledger."""
    return cost(Usage(usage["input"], usage["cached"], usage["output"], usage["thoughts"]))


def limit(prompt: str) -> Usage:
    return Usage(len(prompt.encode()), output=MOST_OUTPUT)


def spec(verifier: Verifier) -> OracleTask:
    return OracleTask(prompts("rectified"), Judge(verifier), cost, limit)


def client(protocol: str, url: str, timeout: float) -> Any:
    """The real client of a protocol, at the local server."""
    if protocol == "gemini":
        from spot.oracle.gemini import GeminiClient

        return GeminiClient(MODEL, base_url=url, timeout=timeout)
    from spot.oracle.openai_compatible import OpenAIClient

    return OpenAIClient(MODEL, base_url=f"{url}/v1", timeout=timeout)


def target(folder: Path) -> Product:
    return product(folder, "soak", {})


def run(protocol: str, url: str, folder: Path, count: int, config: OracleConfig) -> dict[str, Any]:
    """Correct items 0 … count - 1, but for the rows that are there already."""
    os.environ |= {"GEMINI_API_KEY": "key", "OPENAI_API_KEY": "key"}
    oracle = client(protocol, url, config.timeout)
    done = target(folder)
    seconds = 0.0

    def produce(found: frozenset[str], dropped: Counter[str]) -> Iterable[Rectification]:
        nonlocal seconds
        tasks = (world.task(number) for number in range(count))
        todo = (task for task in tasks if task.id not in found)
        results = rectify(todo, oracle, spec(verifier), journal, config, Budget())
        started = time.monotonic()
        yield from map(_row, blocking(results, oracle.close))
        seconds = time.monotonic() - started

    with Verifier() as verifier, Journal(folder / JOURNAL) as journal:
        compute_rows(done, Rectification, produce, total=count)
        return {**dataclasses.asdict(journal.spend), "seconds": seconds}


def _row(result: Result) -> Rectification:
    task = result.task
    return Rectification(
        id=task.id,
        question_id=task.id,
        task="soak",
        question=task.question,
        answer=task.answer,
        mode=task.mode,
        rejected=task.response,
        chosen=result.chosen,
        extracted=result.extracted,
        outcome=result.outcome,
        oracle=MODEL,
        detail={**result.detail, "tries": [dataclasses.asdict(t) for t in result.tries]},
    )


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The finished rows."""
    with (target(folder).folder / "rows.jsonl").open() as file:
        for line in file:
            yield json.loads(line)


def command(protocol: str, url: str, folder: Path, count: int, config: OracleConfig) -> list[str]:
    """How to run this in a process of its own."""
    options = {
        "count": count,
        "concurrency": config.concurrency,
        "timeout": config.timeout,
        "retries": config.retries,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "tests.oracle.soak", protocol, url, str(folder), *words]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("protocol", choices=("gemini", "openai"))
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--retries", type=int, default=6)
    said = parser.parse_args()
    config = OracleConfig(
        concurrency=said.concurrency, timeout=said.timeout, retries=said.retries, reask=4
    )
    print(json.dumps(run(said.protocol, said.url, said.folder, said.count, config)))


if __name__ == "__main__":
    main()
