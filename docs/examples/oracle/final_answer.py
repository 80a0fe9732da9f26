"""An Oracle that fixes the final answer and nothing else: right answers behind wrong reasoning.

A control: what it teaches cannot come from better steps. It works wherever answers are boxed.
"""

from __future__ import annotations

from spot.data.answers import last_boxed
from spot.oracle.types import Task


def correct(task: Task) -> str | None:
    """The attempt with the true answer in its last box, or in mode `direct` that answer alone.

    None for an attempt without a box.
    """
    if task.mode == "direct":
        return rf"The final answer is: $\boxed{{{task.answer}}}$."
    answer = last_boxed(task.response)
    before, box, after = task.response.rpartition(rf"\boxed{{{answer}}}")
    return rf"{before}\boxed{{{task.answer}}}{after}" if box else None
