"""A paid Oracle asked many things at once, within its limits and the user's budget.

A task is worked on by one worker from its first prompt to its row; as many requests as `pace` allows are
at the server. Whatever ends a run early (the cap, another model, a wrong key, a bug) stops new requests only: those in flight are
waited for and written down, for they are paid.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from spot.config import OracleConfig
from spot.oracle.journal import Journal, Paid, Request
from spot.oracle.pace import MOST, Pace
from spot.oracle.task_loop import (
    OK,
    Budget,
    OracleTask,
    UnavailableError,
    advance,
    check_version,
    over_budget,
)
from spot.oracle.types import Client, Reply, Result, Task, Usage
from spot.utils.errors import UserError
from spot.utils.http import TransientError, backoff
from spot.utils.machine import connections

LONGEST_PATIENCE = 900.0  # seconds; a server that asks for more is out of quota: the run stops
CHARACTERS_PER_TOKEN = 4.0  # a guess that is corrected by what the server counts
SPARE = 1.25  # workers for each slot at the server


async def rectify(
    tasks: Iterable[Task],
    client: Client,
    spec: OracleTask,
    journal: Journal,
    config: OracleConfig,
    budget: Budget,
) -> AsyncGenerator[Result, None]:
    """Yield one Result a task as they are finished, in any order.

    Tasks are taken one by one, as workers become free. What the journal knows is not asked again. Ends
    early at `budget.target`. Raises UserError, after what was in flight: at `budget.max_cost`, when
    another model answers, when the server answers nobody, and what the client raises itself; the same
    call then goes on where this one ended.
    """
    run = _Run(tasks, client, spec, journal, config, budget)
    run.hire()
    closer = asyncio.create_task(run.close())
    try:
        while (result := await run.results.get()) is not None:
            yield result
    finally:
        for task in (*run.workers, closer):
            task.cancel()
        await asyncio.gather(*run.workers, closer, return_exceptions=True)
    if run.error is not None:
        raise run.error


def blocking(
    results: AsyncGenerator[Result, None], close: Callable[[], Awaitable[None]]
) -> Iterator[Result]:
    """The same results for a caller without an event loop; calls `close` (the client's) at the end."""

    async def following() -> Result | None:
        return await anext(results, None)

    async def end() -> None:
        await results.aclose()
        await close()

    with asyncio.Runner() as runner:
        try:
            while (result := runner.run(following())) is not None:
                yield result
        finally:
            runner.run(end())


class _Run:
    """What the workers of one run share."""

    def __init__(
        self,
        tasks: Iterable[Task],
        client: Client,
        spec: OracleTask,
        journal: Journal,
        config: OracleConfig,
        budget: Budget,
    ) -> None:
        self.tasks = iter(tasks)
        self.client, self.spec, self.journal = client, spec, journal
        self.config, self.budget = config, budget
        self.results: asyncio.Queue[Result | None] = asyncio.Queue()
        self.error: Exception | None = None
        self.stopping = asyncio.Event()
        most = connections(config.concurrency or MOST, "oracle")
        self.pace = Pace(config.concurrency, most)  # of requests at the server
        self.changed = asyncio.Condition()  # a request or a task has ended
        self.requests = RateLimit(config.requests_per_minute)
        self.tokens = RateLimit(config.tokens_per_minute)
        self.draw = random.Random()
        self.workers: list[asyncio.Task[None]] = []
        self.active = 0  # tasks in work
        self.flying = 0  # requests on their way
        self.answers = 0  # of this run
        self.output_tokens = 0

    def stop(self, error: Exception | None) -> None:
        """Send nothing more. The first error is the one that is raised."""
        if not self.stopping.is_set():
            self.error = error
            self.stopping.set()

    def hire(self) -> None:
        """More workers than slots: while one reply is judged, another request is on its way."""
        for _ in range(len(self.workers), math.ceil(SPARE * self.pace.slots.size)):
            self.workers.append(asyncio.create_task(self.work()))

    async def close(self) -> None:
        while working := [worker for worker in self.workers if not worker.done()]:
            await asyncio.wait(working)
        self.results.put_nowait(None)

    async def work(self) -> None:
        """Take tasks and finish them, one after the other."""
        while (task := await self._next()) is not None:
            try:
                result = await advance(
                    task, self.client.model, self.spec, self.config.reask, self._fetch
                )
                if isinstance(result, Result):
                    verified = self.budget.verified + (result.outcome == OK)
                    self.budget = replace(self.budget, verified=verified)
                    self.results.put_nowait(result)
            except Exception as error:
                self.stop(error)
            finally:
                self.active -= 1
            await self._notify()
        await self._notify()

    async def _next(self) -> Task | None:
        """The next task; with a target, never more in work than verified rows are missing."""
        await self._until(lambda: self.budget.missing <= 0 or self.active < self.budget.missing)
        if self.stopping.is_set() or self.budget.missing <= 0:
            return None
        try:
            task = next(self.tasks, None)
        except Exception as error:
            self.stop(error)
            return None
        self.active += task is not None
        return task

    async def _fetch(self, request: Request) -> Paid | None:
        """The reply out of the journal or from the server, if it is from the right model."""
        paid = self.journal.find(request)
        if paid is None:
            return await self._ask(request)
        self._check_version(paid.reply)
        return paid

    async def _ask(self, request: Request) -> Paid | None:
        """Send a request until it is answered. None when the run stops before."""
        failures, answers = 0, self.answers
        while True:
            async with self.pace.slots:
                guess = self._guess(request)
                if (number := await self._admit(request, guess)) is None:
                    return None
                sent = self._now()
                came = await self._exchange(request, number)
                if isinstance(came, Paid):
                    self.pace.answered()
                    self.hire()
                    self._learn(came.reply, guess)
                    return came
            self.pace.failed(came, sent, self._now())
            failures += 1
            self._check_patience(came, failures, others=self.answers > answers)
            await self._pause(backoff(failures, came.after, self.draw))

    async def _exchange(self, request: Request, number: int) -> Paid | TransientError:
        """Send a request once and write down what became of it."""
        try:
            reply = await self._send(request)
            return self.spec.record(self.journal, number, reply, request.prompt)
        except TransientError as error:
            self.journal.failed(number, error.reason, billed=error.billed)
            return error
        except UserError as error:
            self.journal.failed(number, str(error), billed=False)
            raise
        finally:
            self.flying -= 1
            await self._notify()

    def _learn(self, reply: Reply, guess: float) -> None:
        """What a reply says of the model and of replies to come."""
        self._check_version(reply)
        if reply.usage == Usage():
            return
        self.answers += 1
        self.output_tokens += reply.usage.output
        self.tokens.correct(reply.usage.input + reply.usage.output - guess)

    def _check_version(self, reply: Reply) -> None:
        if not self.config.allow_version_drift:
            check_version(self.client.model, reply, self.journal.version)

    async def _admit(self, request: Request, guess: float) -> int | None:
        """Wait for the budget and the limits; the request's number, or None when the run stops."""
        most = self.spec.most(request.prompt)
        while True:
            await self._until(lambda: self._affords(most) or self.flying == 0)
            if not self._affords(most):
                cap = self.budget.max_cost or 0.0
                self.stop(over_budget(cap, self.journal.spend, most))
            while (held := self.pace.wait(self._now())) and not self.stopping.is_set():
                await self._pause(held)
            if self.stopping.is_set():
                return None
            now = self._now()
            waits = self.requests.reserve(now), self.tokens.reserve(now, guess)
            await self._pause(max(waits))
            if self._affords(most) and not self.stopping.is_set():
                self.flying += 1
                return self.journal.asked(request, most)

    async def _send(self, request: Request) -> Reply:
        """One request; a server that hangs may still do the work, and charge for it."""
        try:
            async with asyncio.timeout(self.config.timeout):
                return await self.client.ask(request.prompt)
        except TimeoutError:
            reason = f"no reply within {self.config.timeout:g} s"
            raise TransientError(reason, billed=True, busy=True) from None

    def _check_patience(self, error: TransientError, failures: int, *, others: bool) -> None:
        """Give a request up after its last retry; stop the run if the server answers nobody."""
        if error.after is not None and error.after > LONGEST_PATIENCE:
            raise UserError(
                f"The Oracle's server asks to wait {error.after:.0f} s ({error.reason}): run the same "
                "command then, nothing is lost."
            )
        if failures <= self.config.retries:
            return
        if others or self.config.give_up:
            raise UnavailableError(f"{error.reason} ({failures} times)")
        raise UserError(
            f"The Oracle's server does not answer ({error.reason}, {failures} times): run the same "
            "command later, nothing is lost. oracle.give_up=true drops what it does not answer."
        )

    def _guess(self, request: Request) -> float:
        """Tokens of a request and its reply, which is about as long as the prompt or as the others."""
        prompt = len(request.prompt) / CHARACTERS_PER_TOKEN
        return prompt + (self.output_tokens / self.answers if self.answers else prompt)

    def _affords(self, most: float) -> bool:
        cap = self.budget.max_cost
        return cap is None or self.journal.committed + most <= cap + 1e-9

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not beyond the run's end."""
        if seconds > 0:
            with suppress(TimeoutError):  # wait_for of Python 3.11 may lose a cancellation
                async with asyncio.timeout(seconds):
                    await self.stopping.wait()

    async def _until(self, happened: Callable[[], bool]) -> None:
        """Wait for something, but not beyond the run's end."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.stopping.is_set() or happened())

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()


@dataclass
class RateLimit:
    """Spaces what is asked evenly, so that no minute holds more than `per_minute` units.

    None means no limit. Times are seconds of any monotonic clock.
    """

    per_minute: float | None
    free_at: float = float("-inf")

    def reserve(self, now: float, amount: float = 1.0) -> float:
        """Take `amount` units; returns the seconds to wait before they may be used."""
        if self.per_minute is None:
            return 0.0
        start = max(now, self.free_at)
        self.free_at = start + 60.0 * amount / self.per_minute
        return start - now

    def correct(self, amount: float) -> None:
        """It turned out to be `amount` more (or, below 0, less) than was reserved."""
        if self.per_minute is not None:
            self.free_at += 60.0 * amount / self.per_minute
