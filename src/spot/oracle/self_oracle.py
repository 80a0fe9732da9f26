"""The policy as its own Oracle (App. B): it is asked through the generator, batch by batch.

Either it is prompted to correct, as any Oracle, or, for a model that follows no such instruction, it
answers each question some times again and the right answer that is closest to y⁻ is taken.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spot.data.chat import final_part, user
from spot.generation import request_seed
from spot.generation.types import LENGTH, PROMPT_TOO_LONG, Completion, Generator, Request, Sampling
from spot.oracle.journal import Paid
from spot.oracle.journal import Request as Asked
from spot.oracle.postprocess import OK, Judgement
from spot.oracle.task_loop import Desk, Policy, advance
from spot.oracle.types import MAX_TOKENS, OTHER, STOP, Reply, Result, Task, Try, Usage

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
        completions = self.generator.generate(requests)
        return {digests[c.key]: Paid(_reply(c), 0.0) for c in completions}

    def answer(self, tasks: Sequence[Task], samples: int) -> dict[str, list[Reply]]:
        """So many new answers to each task's question, by its id; sampled by id, number and `seed`."""
        requests = [
            Request(t.id, n, user(t.question), self.sampling, self._seed_of(t, n))
            for t in tasks
            for n in range(samples)
        ]
        replies = {c.key: _reply(c) for c in self.generator.generate(requests)}
        answers = defaultdict(list)
        for request in requests:  # in their order, whichever came first
            answers[request.question_id].append(replies[request.key])
        return answers

    def _seed_of(self, task: Task, number: int) -> int:
        return request_seed(self.seed, f"resample/{task.id}", number)

    def _seed(self, prompt: Asked) -> int:
        return (int(prompt.digest[:12], 16) + self.seed) % 2**31


def _reply(completion: Completion) -> Reply:
    usage = Usage(completion.prompt_tokens, 0, completion.tokens)
    outcome = FINISH.get(completion.finish_reason, STOP)
    return Reply(final_part(completion.text), outcome, usage, None, completion.finish_reason)


def rectify(
    tasks: Sequence[Task], itself: Itself, desk: Desk, policy: Policy, samples: int = 0
) -> Iterator[Result]:
    """Yield a Result a task; each try of a task is a round of generation for all that need it.

    samples: new answers to a task's question, of which one becomes y⁺; 0: it is prompted to correct.
    Ends early at `policy.target`.
    """
    verified = policy.have
    for start in range(0, len(tasks), TOGETHER):
        some = tasks[start : start + TOGETHER]
        if samples:
            results = _resampled(some, itself, desk, samples)
        else:
            results = _together(some, itself, desk, policy)
        for result in results:
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


def _resampled(tasks: Sequence[Task], itself: Itself, desk: Desk, samples: int) -> Iterator[Result]:
    """Rejection sampling towards minimal change: the right answer with the smallest R_LCS (eq. 1)."""
    answers = itself.answer(tasks, samples)
    for task in tasks:
        judged = [desk.judge(reply.text, reply.finish, task) for reply in answers[task.id]]
        tries = tuple(  # without their texts: the one that counts is the row's y⁺
            Try("resample", "", judgement.outcome, reply.usage, 0.0, None, judgement.reason)
            for judgement, reply in zip(judged, answers[task.id], strict=True)
        )
        best = _closest(judged)
        yield Result(task, best.chosen, best.extracted, best.outcome, tries, best.detail)


def _closest(judged: Sequence[Judgement]) -> Judgement:
    """The right answer that changes least, else the most frequent reason why there is none.

    A direct answer changes nothing, so the first right one is as good as any.
    """
    if right := [each for each in judged if each.outcome == OK]:
        return min(right, key=lambda each: each.detail.get("change_ratio") or 0)
    ((outcome, _),) = Counter(each.outcome for each in judged).most_common(1)
    return Judgement(outcome)
