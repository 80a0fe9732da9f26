"""Requests, sampling and completions: the protocol of every generator."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from spot.data.chat import Message

STOP = "stop"
LENGTH = "length"
PROMPT_TOO_LONG = "prompt_too_long"


@dataclass(frozen=True)
class Sampling:
    """How to sample. `temperature=0` is greedy, `top_k=0` and `top_p=1` switch a limit off."""

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int


@dataclass(frozen=True)
class Request:
    """One response to one question; `seed` alone decides what is sampled for it."""

    question_id: str
    trial: int
    messages: tuple[Message, ...]
    sampling: Sampling
    seed: int

    @property
    def key(self) -> str:
        """Names the row that is made of it."""
        return f"{self.question_id}#{self.trial}"


@dataclass(frozen=True)
class Completion:
    """A response to the request `key`, from the model that calls itself `model`.

    `token_ids` are what was generated, without the end-of-sequence token; empty where a server does
    not tell them. `tokens` is their number, told or not. `finish_reason` is stop (the model ended
    it), length (cut off: no answer to be trusted) or prompt_too_long (the prompt leaves no room in
    the model's context; nothing was sent or generated).
    """

    key: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    prompt_tokens: int
    tokens: int
    model: str


class Generator(Protocol):
    """Answers requests; `ready` starts what is needed for it, `close` ends that and frees what it holds."""

    def ready(self) -> None:
        """Return when requests can be answered. Raises UserError."""
        ...

    def generate(
        self, requests: Sequence[Request], done: Collection[str] = ()
    ) -> Iterator[Completion]:
        """Completions in any order, as they finish, without those whose key is in `done`."""
        ...

    def close(self) -> None: ...
