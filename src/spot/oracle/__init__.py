"""Who corrects the policy's errors."""

from __future__ import annotations

from typing import Protocol

from spot.data.rows import Attempt


class Oracle(Protocol):
    """Corrects attempts and answers questions itself. None means that it refuses."""

    @property
    def name(self) -> str: ...

    def rectify(self, attempt: Attempt) -> str | None: ...

    def direct(self, attempt: Attempt) -> str | None: ...
