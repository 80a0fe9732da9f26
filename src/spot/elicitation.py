"""Stage 1: the policy answers every question, and its answers are graded (§2, error elicitation)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from spot.generation import Generator, Request, Sampling, request_seed
from spot.records import Attempt, Question

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
    model: str,
    done: Collection[str] = (),
) -> Iterator[Attempt]:
    """Yield one graded attempt per question and trial, but for the ids in `done`.

    A response that was cut at the token limit is `truncated`, never `wrong`: it is no reasoning error.
    """
    asked = {
        f"{question.id}#{trial}": (question, trial)
        for question in questions
        for trial in range(samples)
    }
    requests = [
        Request(key, question.text, request_seed(seed, question.id, trial))
        for key, (question, trial) in asked.items()
    ]
    seeds = {request.key: request.seed for request in requests}
    for completion in generator.generate(requests, sampling, done):
        question, trial = asked[completion.key]
        verdict, extracted = grade(completion.text, question.answer, completion.finish_reason)
        yield Attempt(
            id=completion.key,
            question_id=question.id,
            trial=trial,
            task=question.task,
            question=question.text,
            answer=question.answer,
            response=completion.text,
            finish_reason=completion.finish_reason,
            tokens=len(completion.token_ids),
            extracted=extracted,
            verdict=verdict,
            model=model,
            seed=seeds[completion.key],
        )
