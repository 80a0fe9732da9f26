"""Tokens per second of the embedded generator beside vLLM's, on the tiny student and this machine.

    python -m performance.generation

Both answer the same requests with the same sampling in fp32; each has the whole machine to itself.
Starting is told apart: loading the model, or starting the server and compiling. vLLM is the one of
`make vllm-env`, or SPOT_VLLM, once as it starts by itself and once without compiling.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from performance.common import run_alone, write_results
from spot.config import GeneratorConfig
from spot.data import laptop_world
from spot.data.chat import user
from spot.generation import Generator, Request, Sampling

ROOT = Path(__file__).parents[1]
STUDENT = ROOT / "src/spot/training/assets/tiny"
CONTEXT = 256
SAMPLING = Sampling(temperature=0.7, top_p=0.8, top_k=20, max_new_tokens=CONTEXT)
WARM_UP = 256  # requests that are not counted
AT_ONCE = 256  # requests
WAYS = {"transformers": (), "vllm": (), "vllm --enforce-eager": ("--enforce-eager",)}


def asked(count: int) -> list[Request]:
    questions = laptop_world.questions(count, 0)
    return [Request(q.id, 0, user(q.text), SAMPLING, seed=i) for i, q in enumerate(questions)]


def begin(way: str, logs: Path) -> Generator:
    """The generator, which may start when it is first asked."""
    if way == "transformers":
        from spot.generation import transformers

        return transformers.load(STUDENT, batch_size=AT_ONCE, name="tiny")
    from spot.generation.vllm import load

    executable = os.environ.get("SPOT_VLLM", str(ROOT / ".venv-vllm/bin/vllm"))
    config = GeneratorConfig(
        "vllm",
        executable=executable,
        dtype="float32",
        arguments=list(WAYS[way]),
        concurrency=AT_ONCE,
    )
    return load(STUDENT, config, context_length=CONTEXT, logs=logs, name="tiny")


def measure(way: str, count: int) -> dict[str, Any]:
    """One row of the table."""
    requests = asked(WARM_UP + count)
    with tempfile.TemporaryDirectory() as logs:
        began = time.perf_counter()
        generator = begin(way, Path(logs))
        try:
            next(iter(generator.generate(requests[:1])))
            ready = time.perf_counter()
            list(generator.generate(requests[:WARM_UP]))
            asked_at = time.perf_counter()
            answers = list(generator.generate(requests[WARM_UP:]))
            seconds = time.perf_counter() - asked_at
        finally:
            generator.close()
    tokens = sum(answer.tokens for answer in answers)
    return {
        "generator": way,
        "s to start": ready - began,
        "requests": len(answers),
        "tokens": tokens,
        "s": seconds,
        "tokens/s": tokens / seconds,
    }


def compare(ways: Sequence[str], count: int, turns: int) -> list[dict[str, Any]]:
    """The fastest of each way's turns, which alternate, and how many times as fast as ours it is."""
    arguments = [("--way", way, "--count", str(count)) for _ in range(turns) for way in ways]
    found = [run_alone("performance.generation", *words) for words in arguments]
    best = [
        max((row for row in found if row["generator"] == way), key=lambda row: row["tokens/s"])
        for way in ways
    ]
    return [row | {"times as fast": row["tokens/s"] / best[0]["tokens/s"]} for row in best]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--way", choices=WAYS, help="measure this one, here; prints a line of JSON")
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments.count)))
        return
    rows = compare(list(WAYS), arguments.count, arguments.turns)
    write_results("generation", rows, "python -m performance.generation")


if __name__ == "__main__":
    main()
