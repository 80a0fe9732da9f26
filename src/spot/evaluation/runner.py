"""Stage 5: every benchmark's questions, asked k times, and what the responses are worth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from spot.data.chat import asked as asked_chat
from spot.data.chat import final_part
from spot.data.rows import UNPARSEABLE, Question, Response, Score
from spot.generation import Generator, Request, Sampling, request_seed, respond
from spot.generation.types import PROMPT_TOO_LONG
from spot.grading.family import TOGETHER, Answer, Family, Grade

NOT_ASKED = Grade(False, UNPARSEABLE, reason="the prompt was too long")


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


Asked = Mapping[str, tuple[Benchmark, Question, Request]]  # by the request's key


def requests(
    benchmarks: Sequence[Benchmark], sampling: Sampling, seed: int
) -> dict[str, tuple[Benchmark, Question, Request]]:
    """Every question of every benchmark as it is posed, as often as it is asked: one stream.

    A question's samples depend on `seed`, the question and the trial alone, so every model is asked
    the same with the same random numbers.
    """
    asked = {}
    for benchmark in benchmarks:
        limit = min(benchmark.max_new_tokens or sampling.max_new_tokens, sampling.max_new_tokens)
        own = replace(sampling, max_new_tokens=limit)
        for question in benchmark.questions:
            for trial in range(benchmark.trials):
                posed = benchmark.posed(question, trial, seed)
                name = f"{benchmark.name}/{question.id}"
                number = request_seed(seed, question.id, trial)
                request = Request(name, trial, asked_chat(posed.text, posed.messages), own, number)
                asked[request.key] = benchmark, posed, request
    return asked


def grade(asked: Asked, responses: Sequence[Response]) -> Iterator[Score]:
    """Yield the record of each response: what was answered, and what it is worth."""
    by_benchmark: dict[str, list[Response]] = defaultdict(list)
    for response in responses:
        by_benchmark[asked[response.id][0].name].append(response)
    for some in by_benchmark.values():
        benchmark = asked[some[0].id][0]
        answers = [Answer(asked[r.id][1], final_part(r.response), r.finish_reason) for r in some]
        for response, given in zip(some, grades(benchmark.family, answers), strict=True):
            if response.finish_reason == PROMPT_TOO_LONG:
                given = replace(given, reason=f"the prompt has {response.prompt_tokens} tokens")
            yield _score(benchmark, *asked[response.id][1:], response, given)


def grades(family: Family, answers: Sequence[Answer]) -> Iterator[Grade]:
    """What answers are worth, in order. Where nothing could be asked, nothing is read."""
    for start in range(0, len(answers), TOGETHER):
        some = answers[start : start + TOGETHER]
        read = iter(family.grade([a for a in some if a.finish_reason != PROMPT_TOO_LONG]))
        for answer in some:
            yield NOT_ASKED if answer.finish_reason == PROMPT_TOO_LONG else next(read)


def evaluate(
    benchmarks: Sequence[Benchmark], generator: Generator, sampling: Sampling, *, seed: int
) -> list[Score]:
    """Ask and grade at once."""
    asked = requests(benchmarks, sampling, seed)
    return list(grade(asked, list(respond(generator, [r for _, _, r in asked.values()]))))


def _score(
    benchmark: Benchmark, question: Question, request: Request, response: Response, grade: Grade
) -> Score:
    return Score(
        id=response.id,
        benchmark=benchmark.name,
        domain=benchmark.domain,
        question_id=question.id,
        trial=request.trial,
        correct=grade.correct,
        verdict=grade.verdict,
        extracted=grade.extracted,
        response=response.response,
        finish_reason=response.finish_reason,
        tokens=response.tokens,
        seed=response.seed,
        reason=grade.reason,
        details=dict(grade.details),
    )


def accuracy(scores: Sequence[Score]) -> dict[str, float]:
    """Share of correct completions by benchmark, in percent."""
    names = sorted({score.benchmark for score in scores})
    by_name = {name: [s.correct for s in scores if s.benchmark == name] for name in names}
    return {name: 100 * sum(hits) / len(hits) for name, hits in by_name.items()}
