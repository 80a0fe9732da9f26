"""Who answers: anything with a model or a server behind it, one response per request."""

from __future__ import annotations

import hashlib

from spot.generation.types import Completion, Generator, Request, Sampling

__all__ = ["Completion", "Generator", "Request", "Sampling", "request_seed"]


def request_seed(run_seed: int, question_id: str, trial: int) -> int:
    """A seed for one trial of one question: the same on every machine, in any order, on resume."""
    digest = hashlib.sha256(f"{run_seed}\0{question_id}\0{trial}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # servers read seeds as signed 64-bit numbers
