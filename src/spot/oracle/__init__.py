"""Who corrects the policy's errors: one protocol for rules, people, the policy itself and paid servers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from spot.oracle.types import Result, Task


class Oracle(ABC):
    """Corrects tasks. `name` is what rows call it."""

    name: str

    @abstractmethod
    def rectify(self, tasks: Sequence[Task], verified: int = 0) -> Iterator[Result]:
        """Yield one result a task, in any order. Raises UserError; the same call goes on from there.

        verified: rows that are ok already; they count towards a target, after which it ends early.
        """

    def note(self) -> str:
        """What is shown beside the progress."""
        return ""

    def details(self) -> dict[str, Any]:
        """For the product's manifest."""
        return {}
