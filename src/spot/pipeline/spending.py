"""What a paid Oracle would be asked in a run and what that costs; its limit, set before the first stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from spot.config import PAID, Config
from spot.oracle import build, pricing
from spot.pipeline.plan import oracle as costs
from spot.pipeline.plan.oracle import Calls
from spot.pipeline.preview import REUSE, Preview, preview
from spot.utils.errors import UserError
from spot.utils.progress import say
from spot.utils.terminal import count

# What is offered as a limit: attempts may be wrong more often than was assumed, and what is in flight
# counts as if every reply were as long as it may be.
TWICE = 2.0  # of what is expected
LEAST = 5.0  # USD


def to_ask(products: Iterable[Preview]) -> dict[str, Preview]:
    """The corrections that are not there yet, by key."""
    return {p.key: p for p in products if p.stage == "rectify" and p.action != REUSE}


def calls(config: Config, missing: Iterable[Preview]) -> Calls:
    """What these corrections, of all rounds, are asked and cost."""
    missing = list(missing)
    known = [one.to_correct for one in missing if one.to_correct is not None]
    if len(known) < len(missing):
        return costs.calls(config)
    about = "about " if any(one.assumed for one in missing) else ""
    note = f"{about}{count(sum(known), 'attempt')} to correct"
    return replace(costs.calls(replace(config, rounds=1), sum(known)), note=note)


def check(config: Config, until: str | None) -> None:
    """Raise UserError where a paid Oracle would be asked and nobody has said what it may cost."""
    if (asked := _unlimited(config, until)) is not None:
        raise UserError(
            f"oracle.max_cost is missing: oracle={config.oracle.kind} is expected to cost {_about(asked)}; "
            "say what it may cost, oracle.max_cost=<USD>."
        )


def ask(config: Config, until: str | None) -> list[str]:
    """What the person at the terminal allows, as an override; nothing where there is nothing to limit."""
    if (asked := _unlimited(config, until)) is None:
        return []
    say(f"oracle={config.oracle.kind} is expected to cost {_about(asked)}.")
    usual = f"{max(TWICE * (asked.expected or 0.0), LEAST):.2f}"
    typed = input(f"How much may the Oracle cost, in USD? [{usual}] ").strip() or usual
    try:
        limit = float(typed)
    except ValueError:
        raise UserError(f"{typed!r} is not a number: oracle.max_cost=<USD> says it, too.") from None
    return [f"oracle.max_cost={limit:g}"]


def _unlimited(config: Config, until: str | None) -> Calls | None:
    """What would be asked without a limit; None where nothing would be, or at no cost."""
    oracle = config.oracle
    if oracle.kind not in PAID or oracle.max_cost is not None or build.price_of(oracle).free:
        return None
    missing = to_ask(preview(config, until)).values()
    return calls(config, missing) if missing else None


def _about(asked: Calls) -> str:
    if asked.expected is None:
        return f"what is not known ({asked.note})"
    return f"{pricing.usd(asked.expected)} ({asked.note}; {asked.price_note})"
