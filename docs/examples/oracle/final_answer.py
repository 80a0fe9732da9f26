"""An Oracle that mends the final answer and nothing else: right answers behind wrong reasoning.

A control: what it teaches cannot come from better steps. It works wherever answers are boxed.
"""

from __future__ import annotations

from dataclasses import dataclass

from spot.data.answers import last_boxed
from spot.data.rows import Attempt


@dataclass(frozen=True)
class FinalAnswerOracle:
    """Puts the true answer into the last box of the attempt; refuses attempts without one."""

    name: str = "final_answer"

    def rectify(self, attempt: Attempt) -> str | None:
        """The attempt with the true answer in its last box."""
        said = last_boxed(attempt.response)
        before, box, after = attempt.response.rpartition(rf"\boxed{{{said}}}")
        return rf"{before}\boxed{{{attempt.answer}}}{after}" if box else None

    def direct(self, attempt: Attempt) -> str | None:
        """The answer alone."""
        return rf"The final answer is: $\boxed{{{attempt.answer}}}$."
