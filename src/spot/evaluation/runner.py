"""Stage 5: ask every benchmark's questions k times and grade each answer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from spot.data.chat import final_part, user
from spot.data.rows import UNPARSEABLE, Question, Score
from spot.generation import Completion, Generator, Request, Sampling, request_seed
from spot.generation.types import PROMPT_TOO_LONG
from spot.grading.family import Answer, Family, Grade


@dataclass(frozen=True)
class Benchmark:
    """Questions with the way they are posed and graded.

    domain: in_domain, ood or general. template: what is said around each problem. max_new_tokens: of
    a response, where the benchmark wants fewer than the run's sampling.
    """

    name: str
    domain: str
    questions: Sequence[Question]
    trials: int
    family: Family
    template: str = "{question}"
    max_new_tokens: int | None = None

    def posed(self, question: Question, trial: int, seed: int) -> Question:
        """The question as it is asked in one trial: the same for every model."""
        return self.family.pose(question, request_seed(seed, question.id, trial), self.template)

    @property
    def trivial(self) -> tuple[float, str]:
        """Percent that the best answer without reading scores, and what it is."""
        share, what = self.family.trivial(self.questions)
        return 100 * share, what


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
    asked = {
        request.key: (b, question, request)
        for b in benchmarks
        for question, request in _asked(b, sampling, seed)
    }
    for completion in generator.generate([request for _, _, request in asked.values()], done):
        yield score(*asked[completion.key], completion)


def score(
    benchmark: Benchmark, question: Question, request: Request, completion: Completion
) -> Score:
    """The record of one completion: what was answered, and what it is worth."""
    answer = Answer(question, final_part(completion.text), completion.finish_reason)
    if completion.finish_reason == PROMPT_TOO_LONG:
        grade = Grade(
            False, UNPARSEABLE, reason=f"the prompt has {completion.prompt_tokens} tokens"
        )
    else:
        (grade,) = benchmark.family.grade([answer])
    return Score(
        id=completion.key,
        benchmark=benchmark.name,
        domain=benchmark.domain,
        question_id=question.id,
        trial=request.trial,
        correct=grade.correct,
        verdict=grade.verdict,
        extracted=grade.extracted,
        response=completion.text,
        finish_reason=completion.finish_reason,
        tokens=completion.tokens,
        seed=request.seed,
        reason=grade.reason,
        details=dict(grade.details),
    )


def _asked(
    benchmark: Benchmark, sampling: Sampling, seed: int
) -> Iterator[tuple[Question, Request]]:
    """Every question of a benchmark as it is posed, as often as it is asked."""
    limit = min(benchmark.max_new_tokens or sampling.max_new_tokens, sampling.max_new_tokens)
    sampling = replace(sampling, max_new_tokens=limit)
    for question in benchmark.questions:
        for trial in range(benchmark.trials):
            posed = benchmark.posed(question, trial, seed)
            request = Request(
                f"{benchmark.name}/{question.id}",
                trial,
                user(posed.text),
                sampling,
                request_seed(seed, question.id, trial),
            )
            yield posed, request


def accuracy(scores: Sequence[Score]) -> dict[str, float]:
    """Share of correct completions by benchmark, in percent."""
    names = sorted({score.benchmark for score in scores})
    by_name = {name: [s.correct for s in scores if s.benchmark == name] for name in names}
    return {name: 100 * sum(hits) / len(hits) for name, hits in by_name.items()}
