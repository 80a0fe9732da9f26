"""Which corrections become training pairs: audited once more, kept close to y⁻ (γ), never cut.

A row that is not taken is listed under one reason, so that rows in = pairs out + rows dropped.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spot.data.answers import Item
from spot.data.chat import asked, chat_ids, response_ids, stop_ids
from spot.data.edits import change_ratio, common_prefix
from spot.data.held_out import seeded_order
from spot.data.pair_tokens import TokenIds
from spot.data.rows import CORRECT, Attempt, Pair, Rectification
from spot.grading.registry import Verifier
from spot.utils.terminal import count

EMPTY = "empty"
IDENTICAL = "identical"
DUPLICATE = "duplicate"
LEFTOVER_MARKERS = "leftover_markers"
CHOSEN_NOT_CORRECT = "chosen_not_correct"
REJECTED_IS_CORRECT = "rejected_is_correct"
END_TOKEN_INSIDE = "end_token_inside"
OVER_LONG = "over_long"
ABOVE_GAMMA = "change_ratio_above_gamma"
BEYOND_PAIRS = "beyond_pairs"

_ADVICE = {  # by how the commonest reason begins
    "outcome_refused": "have these attempts corrected, too, or choose another Oracle",
    "outcome_not_corrected": "have these attempts corrected, too: spot correct",
    "outcome_truncated": "raise oracle.max_tokens",
    "outcome_rewritten": "raise oracle.largest_change",
    "outcome_unchanged": "choose an Oracle that finds the error, or oracle.ground_truth=true",
    "outcome_unparseable": "the corrections have no answer as data.answer_format wants it",
    "outcome_": "read what the Oracle wrote: spot pairs <the folder of its rectifications>",
    "verdict_truncated": "raise generator.max_new_tokens",
    "verdict_unparseable": "choose data.prompt or data.answer_format so that answers are found",
    "verdict_wrong": "data.arm=self trains on correct responses: ask more or easier questions",
    CHOSEN_NOT_CORRECT: "check data.fields.answer and data.answer_format",
    REJECTED_IS_CORRECT: "these responses are right: check data.fields.answer and data.answer_format",
    OVER_LONG: "raise model.context_length",
    IDENTICAL: "choose an Oracle that finds the error",
    EMPTY: "read what the Oracle wrote: spot pairs <the folder of its rectifications>",
}
_MARKER = re.compile(r"==[ \t]*CORRECTED\b[^=\n]*==", re.IGNORECASE)


@dataclass(frozen=True)
class Rules:
    """What a pair must satisfy.

    `gamma` limits the change ratio of the arm `rectified`; None lets all pass. `pairs` is how many
    are taken at most, a choice moved by `seed`. `context_length` is in tokens of prompt + response.
    """

    arm: str  # rectified | direct | self
    answer_format: str
    context_length: int
    gamma: float | None = None
    pairs: int | None = None
    seed: int = 0
    thinking: bool = False


@dataclass(frozen=True)
class Selection:
    """The pairs, sorted by id, with their token ids, and the ids of rows that were dropped, by reason."""

    pairs: list[Pair]
    dropped: dict[str, list[str]]
    smallest_ratio: float | None  # of all pairs that were measured against γ
    tokens: dict[str, TokenIds] = field(default_factory=dict, compare=False)

    @property
    def counts(self) -> dict[str, int]:
        """How many rows each reason took."""
        return {reason: len(ids) for reason, ids in sorted(self.dropped.items())}


@dataclass(frozen=True)
class _Candidate:
    row: Attempt | Rectification
    chosen: str
    rejected: str | None
    reason: str = ""  # why it is dropped already


@dataclass
class _Sieve:
    """Takes ids away under a reason."""

    dropped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def passes(self, row_id: str, reason: str) -> bool:
        if reason:
            self.dropped[reason].append(row_id)
        return not reason


def select(
    rows: Sequence[Rectification] | Sequence[Attempt],
    tokenizer: Any,
    rules: Rules,
    verifier: Verifier,
) -> Selection:
    """The pairs among rectifications (arms rectified and direct) or attempts (arm self).

    Direct pairs keep their y⁻; pairs of the arm self have none: their y⁺ is the policy's own correct
    response. Neither is held to γ. The result does not depend on the order of `rows`.
    """
    sieve = _Sieve()
    candidates = [_candidate(row, rules.arm) for row in rows]
    candidates.sort(key=lambda candidate: candidate.row.id)
    candidates = [c for c in candidates if sieve.passes(c.row.id, c.reason or _flaw(c))]
    verdicts = _verdicts(candidates, rules.answer_format, verifier)
    seen: set[tuple[str, str, str | None]] = set()
    pairs: list[Pair] = []
    ratios: list[float] = []
    tokens: dict[str, TokenIds] = {}
    for candidate, reason in zip(candidates, verdicts, strict=True):
        text = (candidate.row.question, candidate.chosen, candidate.rejected)
        reason = reason or (DUPLICATE if text in seen else "")
        seen.add(text)
        if not sieve.passes(candidate.row.id, reason):
            continue
        pair, reason, ids = _measure(candidate, tokenizer, rules)
        if not reason and pair.change_ratio is not None:
            ratios.append(pair.change_ratio)
        if not reason and _strays(pair, rules):
            reason = ABOVE_GAMMA
        if sieve.passes(pair.id, reason):
            pairs.append(pair)
            tokens[pair.id] = ids
    taken = set(
        sorted((p.id for p in pairs), key=lambda i: seeded_order(rules.seed, i))[: rules.pairs]
    )
    pairs = [p for p in pairs if sieve.passes(p.id, "" if p.id in taken else BEYOND_PAIRS)]
    taken_tokens = {pair.id: tokens[pair.id] for pair in pairs}
    return Selection(pairs, dict(sieve.dropped), min(ratios, default=None), taken_tokens)


def nothing_left(
    selection: Selection, rules: Rules, key: str = "data.gamma", held_out: bool = False
) -> str:
    """The message when no pair was selected: one line with what helps against the commonest reason.

    key: which one holds γ; held_out: whether the pairs are those to watch, and not to train on.
    """
    smallest = selection.smallest_ratio
    if selection.dropped.get(ABOVE_GAMMA) and rules.gamma is not None and smallest is not None:
        return (
            f"{key}={rules.gamma:g} leaves no pair: the smallest change ratio of "
            f"{count(len(selection.dropped[ABOVE_GAMMA]), 'correction')} is {smallest:.3f}; raise {key}."
        )
    counts = selection.counts
    reasons = ", ".join(f"{reason} {number}" for reason, number in counts.items())
    commonest = max(counts, key=lambda reason: counts[reason], default="")
    kind = next((start for start in _ADVICE if commonest.startswith(start)), "")
    what = "no pair is left of those held out" if held_out else "no pair is left to train on"
    return f"{what} ({reasons or 'no row came in'}): {_ADVICE.get(kind, 'ask more questions')}."


def _candidate(row: Attempt | Rectification, arm: str) -> _Candidate:
    if isinstance(row, Attempt):
        if arm != "self":
            raise ValueError(f"the arm {arm} is made of rectifications, not attempts")
        reason = "" if row.verdict == CORRECT else f"verdict_{row.verdict}"
        return _Candidate(row, row.response, None, reason)
    if arm == "self":
        raise ValueError("the arm self is made of attempts, not rectifications")
    reason = "" if row.mode == arm else f"mode_{row.mode}"
    if row.outcome != "ok":
        reason = f"outcome_{row.outcome}"
    return _Candidate(row, row.chosen, row.rejected, reason)


def _flaw(candidate: _Candidate) -> str:
    """What disqualifies a text on sight."""
    chosen, rejected = candidate.chosen, candidate.rejected
    if not chosen.strip() or (rejected is not None and not rejected.strip()):
        return EMPTY
    if chosen == rejected:
        return IDENTICAL
    return LEFTOVER_MARKERS if _MARKER.search(chosen) else ""


def _verdicts(
    candidates: Sequence[_Candidate], answer_format: str, verifier: Verifier
) -> Iterator[str]:
    """The reason against each: y⁺ must be correct and y⁻ must not, whatever the row says."""
    chosen = [Item(c.chosen, c.row.answer, "stop", answer_format) for c in candidates]
    rejected = [Item(c.rejected or "", c.row.answer, "stop", answer_format) for c in candidates]
    right = [verdict == CORRECT for verdict, _ in verifier.verdicts(chosen + rejected)]
    for good, bad in zip(right[: len(chosen)], right[len(chosen) :], strict=True):
        yield CHOSEN_NOT_CORRECT if not good else REJECTED_IS_CORRECT if bad else ""


def _measure(candidate: _Candidate, tokenizer: Any, rules: Rules) -> tuple[Pair, str, TokenIds]:
    """The pair in tokens, what is wrong with it then, and the tokens."""
    row = candidate.row
    prompt = chat_ids(tokenizer, asked(row.question, row.messages), rules.thinking)
    chosen = response_ids(tokenizer, candidate.chosen)
    rejected = None
    if candidate.rejected is not None:
        rejected = response_ids(tokenizer, candidate.rejected)
    pair = Pair(
        id=row.id,
        question_id=row.question_id,
        task=row.task,
        arm=rules.arm,
        question=row.question,
        answer=row.answer,
        chosen=candidate.chosen,
        rejected=candidate.rejected,
        change_ratio=None if rejected is None else change_ratio(rejected, chosen),
        common_prefix=None if rejected is None else common_prefix(rejected, chosen),
        chosen_tokens=len(chosen),
        rejected_tokens=None if rejected is None else len(rejected),
        messages=row.messages,
    )
    y = None if rejected is None else np.array(rejected, np.int32)
    tokens = np.array(prompt, np.int32), np.array(chosen, np.int32), y
    if chosen == rejected:  # texts that differ only in what the tokenizer makes equal
        return pair, IDENTICAL, tokens
    longest = max(len(chosen), len(rejected or ()))
    ends = stop_ids(tokenizer)
    if any(i in ends for ids in (chosen, rejected or []) for i in ids[:-1]):
        return pair, END_TOKEN_INSIDE, tokens
    return pair, OVER_LONG if len(prompt) + longest > rules.context_length else "", tokens


def _strays(pair: Pair, rules: Rules) -> bool:
    """R_LCS(y⁻, y⁺) > γ (eq. 1), for corrections only."""
    if rules.arm != "rectified" or rules.gamma is None or pair.change_ratio is None:
        return False
    return pair.change_ratio > rules.gamma
