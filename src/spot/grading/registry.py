"""How answers are graded, by format, and how benchmarks are read, posed and graded, by family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spot.data.answers import Item, extract
from spot.data.chat import final_part
from spot.data.rows import CORRECT, TRUNCATED, UNPARSEABLE, WRONG, Question
from spot.grading import choice, code, connect4, everyday, ifeval, laptop, math, math_family
from spot.grading.family import Answer, Family, Grade, RowError, most_frequent_answer, pose

Verdict = tuple[str, str | None]  # correct, wrong, truncated or unparseable; the answer extracted


class Verifier:
    """Grades responses, from any thread.

    An answer whose numbers are too large to compute makes the verdict `unparseable`: it is known neither
    right nor wrong.
    """

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def equals(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """Whether each (extracted, truth) is equal; None where it gave up."""
        return math.equals(pairs)

    def equal(self, extracted: str, truth: str) -> bool:
        """Whether an extracted answer equals the truth; False when that cannot be found out."""
        return bool(self.equals([(extracted, truth)])[0])

    def verdict(
        self, response: str, truth: str, finish_reason: str = "stop", answer_format: str = "boxed"
    ) -> Verdict:
        """The verdict on one response, and the answer extracted from it."""
        return self.verdicts([Item(response, truth, finish_reason, answer_format)])[0]

    def verdicts(self, items: Sequence[Item]) -> list[Verdict]:
        """`verdict` for items of one format, in order. A truncated response is neither right nor wrong."""
        if items and items[0].answer_format == "code":
            return code.verdicts(items)
        extracted = [extract(final_part(i.response), i.answer_format) for i in items]
        cut = [item.finish_reason == "length" for item in items]
        asked = [i for i, answer in enumerate(extracted) if answer is not None and not cut[i]]
        pairs = [(extracted[i] or "", items[i].truth) for i in asked]
        equal = dict(zip(asked, self.equals(pairs), strict=True))
        name = {True: CORRECT, False: WRONG, None: UNPARSEABLE}
        return [
            (TRUNCATED if cut[i] else name[equal.get(i)], answer)
            for i, answer in enumerate(extracted)
        ]


@dataclass(frozen=True)
class Options:
    """What families may be told. answer_format: of a benchmark; data_format: of the run's own data."""

    verifier: Verifier
    answer_format: str = "boxed"
    data_format: str = "boxed"
    parser: str = "tolerant"


def family(name: str, options: Options) -> Family:
    """How the questions of a family are read, posed and graded."""
    return FAMILIES[name](options)


def _math(options: Options) -> Family:
    fields = math_family.MathFields(question="question")
    return math_family.family(options.verifier.equals, fields, options.answer_format)


def _held_out(options: Options) -> Family:
    """A run's own held-out questions: asked and graded as its attempts were."""

    def read(row: Mapping[str, Any], row_id: str) -> Question:
        raise RowError("held-out questions are a run's own")

    def grade(answers: Sequence[Answer]) -> list[Grade]:
        items = [
            Item(a.response, a.question.answer, a.finish_reason, options.data_format)
            for a in answers
        ]
        return [Grade(v == CORRECT, v, found) for v, found in options.verifier.verdicts(items)]

    return Family(read, pose, grade, most_frequent_answer)


FAMILIES: dict[str, Callable[[Options], Family]] = {
    "arithmetic": lambda _: laptop.family(),
    "choice": lambda _: choice.family(),
    "code": lambda _: code.family(),
    "connect4": lambda options: connect4.family(options.parser),
    "data": _held_out,
    "everyday": lambda _: everyday.family(),
    "ifeval": lambda _: ifeval.family(),
    "math": _math,
}
