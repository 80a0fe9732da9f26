"""A run's own held-out questions: asked and graded as its attempts were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from spot.data.rows import CORRECT, Question
from spot.grading.family import Answer, Family, Grade, RowError, pose
from spot.grading.math import Item, Verifier


def family(verifier: Verifier, answer_format: str) -> Family:
    """Graded by the final answer, written as `answer_format` has it."""
    return Family(
        read=read, pose=pose, grade=partial(grade, verifier, answer_format), trivial=trivial
    )


def read(row: Mapping[str, Any], row_id: str) -> Question:
    """These questions come from the run's attempts, never from rows."""
    raise RowError("held-out questions are a run's own")


def grade(verifier: Verifier, answer_format: str, answers: Sequence[Answer]) -> list[Grade]:
    """What each response is worth."""
    items = [Item(a.response, a.question.answer, a.finish_reason, answer_format) for a in answers]
    return [Grade(v == CORRECT, v, extracted) for v, extracted in verifier.verdicts(items)]


def trivial(questions: Sequence[Question]) -> tuple[float, str]:
    """The most frequent answer's share in [0, 1], and that answer."""
    answer, count = Counter(q.answer for q in questions).most_common(1)[0]
    return count / len(questions), answer
