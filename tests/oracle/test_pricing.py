"""Prices: known or refused, and what follows from them by hand."""

import datetime
from importlib import resources

import pytest
import yaml

from spot.oracle.pricing import price_of, quote, usd
from spot.oracle.types import Usage
from spot.utils.errors import UserError

pytestmark = pytest.mark.oracle

PRO = "gemini-2.5-pro"


def test_what_tokens_cost() -> None:
    # 800 × 1.25 + 200 × 0.125 + 3,000 × 10 dollars for a million: thoughts are among the 3,000
    usage = Usage(input=1000, cached=200, output=3000, thoughts=2500)
    assert price_of(PRO).cost(usage) == pytest.approx(0.031025)
    assert price_of(PRO).cost(usage, batch=True) == pytest.approx(0.031025 / 2)
    assert price_of(PRO).cost(Usage()) == 0


def test_a_long_prompt_makes_the_whole_request_dearer() -> None:
    price = price_of(PRO)
    assert price.cost(Usage(input=200_000, output=1000)) == pytest.approx(0.25 + 0.01)
    assert price.cost(Usage(input=200_001, output=1000)) == pytest.approx(0.5000025 + 0.015)


def test_no_request_costs_more_than_its_most() -> None:
    price, prompt = price_of(PRO), "½ of $x$ – 漢字 🙂" * 100
    worst = Usage(input=len(prompt.encode()), output=4096, thoughts=4096)  # a token for each byte
    assert price.cost(worst) <= price.most(prompt, 4096) < price.cost(worst) + 0.001
    assert price.most(prompt, 4096, batch=True) == price.most(prompt, 4096) / 2


@pytest.mark.parametrize(
    ("model", "output"),
    [("models/gemini-2.5-pro", 10), ("gemini-2.5-pro-001", 10), ("gpt-4.1-2025-04-14", 8),
     ("gpt-4.1-mini", 1.6), ("gpt-4o-2024-05-13", 15)],
)  # fmt: skip
def test_a_snapshot_costs_what_its_model_does(model: str, output: float) -> None:
    assert price_of(model).rates.output == output
    assert "prices of 20" in price_of(model).source


@pytest.mark.parametrize(
    "model", ["gemini-9-ultra", "gemini-2.5-pro-turbo", "gpt-4", "Qwen/Qwen3-8B"]
)
def test_an_unknown_model_is_not_guessed_at(model: str) -> None:
    with pytest.raises(UserError, match=r"oracle\.prices\.input .* oracle\.free=true") as caught:
        price_of(model)
    assert model in str(caught.value)


def test_ones_own_prices_and_none_at_all() -> None:
    own = {"input": 1.0, "output": 2.0, "cached": None, "batch": None}
    price = price_of("gemini-9-ultra", own)
    assert price.cost(Usage(input=1_000_000, cached=500_000, output=1_000_000)) == pytest.approx(3)
    assert price.cost(Usage(output=1_000_000), batch=True) == 2, "no discount that was not given"
    assert price_of(PRO, own).rates.output == 2, "the user knows better"
    assert price_of(PRO, {"input": None, "output": None}).rates.output == 10
    assert price_of("Qwen/Qwen3-8B", free=True).cost(Usage(10**9, 0, 10**9)) == 0


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"input": 1.0}, "oracle.prices.output is missing"),
        ({"input": -1.0, "output": 2.0}, "oracle.prices.input=-1"),
        ({"input": 1.0, "output": float("nan")}, "oracle.prices.output=nan"),
    ],
)
def test_a_mistaken_price_is_refused(own: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        price_of("mine", own)


def test_a_run_is_quoted_beforehand() -> None:
    # 700 bytes are 200 tokens of prompt, 350 are 100 of response, 0.4 × 1,000 thoughts
    once = quote(price_of(PRO), [(700, 350)] * 1000, max_tokens=2000, thinking=1000)
    assert once.requests == 1000
    assert once.expected == pytest.approx(1000 * (200 * 1.25 + 500 * 10) / 1e6)
    assert once.most == pytest.approx(1000 * ((700 + 256) * 1.25 + 2000 * 10) / 1e6)
    assert "1,000 requests to gemini-2.5-pro: about 5.25 USD" in once.line
    assert "500,000 out" in once.line
    assert "prices of 20" in once.line

    again = quote(price_of(PRO), [(700, 350)] * 1000, max_tokens=2000, thinking=1000, reask=2)
    assert again.requests == 1250
    assert once.expected < again.expected < 1.3 * once.expected
    assert 3 * once.most < again.most < 3.5 * once.most

    halved = quote(price_of(PRO), [(700, 350)] * 1000, max_tokens=2000, thinking=1000, batch=True)
    assert halved.expected == pytest.approx(once.expected / 2)
    assert "in batches" in halved.line
    assert quote(price_of("x", free=True), [(700, 350)], max_tokens=2000).line.startswith(
        "1 requests, free"
    )
    assert quote(price_of(PRO), [], max_tokens=2000).expected == 0


def test_amounts_are_readable() -> None:
    assert [usd(x) for x in (0, 0.00421, 0.5, 12.345, 4321.2)] == [
        "0.00 USD", "0.0042 USD", "0.50 USD", "12.35 USD", "4,321 USD",
    ]  # fmt: skip


def test_every_price_in_the_table_makes_sense() -> None:
    text = (resources.files("spot.oracle") / "prices.yaml").read_text("utf-8")
    table = yaml.safe_load(text)
    assert isinstance(table["date"], datetime.date)
    for model in table["models"]:
        price = price_of(model)
        assert 0 < price.rates.cached <= price.rates.input < price.rates.output, model
        assert 0 < price.batch <= 1, model
        if price.long is not None:
            assert price.long.input > price.rates.input, model
            assert price.above >= 100_000, model
