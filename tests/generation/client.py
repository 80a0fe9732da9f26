"""A generation in a process of its own, which may be killed: real client, real store.

    python -m tests.generation.client http://127.0.0.1:1234/v1 /tmp/out --count 20000 --concurrency 64 --timeout 9 --patience 60

Rows go where the pipeline puts them, through `spot.data.artifacts`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from spot.data.artifacts import Product, compute_rows, product
from spot.data.rows import Attempt
from spot.generation import Completion, Request
from tests.generation.asking import generator, requests


def target(folder: Path) -> Product:
    return product(folder, "attempts", {})


def run(urls: Sequence[str], folder: Path, count: int, **pace: float) -> None:
    """Answer questions 0 … count - 1, but for the rows that are there already."""
    asked = requests(count)
    by_key = {request.key: request for request in asked}
    asking = generator(*urls, **pace)

    def produce(found: frozenset[str], dropped: Counter[str]) -> Iterable[Attempt]:
        for completion in asking.generate(asked, found):
            yield _row(completion, by_key[completion.key])

    compute_rows(target(folder), Attempt, produce, total=count)


def _row(completion: Completion, request: Request) -> Attempt:
    return Attempt(
        id=request.key,
        question_id=request.question_id,
        trial=request.trial,
        task="load",
        question=request.messages[-1]["content"],
        answer="",
        response=completion.text,
        finish_reason=completion.finish_reason,
        tokens=completion.tokens,
        extracted=None,
        verdict="wrong",
        model=completion.model,
        seed=request.seed,
    )


def command(urls: Sequence[str], folder: Path, count: int, **pace: float) -> list[str]:
    """How to run this in a process of its own."""
    options = {"count": count, **pace}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "tests.generation.client", ",".join(urls), str(folder), *words]


def rows(folder: Path) -> Iterator[str]:
    """Lines of the finished product."""
    with (target(folder).folder / "rows.jsonl").open() as file:
        yield from file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("urls")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--timeout", type=float, required=True)
    parser.add_argument("--patience", type=float, required=True)
    said = parser.parse_args()
    pace = {name: getattr(said, name) for name in ("concurrency", "timeout", "patience")}
    run(said.urls.split(","), said.folder, said.count, **pace)


if __name__ == "__main__":
    main()
