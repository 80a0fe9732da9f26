"""Stage 5: ask every benchmark's questions k times and grade each answer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from spot.generation import Generator, Request, Sampling, request_seed
from spot.records import Question, Score

# (question, response, finish reason) → correct, verdict, extracted answer, reason
Grader = Callable[[Question, str, str], tuple[bool, str, str | None, str]]


@dataclass(frozen=True)
class Benchmark:
    """Questions with the way they are graded. `domain` is in_domain, ood or general."""

    name: str
    domain: str
    questions: Sequence[Question]
    trials: int
    grade: Grader


def evaluate(
    benchmarks: Sequence[Benchmark],
    generator: Generator,
    sampling: Sampling,
    *,
    seed: int,
    done: Collection[str] = (),
) -> Iterator[Score]:
    """Yield one graded completion per benchmark, question and trial, but for the ids in `done`.

    All benchmarks run as one stream of requests. A question's samples depend on `seed`, the question
    and the trial alone, so every model is asked the same with the same random numbers.
    """
    asked: dict[str, tuple[Benchmark, Question, int]] = {}
    requests: list[Request] = []
    for benchmark in benchmarks:
        for question in benchmark.questions:
            for trial in range(benchmark.trials):
                key = f"{benchmark.name}/{question.id}#{trial}"
                asked[key] = benchmark, question, trial
                requests.append(Request(key, question.text, request_seed(seed, question.id, trial)))
    seeds = {request.key: request.seed for request in requests}
    for completion in generator.generate(requests, sampling, done):
        benchmark, question, trial = asked[completion.key]
        correct, verdict, extracted, reason = benchmark.grade(
            question, completion.text, completion.finish_reason
        )
        yield Score(
            id=completion.key,
            benchmark=benchmark.name,
            domain=benchmark.domain,
            question_id=question.id,
            trial=trial,
            correct=correct,
            verdict=verdict,
            extracted=extracted,
            response=completion.text,
            finish_reason=completion.finish_reason,
            tokens=len(completion.token_ids),
            seed=seeds[completion.key],
            reason=reason,
        )


def accuracy(scores: Sequence[Score]) -> dict[str, float]:
    """Share of correct completions by benchmark, in percent."""
    names = sorted({score.benchmark for score in scores})
    by_name = {name: [s.correct for s in scores if s.benchmark == name] for name in names}
    return {name: 100 * sum(hits) / len(hits) for name, hits in by_name.items()}
