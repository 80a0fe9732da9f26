"""What tests of generation by servers share: requests, a client, and what becomes of them."""

from __future__ import annotations

from typing import Any

import pytest

from spot.data.chat import user
from spot.generation import Completion, Request, Sampling
from spot.generation.remote import Pace, RemoteGenerator, Target
from spot.utils.errors import UserError
from tests.generation.server import tokenizer

SAMPLING = Sampling(temperature=0.7, top_p=0.8, top_k=20, max_new_tokens=64)
CONTEXT = 512  # tokens, of the model and of the server


def text(number: int) -> str:
    return f"What is {number} + 1?"


def requests(count: int, sampling: Sampling = SAMPLING) -> list[Request]:
    return [Request(f"q{i}", 0, user(text(i)), sampling, seed=i) for i in range(count)]


def generator(*urls: str, **given: Any) -> RemoteGenerator:
    target = {k: given.pop(k) for k in ("model", "key_name", "extra", "group") if k in given}
    pace = {"concurrency": 8, "timeout": 5.0, "patience": 5.0}
    pace |= {k: given.pop(k) for k in pace if k in given}
    context = given.pop("context_length", CONTEXT)
    return RemoteGenerator(Target(urls, **target), Pace(**pace), tokenizer(), context, **given)  # type: ignore[arg-type]


def run(given: RemoteGenerator, asked: list[Request]) -> dict[str, Completion]:
    """Completions by key; none comes twice."""
    found: dict[str, Completion] = {}
    for completion in given.generate(asked):
        assert completion.key not in found
        found[completion.key] = completion
    return found


def refused(given: RemoteGenerator, asked: list[Request]) -> str:
    """The one line with which generation ends."""
    with pytest.raises(UserError) as caught:
        list(given.generate(asked))
    message = str(caught.value)
    assert "\n" not in message
    return message
