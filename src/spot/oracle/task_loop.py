"""An Oracle's task from its first prompt to its row: prompts, replies, asking again, the result.

Single requests, batch jobs and the policy itself share it: they differ in how a request becomes a reply.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from spot.oracle.journal import Journal, Paid, Request, Spend
from spot.oracle.postprocess import Judgement
from spot.oracle.pricing import can_be, usd
from spot.oracle.types import Reply, Result, Task, Try, Usage
from spot.utils.errors import UserError
from spot.utils.progress import say

OK, UNAVAILABLE = "ok", "unavailable"
HOPELESS = ("safety", "refused")  # what has stopped a prompt once stops it again


@dataclass(frozen=True)
class OracleTask:
    """What the Oracle is told, and how its work is judged and priced. Every part is a pure function."""

    prompt: Callable[[Task, Sequence[Try]], tuple[str, str]]  # (kind, text) after these tries
    judge: Callable[[str, str, Task], Judgement]  # (text, how the reply ended, task); any thread
    cost: Callable[[Usage], float]  # USD of what was used
    limit: Callable[[str], Usage]  # tokens that a prompt's request can use

    def most(self, prompt: str) -> float:
        """USD that a request with this prompt can cost."""
        return self.cost(self.limit(prompt))

    def record(self, journal: Journal, number: int, reply: Reply, prompt: str | None) -> Paid:
        """Write down the reply to the request `number`. prompt: None where nobody asks for it any more.

        Usage that the request cannot have is not believed: what it may have cost is held instead.
        """
        if prompt is not None and not can_be(reply.usage, prompt, reply.text, self.limit(prompt)):
            reply = replace(reply, usage=Usage())
        held = journal.possible
        paid = journal.answered(number, reply, self.cost(reply.usage))
        if journal.possible > held:
            _say_held()
        return paid


@dataclass(frozen=True)
class Budget:
    """What may be spent, and how many rectifications are wanted."""

    max_cost: float | None = None  # USD: the bill, lost replies included, never exceeds it
    target: int | None = None  # verified rectifications that are enough; None: all tasks
    verified: int = 0  # of these, the rows that are there already

    @property
    def missing(self) -> float:
        """Verified rows that are still wanted."""
        return float("inf") if self.target is None else self.target - self.verified


@cache
def _say_held() -> None:
    """Say once that the server cannot be believed."""
    say(
        "oracle: a reply says nothing of the tokens that it used, or what cannot be: the most that "
        "such a request can cost is counted as possible, and towards oracle.max_cost."
    )


class UnavailableError(Exception):
    """This request is given up: it keeps failing while the server answers others."""


Fetch = Callable[[Request], Awaitable[Paid | None]]


async def advance(
    task: Task, model: str, spec: OracleTask, reask: int, fetch: Fetch
) -> Result | Request:
    """Ask, judge and ask again, `reask` times at most, until the task has its row.

    `fetch` returns the reply to a request, or None where there is none now: then the request that
    waits for one is returned. What was answered before is judged again, which costs nothing.
    """
    tries: list[Try] = []
    judged: Judgement | None = None
    while judged is None or (_may_help(judged) and len(tries) <= reask):
        kind, prompt = spec.prompt(task, tries)
        request = Request(task.id, _digest(model, task.id, len(tries), prompt), kind, prompt)
        try:
            paid = await fetch(request)
        except UnavailableError as error:
            tries.append(Try(kind, "", UNAVAILABLE, Usage(), 0.0, None, str(error)))
            return Result(task, "", None, UNAVAILABLE, tuple(tries))
        if paid is None:
            return request
        reply = paid.reply
        judged = await asyncio.to_thread(spec.judge, reply.text, reply.finish, task)
        tries.append(_tried(kind, paid, judged))
    return Result(
        task, judged.chosen, judged.extracted, judged.outcome, tuple(tries), judged.detail
    )


def _may_help(judged: Judgement) -> bool:
    """Whether another try may succeed."""
    return judged.outcome not in (OK, *HOPELESS)


def _tried(kind: str, paid: Paid, judged: Judgement) -> Try:
    reply = paid.reply
    text = reply.text.encode(errors="replace").decode()  # half a surrogate pair cannot be stored
    reason = reply.reason if judged.outcome in HOPELESS else ""  # the server's own word for it
    return Try(
        kind,
        text,
        judged.outcome,
        reply.usage,
        paid.cost,
        reply.model_version,
        reason or judged.reason,
    )


def _digest(model: str, task: str, number: int, prompt: str) -> str:
    return hashlib.sha256(json.dumps([model, task, number, prompt]).encode()).hexdigest()[:24]


def check_version(model: str, reply: Reply, first: str | None) -> None:
    """Refuse a reply of another model than the one asked for, or than the `first` that answered.

    `gpt-4.1` may answer as `gpt-4.1-2025-04-14`, a snapshot of it. A server that does not say who
    answers cannot be checked.
    """
    version = reply.model_version
    if version is None:
        return
    if not is_snapshot(model, version):
        other = f"{model} was asked for and {version} answered"
    elif first is not None and version != first:
        other = f"{first} has answered until now, and then {version}"
    else:
        return
    raise UserError(
        f"The Oracle has changed: {other}. Set oracle.allow_version_drift=true to accept that (its "
        "replies are kept), or choose another oracle.model."
    )


def is_snapshot(model: str, version: str) -> bool:
    """Whether `version` is `model`, or a snapshot of it: its name and a date or number."""
    name, version = model.removeprefix("models/"), version.removeprefix("models/")
    tail = version[len(name) :] if version.startswith(name) else None
    return tail is not None and re.fullmatch(r"(-\d{4}-\d\d-\d\d|-\d{3,8})?", tail) is not None


def over_budget(max_cost: float, spend: Spend, most: float) -> UserError:
    """What the user is told when the next request might exceed `oracle.max_cost`."""
    more = f"{usd(spend.possible)} more may be charged for replies that are lost or not counted"
    lost = f", {more}" if spend.possible else ""
    return UserError(
        f"oracle.max_cost={max_cost:g} USD is reached: {usd(spend.recorded)} are spent{lost}, and "
        f"the next request may cost {usd(most)}. Raise oracle.max_cost and run the same command: "
        "what was answered is not asked again."
    )
