"""The verdicts as the pages print them: what was measured, in which unit, and when a claim holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from spot.evaluation.statistics import Estimate
from spot.report.load import Study
from spot.report.style import signed
from spot.report.verdicts import FAILS, HOLDS, UNCLEAR, Verdict

DIGITS = {"points": 1, "nats": 1, "nats per token": 3, "share": 2}
SAID = {HOLDS: ("holds", "hold"), FAILS: ("does not hold", "do not hold"), UNCLEAR: ("cannot be told",) * 2}  # fmt: skip


@dataclass(frozen=True)
class ClaimRow:
    """A verdict as text; `bar` is where its interval and value lie, in percent of a bar around 0."""

    claim: str
    paper: str
    outcome: str
    measured: str
    holds_when: str
    value: str  # with its unit
    interval: str  # `one seed` where there is none
    seeds: str  # where they are fewer than the study's
    bar: tuple[float, float, float] | None  # left end, width, value


def claim_row(verdict: Verdict, study: Study) -> ClaimRow:
    claim, e, seeds = verdict.claim, verdict.estimate, len(study.seeds)
    digits = DIGITS[claim.unit]
    value = f"{e.value:.{digits}f}" if claim.unit == "share" else signed(e.value, digits)
    return ClaimRow(
        claim.text,
        claim.where,
        verdict.outcome,
        claim.measured,
        claim.rule.text,
        value if claim.unit == "share" else f"{value} {claim.unit}",
        "one seed" if _endless(e) and e.seeds == 1 else signed(e, digits),
        f"{e.seeds} of {seeds} seeds" if e.seeds < seeds else "",
        None if _endless(e) else _bar(e),
    )


def tally_text(verdicts: Sequence[Verdict]) -> str:
    """`Of 9 claims of the paper 5 hold, 1 does not hold and 3 cannot be told.`"""
    counts = Counter(verdict.outcome for verdict in verdicts)
    parts = [f"{n} {SAID[o][n != 1]}" for o in (HOLDS, FAILS, UNCLEAR) if (n := counts[o])]
    told = ", ".join(parts[:-1]) + " and " * (len(parts) > 1) + parts[-1]
    total = len(verdicts)
    return f"Of {total} claim{'s' * (total != 1)} of the paper {told}."


def _endless(e: Estimate) -> bool:
    return not (math.isfinite(e.low) and math.isfinite(e.high))


def _bar(e: Estimate) -> tuple[float, float, float]:
    reach = max(abs(e.low), abs(e.high), 1e-6) * 1.08
    low, width, value = (50 * of / reach for of in (e.low, e.high - e.low, e.value))
    return round(50 + low, 2), round(width, 2), round(50 + value, 2)
