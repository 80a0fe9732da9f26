"""Stage 2: the Oracle corrects each error with as few edits as it can (§2), and its word is checked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from spot.data.rows import CORRECT, UNPARSEABLE, Attempt, Rectification
from spot.grading.math import Verifier
from spot.oracle import Oracle


def rectify(
    attempts: Sequence[Attempt],
    oracle: Oracle,
    verifier: Verifier,
    *,
    mode: str,
    answer_format: str,
    done: Collection[str] = (),
) -> Iterator[Rectification]:
    """Yield one rectification per attempt, but for the ids in `done`.

    `mode` is `rectified` (y⁺ corrects y⁻) or `direct` (y⁺ is the Oracle's own answer to the question).
    The final answer of y⁺ must equal the truth, or the row's outcome says why it is unusable.
    """
    for attempt in attempts:
        if attempt.id in done:
            continue
        chosen = oracle.rectify(attempt) if mode == "rectified" else oracle.direct(attempt)
        outcome, extracted = _outcome(attempt, chosen, verifier, answer_format)
        yield Rectification(
            id=attempt.id,
            question_id=attempt.question_id,
            task=attempt.task,
            question=attempt.question,
            answer=attempt.answer,
            mode=mode,
            rejected=attempt.response,
            chosen=chosen or "",
            extracted=extracted,
            outcome=outcome,
            oracle=oracle.name,
        )


def _outcome(
    attempt: Attempt, chosen: str | None, verifier: Verifier, answer_format: str
) -> tuple[str, str | None]:
    """`ok` and the final answer, or the reason against y⁺: refused, empty, unchanged, wrong …"""
    if chosen is None:
        return "refused", None
    if not chosen.strip():
        return "empty", None
    if chosen == attempt.response:
        return "unchanged", None
    verdict, extracted = verifier.verdict(chosen, attempt.answer, "stop", answer_format)
    if verdict == CORRECT:
        return "ok", extracted
    return ("unparseable" if verdict == UNPARSEABLE else "wrong"), extracted
