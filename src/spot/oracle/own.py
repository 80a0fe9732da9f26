"""The policy as its own Oracle (App. B): it is asked through the generator, batch by batch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spot.chat import final_part, user
from spot.generation.types import LENGTH, PROMPT_TOO_LONG, Generator, Request, Sampling
from spot.oracle.desk import Desk, Policy, advance
from spot.oracle.journal import Paid
from spot.oracle.journal import Request as Asked
from spot.oracle.types import MAX_TOKENS, OTHER, STOP, Reply, Result, Task, Usage

TOGETHER = 512  # tasks that are asked at once; their rows are on disk before the next ones
FINISH = {LENGTH: MAX_TOKENS, PROMPT_TOO_LONG: OTHER}


@dataclass(frozen=True)
class Itself:
    """The policy, answering prompts; what it says depends on the prompt and `seed` alone."""

    generator: Generator
    sampling: Sampling
    seed: int

    def ask(self, prompts: Sequence[Asked]) -> dict[str, Paid]:
        """Its replies by the prompts' digests."""
        requests = [
            Request(p.digest, 0, user(p.prompt), self.sampling, self._seed(p)) for p in prompts
        ]
        digests = {request.key: request.question_id for request in requests}
        replies = {}
        for c in self.generator.generate(requests):
            usage = Usage(c.prompt_tokens, 0, c.tokens)
            outcome = FINISH.get(c.finish_reason, STOP)
            reply = Reply(final_part(c.text), outcome, usage, None, c.finish_reason)
            replies[digests[c.key]] = Paid(reply, 0.0)
        return replies

    def _seed(self, prompt: Asked) -> int:
        return (int(prompt.digest[:12], 16) + self.seed) % 2**31


def rectify(tasks: Sequence[Task], itself: Itself, desk: Desk, policy: Policy) -> Iterator[Result]:
    """Yield a Result a task; each try of a task is a round of generation for all that need it.

    Ends early at `policy.target`.
    """
    verified = policy.have
    for start in range(0, len(tasks), TOGETHER):
        for result in _together(tasks[start : start + TOGETHER], itself, desk, policy):
            verified += result.outcome == "ok"
            yield result
            if policy.target is not None and verified >= policy.target:
                return


def _together(
    tasks: Sequence[Task], itself: Itself, desk: Desk, policy: Policy
) -> Iterator[Result]:
    """Rounds: whoever waits for a reply gets one, until all have their row."""
    said: dict[str, Paid] = {}

    async def fetch(request: Asked) -> Paid | None:
        return said.get(request.digest)

    waiting = list(tasks)
    while waiting:
        came = [asyncio.run(advance(task, "self", desk, policy, fetch)) for task in waiting]
        yield from (each for each in came if isinstance(each, Result))
        asked = [(t, r) for t, r in zip(waiting, came, strict=True) if isinstance(r, Asked)]
        if asked:
            said |= itself.ask([request for _, request in asked])
        waiting = [task for task, _ in asked]
