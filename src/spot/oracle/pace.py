"""How many requests are at a server at one time: as many as were said, or as many as it takes.

Without a number it is found out: more at a time until the server says that it has too many, then a
part of that, and slowly up again (additive increase, multiplicative decrease: Chiu & Jain 1989).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from spot.utils.http import TransientError

FIRST = 8  # at a time, before anything is known
MOST = 256  # at a time: what a queue takes without a word is not all answered sooner
BEGINNING = 0.5  # more for every answer until the first refusal: half as many again a round …
AFTERWARDS = 0.25  # … and more a round after it: a refusal costs a wait
LESS = 0.8  # of what was too many


@dataclass
class Pace:
    """Slots for requests; take one around each: `async with pace.slots`.

    concurrency: how many there are, always; None: as many as the server takes. There are never more than
    `most`.
    """

    concurrency: int | None
    most: int = MOST

    def __post_init__(self) -> None:
        self.limit = float(min(self.concurrency or FIRST, self.most))
        self.slots = _Slots(int(self.limit))
        self.free_at = float("-inf")  # the server's own word on when to come again
        self._cut_at = float("-inf")
        self._more = BEGINNING

    def wait(self, now: float) -> float:
        """Seconds to wait before anything is sent."""
        return max(0.0, self.free_at - now)

    def answered(self) -> None:
        """A request was answered: there may be room for more, if all slots are taken."""
        if self.concurrency is None and self.slots.locked():
            self._set(min(self.most, self.limit + (self._more or AFTERWARDS / self.limit)))

    def failed(self, error: TransientError, sent: float, now: float) -> None:
        """A request that was sent at `sent` failed. One refusal of those sent together counts."""
        if self.concurrency is not None or not error.busy:
            return
        self.free_at = max(self.free_at, now + (error.after or 0.0))
        if sent > self._cut_at:
            self._cut_at, self._more = now, 0.0
            self._set(max(1.0, LESS * self.limit))

    def _set(self, limit: float) -> None:
        self.limit = limit
        self.slots.resize(int(limit))


class _Slots(asyncio.Semaphore):
    """A semaphore of another size at any time; what is taken beyond it is not given out again."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size, self.owed = size, 0

    def resize(self, size: int) -> None:
        more, self.size = size - self.size, size
        self.owed -= more
        while self.owed < 0:
            self.owed += 1
            super().release()

    def release(self) -> None:
        if self.owed > 0:
            self.owed -= 1
        else:
            super().release()
