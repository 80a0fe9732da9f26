"""Stage 1: the policy answers every question, and its answers are graded (§2, error elicitation)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from spot.data.chat import user
from spot.data.rows import CORRECT, Attempt, Question
from spot.generation import Generator, Request, Sampling, request_seed
from spot.generation.types import PROMPT_TOO_LONG
from spot.utils.errors import UserError
from spot.utils.progress import say

FIRST = 100  # responses after which is said that most cannot be used
# (response, truth, finish reason) → verdict and the final answer found
Grade = Callable[[str, str, str], tuple[str, str | None]]


def elicit(
    questions: Sequence[Question],
    generator: Generator,
    sampling: Sampling,
    grade: Grade,
    *,
    samples: int,
    seed: int,
    done: Collection[str] = (),
    dropped: Counter[str] | None = None,
) -> Iterator[Attempt]:
    """Yield one graded attempt per question and trial, but for the ids in `done`.

    A response that was cut at the token limit is `truncated`, never `wrong`: it is no reasoning error.
    A prompt that leaves no room for a response is counted in `dropped`. What is graded comes after
    the reasoning block (`Verifier`); the attempt keeps the block.
    """
    asked = {
        request.key: (question, request)
        for question in questions
        for request in _requests(question, samples, sampling, seed)
    }
    requests = [request for _, request in asked.values()]
    for completion in generator.generate(requests, done):
        if completion.finish_reason == PROMPT_TOO_LONG:
            if dropped is not None:
                dropped[PROMPT_TOO_LONG] += 1
            continue
        question, request = asked[completion.key]
        verdict, extracted = grade(completion.text, question.answer, completion.finish_reason)
        yield Attempt(
            id=completion.key,
            question_id=question.id,
            trial=request.trial,
            task=question.task,
            question=question.text,
            answer=question.answer,
            response=completion.text,
            finish_reason=completion.finish_reason,
            tokens=completion.tokens,
            extracted=extracted,
            verdict=verdict,
            model=completion.model,
            seed=request.seed,
        )


class Tally:
    """Progress of an elicitation while it runs, and its summary.

    advise: what to say of verdicts, for instance that most responses were cut off; empty: nothing.
    """

    def __init__(self, advise: Callable[[Mapping[str, int]], str] = lambda _: "") -> None:
        self._advise = advise
        self._began = self._last = 0.0
        self._tokens = 0
        self._verdicts: Counter[str] = Counter()
        self.summary = ""  # the details in one line for the screen

    def watch(self, attempts: Iterable[Attempt]) -> Iterator[Attempt]:
        """Count the attempts that pass."""
        self._began = self._last = time.monotonic()
        for attempt in attempts:
            self._last = time.monotonic()
            self._tokens += attempt.tokens
            self._verdicts[attempt.verdict] += 1
            if self._verdicts.total() == FIRST and (advice := self._advise(self._verdicts)):
                say(f"elicit: {advice}")
            yield attempt

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the responses ÷ seconds since the first question could be asked."""
        return self._tokens / (self._last - self._began) if self._tokens else 0.0

    def note(self) -> str:
        total = sum(self._verdicts.values())
        right = 100 * self._verdicts[CORRECT] / max(total, 1)
        return f"{right:.1f}% correct, {self.tokens_per_second:,.0f} tokens/s"

    def details(self, attempts: Sequence[Attempt]) -> dict[str, Any]:
        """For the manifest: accuracy with its interval, response lengths, tokens a second."""
        if not attempts:
            raise UserError(
                "No prompt leaves room for a response in the model's context: choose shorter questions "
                "or another model."
            )
        if self._verdicts.total() < FIRST and (advice := self._advise(self._verdicts)):
            say(f"elicit: {advice}")
        from spot.evaluation.statistics import mean_interval, means_by_question

        means = means_by_question((a.question_id, a.verdict == CORRECT) for a in attempts)
        accuracy = mean_interval(list(means.values()), bounds=(0.0, 100.0))
        lengths = np.array([attempt.tokens for attempt in attempts])
        p50, p90, p99, longest = (int(q) for q in np.quantile(lengths, [0.5, 0.9, 0.99, 1]))
        speed = self.tokens_per_second
        self.summary = (
            f"{accuracy.value:.1f}% correct [{accuracy.low:.1f}, {accuracy.high:.1f}]; "
            f"tokens of a response: mean {lengths.mean():.0f}, half below {p50}, 90% below {p90}, "
            f"longest {longest}; {speed:,.0f} tokens/s"
        )
        return {
            "accuracy": {"percent": accuracy.value, "low": accuracy.low, "high": accuracy.high},
            "response_tokens": {
                "mean": float(lengths.mean()),
                "p50": p50,
                "p90": p90,
                "p99": p99,
                "max": longest,
                "total": int(lengths.sum()),
            },
            "tokens_per_second": speed,
        }


def _requests(question: Question, samples: int, sampling: Sampling, seed: int) -> Iterator[Request]:
    for trial in range(samples):
        number = request_seed(seed, question.id, trial)
        yield Request(question.id, trial, user(question.text), sampling, number)
