"""Which pairs and which learning rate every optimiser step has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from spot.config import LossConfig
from spot.utils.progress import track


def rate_factor(loss: LossConfig, step: int, steps: int) -> float:
    """The learning rate of step 0, 1, … of `steps`, as a share of the peak.

    Warm-up rises linearly and reaches 1 at its last step, so no step is spent at rate 0.
    """
    warm = math.ceil(loss.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    if loss.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0 if loss.schedule == "constant" else 1.0 - progress


class Steps:
    """The optimiser steps as a dataloader that knows where it is: `(number, pair indices)`.

    Lightning saves and restores its state, so a resumed run goes on with the step it was stopped at.
    """

    def __init__(self, plan: Sequence[Sequence[int]]) -> None:
        self.plan = plan
        self.next = 0

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Any:
        rest = range(self.next, len(self.plan))
        for i in track(rest, "Training steps", len(self.plan), self.next):
            self.next = i + 1
            yield i + 1, self.plan[i]

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]
