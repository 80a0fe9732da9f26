"""An Oracle's task from its first prompt to its row: prompts, replies, asking again, the result.

Single requests, batch jobs and the policy itself share it: they differ in how a request becomes a reply.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from spot.oracle.journal import Paid, Request, Spend
from spot.oracle.postprocess import Judgement
from spot.oracle.pricing import usd
from spot.oracle.types import Reply, Result, Task, Try, Usage
from spot.utils.errors import UserError

OK, UNAVAILABLE = "ok", "unavailable"
HOPELESS = ("safety", "refused")  # what has stopped a prompt once stops it again


@dataclass(frozen=True)
class OracleTask:
    """What the Oracle is told, and how its work is judged and priced. Every part is a pure function."""

    prompt: Callable[[Task, Sequence[Try]], tuple[str, str]]  # (kind, text) after these tries
    judge: Callable[[str, str, Task], Judgement]  # (text, how the reply ended, task); any thread
    cost: Callable[[Usage], float]  # USD of what was used
    most: Callable[[str], float]  # USD that a prompt may cost at most


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
    lost = f", {usd(spend.possible)} more may be charged for lost replies" if spend.possible else ""
    return UserError(
        f"oracle.max_cost={max_cost:g} USD is reached: {usd(spend.recorded)} are spent{lost}, and "
        f"the next request may cost {usd(most)}. Raise oracle.max_cost and run the same command: "
        "what was answered is not asked again."
    )
