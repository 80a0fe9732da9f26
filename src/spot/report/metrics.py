"""Columns of metrics.csv by name, and rewards in a unit in which arms can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spot.report.load import FinishedRun

LOSS, DELTA = "loss", "delta"
CHOSEN, REJECTED = "held_out/rewards/chosen", "held_out/rewards/rejected"
BATCH_CHOSEN, BATCH_REJECTED = "rewards/chosen", "rewards/rejected"
REWARD_PARTS = tuple(
    f"held_out/rewards/{p}" for p in ("shared", "chosen_edited", "rejected_edited")
)
KL = "held_out/kl"
TO_REFERENCE, TO_BASE = (
    "held_out/",
    "held_out_to_base/",
)  # the same measures; the latter in later rounds
KL_PARTS = tuple(f"held_out/kl/{part}" for part in ("shared", "edited", "after"))
TETHERS = ("tether/chosen", "tether/rejected")
GRADIENT_PARTS = tuple(f"gradients/{p}" for p in ("shared", "chosen_edited", "rejected_edited"))
ON_PREFIX, APART_ON_PREFIX = "gradients/shared", "gradients_apart/shared"
PROBE = "probe/"
SCALED = (DELTA, "held_out/rewards/")  # what holds β as a factor

NATS = "log π_θ/π_ref, nats"
# A whole response is e times as likely as before: little beside the 7 to 200 nats that y⁺ gains in the
# laptop studies, and within what y⁻, which no loss raises on purpose, moves by there (1 to 4).
NOTABLE = 1.0

Logged = tuple[list[int], list[float]]


def logged(run: FinishedRun, column: str) -> Logged:
    """Steps and values of a column, empty where it was not measured.

    Of several rounds, held-out rewards and KL are those to the base: the first round's start.

    Held-out rewards and δ come without the run's β (eq. 3), in nats: r/β = log π_θ/π_ref means the
    same whatever β an arm was tuned to, r does not.
    """
    name = column
    if run.config.get("rounds", 1) > 1 and column.startswith((*SCALED[1:], KL)):
        name = column.replace(TO_REFERENCE, TO_BASE, 1)
    steps, values = run.metrics.get(name, ([], []))
    if not column.startswith(SCALED):
        return steps, values
    beta = float(run.config["loss.beta"])
    return steps, [value / beta for value in values]
