"""`spot plan`: memory, work, disk and price of a run, from its configuration alone.

Training takes the memory that stands from here, too, and has no configuration: so what reads one is
imported where it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from spot.config import Config
    from spot.pipeline.plan.account import Plan
    from spot.pipeline.plan.work import Lengths

__all__ = ["plan", "show"]


def plan(
    config: Config, lengths: Sequence[Lengths] | None = None, wrong: int | None = None
) -> Plan:
    """Count what the run needs, without loading a model or touching a GPU.

    `lengths` are those of the run's pairs where they exist (`work.Lengths.of` a pair in token ids),
    `wrong` the number of wrong attempts where they were counted; without them `config.plan` and
    `config.data` are assumed. Raises UserError where the model's shape cannot be known.
    """
    from spot.pipeline.plan.account import make

    return make(config, lengths, wrong)


def show(plan: Plan, console: Console | None = None) -> None:
    """Print a plan: memory, work, disk, Oracle, and whether it fits."""
    from spot.pipeline.plan.table import draw

    draw(plan, console)
