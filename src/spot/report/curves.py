"""Numbers of one run that claims are about, from what it logged while it trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import stats

from spot.report import metrics, rewards
from spot.report.load import FinishedRun
from spot.report.metrics import logged


@dataclass(frozen=True)
class Curve:
    """A number of one run from its logged curves; None where they do not say.

    each: the same by held-out pair, of runs that measured every one; it goes before the logged mean.
    """

    name: str
    unit: str  # a key of DIGITS
    value: Callable[[FinishedRun], float | None]
    bounds: tuple[float, float] = (-math.inf, math.inf)  # between which every value lies
    each: Callable[[FinishedRun], Mapping[str, float]] | None = None


def at_the_end(column: str, name: str, unit: str, values: rewards.Values | None = None) -> Curve:
    def last(run: FinishedRun) -> float | None:
        _, values = logged(run, column)
        return values[-1] if values else None

    each = partial(rewards.at_the_end, values) if values else None
    return Curve(f"{name}, at the end", unit, last, each=each)


def second_half(column: str, name: str, unit: str, values: rewards.Values) -> Curve:
    """How much a curve rises from the middle of the training to its end."""

    def rise(run: FinishedRun) -> float | None:
        steps, values = logged(run, column)
        early = [v for s, v in zip(steps, values, strict=True) if s <= steps[-1] / 2]
        return values[-1] - early[-1] if early else None

    each = partial(rewards.second_half, values)
    return Curve(f"{name}, change over the second half of the training", unit, rise, each=each)


def trend(run: FinishedRun) -> float | None:
    """Kendall's τ of step and general ability: −1 where it falls from each measurement to the next.

    The mean over what the probe asked (Figure 2); two measurements tell no trend.
    """
    curves = [curve for name, curve in run.metrics.items() if name.startswith(metrics.PROBE)]
    if not curves or any(len(steps) < 3 for steps, _ in curves):
        return None
    taus = [stats.kendalltau(*curve).statistic if np.ptp(curve[1]) else 0.0 for curve in curves]
    return float(np.mean(taus))


def left_on_the_prefix(run: FinishedRun) -> float | None:
    """What is left of the pull on the prefix that y⁺ and y⁻ share (§4.5), over all steps, 0 to 1.

    Both terms pull at each shared token, one up by β|∂L/∂r⁺|, the other down by β|∂L/∂r⁻|. What is
    left of the two is `gradients/shared`, what they would add up to if they did not meet is
    `gradients_apart/shared`, both means over the same tokens. The ratio is 0 where the two cancel and
    1 where one acts alone. Runs that did not log both are not judged.
    """
    left, apart = (
        dict(zip(*logged(run, column), strict=True))
        for column in (metrics.ON_PREFIX, metrics.APART_ON_PREFIX)
    )
    steps = sorted(left.keys() & apart.keys())
    unmet = sum(apart[step] for step in steps)
    return sum(left[step] for step in steps) / unmet if unmet else None


PLUS, MINUS = "log π_θ/π_ref of held-out y⁺", "log π_θ/π_ref of held-out y⁻"
CURVES = {
    "end_loss": at_the_end(metrics.LOSS, "training loss", "loss"),
    "end_chosen": at_the_end(metrics.CHOSEN, PLUS, "nats", rewards.of("chosen")),
    "end_rejected": at_the_end(metrics.REJECTED, MINUS, "nats", rewards.of("rejected")),
    "late_chosen": second_half(metrics.CHOSEN, PLUS, "nats", rewards.of("chosen")),
    "end_kl": at_the_end(metrics.KL, "KL to the base on held-out y⁻", "nats per token", rewards.kl),
    "general_trend": Curve("trend of general ability while training", "τ", trend, (-1.0, 1.0)),
    "prefix_left": Curve("what is left of the pull on shared tokens", "share", left_on_the_prefix),
}
