"""Stage 2: the Oracle corrects each error with as few edits as it can (§2), and its word is checked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from spot.config import Config
from spot.data import artifacts
from spot.data.rows import CORRECT, UNPARSEABLE, WRONG, Attempt, Rectification
from spot.grading.registry import Verifier
from spot.oracle import Oracle
from spot.oracle.build import SHEETS
from spot.utils.errors import UserError


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


def correct(config: Config, attempts: artifacts.Product) -> Path:
    """Have a person correct all wrong attempts on a local page; returns the sheet they are in."""
    from spot.oracle import human_page
    from spot.oracle.types import Task

    sheet = Path(config.oracle.path or Path(config.output) / "corrections.csv")
    if sheet.suffix not in SHEETS:
        raise UserError(f"oracle.path={sheet} is no sheet: give a name that ends in .csv or .tsv.")
    wrong = [row for row in artifacts.read_rows(attempts.folder, Attempt) if row.verdict == WRONG]
    tasks = [Task(row.id, row.question, row.answer, row.response) for row in wrong]
    with Verifier() as verifier:
        corrections = human_page.Corrections(
            sheet, tasks, verifier, answer_format=config.data.answer_format
        )
        human_page.correct(corrections, config.oracle.port)
    return sheet
