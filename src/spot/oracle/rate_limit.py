"""How fast an Oracle may be asked, and how long it is waited for."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_PATIENCE = 900.0  # seconds; a server that asks for more is out of quota: the run stops


@dataclass
class Pace:
    """Spaces what is asked evenly, so that no minute holds more than `per_minute` units.

    None means no limit. Times are seconds of any monotonic clock.
    """

    per_minute: float | None
    free_at: float = float("-inf")

    def reserve(self, now: float, amount: float = 1.0) -> float:
        """Take `amount` units; returns the seconds to wait before they may be used."""
        if self.per_minute is None:
            return 0.0
        start = max(now, self.free_at)
        self.free_at = start + 60.0 * amount / self.per_minute
        return start - now

    def correct(self, amount: float) -> None:
        """It turned out to be `amount` more (or, below 0, less) than was reserved."""
        if self.per_minute is not None:
            self.free_at += 60.0 * amount / self.per_minute
