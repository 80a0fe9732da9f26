"""The group `oracle`: what corrects, how it is asked and what it may cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from spot.utils.errors import UserError, in_range, one_of
from spot.utils.http import check_key_name

PAID = ("gemini", "openai")  # ask a server; so does `self`, its own
ASKED = (*PAID, "self")
SOLVES = 0.8


@dataclass
class PricesConfig:
    """USD for a million tokens, of a model that the price table lacks."""

    input: float | None = None  # tokens of prompts …
    cached: float | None = None  # … those that the server had kept; null: like the others
    output: float | None = None  # tokens of replies, thoughts included
    batch: float | None = None  # factor in a batch job

    def __post_init__(self) -> None:
        for name in ("input", "cached", "output", "batch"):
            in_range(f"oracle.prices.{name}", getattr(self, name), 0)


@dataclass
class OracleConfig:
    """What corrects, how it is asked and what it may cost. Keys are for the kinds they name."""

    kind: str = "rule"  # rule | tutor | human | gemini | openai | self
    seed: int = 0  # rule, self
    minimal: float = 0.5  # rule: share of smallest fixes
    continuation: float = 0.3  # rule: right steps kept, then its own words; the rest is rewritten
    path: str | None = None  # human: JSON Lines, or a sheet of `spot correct`; null: data.path
    port: int = 0  # human: of the page of `spot correct`; 0: a free one
    model: str | None = None  # gemini, openai
    base_url: str | None = None  # null: the hosted service
    key_name: str | None = (
        None  # environment variable with the key; null: gemini's usual, openai: none
    )
    prompt: str | None = None  # a file in place of the prompt to correct (or to answer directly)
    reask_prompt: str | None = None  # a file in place of the one that asks again
    ground_truth: bool = True  # tell the final answer; App. F has both
    solves: float = SOLVES  # rule without ground_truth: share of problems it solves by itself
    resample: int = (
        0  # self: of so many new answers, the right one closest to y⁻; 0: it is prompted
    )
    temperature: float | None = None  # null: the server's own
    max_tokens: int = 32768  # of a reply, thoughts included; bounds what a request can cost
    thinking_budget: int | None = None  # gemini 2.5
    thinking_level: str | None = None  # gemini 3: minimal | low | medium | high
    effort: str | None = None  # openai: reasoning_effort
    extra: dict[str, Any] = field(default_factory=dict)  # openai: more fields of the request
    concurrency: int | None = None  # requests in flight; null: as many as the server takes
    requests_per_minute: float | None = None  # at most; null: as many as `concurrency` allows
    tokens_per_minute: float | None = None  # at most, of prompts and replies; null: any number
    timeout: float = 600.0  # seconds for one request
    retries: int = 6  # of one request, after 408, 429, 5xx, a timeout or a dropped connection
    give_up: bool = False  # drop what a server that answers nobody does not answer; false: stop
    batch: bool = False  # gemini: batch jobs, at half the price and within a day
    batch_size: int = 1000  # requests of a job
    batch_poll: float = 60.0  # seconds between polls of the jobs
    reask: int = 1  # tries after a correction that was refused
    largest_change: float | None = (
        None  # refuse what changes more (R_LCS); costs γ = 1 its rewrites
    )
    target_pairs: int | None = None  # stop at so many verified corrections; null: all
    max_cost: float | None = None  # USD; null: a terminal is asked before the first stage
    free: bool = False  # a server of your own, which costs nothing
    prices: PricesConfig = field(default_factory=PricesConfig)
    allow_version_drift: bool = False  # go on when another model answers

    def __post_init__(self) -> None:
        one_of("oracle.kind", self.kind, ("rule", "tutor", "human", *ASKED))
        in_range("oracle.minimal", self.minimal, 0, 1)
        in_range("oracle.continuation", self.continuation, 0, 1)
        in_range("oracle.solves", self.solves, 0, 1)
        in_range("oracle.resample", self.resample, 0)
        if self.minimal + self.continuation > 1 + 1e-9:
            raise UserError(
                f"oracle.minimal + oracle.continuation = {self.minimal + self.continuation:g}: "
                "the two shares must not exceed 1."
            )
        self._check_asking()
        for name, low in (("reask", 0), ("target_pairs", 1), ("max_cost", 0)):
            in_range(f"oracle.{name}", getattr(self, name), low)
        in_range("oracle.largest_change", self.largest_change, 0, 1)
        self._check_effect()

    def _check_effect(self) -> None:
        """Refuse keys that were set and would have no effect."""
        if self.resample and self.kind != "self":
            raise UserError(
                f"oracle.resample={self.resample} is for oracle=self, here it is {self.kind}: "
                "choose oracle=self, or leave it out."
            )
        if self.solves != SOLVES and self.kind != "rule":
            raise UserError(
                f"oracle.solves={self.solves:g} is for oracle=rule, here it is {self.kind}: leave it out."
            )

    def _check_asking(self) -> None:
        """Check how a server is asked."""
        in_range("oracle.temperature", self.temperature, 0)
        in_range("oracle.thinking_budget", self.thinking_budget, -1)
        in_range("oracle.retries", self.retries, 0)
        in_range("oracle.port", self.port, 0, 65535)
        for name in ("max_tokens", "concurrency", "batch_size"):
            in_range(f"oracle.{name}", getattr(self, name), 1)
        for name in ("requests_per_minute", "tokens_per_minute", "timeout", "batch_poll"):
            in_range(f"oracle.{name}", getattr(self, name), 0, open_low=True)
        if self.thinking_level is not None:
            levels = ("minimal", "low", "medium", "high")
            one_of("oracle.thinking_level", self.thinking_level, levels)
        if self.thinking_budget is not None and self.thinking_level is not None:
            raise UserError("oracle.thinking_budget and oracle.thinking_level exclude each other.")
        if self.kind in PAID and not self.model:
            raise UserError(f"oracle.model is missing: say which model oracle={self.kind} asks.")
        if self.key_name is not None:
            check_key_name("oracle.key_name", self.key_name)
        for name in {"max_tokens", "max_completion_tokens", "n", "best_of", "stream"} & {
            *self.extra
        }:
            most = {"n": 1, "best_of": 1, "stream": 0}.get(name, self.max_tokens)
            given = self.extra[name] or 0
            if not isinstance(given, int | float) or given > most:
                raise UserError(
                    f"oracle.extra.{name}={given} would cost more than is reckoned with: "
                    f"{'set oracle.max_tokens' if 'max' in name else 'leave it out'}."
                )
        if self.batch and self.kind != "gemini":
            raise UserError("oracle.batch=true needs oracle=gemini.")
