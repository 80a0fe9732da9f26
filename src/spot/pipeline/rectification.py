"""Stage 2: the Oracle corrects each error with as few edits as it can (§2), and what it returns is checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spot.config import Config
from spot.data import artifacts
from spot.data.rows import WRONG, Attempt, Rectification
from spot.grading.registry import Verifier
from spot.oracle import Oracle
from spot.oracle.postprocess import COMMENTED
from spot.oracle.types import Result
from spot.pipeline.parts import task

COMMENTS = "speaking of a known answer, an earlier attempt or the student"
_MENTIONED = "mentioned"  # counted beside the outcomes: corrections of which a reply was refused so


def rectify(
    attempts: Sequence[Attempt],
    oracle: Oracle,
    *,
    mode: str,
    done: Sequence[Rectification] = (),
    outcomes: Counter[str] | None = None,
) -> Iterator[Rectification]:
    """Yield one rectification per attempt, but for those `done`; `outcomes` counts them.

    `mode` is `rectified` (y⁺ corrects y⁻) or `direct` (y⁺ is the Oracle's own answer to the question).
    The final answer of y⁺ must equal the truth, or the row's outcome says why it is unusable.
    """
    by_id = {attempt.id: attempt for attempt in attempts}
    finished = {row.id for row in done}
    tasks = [task(attempt, mode) for attempt in attempts if attempt.id not in finished]
    for result in oracle.rectify(tasks, sum(row.outcome == "ok" for row in done)):
        if outcomes is not None:
            outcomes[result.outcome] += 1
            outcomes[_MENTIONED] += any(each.outcome == COMMENTED for each in result.tries)
        yield _row(by_id[result.task.id], mode, oracle.name, result)


def correct(config: Config, attempts: artifacts.Product, sheet: Path) -> None:
    """Have a person correct all wrong attempts on a local page."""
    from spot.oracle import human_page

    wrong = [row for row in artifacts.read_rows(attempts.folder, Attempt) if row.verdict == WRONG]
    tasks = [task(row, "rectified") for row in wrong]
    with Verifier() as verifier:
        corrections = human_page.Corrections(
            sheet, tasks, verifier, answer_format=config.data.answer_format
        )
        human_page.correct(corrections, config.oracle.port)


def note(oracle: Oracle, outcomes: Counter[str]) -> str:
    """What was accepted and refused, and what it has cost and will."""
    mentioned = outcomes[_MENTIONED]
    told = {outcome: count for outcome, count in outcomes.most_common() if outcome != _MENTIONED}
    counts = [f"{count} {outcome}" for outcome, count in told.items()]
    if mentioned:
        counts.append(f"{mentioned / sum(told.values()):.0%} refused at least once for {COMMENTS}")
    return ", ".join(filter(None, [*counts, oracle.note()]))


def _row(attempt: Attempt, mode: str, name: str, result: Result) -> Rectification:
    detail: dict[str, Any] = dict(result.detail)
    if result.tries:
        detail |= {
            "tries": [asdict(each) for each in result.tries],
            "cost": sum(each.cost for each in result.tries),
        }
    return Rectification(
        id=attempt.id,
        question_id=attempt.question_id,
        task=attempt.task,
        question=attempt.question,
        answer=attempt.answer,
        mode=mode,
        rejected=attempt.response,
        chosen=result.chosen,
        extracted=result.extracted,
        outcome=result.outcome,
        oracle=name,
        detail=detail,
        messages=attempt.messages,
    )
