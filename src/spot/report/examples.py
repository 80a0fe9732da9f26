"""A few pairs that stand for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from spot.data.rows import Pair

SHOWN = 5


def chosen(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs spread over the change ratios, smallest first; those without y⁻ show no edit and are left out."""
    with_rejected = [pair for pair in pairs if pair.rejected is not None]
    ordered = sorted(with_rejected, key=lambda p: (p.change_ratio or 0.0, p.id))
    if len(ordered) <= SHOWN:
        return ordered
    return [ordered[i * (len(ordered) - 1) // (SHOWN - 1)] for i in range(SHOWN)]
