"""The policy as its own Oracle (App. B): it is asked through the generator, batch by batch.

Either it is prompted to correct, as any Oracle, or, for a model that follows no such instruction, it
answers each question some times again and the right answer that is closest to y⁻ is taken.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from spot.config import OracleConfig
from spot.data import chat
from spot.data.chat import final_part, user
from spot.generation import request_seed
from spot.generation.types import LENGTH, PROMPT_TOO_LONG, Completion, Generator, Request, Sampling
from spot.oracle import Oracle
from spot.oracle.journal import Paid
from spot.oracle.journal import Request as Asked
from spot.oracle.postprocess import OK, Judgement
from spot.oracle.task_loop import OracleTask, advance
from spot.oracle.types import MAX_TOKENS, OTHER, STOP, Reply, Result, Task, Try, Usage

TOGETHER = 512  # tasks that are asked at once; their rows are on disk before the next ones
FINISH = {LENGTH: MAX_TOKENS, PROMPT_TOO_LONG: OTHER}


class SelfOracle(Oracle):
    """The policy, answering prompts; what it says depends on the prompt and `config.seed` alone.

    start: starts its generator. target: verified results that are enough.
    """

    name = "self"

    def __init__(
        self,
        config: OracleConfig,
        spec: OracleTask,
        start: Callable[[], Generator],
        sampling: Sampling,
        target: int | None = None,
    ) -> None:
        self.config, self.spec, self.start = config, spec, start
        self.sampling, self.target = sampling, target

    def rectify(self, tasks: Sequence[Task], verified: int = 0) -> Iterator[Result]:
        """Each try of a task is a round of generation for all tasks that need it."""
        if not tasks or (self.target is not None and verified >= self.target):
            return
        work = self._resampled if self.config.resample else self._prompted
        with closing(self.start()) as generator:
            for start in range(0, len(tasks), TOGETHER):
                for result in work(tasks[start : start + TOGETHER], generator):
                    verified += result.outcome == OK
                    yield result
                    if self.target is not None and verified >= self.target:
                        return

    def _prompted(self, tasks: Sequence[Task], generator: Generator) -> Iterator[Result]:
        """Rounds: all that wait for a reply get one, until each task has its row."""
        replies: dict[str, Paid] = {}

        async def fetch(request: Asked) -> Paid | None:
            return replies.get(request.digest)

        waiting = list(tasks)
        while waiting:
            reask = self.config.reask
            came = [asyncio.run(advance(t, "self", self.spec, reask, fetch)) for t in waiting]
            yield from (each for each in came if isinstance(each, Result))
            asked = [(t, r) for t, r in zip(waiting, came, strict=True) if isinstance(r, Asked)]
            if asked:
                replies |= self._ask([request for _, request in asked], generator)
            waiting = [task for task, _ in asked]

    def _ask(self, prompts: Sequence[Asked], generator: Generator) -> dict[str, Paid]:
        """The replies by the prompts' digests."""
        requests = [
            Request(p.digest, 0, user(p.prompt), self.sampling, self._seed(p)) for p in prompts
        ]
        digests = {request.key: request.question_id for request in requests}
        completions = generator.generate(requests)
        return {digests[c.key]: Paid(_reply(c), 0.0) for c in completions}

    def _seed(self, prompt: Asked) -> int:
        return (int(prompt.digest[:12], 16) + self.config.seed) % 2**31

    def _resampled(self, tasks: Sequence[Task], generator: Generator) -> Iterator[Result]:
        """Rejection sampling towards minimal change: the right answer with the smallest R_LCS (eq. 1)."""
        answers = self._answers(tasks, generator)
        for task in tasks:
            judged = [self.spec.judge(each.text, each.finish, task) for each in answers[task.id]]
            tries = tuple(  # without their texts: the one that counts is the row's y⁺
                Try("resample", "", judgement.outcome, reply.usage, 0.0, None, judgement.reason)
                for judgement, reply in zip(judged, answers[task.id], strict=True)
            )
            best = _closest(judged)
            yield Result(task, best.chosen, best.extracted, best.outcome, tries, best.detail)

    def _answers(self, tasks: Sequence[Task], generator: Generator) -> dict[str, list[Reply]]:
        """New answers to each task's question by its id; sampled by id, number and seed."""
        requests = [
            Request(t.id, n, chat.asked(t.question, t.messages), self.sampling, self._seed_of(t, n))
            for t in tasks
            for n in range(self.config.resample)
        ]
        replies = {c.key: _reply(c) for c in generator.generate(requests)}
        answers = defaultdict(list)
        for request in requests:  # in their order, whichever came first
            answers[request.question_id].append(replies[request.key])
        return answers

    def _seed_of(self, task: Task, number: int) -> int:
        return request_seed(self.config.seed, f"resample/{task.id}", number)


def _reply(completion: Completion) -> Reply:
    usage = Usage(completion.prompt_tokens, 0, completion.tokens)
    outcome = FINISH.get(completion.finish_reason, STOP)
    return Reply(final_part(completion.text), outcome, usage, None, completion.finish_reason)


def _closest(judged: Sequence[Judgement]) -> Judgement:
    """The right answer that changes least, else the most frequent reason why there is none.

    A direct answer changes nothing, so the first right one is as good as any.
    """
    if right := [each for each in judged if each.outcome == OK]:
        return min(right, key=lambda each: each.detail.get("change_ratio") or 0)
    ((outcome, _),) = Counter(each.outcome for each in judged).most_common(1)
    return Judgement(outcome)
