"""Requests dealt to servers that may fail: who is asked next, what is asked again, when to give up.

A server is greeted before it is asked anything, and again after three failures in a row. A request
that failed waits, then goes to another server if one is free. The run ends with an error when

- no server could be greeted for `patience` seconds, or
- one request has failed several times, for longer than `patience`, while servers could be greeted.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from spot import web
from spot.errors import UserError
from spot.generation.http import Endpoint, PassingError
from spot.generation.types import Completion, Request
from spot.progress import say

FAILURES_IN_A_ROW = 3  # after which a server is asked nothing until it could be greeted
FEWEST_TRIES = 5  # of a request before it is given up
LONGEST_PROBE_PAUSE = 5.0  # seconds; a server that is back should not wait for us
FULL_PAUSE = 0.05  # seconds between looks at a consumer that is behind
AGAIN = "the same command goes on from here"


@dataclass(frozen=True)
class Pace:
    """How much is asked at a time and how long is waited, in seconds.

    concurrency: requests in flight at one server; timeout: for one response; patience: with servers
    that do not answer.
    """

    concurrency: int = 64
    timeout: float = 3600.0
    patience: float = 600.0


class Talk(Protocol):
    """What is said to a server. Both raise PassingError for what may pass, UserError for what does not."""

    async def greet(self, endpoint: Endpoint) -> None: ...

    async def ask(self, endpoint: Endpoint, request: Request) -> Completion: ...


@dataclass(eq=False)
class _Server:
    endpoint: Endpoint
    ready: bool = False
    in_flight: int = 0
    failures: int = 0  # in a row
    reason: str = ""  # of the last
    rests_until: float = 0.0  # of the loop's clock
    fallen: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class _Job:
    request: Request
    failures: int = 0
    since: float = 0.0  # the first
    server: _Server | None = None  # of the last


class Dispatcher:
    """Answers `requests`, in any order, by calling `deliver`.

    `full()` says whether the consumer is behind: nothing is sent then.
    """

    def __init__(
        self,
        requests: Iterable[Request],
        endpoints: Iterable[Endpoint],
        talk: Talk,
        pace: Pace,
        deliver: Callable[[Completion], None],
        full: Callable[[], bool],
    ) -> None:
        self.requests = iter(requests)
        self.servers = [_Server(endpoint) for endpoint in endpoints]
        self.talk, self.pace, self.deliver, self.full = talk, pace, deliver, full
        self.loop = asyncio.get_running_loop()
        self.draw = random.Random()
        self.again: deque[_Job] = deque()  # have waited, and go first
        self.open = 0  # jobs that were begun and are not done
        self.changed = asyncio.Event()  # a job or a server
        self.nobody_since: float | None = self.loop.time()  # while no server is ready

    async def run(self) -> None:
        """Return when all is delivered. Raises UserError."""
        try:
            async with asyncio.TaskGroup() as tasks:
                keepers = [tasks.create_task(self._keep(server)) for server in self.servers]
                await self._send_all(tasks)
                for keeper in keepers:
                    keeper.cancel()
        except BaseExceptionGroup as group:  # the first error has ended the others
            raise group.exceptions[0] from None

    async def _send_all(self, tasks: asyncio.TaskGroup) -> None:
        job = self._next()
        while job or self.open:
            server = self._free_server(job) if job else None
            if job and server:
                server.in_flight += 1
                tasks.create_task(self._work(server, job))
                job = self._next()
            else:
                await self.changed.wait()
                self.changed.clear()
                job = job or self._next()

    def _next(self) -> _Job | None:
        """The next job: one that failed before others, a new one otherwise."""
        if self.again:
            return self.again.popleft()
        request = next(self.requests, None)
        if request is None:
            return None
        self.open += 1
        return _Job(request)

    def _free_server(self, job: _Job) -> _Server | None:
        """The least busy one, not the one that failed last if there is another."""
        if self.full():
            self.loop.call_later(FULL_PAUSE, self.changed.set)
            return None
        most = self.pace.concurrency
        free = [server for server in self.servers if server.ready and server.in_flight < most]
        others = [server for server in free if server is not job.server]
        return min(others or free, key=lambda server: server.in_flight, default=None)

    async def _work(self, server: _Server, job: _Job) -> None:
        """Ask once."""
        try:
            completion = await self.talk.ask(server.endpoint, job.request)
        except PassingError as error:
            self._failed(server, job, error)
        else:
            server.failures = 0
            self.open -= 1
            self.deliver(completion)
        finally:
            server.in_flight -= 1
            self.changed.set()

    def _failed(self, server: _Server, job: _Job, error: PassingError) -> None:
        """Ask again later, or give up."""
        now, patience, url = self.loop.time(), self.pace.patience, server.endpoint.url
        if error.after is not None and error.after > patience:
            raise UserError(
                f"{url} asks to wait {error.after:.0f} s ({error.reason}): {AGAIN} then."
            )
        job.failures += 1
        job.since, job.server = job.since or now, server
        if job.failures >= FEWEST_TRIES and now - job.since > patience:
            raise UserError(
                f"The request {job.request.key} has failed {job.failures} times within "
                f"{now - job.since:.0f} s, last at {url} ({error.reason}): look at the server's log; {AGAIN}."
            )
        pause = web.backoff(job.failures, error.after, self.draw)
        self.loop.call_later(pause, self._put_back, job)
        server.failures += 1
        server.reason = error.reason
        if server.ready and server.failures >= FAILURES_IN_A_ROW:
            server.ready = False
            server.rests_until = now + (error.after or 0.0)
            server.fallen.set()
            if not any(other.ready for other in self.servers):
                self.nobody_since = now

    def _put_back(self, job: _Job) -> None:
        self.again.append(job)
        self.changed.set()

    async def _keep(self, server: _Server) -> None:
        """Greet a server until it answers, and again whenever it has fallen."""
        failures = 0
        while True:
            try:
                await self.talk.greet(server.endpoint)
            except PassingError as error:
                failures += 1
                server.reason = error.reason
                self._check_patience()
                if failures == 2:
                    say(f"generation: waiting for {server.endpoint.url} ({error.reason})")
                pause = web.backoff(failures, error.after, self.draw)
                await asyncio.sleep(min(LONGEST_PROBE_PAUSE, pause))
                continue
            failures = server.failures = 0
            server.ready, self.nobody_since = True, None
            self.changed.set()
            await server.fallen.wait()
            server.fallen.clear()
            await asyncio.sleep(max(0.0, server.rests_until - self.loop.time()))

    def _check_patience(self) -> None:
        since, patience = self.nobody_since, self.pace.patience
        if since is None or self.loop.time() - since <= patience:
            return
        said = "; ".join(f"{server.endpoint.url}: {server.reason}" for server in self.servers)
        raise UserError(f"No server has answered for {patience:g} s ({said}): start it; {AGAIN}.")
