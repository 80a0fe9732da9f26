"""What an Oracle costs: of tokens that were used, of a request at most, and of a run beforehand.

Prices are in `prices.yaml`, which says its date. A model that is not in it has no price until the user
gives one (`oracle.prices`): a run whose cost is unknown is not started.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from spot.oracle.types import Usage
from spot.utils.errors import UserError

PER = 1_000_000  # tokens that prices are for
FRAME_TOKENS = 256  # what a server may wrap around a prompt: roles, turns
LONGEST_TOKEN = 32  # bytes, of the tokens of any text on average
BYTES_PER_TOKEN = 3.5  # of English and LaTeX, for what is said beforehand only
THOUGHTS = (
    0.4  # share of the thinking budget that a correction takes: assumed, until it is measured
)
AGAIN = 0.25  # share of corrections that are asked for once more: assumed


@dataclass(frozen=True)
class Rates:
    """USD for a million tokens."""

    input: float
    cached: float
    output: float


@dataclass(frozen=True)
class Price:
    """What one model charges."""

    model: str
    rates: Rates
    batch: float = 1.0  # factor in a batch job
    long: Rates | None = None  # for the whole of a request with more than `above` input tokens
    above: int = 0
    source: str = ""  # where this is from: the table's date, or the user

    @property
    def free(self) -> bool:
        """Whether nothing is charged."""
        return self.rates == Rates(0.0, 0.0, 0.0)

    def cost(self, usage: Usage, *, batch: bool = False) -> float:
        """USD for one request's tokens; cached ones are a part of the input, thoughts of the output."""
        rates = self.long if self.long is not None and usage.input > self.above else self.rates
        fresh = usage.input - usage.cached
        spent = fresh * rates.input + usage.cached * rates.cached + usage.output * rates.output
        return spent / PER * (self.batch if batch else 1.0)

    def most(self, prompt: str, max_tokens: int, *, batch: bool = False) -> float:
        """USD that a request can cost."""
        return self.cost(limit(prompt, max_tokens), batch=batch)


def limit(prompt: str, max_tokens: int) -> Usage:
    """The tokens that a request can use: none is shorter than a byte, no answer beyond the limit.

    `max_tokens` is the limit of thoughts and answer together, as it is sent to the server.
    """
    return Usage(input=len(prompt.encode()) + FRAME_TOKENS, output=max_tokens)


def can_be(usage: Usage, prompt: str, text: str, most: Usage) -> bool:
    """Whether a request with this prompt and reply can have used so many tokens; `most` is its limit."""

    def fewest(part: str) -> int:
        return len(part.encode(errors="replace")) // LONGEST_TOKEN

    return (
        max(1, fewest(prompt)) <= usage.input <= most.input
        and max(bool(text), fewest(text)) <= usage.output <= most.output
        and 0 <= usage.cached <= usage.input
        and 0 <= usage.thoughts <= usage.output
    )


FREE = Price("", Rates(0.0, 0.0, 0.0), source="oracle.free=true")


@dataclass(frozen=True)
class Quote:
    """What a run will cost, said before it begins."""

    requests: int  # expected, with those that are asked again
    expected: float  # USD
    most: float  # USD, if every task takes all its tries and every reply is as long as it may be
    line: str


def price_of(
    model: str, own: Mapping[str, float | None] | None = None, *, free: bool = False
) -> Price:
    """The price of `model`: nothing, the user's own numbers, or the table's.

    own: input, output and, if they differ, cached and batch (`oracle.prices`); None values do not
    count. A dated snapshot costs what its model does. Raises UserError when no price is known.
    """
    if free:
        return FREE
    given = {name: value for name, value in (own or {}).items() if value is not None}
    date, table = _table()
    if given:
        if missing := [name for name in ("input", "output") if name not in given]:
            raise UserError(
                f"oracle.prices.{missing[0]} is missing: give input and output in USD per million tokens."
            )
        return _price(model, given, "oracle.prices")
    name = model.removeprefix("models/")
    name = name if name in table else re.sub(r"-(\d{4}-\d\d-\d\d|\d{3})$", "", name)
    if name not in table:
        raise UserError(
            f"oracle.model={model} has no price: give oracle.prices.input and oracle.prices.output (USD per "
            "million tokens), or oracle.free=true for a server of your own."
        )
    return _price(model, table[name], f"prices of {date}")


def quote(
    price: Price,
    sizes: Sequence[tuple[int, int]],
    *,
    max_tokens: int,
    thinking: int = 0,
    reask: int = 0,
    batch: bool = False,
) -> Quote:
    """What corrections cost whose first prompt and attempt have these `sizes`, in bytes of UTF-8.

    thinking: the budget in tokens, of which a share is expected to be used; max_tokens: of one reply,
    thoughts included; reask: how often a refused reply is asked for again. A correction is expected to
    be as long as its attempt.
    """
    expected = most = 0.0
    tokens_in = tokens_out = 0.0
    again = AGAIN * min(reask, 1)
    for prompt_bytes, response_bytes in sizes:
        prompt, response = prompt_bytes / BYTES_PER_TOKEN, response_bytes / BYTES_PER_TOKEN
        reply = round(min(response + THOUGHTS * thinking, max_tokens))
        first = Usage(input=round(prompt), output=reply)
        second = Usage(input=round(prompt + response), output=reply)  # it shows the refused reply
        expected += price.cost(first, batch=batch) + again * price.cost(second, batch=batch)
        tokens_in += first.input + again * second.input
        tokens_out += (1 + again) * reply
        longest = Usage(input=prompt_bytes + FRAME_TOKENS, output=max_tokens)
        longer = Usage(input=longest.input + max_tokens + FRAME_TOKENS, output=max_tokens)
        most += price.cost(longest, batch=batch) + reask * price.cost(longer, batch=batch)
    requests = round(len(sizes) * (1 + again))
    if price.free:
        return Quote(requests, 0.0, 0.0, f"{requests:,} requests, free ({price.source})")
    line = (
        f"{requests:,} requests to {price.model}{' in batches' if batch else ''}: about {usd(expected)} "
        f"({tokens_in:,.0f} tokens in, {tokens_out:,.0f} out; {price.source}), at most {usd(most)}"
    )
    return Quote(requests, expected, most, line)


def usd(amount: float) -> str:
    """`0.0042 USD`, `12.35 USD`, `1,234 USD`: enough digits to decide by."""
    if amount >= 1000:
        return f"{amount:,.0f} USD"
    return f"{amount:.2f} USD" if amount >= 0.1 or amount == 0 else f"{amount:.2g} USD"


def _table() -> tuple[str, dict[str, dict[str, Any]]]:
    """The date of `prices.yaml` and its models."""
    text = (resources.files("spot.oracle") / "prices.yaml").read_text("utf-8")
    table = yaml.safe_load(text)
    return str(table["date"]), table["models"]


def _price(model: str, entry: Mapping[str, Any], source: str) -> Price:
    """A price from its entry. Raises UserError for anything but numbers from 0 up."""
    long = entry.get("long")
    batch = _amount("batch", entry.get("batch", 1.0))
    if long is None:
        return Price(model, _rates(entry), batch, source=source)
    return Price(model, _rates(entry), batch, _rates(long), int(long["above"]), source)


def _rates(entry: Mapping[str, Any]) -> Rates:
    cached = entry.get("cached", entry["input"])
    return Rates(
        *(
            _amount(*pair)
            for pair in (("input", entry["input"]), ("cached", cached), ("output", entry["output"]))
        )
    )


def _amount(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise UserError(
            f"oracle.prices.{name}={value} is not a price: it must be a number from 0 up."
        )
    return float(value)
