"""What helps where most responses cannot be graded."""

from __future__ import annotations

from collections.abc import Mapping

from spot.config import DataConfig
from spot.data.rows import CORRECT, TRUNCATED, UNPARSEABLE, WRONG
from spot.utils.terminal import count


def ungraded(verdicts: Mapping[str, int], data: DataConfig) -> str:
    """`37 of 40 responses …: try …` where most have no verdict on their answer; empty elsewhere."""
    counts = {verdict: verdicts.get(verdict, 0) for verdict in (TRUNCATED, UNPARSEABLE)}
    total = verdicts.get(CORRECT, 0) + verdicts.get(WRONG, 0) + sum(counts.values())
    if 2 * sum(counts.values()) <= total:
        return ""
    parts = []
    if counts[TRUNCATED] >= counts[UNPARSEABLE] / 2:
        cut = "were cut off: raise generator.max_new_tokens"
        parts.append(f"{counts[TRUNCATED]} of {total} responses {cut}")
    if counts[UNPARSEABLE] >= counts[TRUNCATED] / 2:
        lacks = f"have no answer as data.answer_format={data.answer_format} wants it"
        parts.append(f"{counts[UNPARSEABLE]} of {total} responses {lacks}: try {_helps(data)}")
    return "; ".join(parts)


def nothing_wrong(verdicts: Mapping[str, int], data: DataConfig) -> str:
    """What is said where no response is wrong, so that an Oracle has nothing to correct."""
    if why := ungraded(verdicts, data):
        return f"nothing can be corrected: {why}."
    right = f"{count(verdicts.get(CORRECT, 0), 'response')} right and none wrong"
    return f"nothing is there to correct, {right}: ask more or harder questions."


def _helps(data: DataConfig) -> str:
    """Keys that make an answer be asked for, or found."""
    other = "" if data.answer_format == "last" else "data.answer_format=last"
    asks = "data.prompt=<a file that asks for it>"
    if data.fields.response is not None:  # nothing is asked
        asks = "another data.fields.response"
    elif data.answer_format == "boxed" and data.prompt != "math":
        asks = "data.prompt=math"
    return " or ".join(filter(None, [asks, other]))
