"""fp32 and bf16 on this processor: a product of matrices, a training step and generation of SmolLM2-135M.

`make smollm2`, then `python -m performance.cpu_precision`. Each row is a process of its own. `of the products`:
the share of generation's time that its products of matrices alone would take at the first column's rate.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from performance.common import run_alone, write_results
from performance.profile_step import step_seconds
from spot.cli.smollm2 import FOLDER
from spot.data import everyday
from spot.data.chat import user
from spot.data.rows import Pair, Question
from spot.generation import Request, Sampling, transformers
from spot.training.precision import DTYPES

SIZE = 2048  # of the square matrices
AT_ONCE = 256  # requests
SAMPLING = Sampling(temperature=0.7, top_p=1.0, top_k=0, max_new_tokens=64)


def questions(count: int) -> list[Question]:
    return everyday.questions(count, seed=0)


def pairs(count: int) -> list[Pair]:
    """Worked answers and the same with another number at the end."""
    rng = random.Random(0)
    made = []
    for at, question in enumerate(questions(count)):
        path = everyday.path_of(question.text) or ()
        lines = [f"{s.left} {s.sign} {s.right} = {s.result}." for s in path]
        right = " ".join(["We work it out step by step.", *lines])
        wrong = f"{right} The answer is: {int(question.answer) + rng.randint(1, 9)}"
        right = f"{right} The answer is: {question.answer}"
        made.append(
            Pair(
                id=f"{at}",
                question_id=question.id,
                task=question.task,
                arm="rectified",
                question=question.text,
                answer=question.answer,
                chosen=right,
                rejected=wrong,
                change_ratio=0.1,
                common_prefix=0,
                chosen_tokens=0,
                rejected_tokens=0,
            )
        )
    return made


def product_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of a product of two matrices."""
    left, right = (torch.randn(SIZE, SIZE).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(8):
        began = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - began)
    return 2 * SIZE**3 / median(seconds[2:])


def generation(folder: Path, dtype: torch.dtype) -> tuple[float, float]:
    """Tokens a second, and the operations of products that one token takes."""
    name = str(dtype).removeprefix("torch.")
    made = transformers.load(folder, batch_size=AT_ONCE, dtype=name)
    asked = [
        Request(q.id, 0, user(q.text), SAMPLING, at) for at, q in enumerate(questions(AT_ONCE))
    ]
    list(made.generate(asked[:16]))
    began = time.perf_counter()
    answers = list(made.generate(asked))
    seconds = time.perf_counter() - began
    weights = sum(p.numel() for p in made.model.parameters())  # the tied head once
    return sum(answer.tokens for answer in answers) / seconds, 2.0 * weights


def measure(folder: Path, precision: str) -> dict[str, Any]:
    """One row of the table."""
    dtype = DTYPES[precision]
    rate = product_rate(dtype)
    step = median(step_seconds(pairs(32 * 6), "bco", folder, precision))
    tokens, each = generation(folder, dtype)
    return {
        "precision": precision,
        "GFLOP/s of a product": round(rate / 1e9),
        "s a step of 32 pairs": round(step, 2),
        "tokens/s": round(tokens),
        "of the products": f"{100 * tokens * each / rate:.0f}%",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--precision", choices=DTYPES, help="measure this one, here; prints JSON")
    given = parser.parse_args()
    if given.precision:
        print(json.dumps(measure(given.model, given.precision)))
        return
    model = str(given.model.resolve())
    rows = [
        run_alone("performance.cpu_precision", "--model", model, "--precision", precision)
        for precision in DTYPES
    ]
    write_results("cpu_precision", rows, "python -m performance.cpu_precision")


if __name__ == "__main__":
    main()
