"""An Oracle behind a paid server: a budget before anything is asked, a journal of all that is.

The journal lies beside the products: deleting a damaged product does not delete what was paid for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spot.config import OracleConfig
from spot.oracle import Oracle, async_runner, batch_runner, pricing
from spot.oracle.journal import Journal, Spend
from spot.oracle.task_loop import Budget, OracleTask
from spot.oracle.types import Result, Task
from spot.utils.errors import UserError
from spot.utils.progress import say


class PaidOracle(Oracle):
    """`config.model` of a server, asked singly or, first, by batch jobs.

    spec: what is asked for, with the price of single requests, or of a batch's (`spec(batch=True)`);
    client: makes the server's client; target: verified results that are enough.
    """

    def __init__(
        self,
        config: OracleConfig,
        price: pricing.Price,
        spec: Callable[[bool], OracleTask],
        client: Callable[[], Any],
        journal: Path,
        target: int | None = None,
    ) -> None:
        self.name = f"{config.kind}:{config.model}"
        self.config, self.price, self.spec = config, price, spec
        self.client, self.journal, self.target = client, journal, target
        self.spent: Spend | None = None  # as far as it is paid
        self.before = 0.0  # USD recorded before this run
        self.left = self.finished = 0  # tasks

    def rectify(self, tasks: Sequence[Task], verified: int = 0) -> Iterator[Result]:
        """Results as they are finished. Raises UserError where the budget does not allow one more."""
        if not tasks or (self.target is not None and verified >= self.target):
            return
        self.left = len(tasks)
        with Journal(self.journal) as journal:
            self.before = journal.spend.recorded
            client = self.client()
            budget = Budget(self._max_cost(tasks, journal), self.target, verified)
            results = self._results(tasks, client, journal, budget)
            for result in async_runner.blocking(results, client.close):
                self.spent = journal.spend
                self.left, self.finished = self.left - 1, self.finished + 1
                yield result

    def note(self) -> str:
        """What was spent, and what is still to come at the price of the rows so far."""
        if self.spent is None or not self.finished:
            return ""
        lost, here = self.spent.possible, self.spent.recorded
        possible = f" (+ {pricing.usd(lost)} possible)" if lost else ""
        to_come = (here - self.before) / self.finished * self.left
        return f"{pricing.usd(here)} spent{possible}, {pricing.usd(to_come)} to come"

    def details(self) -> dict[str, Any]:
        """What these attempts have cost until now, in all."""
        return {} if self.spent is None else {"spend": asdict(self.spent)}

    def _results(
        self, tasks: Sequence[Task], client: Any, journal: Journal, budget: Budget
    ) -> AsyncGenerator[Result, None]:
        def singly(some: Sequence[Task], rest: Budget) -> AsyncGenerator[Result, None]:
            spec = self.spec(False)
            return async_runner.rectify(some, client, spec, journal, self.config, rest)

        if not self.config.batch:
            return singly(tasks, budget)
        return batch_runner.rectify_in_batches(
            tasks, client, self.spec(True), journal, self.config, budget, singly
        )

    def _max_cost(self, tasks: Sequence[Task], journal: Journal) -> float | None:
        """What may be spent in all; what is expected is said beside it."""
        config = self.config
        if self.price.free:
            return None
        prompt = self.spec(config.batch).prompt
        sizes = [(len(prompt(t, ())[1].encode()), len(t.response.encode())) for t in tasks]
        quote = pricing.quote(
            self.price,
            sizes,
            max_tokens=config.max_tokens,
            thinking=config.thinking_budget or 0,
            reask=config.reask,
            batch=config.batch,
        )
        before = journal.spend.recorded + journal.spend.possible
        say(f"oracle: {quote.line}" + (f"; {pricing.usd(before)} spent before" if before else ""))
        if config.max_cost is None:
            raise UserError(
                "oracle.max_cost is missing: say what it may cost, oracle.max_cost=<USD>."
            )
        return config.max_cost
