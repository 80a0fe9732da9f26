"""Oracles that correct at once, without a server: the rule Oracle and corrections that people wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from spot.data.rows import CORRECT, UNPARSEABLE
from spot.grading.registry import Verifier
from spot.oracle import Oracle
from spot.oracle.human import Source
from spot.oracle.postprocess import EMPTY, OK, UNCHANGED, WRONG
from spot.oracle.types import Result, Task

NOT_CORRECTED = "not_corrected"  # there is no correction, which is no refusal


class LocalOracle(Oracle):
    """Looks corrections up, or computes them, and verifies each; a refused one keeps its text.

    source: what corrects these tasks.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        verifier: Verifier,
        answer_format: str,
    ) -> None:
        self.name, self.source = name, source
        self.verifier, self.answer_format = verifier, answer_format

    def rectify(self, tasks: Sequence[Task], verified: int = 0) -> Iterator[Result]:
        """A result for every task."""
        correct = self.source(tasks)
        for task in tasks:
            chosen = correct(task)
            outcome, extracted = self._outcome(task, chosen)
            yield Result(task, chosen or "", extracted, outcome, ())

    def _outcome(self, task: Task, chosen: str | None) -> tuple[str, str | None]:
        """`ok` and the final answer, or what is wrong with a correction."""
        if chosen is None:
            return NOT_CORRECTED, None
        if not chosen.strip():
            return EMPTY, None
        if chosen == task.response:
            return UNCHANGED, None
        verdict, extracted = self.verifier.verdict(chosen, task.answer, "stop", self.answer_format)
        if verdict == CORRECT:
            return OK, extracted
        return (UNPARSEABLE if verdict == UNPARSEABLE else WRONG), extracted
