"""What tests of generation by servers share: requests, a client, and what becomes of them."""

from __future__ import annotations

from typing import Any

import pytest

from spot.config import GeneratorConfig
from spot.data.chat import user
from spot.generation import Completion, Request, Sampling
from spot.generation.remote import RemoteGenerator
from spot.utils.errors import UserError
from tests.generation.server import tokenizer

SAMPLING = Sampling(temperature=0.7, top_p=0.8, top_k=20, max_new_tokens=64)
CONTEXT = 512  # tokens, of the model and of the server
FIELDS = GeneratorConfig.__dataclass_fields__.keys()


def text(number: int) -> str:
    return f"What is {number} + 1?"


def requests(count: int, sampling: Sampling = SAMPLING) -> list[Request]:
    return [Request(f"q{i}", 0, user(text(i)), sampling, seed=i) for i in range(count)]


def generator(*urls: str, **given: Any) -> RemoteGenerator:
    """given: of the configuration, or of `RemoteGenerator`."""
    settings: dict[str, Any] = {"concurrency": 8, "timeout": 5.0, "patience": 5.0}
    settings |= {name: given.pop(name) for name in FIELDS & given.keys()}
    config = GeneratorConfig("openai", base_urls=list(urls), **settings)
    return RemoteGenerator(config, tokenizer(), given.pop("context_length", CONTEXT), **given)


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
