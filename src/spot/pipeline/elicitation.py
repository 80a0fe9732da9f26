"""Stage 1: the policy answers every question (§2, error elicitation), and its responses are graded."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from spot.config import DataConfig
from spot.data import chat
from spot.data.advice import ungraded
from spot.data.answers import Item
from spot.data.rows import CORRECT, Attempt, Question, Response
from spot.generation import Request, Sampling, request_seed
from spot.generation.types import PROMPT_TOO_LONG
from spot.grading.family import TOGETHER
from spot.grading.registry import Verdict
from spot.utils.errors import UserError
from spot.utils.progress import say

FIRST = 100  # responses after which is said that most cannot be used
Verdicts = Callable[[Sequence[Item]], list[Verdict]]
Asked = Mapping[str, tuple[Question, Request]]  # by the request's key


def requests(
    questions: Sequence[Question], samples: int, sampling: Sampling, seed: int
) -> dict[str, tuple[Question, Request]]:
    """Every question as often as it is asked."""
    asked = {}
    for question in questions:
        for trial in range(samples):
            number = request_seed(seed, question.id, trial)
            request = Request(
                question.id, trial, chat.asked(question.text, question.messages), sampling, number
            )
            asked[request.key] = question, request
    return asked


def verdict_of(asked: Asked, verdicts: Verdicts, answer_format: str) -> Callable[[Response], str]:
    """What a single response is worth."""
    return lambda response: verdicts([_item(asked, response, answer_format)])[0][0]


def _item(asked: Asked, response: Response, answer_format: str) -> Item:
    """A response with the truth it is graded against."""
    truth = asked[response.id][0].answer
    return Item(response.response, truth, response.finish_reason, answer_format)


def grade(
    asked: Asked,
    responses: Sequence[Response],
    verdicts: Verdicts,
    answer_format: str,
) -> Iterator[Attempt]:
    """Yield one attempt per response.

    A response that was cut at the token limit is `truncated`, never `wrong`: it is no reasoning error.
    A prompt that left no room for a response made no attempt. What is graded comes after the
    reasoning block (`Verifier`); the attempt keeps the block.
    """
    given = [r for r in responses if r.finish_reason != PROMPT_TOO_LONG]
    for start in range(0, len(given), TOGETHER):
        some = given[start : start + TOGETHER]
        found = verdicts([_item(asked, response, answer_format) for response in some])
        for response, (verdict, extracted) in zip(some, found, strict=True):
            question, request = asked[response.id]
            yield Attempt(
                id=response.id,
                question_id=question.id,
                trial=request.trial,
                task=question.task,
                question=question.text,
                answer=question.answer,
                response=response.response,
                finish_reason=response.finish_reason,
                tokens=response.tokens,
                extracted=extracted,
                verdict=verdict,
                model=response.model,
                seed=response.seed,
                messages=question.messages,
            )


def say_ungraded(verdicts: Mapping[str, int], data: DataConfig) -> None:
    """What helps, where most responses cannot be graded."""
    if why := ungraded(verdicts, data):
        say(f"elicit: {why}")


def details(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """For the manifest: percent of attempts that are correct, with the 95% interval over questions."""
    if not attempts:
        raise UserError(
            "No prompt leaves room for a response in the model's context: choose shorter questions "
            "or another model."
        )
    from spot.evaluation.statistics import mean_interval, means_by_question

    means = means_by_question((a.question_id, a.verdict == CORRECT) for a in attempts)
    found = mean_interval(list(means.values()), bounds=(0.0, 100.0))
    return {"accuracy": {"percent": found.value, "low": found.low, "high": found.high}}


class Tally:
    """Progress of a sampling while it runs, and its summary.

    verdict: of a response, if it is to be told. advise: what to say of verdicts, for instance that most
    responses were cut off; empty: nothing.
    """

    def __init__(
        self,
        verdict: Callable[[Response], str] | None = None,
        advise: Callable[[Mapping[str, int]], str] = lambda _: "",
    ) -> None:
        self._verdict, self._advise = verdict, advise
        self._began = self._last = 0.0
        self._tokens = 0
        self._verdicts: Counter[str] = Counter()
        self.summary = ""  # the details in one line for the screen

    def watch(self, responses: Iterable[Response]) -> Iterator[Response]:
        """Count the responses that pass."""
        self._began = self._last = time.monotonic()
        for response in responses:
            self._last = time.monotonic()
            self._tokens += response.tokens
            if self._verdict is not None and response.finish_reason != PROMPT_TOO_LONG:
                self._verdicts[self._verdict(response)] += 1
                if self._verdicts.total() == FIRST and (advice := self._advise(self._verdicts)):
                    say(f"respond: {advice}")
            yield response

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the responses ÷ seconds since the first question could be asked."""
        return self._tokens / (self._last - self._began) if self._tokens else 0.0

    def note(self) -> str:
        speed = f"{self.tokens_per_second:,.0f} tokens/s"
        if self._verdict is None:
            return speed
        right = 100 * self._verdicts[CORRECT] / max(self._verdicts.total(), 1)
        return f"{right:.1f}% correct, {speed}"

    def details(self, responses: Sequence[Response]) -> dict[str, Any]:
        """For the manifest: response lengths, tokens a second."""
        given = [r.tokens for r in responses if r.finish_reason != PROMPT_TOO_LONG]
        if not given:
            return {}
        lengths = np.array(given)
        p50, p90, p99, longest = (int(q) for q in np.quantile(lengths, [0.5, 0.9, 0.99, 1]))
        speed = self.tokens_per_second
        self.summary = (
            f"tokens of a response: mean {lengths.mean():.0f}, half below {p50}, 90% below {p90}, "
            f"longest {longest}; {speed:,.0f} tokens/s"
        )
        return {
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
