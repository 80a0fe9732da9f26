"""Which attempts are held out of training: by question, and the same ones in every round."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence

from spot.config import DataConfig
from spot.data import artifacts
from spot.data.advice import ungraded
from spot.data.rows import WRONG, Attempt
from spot.utils.errors import UserError

# the ids of those attempts that have a correction
Corrected = Callable[[Sequence[Attempt]], Collection[str]]


def split_attempts(
    data: DataConfig,
    attempts: artifacts.Product,
    first: artifacts.Product | None = None,
    corrected: Corrected | None = None,
) -> tuple[list[Attempt], list[Attempt]]:
    """The attempts to train on, and those whose questions are held out of training.

    first: the attempts of the first round; what they hold out stays held out in all rounds. corrected:
    where corrections are there already, for which attempts; None: there is one for all.
    """
    rows = artifacts.read_rows(attempts.folder, Attempt)
    if first is None or first.key == attempts.key:
        able = None if corrected is None else corrected([r for r in rows if r.verdict == WRONG])
        try:
            return split_held_out(rows, data.held_out, data.seed, able)
        except UserError as error:  # asking more of the same helps little where few can be graded
            why = ungraded(Counter(row.verdict for row in rows), data)
            raise UserError(f"{why}. Now {error}" if why else str(error)) from None
    held_out = {row.question for row in split_attempts(data, first, None, corrected)[1]}
    return (
        [row for row in rows if row.question not in held_out],
        [row for row in rows if row.question in held_out],
    )


def split_held_out(
    attempts: Sequence[Attempt], count: int, seed: int, corrected: Collection[str] | None = None
) -> tuple[list[Attempt], list[Attempt]]:
    """`(train, held_out)`: the attempts of as many questions as hold `count` wrong attempts.

    Of wrong attempts only those `corrected` count, where not all are.

    Questions go in the order of a seeded hash of their id, so a question stays on its side whatever
    else is asked. All attempts at the same text stay together, under whatever ids a file lists it.
    Raises UserError if none is left to train on.
    """
    names: dict[str, str] = {}  # text → the first of its ids
    for attempt in sorted(attempts, key=lambda a: a.question_id):
        names.setdefault(" ".join(attempt.question.split()), attempt.question_id)
    ids = {a.id: names[" ".join(a.question.split())] for a in attempts}
    wrong: dict[str, int] = defaultdict(int)
    for attempt in attempts:
        able = corrected is None or attempt.id in corrected
        wrong[ids[attempt.id]] += attempt.verdict == WRONG and able
    held_out: set[str] = set()
    taken = 0
    for question_id in sorted(wrong, key=lambda i: seeded_order(seed, i)):
        if taken >= count:
            break
        if wrong[question_id]:
            held_out.add(question_id)
            taken += wrong[question_id]
    if corrected is not None and taken == sum(wrong.values()):
        raise UserError(_all_taken(count, taken))
    if taken and taken == sum(wrong.values()):
        raise UserError(
            f"data.held_out={count} takes all {taken} wrong attempts: lower it or ask more questions."
        )
    train = [a for a in attempts if ids[a.id] not in held_out]
    return train, [a for a in attempts if ids[a.id] in held_out]


def _all_taken(count: int, corrections: int) -> str:
    """The message where corrections that were written before do not reach."""
    if not corrections:
        return "no wrong attempt has a correction in oracle.path: correct some (spot correct)."
    if corrections == 1:
        return f"data.held_out={count} takes the only correction: correct more attempts."
    return (
        f"data.held_out={count} takes all {corrections} corrections: lower it, "
        f"data.held_out={max(1, corrections // 5)}, or correct more attempts."
    )


def seeded_order(seed: int, row_id: str) -> tuple[str, str]:
    """Sort key that shuffles rows by a seeded hash of their id."""
    return hashlib.sha256(f"{seed}\0{row_id}".encode()).hexdigest(), row_id
