"""What the Oracle will be asked, and what that costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from spot.config import PAID, Config
from spot.oracle import pricing
from spot.pipeline.plan.work import ERROR_RATE, attempts

INSTRUCTIONS = 2_000  # bytes of a prompt besides question and attempt


@dataclass(frozen=True)
class Calls:
    """How often the Oracle is asked; None where that is unknown."""

    count: int | None
    note: str
    price: str
    price_note: str
    expected: float | None = None  # USD


def calls(config: Config, wrong: int | None = None) -> Calls:
    """One call for every wrong attempt: `wrong` a round if they were counted, else an assumed share.

    In the self arm only wrong attempts that are held out are corrected, and only the first round has
    any. A later round is assumed to have as many errors as the first.
    """
    if config.data.arm == "self" and wrong is None:
        held_out = config.data.held_out
        note = "held-out attempts only, at most (data.arm=self)"
        return Calls(held_out, note, *_price(config, held_out))
    note = "wrong attempts, counted"
    if wrong is None:
        asked = attempts(config)
        if asked is None:
            return Calls(None, "the data are not here", *_price(config, None))
        note = f"{asked:,} attempts, {ERROR_RATE:.0%} of them wrong (assumed)"
        wrong = round(ERROR_RATE * asked)
    if config.rounds > 1:
        note += f"; as many assumed in each of {config.rounds} rounds"
    count = config.rounds * wrong
    return Calls(count, note, *_price(config, count))


def _price(config: Config, count: int | None) -> tuple[str, str, float | None]:
    """What so many corrections are expected to cost, with those that are asked for again; a note; USD."""
    oracle = config.oracle
    if oracle.kind not in PAID:
        return "free", f"oracle={oracle.kind}", 0.0
    price = pricing.price_of(str(oracle.model), asdict(oracle.prices), free=oracle.free)
    if count is None:
        return "unknown", f"oracle={oracle.kind}", None
    response = round(pricing.BYTES_PER_TOKEN * config.plan.response_tokens)
    prompt = round(pricing.BYTES_PER_TOKEN * config.plan.prompt_tokens) + response + INSTRUCTIONS
    estimate = pricing.quote(
        price,
        [(prompt, response)] * count,
        max_tokens=oracle.max_tokens,
        thinking=oracle.thinking_budget or 0,
        reask=oracle.reask,
        batch=oracle.batch,
    )
    if price.free:
        return "free", f"oracle={oracle.kind}", 0.0
    note = f"{estimate.requests:,} requests, at most {pricing.usd(estimate.most)}; {price.source}"
    return f"about {pricing.usd(estimate.expected)}", note, estimate.expected
