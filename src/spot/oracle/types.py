"""What an Oracle is asked and what comes back, from one request up to a finished row.

A client knows a protocol and makes one request; `async_runner` owns retries, limits, money and the
journal; `postprocess` judges what came back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from spot.data.chat import Message
from spot.utils import finish
from spot.utils.http import TransientError


@dataclass(frozen=True)
class Usage:
    """Tokens of one request, as the server counts them. `output` includes `thoughts`.

    All are 0 where it does not say, or says what cannot be.
    """

    input: int = 0
    cached: int = 0  # of the input, billed cheaper
    output: int = 0
    thoughts: int = 0


# How a reply ended. Only `STOP` holds an answer; the others are named outcomes of a row.
STOP, MAX_TOKENS, SAFETY, EMPTY, OTHER = "stop", "max_tokens", "safety", "empty", "other"


@dataclass(frozen=True)
class Reply:
    """What a server answered to one request."""

    text: str
    finish: str  # one of the five above
    usage: Usage
    model_version: str | None  # what the server says has answered
    reason: str = ""  # the server's own word for an unusual end
    free: bool = False  # the prompt was refused before any model saw it


def ended(text: str, reason: str, usage: Usage, model: str | None, most: int | None) -> Reply:
    """A reply that ended for this `reason`, in the server's words. most: tokens it was allowed."""
    meaning = finish.meaning(reason, usage.output or None, most)
    if not usage.output and meaning != finish.FILTERED:  # something was generated
        usage = Usage()
    outcome = {finish.STOP: STOP, finish.LENGTH: MAX_TOKENS, finish.FILTERED: SAFETY}.get(
        meaning, OTHER
    )
    if outcome == STOP and not text.strip():
        return Reply(text, EMPTY, usage, model, "no text")
    return Reply(text, outcome, usage, model, "" if outcome == STOP else reason)


@dataclass(frozen=True)
class Job:
    """A batch job at the server."""

    name: str
    state: str  # running | done | expired | failed


# A reply in a batch job, the server's reason why there is none, or the error of one that cannot be read
Outcome = Reply | str | TransientError


class Client(Protocol):
    """One server and one model. `ask` makes one request and never retries by itself."""

    model: str

    async def ask(self, prompt: str) -> Reply:
        """Raises TransientError; UserError for what no retry fixes (key, model, malformed request)."""

    async def close(self) -> None: ...


class BatchClient(Protocol):
    """The same model by batch jobs, at half the price and within a day."""

    model: str

    async def submit(self, prompts: Sequence[tuple[str, str]], name: str) -> Job:
        """(key, prompt) pairs; `name` is ours, by which the job is found again after a kill."""

    async def find(self, name: str) -> Job | None:
        """The job that was submitted under our name, if there is one."""

    async def poll(self, job: Job) -> Job: ...

    async def results(self, job: Job) -> dict[str, Outcome]:
        """What is there by key. Missing keys were not done, or are what the empty key says."""


@dataclass(frozen=True)
class Task:
    """One attempt to be corrected, or one question to be answered directly."""

    id: str  # the attempt's
    question: str
    answer: str  # the ground truth
    response: str  # y⁻
    mode: str = "rectified"  # rectified | direct
    question_id: str = ""
    messages: Sequence[Message] = ()  # of a chat, whose transcript the question is


@dataclass(frozen=True)
class Try:
    """One request for a task and what became of it; all of them are kept in the row."""

    prompt: str  # which prompt: rectify | direct | reask
    text: str  # what came back, as it came
    outcome: (
        str  # ok | wrong | unparseable | empty | unchanged | truncated | rewritten | safety | …
    )
    usage: Usage
    cost: float  # USD
    model_version: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Result:
    """What the Oracle made of a task, with everything that was tried and paid for it."""

    task: Task
    chosen: str  # y⁺, cleaned; of an Oracle that is asked empty unless the outcome is ok
    extracted: str | None
    outcome: str
    tries: tuple[Try, ...]
    detail: dict[str, float | int | None] = field(
        default_factory=dict
    )  # change_ratio, common_prefix
