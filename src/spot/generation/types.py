"""What is asked of a generator and what comes back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

STOP = "stop"
LENGTH = "length"
PROMPT_TOO_LONG = "prompt_too_long"


@dataclass(frozen=True)
class Request:
    """One response to one question; `seed` alone decides what is sampled for it."""

    key: str
    question: str
    seed: int


@dataclass(frozen=True)
class Sampling:
    """How to sample. `temperature=0` is greedy, `top_k=0` and `top_p=1` switch a limit off."""

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int


@dataclass(frozen=True)
class Completion:
    """A response. `token_ids` are what was generated, without the end-of-sequence token.

    `finish_reason` is stop (the model ended it), length (cut off: no answer to be trusted) or
    prompt_too_long (the prompt leaves no room in the model's context; nothing was generated).
    """

    key: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    prompt_tokens: int


class Generator(Protocol):
    """Answers requests; yields them in any order, without those whose key is in `done`."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, done: Collection[str] = ()
    ) -> Iterator[Completion]: ...
