"""A local server that speaks Gemini's and OpenAI's protocols, breaks on demand and keeps a bill.

It runs in a process of its own, so that a client under test can be killed at any moment:

    with serving(Plan(latency=0.1, faults={"500": 0.05, "reset": 0.02})) as server:
        GeminiClient(..., base_url=server.root)        # or OpenAIClient(..., base_url=server.url)
        server.ledger()["billed"]["single"]["output"]  # tokens that were generated and so cost money

What it answers depends on the number of the item in the prompt (`tests.oracle.world`) and on how
often that item was seen; faults and scripts are by item, too.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field

from aiohttp import web

from tests import fake_server
from tests.fake_server import BROKEN, ROOT, UNREADABLE, Server, abort, changed, serving_apart
from tests.oracle import protocols, world
from tests.oracle.batches import Batches
from tests.oracle.protocols import Protocol, Work

__all__ = ["BROKEN", "REFUSALS", "ROOT", "UNREADABLE", "Plan", "Server", "serving"]

# Faults by what they do. Those that generate are billed, also when their answer never arrives.
REFUSALS = "400 400_long 401 403 404 408 429 429_after 429_date 429_delay 429_quota 500 502 503 504".split()
ROWS = ("torn row", "no key")  # of a batch job's file
FAULTS = (*REFUSALS, *BROKEN, *UNREADABLE, *ROWS, *world.WRITTEN, *protocols.ENDS)


@dataclass
class Plan(fake_server.Plan):
    """What the server does. `429_after` and `429_delay` ask for `retry_after`, `429_date` rounds up."""

    thoughts: int = 40  # tokens thought for each answer
    cached: int = 0  # of the prompt's tokens
    version: str | None = None  # of the model that answers; None: the name that was asked for
    drifted: str = "another-model"  # what the fault `drift` says instead
    at_once: int | None = None  # requests that it takes at one time; more get `429_after`
    per_second: float | None = None  # … and in a second, a tenth of them together
    batch_seconds: float = 0.3  # a batch job takes
    batch_ends: list[str] = field(default_factory=list)
    # ^ of the 1st, 2nd, … job: SUCCEEDED, PARTIALLY_SUCCEEDED, EXPIRED, FAILED; then SUCCEEDED
    batch_share: float = 0.5  # of a job's rows that are done when it does not succeed
    batch_calls: dict[str, list[str]] = field(default_factory=dict)
    # ^ what goes wrong at the 1st, 2nd, … call of upload, create, list, get, download: a refusal,
    #   or "lost": the work is done, the answer never arrives

    def __post_init__(self) -> None:
        named = {*self.faults, *(fault for script in self.scripts.values() for fault in script)}
        if unknown := named - {*FAULTS, *self.changes, "ok"}:
            raise ValueError(f"no such faults: {sorted(unknown)}; there are {FAULTS}")


def no_usage() -> dict[str, int]:
    return {"requests": 0, "input": 0, "cached": 0, "output": 0, "thoughts": 0}


@dataclass
class Ledger(fake_server.Ledger):
    """What was asked and what is charged for, in requests and tokens (`output` with thoughts)."""

    jobs: int = 0
    billed: dict[str, dict[str, int]] = field(
        default_factory=lambda: {"single": no_usage(), "batch": no_usage()}
    )
    undelivered: dict[str, int] = field(default_factory=no_usage)  # of `single`: never arrived

    def charge(self, work: Work, way: str, delivered: bool = True) -> None:
        for bill in (self.billed[way], *(() if delivered else (self.undelivered,))):
            bill["requests"] += 1
            for name, tokens in asdict(work.usage).items():
                bill[name] += tokens


class State:
    """The plan in force, the ledger and the batch jobs."""

    def __init__(self) -> None:
        self.plan, self.ledger = Plan(), Ledger()
        self.batches = Batches(self)
        self.free_at = 0.0

    def is_busy(self) -> bool:
        """Whether one more is too many."""
        plan, now = self.plan, time.monotonic()
        if plan.at_once is not None and self.ledger.in_flight > plan.at_once:
            return True
        if plan.per_second is not None:
            self.free_at = max(self.free_at, now - 0.1)
            if self.free_at > now:
                return True
            self.free_at += 1 / plan.per_second
        return False

    def visit(self, prompt: str) -> tuple[str, str]:
        """The item of a prompt and what goes wrong this time; counts the visit."""
        item = world.item(prompt)
        fault = self.plan.fault(item, self.ledger.visits[item])
        self.ledger.visits[item] += 1
        self.ledger.faults[fault] += 1
        return item, fault

    def work(self, prompt: str, model: str, fault: str) -> Work:
        version = self.plan.drifted if fault == "drift" else self.plan.version or model
        return protocols.work(prompt, fault, version, self.plan.thoughts, self.plan.cached)


async def answer(state: State, request: web.Request, protocol: Protocol) -> web.StreamResponse:
    """One request of either protocol, from its arrival to the last byte, or to what goes wrong."""
    ledger = state.ledger
    with ledger.flight():
        ledger.body = await request.json()
        prompt, model = protocol.read(request.match_info, ledger.body)
        key = protocol.key(request.headers)
        if not key or state.plan.key not in (None, key):
            return protocol.refuse("401", state.plan.retry_after, key, "")
        if state.is_busy():
            ledger.faults["busy"] += 1
            return protocol.refuse("429_after", state.plan.retry_after, key, "")
        _, fault = state.visit(prompt)
        return await _outcome(state, request, protocol, prompt, model, fault)


async def _outcome(
    state: State, request: web.Request, protocol: Protocol, prompt: str, model: str, fault: str
) -> web.StreamResponse:
    plan, ledger = state.plan, state.ledger
    if fault in REFUSALS:
        return protocol.refuse(fault, plan.retry_after, "", plan.words)
    if fault == "drop":
        return abort(request)
    work = state.work(prompt, model, fault)
    if fault == "hang":
        ledger.charge(work, "single", delivered=False)
        await _while_connected(request, plan.hang)
        return abort(request)
    if plan.latency:
        await asyncio.sleep(plan.latency)
    ledger.charge(work, "single", delivered=fault not in (*BROKEN, *UNREADABLE))
    reply = changed(protocol.reply(work), plan.changes.get(fault, {}))
    body = json.dumps(reply).encode()
    return await fake_server.broken(request, body, fault)


async def _while_connected(request: web.Request, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and request.transport and not request.transport.is_closing():
        await asyncio.sleep(0.05)


def application(state: State) -> web.Application:
    """All routes: the two protocols, batch jobs and files, and the plan and ledger of tests."""

    async def gemini(request: web.Request) -> web.StreamResponse:
        return await answer(state, request, protocols.GEMINI)

    async def openai(request: web.Request) -> web.StreamResponse:
        return await answer(state, request, protocols.OPENAI)

    app = fake_server.application(state, Plan)
    app.router.add_post("/v1/chat/completions", openai)
    app.router.add_post(r"/{v:v1|v1beta}/models/{model:[^:]+}:generateContent", gemini)
    state.batches.add_routes(app)
    return app


def serving(plan: Plan | None = None) -> AbstractContextManager[Server]:
    """A server in a process of its own, with an empty ledger, until the block ends."""
    return serving_apart("tests.oracle.server", plan or Plan())


if __name__ == "__main__":
    fake_server.main(application(State()), cancels=False)
