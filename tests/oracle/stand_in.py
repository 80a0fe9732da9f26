"""An Oracle inside of this process, which keeps its own bill, and a run with it from beginning to end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from spot.config import OracleConfig
from spot.oracle.async_runner import blocking, rectify
from spot.oracle.journal import Journal, Spend
from spot.oracle.postprocess import Judgement
from spot.oracle.task_loop import Budget, OracleTask
from spot.oracle.types import SAFETY, STOP, Reply, Result, Task, Try, Usage
from spot.utils.http import TransientError

PRICE = 0.01  # USD a token that is written
MOST = 0.10
WHOLE = Budget()  # nothing is too expensive, and all is wanted
FAST = OracleConfig(concurrency=4, timeout=5, retries=2)


class Oracle:
    """Answers as `script` says by the task's id: one entry a visit, then `right`."""

    model = "oracle-1"

    def __init__(self, script: dict[str, Sequence[str | Exception]] | None = None) -> None:
        self.script = script or {}
        self.visits: Counter[str] = Counter()
        self.prompts: list[str] = []
        self.times: list[float] = []
        self.bill = 0.0
        self.flying = self.most_flying = 0
        self.seconds = 0.002
        self.version: str | None = self.model

    async def ask(self, prompt: str) -> Reply:
        name = prompt.split()[0]
        self.prompts.append(prompt)
        self.times.append(asyncio.get_running_loop().time())
        script, visit = self.script.get(name, ()), self.visits[name]
        self.visits[name] += 1
        said = script[visit] if visit < len(script) else "right"
        self.flying += 1
        self.most_flying = max(self.most_flying, self.flying)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.flying -= 1
        if isinstance(said, TransientError) and said.billed:
            self.bill += 5 * PRICE
        if isinstance(said, Exception):
            raise said
        self.bill += 5 * PRICE
        finish = SAFETY if said == "blocked" else STOP
        return Reply(said, finish, Usage(10, 0, 5, 2), self.version, "PROHIBITED")

    async def close(self) -> None: ...


def prompt(task: Task, tries: Sequence[Try]) -> tuple[str, str]:
    if not tries:
        return "rectify", f"{task.id} correct this"
    return "reask", f"{task.id} again, because {tries[-1].reason}: {tries[-1].text}"


def judge(text: str, finish: str, task: Task) -> Judgement:
    if finish == SAFETY:
        return Judgement("safety", reason="blocked")
    if text != "right":
        return Judgement("wrong", reason=f"{text} does not match")
    return Judgement("ok", f"y+ of {task.id}", "1")


SPEC = OracleTask(
    prompt, judge, lambda usage: usage.output * PRICE, lambda prompt: Usage(1000, output=10)
)


def tasks(count: int) -> list[Task]:
    return [Task(f"q{i}", "?", "1", "y-") for i in range(count)]


def ask(
    journal: Path,
    oracle: Oracle,
    todo: Iterable[Task],
    config: OracleConfig = FAST,
    budget: Budget = WHOLE,
    spec: OracleTask = SPEC,
    found: list[Result] | None = None,
) -> list[Result]:
    """One run from its beginning to its end; `found` also gets what comes before an error."""
    found = [] if found is None else found
    with Journal(journal) as open_journal:
        results = rectify(todo, oracle, spec, open_journal, config, budget)
        found.extend(blocking(results, oracle.close))
    return found


def spend(journal: Path) -> Spend:
    with Journal(journal) as open_journal:
        return open_journal.spend
