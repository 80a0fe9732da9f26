"""Who answers: anything with a model or a server behind it, one response per request."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence

from spot.data.chat import transcript
from spot.data.rows import Response
from spot.generation.types import Completion, Generator, Request, Sampling

__all__ = ["Completion", "Generator", "Request", "Sampling", "request_seed", "respond"]


def request_seed(run_seed: int, question_id: str, trial: int) -> int:
    """A seed for one trial of one question: the same on every machine, in any order, on resume."""
    digest = hashlib.sha256(f"{run_seed}\0{question_id}\0{trial}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # servers read seeds as signed 64-bit numbers


def respond(
    generator: Generator, requests: Sequence[Request], done: Collection[str] = ()
) -> Iterator[Response]:
    """What the generator answers to each request, but for the ids in `done`, as it comes."""
    asked = {request.key: request for request in requests}
    for completion in generator.generate(requests, done):
        request = asked[completion.key]
        yield Response(
            id=completion.key,
            prompt=transcript(request.messages),
            response=completion.text,
            finish_reason=completion.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            tokens=completion.tokens,
            model=completion.model,
            seed=request.seed,
        )
