"""Config → an Oracle that is asked: prompts, judge, price, budget, client and journal put together.

Every reply is kept in a journal beside the products (`<output>/oracle/`), which is paid for once: deleting
a damaged product does not delete it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from spot.config import PAID, Config
from spot.data import artifacts, chat
from spot.data.rows import Attempt, Rectification
from spot.generation import build
from spot.grading.registry import Verifier
from spot.oracle import Oracle, async_runner, pricing, self_oracle
from spot.oracle import batch_runner as batch
from spot.oracle.journal import Journal, Spend
from spot.oracle.postprocess import Judge
from spot.oracle.prompts import Prompts, prompts
from spot.oracle.task_loop import Desk, Policy
from spot.oracle.types import Limits, Result, Task
from spot.pipeline import policy as weights
from spot.utils.errors import UserError
from spot.utils.progress import say

SHEETS = (".csv", ".tsv")  # what `spot correct` writes
WITHOUT_TERMINAL = 5.0  # USD that a run may cost which nobody is asked about


def depends_on_policy(config: Config) -> bool:
    """Whether the policy's weights or tokenizer decide what is corrected, or what is refused."""
    return config.oracle.kind == "self" or config.oracle.largest_change is not None


def resamples(config: Config) -> bool:
    """Whether the policy answers again instead of being prompted to correct."""
    return config.oracle.kind == "self" and config.oracle.resample > 0


def settings(config: Config, mode: str, target: int | None) -> dict[str, Any]:
    """What decides the corrections; how fast they are asked for and what they may cost does not."""
    oracle = config.oracle
    judged = _sent(config) | {"largest_change": oracle.largest_change, "target": target}
    if resamples(config):  # it is told nothing
        return judged | {"resample": oracle.resample}
    return judged | {"reask": oracle.reask, "prompts": _prompts(config, mode).digest}


def _sent(config: Config) -> dict[str, Any]:
    """What decides a reply besides its prompt."""
    oracle = config.oracle
    if oracle.kind == "self":
        generation = build.settings(config, config.generator)
        return {"kind": oracle.kind, "seed": oracle.seed, "generation": generation}
    names = ["kind", "model", "base_url", "temperature", "max_tokens"]
    names += ["thinking_budget", "thinking_level", "effort", "extra"]
    return {name: getattr(oracle, name) for name in names}


def journal_path(config: Config, attempts: str) -> Path:
    """One journal for all that the same Oracle says of the same attempts (their digest).

    Held out or not, singly or in batches, asked again once or often: what was answered is paid once.
    """
    key = artifacts.hash_text(json.dumps([_sent(config), attempts], sort_keys=True))[:16]
    return Path(config.output) / "oracle" / f"{key}.jsonl"


@dataclass
class Asking:
    """One rectify stage through an Oracle that is asked."""

    config: Config
    mode: str  # rectified | direct
    verifier: Verifier
    student: weights.Policy
    journal: Path
    target: int | None  # verified corrections that are enough
    outcomes: Counter[str] = field(default_factory=Counter)
    spent: Spend | None = None  # as far as it is paid
    before: float = 0.0  # USD recorded before this run
    tasks: int = 0

    def rectify(
        self, attempts: Sequence[Attempt], done: Sequence[Rectification]
    ) -> Iterator[Rectification]:
        """A row for each attempt that has none yet. Raises UserError where the budget does not allow it."""
        by_id = {attempt.id: attempt for attempt in attempts}
        ready = {row.id for row in done}
        tasks = [self._task(attempt) for attempt in attempts if attempt.id not in ready]
        self.tasks = len(tasks)
        have = sum(row.outcome == "ok" for row in done)
        if not tasks or (self.target is not None and have >= self.target):
            return
        ask = self._own if self.config.oracle.kind == "self" else self._paid
        for result in ask(tasks, have):
            self.outcomes[result.outcome] += 1
            yield self._row(by_id[result.task.id], result)

    def details(self) -> dict[str, Any]:
        """For the manifest: what this Oracle has cost until now, for these attempts in all."""
        return {} if self.spent is None else {"spend": asdict(self.spent)}

    def note(self) -> str:
        """What was accepted and refused, and what it has cost and will."""
        said = [f"{count} {outcome}" for outcome, count in self.outcomes.most_common()]
        finished = self.outcomes.total()
        if self.spent is not None and finished:
            lost, here = self.spent.possible, self.spent.recorded
            possible = f" (+ {pricing.usd(lost)} possible)" if lost else ""
            left = (here - self.before) / finished * (self.tasks - finished)
            said.append(f"{pricing.usd(here)} spent{possible}, {pricing.usd(left)} to come")
        return ", ".join(said)

    def _own(self, tasks: list[Task], have: int) -> Iterator[Result]:
        who = self.config.generator
        desk = self._desk(pricing.FREE)
        policy = Policy(reask=self.config.oracle.reask, target=self.target, have=have)
        with closing(build.generator(self.config, who, self.student)) as generator:
            itself = self_oracle.Itself(generator, build.sampling(who), self.config.oracle.seed)
            yield from self_oracle.rectify(tasks, itself, desk, policy, self.config.oracle.resample)

    def _paid(self, tasks: list[Task], have: int) -> Iterator[Result]:
        oracle = self.config.oracle
        price = price_of(self.config)
        with Journal(self.journal) as journal:
            self.before = journal.spend.recorded
            client = make_client(self.config)
            policy = Policy(
                reask=oracle.reask,
                max_cost=self._budget(price, tasks, journal),
                target=self.target,
                have=have,
                allow_version_drift=oracle.allow_version_drift,
                give_up=oracle.give_up,
            )
            limits = Limits(
                oracle.concurrency,
                oracle.requests_per_minute,
                oracle.tokens_per_minute,
                oracle.timeout,
                oracle.retries,
            )

            def singly(some: Sequence[Task], verified: int) -> AsyncGenerator[Result, None]:
                desk, rest = self._desk(price), replace(policy, have=verified)
                return async_runner.rectify(some, client, desk, journal, limits, rest)

            if oracle.batch:
                batching = batch.Batching(
                    oracle.batch_size, oracle.batch_poll, retries=oracle.retries
                )
                desk = self._desk(price, batch=True)
                results = batch.rectify_in_batches(
                    tasks, client, desk, journal, policy, batching, singly
                )
            else:
                results = singly(tasks, have)
            for result in async_runner.blocking(results, client.close):
                self.spent = journal.spend
                yield result

    def _budget(
        self, price: pricing.Price, tasks: Sequence[Task], journal: Journal
    ) -> float | None:
        """What may be spent in all, which is said and, on a terminal, asked before anything is."""
        oracle = self.config.oracle
        if price.free:
            return None
        said = _prompts(self.config, self.mode)
        sizes = [(len(said(t)[1].encode()), len(t.response.encode())) for t in tasks]
        told = pricing.quote(
            price,
            sizes,
            max_tokens=oracle.max_tokens,
            thinking=oracle.thinking_budget or 0,
            reask=oracle.reask,
            batch=oracle.batch,
        )
        before = journal.spend.recorded + journal.spend.possible
        say(f"oracle: {told.line}" + (f"; {pricing.usd(before)} spent before" if before else ""))
        if oracle.max_cost is not None:
            return oracle.max_cost
        if sys.stdin.isatty():
            return _ask(before + told.expected)
        if before + told.expected > WITHOUT_TERMINAL:
            raise UserError(
                f"The Oracle is expected to cost {pricing.usd(before + told.expected)}, more than "
                f"{pricing.usd(WITHOUT_TERMINAL)}: say what it may cost, oracle.max_cost=<USD>."
            )
        return WITHOUT_TERMINAL

    def _desk(self, price: pricing.Price, *, batch: bool = False) -> Desk:
        from transformers import AutoTokenizer

        oracle = self.config.oracle
        tokenizer = AutoTokenizer.from_pretrained(self.student.folder)
        judge = Judge(
            self.verifier,
            self.config.data.answer_format,
            tokens=partial(chat.response_ids, tokenizer),
            largest_change=oracle.largest_change if self.mode == "rectified" else None,
        )
        return Desk(
            prompt=_prompts(self.config, self.mode),
            judge=judge,
            cost=partial(price.cost, batch=batch),
            most=lambda prompt: price.most(prompt, oracle.max_tokens, batch=batch),
        )

    def _task(self, attempt: Attempt) -> Task:
        return Task(attempt.id, attempt.question, attempt.answer, attempt.response, self.mode)

    def _row(self, attempt: Attempt, result: Result) -> Rectification:
        oracle = self.config.oracle
        tries = [asdict(each) for each in result.tries]
        cost = sum(each.cost for each in result.tries)
        return Rectification(
            id=attempt.id,
            question_id=attempt.question_id,
            task=attempt.task,
            question=attempt.question,
            answer=attempt.answer,
            mode=self.mode,
            rejected=attempt.response,
            chosen=result.chosen,
            extracted=result.extracted,
            outcome=result.outcome,
            oracle=f"{oracle.kind}:{oracle.model}" if oracle.kind in PAID else oracle.kind,
            detail={**result.detail, "tries": tries, "cost": cost},
        )


def check(config: Config) -> None:
    """Refuse at the start what would only be found when the first correction is asked for.

    A prompt without its placeholders, a model without a price, a key that is not there.
    """
    for mode in {"rectified", config.data.arm} - {"self"}:
        _prompts(config, mode)
    if config.oracle.kind in PAID:
        price_of(config)
        _read_key(config)


def _read_key(config: Config) -> None:
    from spot.oracle.gemini import KEY_NAMES
    from spot.oracle.secrets import read_key

    name = config.oracle.key_name
    if name is not None:
        read_key(name)
    elif config.oracle.kind == "gemini":
        read_key(*KEY_NAMES)


def price_of(config: Config) -> pricing.Price:
    """What the Oracle charges. Raises UserError when that is unknown."""
    oracle = config.oracle
    if oracle.kind not in PAID:
        return pricing.FREE
    return pricing.price_of(str(oracle.model), asdict(oracle.prices), free=oracle.free)


def make_client(config: Config) -> Any:
    """The real client of the server. Raises UserError where the key is missing."""
    oracle = config.oracle
    common = {
        "temperature": oracle.temperature,
        "max_tokens": oracle.max_tokens,
        "timeout": oracle.timeout,
    }
    if oracle.base_url is not None:
        common |= {"base_url": oracle.base_url}  # type: ignore[dict-item]
    if oracle.kind == "gemini":
        from spot.oracle.gemini import KEY_NAMES, GeminiClient

        budget, level = oracle.thinking_budget, oracle.thinking_level  # one of them at most
        return GeminiClient(
            str(oracle.model),
            key_names=KEY_NAMES if oracle.key_name is None else (oracle.key_name,),
            thinking=level if budget is None else budget,
            **common,  # type: ignore[arg-type]
        )
    from spot.oracle.openai_compatible import OpenAIClient

    effort = {} if oracle.effort is None else {"reasoning_effort": oracle.effort}
    return OpenAIClient(
        str(oracle.model),
        key_name=oracle.key_name,
        extra=effort | oracle.extra,
        **common,  # type: ignore[arg-type]
    )


def _prompts(config: Config, mode: str) -> Prompts:
    """The user's own file is for what the arm asks; held-out attempts of `direct` are corrected by ours."""
    oracle = config.oracle
    usual = "direct" if config.data.arm == "direct" else "rectified"
    return prompts(
        mode,
        ground_truth=oracle.ground_truth,
        answer_format=config.data.answer_format,
        own=oracle.prompt if mode == usual else None,
        own_reask=oracle.reask_prompt,
    )


def _ask(expected: float) -> float:
    """What the person at the terminal allows, in USD; nothing typed is `expected`, or 5 if that is more."""
    usual = max(expected, WITHOUT_TERMINAL)
    typed = input(f"How much may the Oracle cost, in USD? [{usual:.2f}] ").strip()
    try:
        return float(typed) if typed else usual
    except ValueError:
        raise UserError(f"{typed} is no number: oracle.max_cost=<USD> says it, too.") from None


# ---- Oracles that are not asked ------------------------------------------------------------------


def local_settings(config: Config) -> dict[str, Any]:
    """A rule Oracle is its shares and seed; a human one is the content of a file."""
    oracle = config.oracle
    if oracle.kind == "rule":
        blind = {} if oracle.ground_truth else {"solves": oracle.solves}
        return {
            "kind": "rule",
            "seed": oracle.seed,
            "minimal": oracle.minimal,
            "continuation": oracle.continuation,
        } | blind
    path = existing(oracle.path or config.data.path, "oracle.path")
    return {
        "kind": "human",
        "file": artifacts.hash_file(path),
        "fields": asdict(config.data.fields),
    }


def local_oracle(
    config: Config, attempts: Sequence[Attempt], posed: Callable[[str], str]
) -> Oracle:
    """The rule or human Oracle that corrects these attempts. posed: how problems were put."""
    settings, names = config.oracle, config.data.fields
    if settings.kind == "rule":
        from spot.oracle.rule import RuleOracle

        solves = 1.0 if settings.ground_truth else settings.solves
        return RuleOracle(settings.seed, settings.minimal, settings.continuation, solves)
    from spot.oracle.human import HumanOracle, SheetOracle

    path = existing(settings.path or config.data.path, "oracle.path")
    if path.suffix in SHEETS:
        return SheetOracle.read(path, attempts)
    return HumanOracle(path, names.solution or "solution", names.id, names.question, posed)


def existing(path: str | None, key: str) -> Path:
    """The file a key names. Raises UserError when it is not there."""
    if path is None or not Path(path).expanduser().is_file():
        raise UserError(f"{key}={path} is not a file: give the path of a JSON Lines file.")
    return Path(path).expanduser()
