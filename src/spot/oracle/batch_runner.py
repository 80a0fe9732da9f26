"""Asks an Oracle by batch jobs: half the price, within a day, and safe to kill at any moment.

In rounds: what is open at the server is collected, tasks are advanced with it, and the requests that
they now wait for go out as new jobs. A job is written into the journal under a name of ours before it
is submitted, and found again by that name. What a job leaves undone (expired, partly failed) is free
and goes into the next one; what several jobs left undone is asked singly.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from spot.config import OracleConfig
from spot.oracle.journal import Journal, Paid, Request
from spot.oracle.task_loop import (
    OK,
    Budget,
    OracleTask,
    UnavailableError,
    advance,
    check_version,
    over_budget,
)
from spot.oracle.types import BatchClient, Job, Outcome, Reply, Result, Task
from spot.utils.errors import UserError
from spot.utils.http import TransientError, backoff

T = TypeVar("T")
# (tasks, what is left of the budget) → their results, asked one by one
Singly = Callable[[Sequence[Task], Budget], AsyncGenerator[Result, None]]


JOBS = 2  # that may leave a request undone before it is asked singly


async def rectify_in_batches(
    tasks: Iterable[Task],
    client: BatchClient,
    spec: OracleTask,
    journal: Journal,
    config: OracleConfig,
    budget: Budget,
    singly: Singly | None = None,
) -> AsyncGenerator[Result, None]:
    """Yield one Result a task, in the order in which jobs end.

    `spec` prices requests as batches. Without `singly`, what no job did becomes `unavailable`. Stops
    and raises as `async_runner.rectify` does; jobs that are open then go on at the server, and the next call
    collects them.
    """
    run = _Batches(tasks, client, spec, journal, config, budget, keep=singly is not None)
    while True:
        for result in await run.advance():
            yield result
        if journal.jobs:
            await run.collect()
        elif not run.pending or run.budget.missing <= 0:
            break
        else:
            await run.submit()
    if singly is not None and run.left and run.budget.missing > 0:
        async for result in singly(run.left, run.budget):
            yield result


class _Batches:
    """What is waiting, and what the server did with it."""

    def __init__(
        self,
        tasks: Iterable[Task],
        client: BatchClient,
        spec: OracleTask,
        journal: Journal,
        config: OracleConfig,
        budget: Budget,
        *,
        keep: bool,
    ) -> None:
        self.waiting = {task.id: task for task in tasks}
        self.pending: list[Request] = []  # one for each waiting task, in order
        self.left: list[Task] = []  # to be asked singly
        self.client, self.spec, self.journal = client, spec, journal
        self.config, self.budget, self.keep = config, budget, keep
        self.undone: Counter[str] = Counter()  # jobs that left a request undone, by digest
        self.reasons: dict[str, str] = {}  # the last one, by digest
        self.failures = 0  # jobs in a row that could not be submitted
        self.draw = random.Random()

    async def advance(self) -> list[Result]:
        """Take every waiting task as far as the journal's replies go; the rows that are finished."""
        results: list[Result] = []
        self.pending = []
        for task in list(self.waiting.values()):
            came = await advance(task, self.client.model, self.spec, self.config.reask, self._fetch)
            if isinstance(came, Result):
                results.append(came)
                verified = self.budget.verified + (came.outcome == OK)
                self.budget = replace(self.budget, verified=verified)
                del self.waiting[task.id]
            elif self._exhausted(came):
                self.left.append(self.waiting.pop(task.id))
            else:
                self.pending.append(came)
        return results

    def _exhausted(self, request: Request) -> bool:
        return self.undone[request.digest] >= JOBS

    async def _fetch(self, request: Request) -> Paid | None:
        """The reply out of the journal, if it is from the right model."""
        paid = self.journal.find(request)
        if paid is not None and not self.config.allow_version_drift:
            check_version(self.client.model, paid.reply, self.journal.version)
        if paid is None and self._exhausted(request) and not self.keep:
            reason = self.reasons.get(request.digest, "not done")
            raise UnavailableError(f"{reason} ({self.undone[request.digest]} batch jobs)")
        return paid

    # ------------------------------------------------------------------------------------- submit

    async def submit(self) -> None:
        """Send what is pending, as far as budget and target reach, in jobs of `size` requests.

        With a target no more tasks are sent than verified rows are missing.
        """
        affordable: list[tuple[Request, float]] = []
        cap = float("inf") if self.budget.max_cost is None else self.budget.max_cost
        room = cap + 1e-9 - self.journal.committed
        missing = None if self.budget.target is None else int(self.budget.missing)
        for request in self.pending[:missing]:
            most = self.spec.most(request.prompt)
            if most > room:
                break
            room -= most
            affordable.append((request, most))
        if not affordable:
            most = self.spec.most(self.pending[0].prompt)
            raise over_budget(cap, self.journal.spend, most)
        for start in range(0, len(affordable), self.config.batch_size):
            await self._submit_job(affordable[start : start + self.config.batch_size])

    async def _submit_job(self, requests: Sequence[tuple[Request, float]]) -> None:
        """Submit one job. If it fails, its requests are pending again in the next round."""
        name = f"spot-{uuid.uuid4().hex}"
        self.journal.submitted(name, requests)
        prompts = [(request.digest, request.prompt) for request, _ in requests]
        try:
            await self.client.submit(prompts, name)
            self.failures = 0
        except UserError:
            self.journal.closed(name, found=True)  # refused: nothing was begun
            raise
        except TransientError as error:
            if error.billed and await self._persist(lambda: self.client.find(name)) is not None:
                return  # the answer was lost, the job was not
            self.journal.closed(name, found=not error.billed)
            self.failures += 1
            if self.failures > self.config.retries:
                raise _silent(error) from None
            await asyncio.sleep(backoff(self.failures, error.after, self.draw))

    # ------------------------------------------------------------------------------------ collect

    async def collect(self) -> None:
        """Wait until at least one open job has ended, and write down what came of it."""
        while True:
            ended = [await self._take_if_ended(name) for name in list(self.journal.jobs)]
            if any(ended):
                return
            await asyncio.sleep(self.config.batch_poll)

    async def _take_if_ended(self, name: str) -> bool:
        """Whether a job has ended; if so, its replies are in the journal now."""
        found = await self._persist(lambda: self.client.find(name))
        if found is None:  # killed around its submission, or deleted: nobody knows what it cost
            self.journal.closed(name, found=False)
            return True
        job: Job = found
        if job.state == "running":
            job = await self._persist(lambda: self.client.poll(job))
        if job.state == "running":
            return False
        results = await self._persist(lambda: self.client.results(job))
        self._record(name, results)
        if job.state == "failed" and not any(isinstance(r, Reply) for r in results.values()):
            reason = next((str(r) for r in results.values()), "without a reason")
            raise UserError(
                f"The batch job {name} failed at the server ({reason}): run the same command to submit "
                "it again, or set oracle.batch=false."
            )
        return True

    def _record(self, name: str, results: dict[str, Outcome]) -> None:
        """Write a job's replies into the journal and close it; a second time, only what is new."""
        prompts = {request.digest: request.prompt for request in self.pending}
        for digest, number in self.journal.jobs.get(name, {}).items():
            result = results.get(digest, results.get(""))
            if isinstance(result, Reply):
                self.spec.record(self.journal, number, result, prompts.get(digest))
                continue
            self.undone[digest] += 1
            if result is not None:
                self.reasons[digest] = str(result)
                billed = isinstance(result, TransientError)
                self.journal.failed(number, str(result), billed=billed)
        self.journal.closed(name, found=True)

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        """A call that costs nothing, retried."""
        failures = 0
        while True:
            try:
                return await call()
            except TransientError as error:
                failures += 1
                if failures > self.config.retries:
                    raise _silent(error) from None
                await asyncio.sleep(backoff(failures, error.after, self.draw))


def _silent(error: TransientError) -> UserError:
    return UserError(
        f"The Oracle's server does not answer ({error.reason}): run the same command later; batch jobs "
        "go on meanwhile and are found again."
    )
