"""Requests dealt to servers that may fail: which is asked next, what is asked again, when to give up.

A server is greeted before it is asked anything. It falls, and is greeted again, after three failures
in a row, when it denies a request (401, 403, 404: it may be about to be replaced), or when it has
neither answered nor reacted to a probe for five minutes: what is in flight there is then asked again.

A request that failed waits, then goes to another server if one is free. One that has failed several
times, for longer than `patience`, is set aside: the others are finished, and then the run ends with an
error that names it. No new request is begun while nothing has been answered since the first failure
of the one that was set aside last. The run ends at once with an error when

- no server was ready for `patience` seconds,
- a server denies what it is asked, none has ever answered, and all others have failed,
- a server denies a greeting, none was ever greeted, and all others have failed,
- a server asks to wait for longer than `patience`, or refuses a request for what no waiting fixes.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from spot.config import GeneratorConfig
from spot.generation.prompt_check import DeniedError, PromptCheck
from spot.generation.types import Completion, Request
from spot.utils import http
from spot.utils.errors import UserError
from spot.utils.http import TransientError
from spot.utils.machine import connections
from spot.utils.openai_client import OpenAIServer, StatusError
from spot.utils.progress import say

FAILURES_IN_A_ROW = 3  # after which a server is asked nothing until it could be greeted
FEWEST_TRIES = 5  # of a request before it is set aside
PROBE_EVERY = 60.0  # seconds between two probes of a server that is ready
SILENT_SECONDS = 300.0  # after which what is in flight at a server is asked again
LONGEST_PROBE_PAUSE = 5.0  # seconds; a server that is back should not wait for us
FULL_PAUSE = 0.05  # seconds between looks at a consumer that is behind
AGAIN = "the same command goes on from here"


@dataclass(eq=False)
class _Server:
    endpoint: OpenAIServer
    ready: bool = False
    greeted: bool = False  # ever
    answered: bool = False  # ever
    in_flight: int = 0
    limits: set[asyncio.Timeout] = field(default_factory=set)  # of what is in flight
    failures: int = 0  # in a row
    reason: str = ""  # of the last failure; empty before the first
    heard: float = 0.0  # when it last answered, by the loop's clock
    rest: float = 0.0  # seconds until it is greeted again
    fallen: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class _Job:
    request: Request
    failures: int = 0
    since: float = 0.0  # the first
    server: _Server | None = None  # of the last
    reason: str = ""  # of the last


class Scheduler:
    """Answers `requests`, in any order, by calling `deliver`.

    `full()` says whether the consumer is behind: nothing is sent then.
    """

    def __init__(
        self,
        requests: Iterable[Request],
        endpoints: Iterable[OpenAIServer],
        check: PromptCheck,
        config: GeneratorConfig,
        deliver: Callable[[Completion], None],
        full: Callable[[], bool],
    ) -> None:
        self.requests = iter(requests)
        self.servers = [_Server(endpoint) for endpoint in endpoints]
        self.check, self.config = check, config
        count = len(self.servers)
        self.most = connections(count * config.concurrency, "generation") // count or 1
        self.deliver, self.full = deliver, full
        self.loop = asyncio.get_running_loop()
        self.draw = random.Random()
        self.again: deque[_Job] = deque()  # have waited, and go first
        self.open = 0  # jobs that were begun and are neither done nor set aside
        self.aside: list[_Job] = []
        self.answered = 0.0  # when a request last was
        self.stalled = False  # no new request is begun
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
        if self.aside:
            raise self._unanswered()

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
        request = None if self.stalled else next(self.requests, None)
        if request is None:
            return None
        self.open += 1
        return _Job(request)

    def _free_server(self, job: _Job) -> _Server | None:
        """The least busy one, not the one that failed last if there is another."""
        if self.full():
            self.loop.call_later(FULL_PAUSE, self.changed.set)
            return None
        free = [server for server in self.servers if server.ready and server.in_flight < self.most]
        others = [server for server in free if server is not job.server]
        return min(others or free, key=lambda server: server.in_flight, default=None)

    async def _work(self, server: _Server, job: _Job) -> None:
        """Ask once."""
        limit = asyncio.timeout(None)  # until the server is given up
        try:
            async with limit:
                server.limits.add(limit)
                completion = await self.check.ask(server.endpoint, job.request)
        except TimeoutError:
            self._failed(server, job, TransientError(f"silent for {SILENT_SECONDS:g} s"))
        except TransientError as error:
            self._failed(server, job, error)
        else:
            server.failures, server.answered = 0, True
            server.heard = self.answered = self.loop.time()
            self.stalled = False
            self.open -= 1
            self.deliver(completion)
        finally:
            server.limits.discard(limit)
            server.in_flight -= 1
            self.changed.set()

    def _failed(self, server: _Server, job: _Job, error: TransientError) -> None:
        """Ask again later, or set the request aside; let the server fall if it fails others, too."""
        now, patience = self.loop.time(), self.config.patience
        if error.after is not None and error.after > patience:
            raise UserError(
                f"{server.endpoint.url} asks to wait {error.after:.0f} s ({error.reason}): "
                f"{AGAIN} then."
            )
        job.failures += 1
        job.since, job.server, job.reason = job.since or now, server, error.reason
        pause = http.backoff(job.failures, error.after, self.draw)
        if job.failures >= FEWEST_TRIES and now - job.since > patience:
            self._set_aside(job)
        else:
            self.loop.call_later(pause, self._put_back, job)
        server.failures += 1
        if server.ready and isinstance(error, DeniedError):
            self._fall(server, error, pause)
        elif server.ready and server.failures >= FAILURES_IN_A_ROW:
            self._fall(server, error, error.after or 0.0)

    def _set_aside(self, job: _Job) -> None:
        if not self.aside:
            say(f"generation: {job.request.key} is set aside ({job.reason})")
        self.aside.append(job)
        self.open -= 1
        self.stalled = self.answered < job.since

    def _put_back(self, job: _Job) -> None:
        self.again.append(job)
        self.changed.set()

    def _unanswered(self) -> UserError:
        """What is said of the requests that were set aside."""
        job = self.aside[0]
        assert job.server is not None
        return UserError(
            f"{len(self.aside)} request(s) failed for longer than {self.config.patience:g} s: "
            f"{job.request.key} {job.failures} times, last at {job.server.endpoint.url} "
            f"({job.reason}): look at the server's log; {AGAIN}."
        )

    def _fall(self, server: _Server, error: TransientError, rest: float) -> None:
        """Ask it nothing until it could be greeted, `rest` seconds from now at the earliest."""
        server.ready, server.reason, server.rest = False, error.reason, rest
        server.fallen.set()
        self._believe(error)
        if not any(other.ready for other in self.servers):
            self.nobody_since = self.loop.time()

    def _believe(self, error: TransientError, *, greeting: bool = False) -> None:
        """Raise what a server denies, unless one has let us in before or may yet."""
        may = any(
            server.ready or not server.reason or (server.greeted if greeting else server.answered)
            for server in self.servers
        )
        if isinstance(error, DeniedError) and not may:
            raise UserError(error.message)

    async def _keep(self, server: _Server) -> None:
        """Greet a server, and again whenever it has fallen."""
        while True:
            await self._greet(server)
            await self._watch(server)
            await asyncio.sleep(server.rest)

    async def _greet(self, server: _Server) -> None:
        """Greet a server until it answers. Raises UserError when that is no use."""
        failures = 0
        while True:
            try:
                await self.check.greet(server.endpoint)
                break
            except TransientError as error:
                server.reason, after = error.reason, error.after
                self._believe(error, greeting=True)
            self._check_patience()
            self._check_silence(server, TransientError(server.reason))
            failures += 1
            if failures == 2:
                say(f"generation: waiting for {server.endpoint.url} ({server.reason})")
            pause = http.backoff(failures, after, self.draw)
            await asyncio.sleep(min(LONGEST_PROBE_PAUSE, pause))
        server.failures, server.ready, server.greeted = 0, True, True
        self.nobody_since = None
        self.changed.set()

    async def _watch(self, server: _Server) -> None:
        """Return when a server that was ready has fallen."""
        server.heard = self.loop.time()
        while server.ready:
            with suppress(TimeoutError):
                # asyncio.wait_for of Python 3.11 may lose a cancellation
                async with asyncio.timeout(PROBE_EVERY):
                    await server.fallen.wait()
                break
            try:
                await server.endpoint.models()
            except (TransientError, StatusError) as error:
                self._check_silence(server, TransientError(str(error)))
            else:
                server.heard = self.loop.time()
        server.fallen.clear()

    def _check_silence(self, server: _Server, error: TransientError) -> None:
        """Give up what is in flight at a server that has not been heard of for too long."""
        now = self.loop.time()
        if now - server.heard <= SILENT_SECONDS:
            return
        if server.ready:
            self._fall(server, error, 0.0)
        for limit in server.limits:
            limit.reschedule(now)
        server.limits.clear()

    def _check_patience(self) -> None:
        since, patience = self.nobody_since, self.config.patience
        if since is None or self.loop.time() - since <= patience:
            return
        reasons = "; ".join(f"{server.endpoint.url}: {server.reason}" for server in self.servers)
        raise UserError(
            f"No server has answered for {patience:g} s ({reasons}): start it; {AGAIN}."
        )
