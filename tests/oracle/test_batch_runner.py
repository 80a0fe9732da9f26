"""Batch jobs: in rounds, cut short, expired, killed and found again.

First against a server inside of this process, which can fail at a chosen call; then the real client
against the local HTTP server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from spot.config import OracleConfig
from spot.grading.registry import Verifier
from spot.oracle.async_runner import blocking, rectify
from spot.oracle.batch_runner import Singly, rectify_in_batches
from spot.oracle.gemini import GeminiClient
from spot.oracle.journal import Journal, Spend
from spot.oracle.task_loop import Budget, OracleTask
from spot.oracle.types import STOP, Job, Reply, Result, Task, Usage
from spot.utils.errors import UserError
from spot.utils.http import TransientError
from tests.oracle import soak, stand_in, world
from tests.oracle.server import Plan, serving
from tests.oracle.server import Server as HttpServer
from tests.oracle.stand_in import MOST, PRICE, WHOLE, Oracle, judge, prompt, tasks

pytestmark = pytest.mark.oracle
COST = 5 * PRICE / 2  # of a request in a batch
SPEC = OracleTask(
    prompt, judge, lambda usage: usage.output * PRICE / 2, lambda prompt: Usage(1000, output=10)
)
BATCHES = OracleConfig(batch_size=10, batch_poll=0.002, retries=2)


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Server:
    """Runs a job at the second look at it; outlives the clients."""

    script: dict[str, Sequence[str | None]] = field(default_factory=dict)
    # ^ what a task's 1st, 2nd, … request brings: a text, or None for nothing
    ends: list[str] = field(default_factory=list)  # of the 1st, 2nd, … job; then done
    share: float = 0.5  # of a job that does not end as done
    fail: dict[str, BaseException] = field(default_factory=dict)  # once, by the name of a call
    jobs: dict[str, dict[str, str]] = field(default_factory=dict)
    state: dict[str, str] = field(default_factory=dict)
    answers: dict[str, dict[str, Reply | str]] = field(default_factory=dict)
    visits: Counter[str] = field(default_factory=Counter)
    bill: float = 0.0
    model: str = "oracle-1"
    version: str = "oracle-1"

    def _perhaps(self, call: str) -> None:
        if call in self.fail:
            raise self.fail.pop(call)

    async def submit(self, prompts: Sequence[tuple[str, str]], name: str) -> Job:
        self._perhaps("before submit")
        assert name not in self.jobs
        self.jobs[name] = dict(prompts)
        self.state[name] = "running"
        self._perhaps("after submit")
        return Job(name, "running")

    async def find(self, name: str) -> Job | None:
        self._perhaps("find")
        return Job(name, self.state[name]) if name in self.jobs else None

    async def poll(self, job: Job) -> Job:
        self._perhaps("poll")
        if self.state[job.name] == "running":
            number = list(self.jobs).index(job.name)
            self.state[job.name] = self.ends[number] if number < len(self.ends) else "done"
            self.answers[job.name] = self._work(job.name)
        return Job(job.name, self.state[job.name])

    async def results(self, job: Job) -> dict[str, Reply | str]:
        self._perhaps("results")
        return self.answers[job.name]

    def _work(self, name: str) -> dict[str, Reply | str]:
        rows = list(self.jobs[name].items())
        if self.state[name] != "done":
            rows = rows[: int(len(rows) * self.share)]
        answers: dict[str, Reply | str] = {}
        for key, text in rows:
            task = text.split()[0]
            script, visit = self.script.get(task, ()), self.visits[task]
            self.visits[task] += 1
            said = script[visit] if visit < len(script) else "right"
            if said is None:
                answers[key] = "500 internal"
            else:
                self.bill += COST
                answers[key] = Reply(said, STOP, Usage(10, 0, 5, 2), self.version)
        return answers


def ask(
    journal: Path,
    server: Server,
    todo: Iterable[Task],
    config: OracleConfig = BATCHES,
    budget: Budget = WHOLE,
    singly: Singly | None = None,
) -> list[Result]:
    async def close() -> None: ...

    with Journal(journal) as open_journal:
        results = rectify_in_batches(todo, server, SPEC, open_journal, config, budget, singly)
        return list(blocking(results, close))


def spend(journal: Path) -> Spend:
    with Journal(journal) as open_journal:
        return open_journal.spend


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "oracle.jsonl"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spot.oracle.batch_runner.backoff", lambda failures, after, draw: 0.001)


def test_rounds_of_jobs_make_every_row_once(journal: Path) -> None:
    server = Server({"q3": ["12"], "q4": ["12", "13"]})
    results = {r.task.id: r for r in ask(journal, server, tasks(25))}
    assert Counter(r.outcome for r in results.values()) == {"ok": 24, "wrong": 1}
    assert [t.prompt for t in results["q3"].tries] == ["rectify", "reask"]
    assert [len(job) for job in server.jobs.values()] == [10, 10, 5, 2]
    assert spend(journal) == Spend(pytest.approx(27 * COST), 0.0, 27, 0, 0)
    assert server.bill == pytest.approx(27 * COST)
    assert {r.task.id: r for r in ask(journal, server, tasks(25))} == results
    assert len(server.jobs) == 4


def test_what_a_job_leaves_undone_goes_into_the_next(journal: Path) -> None:
    server = Server({"q1": [None]}, ends=["expired"])
    results = ask(journal, server, tasks(10))
    assert [r.outcome for r in results] == ["ok"] * 10
    assert [len(job) for job in server.jobs.values()] == [10, 6]
    assert spend(journal).recorded == pytest.approx(server.bill) == pytest.approx(10 * COST)
    assert spend(journal).possible == 0


def test_what_no_job_does_is_asked_singly_or_given_up(journal: Path) -> None:
    script: dict[str, Sequence[str | None]] = {"q1": [None] * 9}
    oracle = Oracle()

    def singly(left: Sequence[Task], budget: Budget) -> AsyncGenerator[Result, None]:
        assert budget.verified == 3
        return rectify(left, oracle, stand_in.SPEC, second, OracleConfig(concurrency=2), budget)

    with Journal(journal.with_name("second.jsonl")) as second:
        results = ask(journal, Server(script), tasks(4), singly=singly)
    assert Counter(r.outcome for r in results) == {"ok": 4}
    assert [p.split()[0] for p in oracle.prompts] == ["q1"]

    other = journal.with_name("other.jsonl")
    given_up = next(r for r in ask(other, Server(script), tasks(4)) if r.outcome != "ok")
    assert (given_up.task.id, given_up.outcome) == ("q1", "unavailable")
    assert given_up.tries[0].reason == "500 internal (2 batch jobs)"


@pytest.mark.parametrize("call", ["before submit", "after submit", "find", "poll", "results"])
def test_a_kill_at_any_call_loses_and_doubles_nothing(journal: Path, call: str) -> None:
    server = Server(fail={call: Killed()})
    with pytest.raises(Killed):
        ask(journal, server, tasks(25))
    results = ask(journal, server, tasks(25))
    assert sorted(r.task.id for r in results) == sorted(t.id for t in tasks(25))
    spent = spend(journal)
    assert spent.recorded == pytest.approx(server.bill) == pytest.approx(25 * COST)
    assert max(server.visits.values()) == 1
    assert spent.possible == pytest.approx(10 * MOST / 2 if call == "before submit" else 0)


def test_a_kill_between_two_rows_of_a_job(journal: Path) -> None:
    server = Server()
    ask(journal, server, tasks(10))
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:6])[:-9])  # begun, submitted, three replies and a torn one
    assert len(ask(journal, server, tasks(10))) == 10
    assert len(server.jobs) == 1
    assert spend(journal) == Spend(pytest.approx(10 * COST), 0.0, 10, 0, 0)


@pytest.mark.parametrize(
    ("call", "billed"), [("before submit", True), ("before submit", False), ("after submit", True)]
)
def test_a_failed_submission_is_looked_for_and_made_again(
    journal: Path, call: str, billed: bool
) -> None:
    server = Server(fail={call: TransientError("503", billed=billed)})
    assert len(ask(journal, server, tasks(10))) == 10
    assert len(server.jobs) == 1
    lost = call == "before submit" and billed
    assert spend(journal).possible == pytest.approx(10 * MOST / 2 if lost else 0)


def test_a_server_that_is_away_stops_the_run_and_its_jobs_are_found_later(journal: Path) -> None:
    server = Server()

    class Away(Server):
        async def poll(self, job: Job) -> Job:
            raise TransientError("503")

    away = Away(jobs=server.jobs, state=server.state)
    with pytest.raises(UserError, match="batch jobs go on meanwhile"):
        ask(journal, away, tasks(10))
    assert len(ask(journal, server, tasks(10))) == 10
    assert len(server.jobs) == 1


def test_a_failed_job_stops_the_run_and_is_submitted_again_by_the_next(journal: Path) -> None:
    server = Server(ends=["failed"], share=0)
    with pytest.raises(UserError, match="failed at the server"):
        ask(journal, server, tasks(10))
    assert spend(journal).possible == 0
    assert len(ask(journal, server, tasks(10))) == 10


def test_a_refused_submission_costs_nothing(journal: Path) -> None:
    server = Server(fail={"before submit": UserError("the key is wrong.")})
    with pytest.raises(UserError, match="the key is wrong"):
        ask(journal, server, tasks(10))
    assert spend(journal) == Spend(0, 0, 0, 0, 0)
    assert len(ask(journal, server, tasks(10))) == 10


def test_jobs_fit_the_budget_and_the_target(journal: Path) -> None:
    server = Server()
    with pytest.raises(UserError, match=r"oracle.max_cost=0.3 USD is reached"):
        ask(journal, server, tasks(100), budget=Budget(0.3))
    assert 0.3 - MOST / 2 < server.bill <= 0.3
    results = ask(journal, server, tasks(100), budget=Budget(target=30, verified=10))
    assert sum(r.outcome == "ok" for r in results) == 20
    assert server.bill == pytest.approx(20 * COST)


def test_another_model_stops_the_run_with_its_replies_kept(journal: Path) -> None:
    server = Server(version="oracle-2")
    with pytest.raises(UserError, match="oracle-1 was asked for and oracle-2 answered"):
        ask(journal, server, tasks(25))
    results = ask(journal, server, tasks(25), replace(BATCHES, allow_version_drift=True))
    assert len(results) == 25
    assert max(server.visits.values()) == 1


# ----------------------------------------------------------------- the real client, over real HTTP


@pytest.fixture
def http(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    monkeypatch.setenv("GEMINI_API_KEY", "key")
    with serving() as running:
        yield running


def ask_gemini(
    journal: Path, http: HttpServer, kind: type[GeminiClient] = GeminiClient
) -> list[Result]:
    """Items 0 to 19 in jobs of 10, at the prices of the soak."""
    client = kind(soak.MODEL, http.root)
    with Verifier() as verifier, Journal(journal) as open_journal:
        results = rectify_in_batches(
            [world.task(n) for n in range(20)],
            client,
            soak.spec(verifier),
            open_journal,
            OracleConfig(batch_size=10, batch_poll=0.05),
            Budget(),
        )
        return list(blocking(results, client.close))


def check_gemini(journal: Path, http: HttpServer, results: list[Result]) -> dict[str, int]:
    """Every row once, and paid once. Returns what was billed."""
    assert {r.task.id: r.chosen for r in results} == {
        world.task(n).id: world.corrected(n) for n in range(20)
    }
    assert len(results) == 20
    billed: dict[str, int] = http.ledger()["billed"]["batch"]
    assert spend(journal).recorded == soak.bill(billed)
    assert spend(journal).possible == 0
    return billed


def test_gemini_jobs_expire_with_half_their_rows_and_fail_in_part(
    journal: Path, http: HttpServer
) -> None:
    scripts = {"3": ["wrong"], "4": ["503"], "15": ["double_markers"]}
    http.plan(Plan(batch_ends=["EXPIRED", "PARTIALLY_SUCCEEDED"], scripts=scripts))
    billed = check_gemini(journal, http, ask_gemini(journal, http))
    assert billed["requests"] == 21
    assert http.ledger()["jobs"] == 4  # 20 in two, half of them again, the wrong one and the 503
    assert http.ledger()["billed"]["single"]["requests"] == 0


class KilledAfterSubmission(GeminiClient):
    async def submit(self, prompts: Sequence[tuple[str, str]], name: str) -> Job:
        await super().submit(prompts, name)
        raise Killed


def test_gemini_jobs_are_found_again_by_their_names(journal: Path, http: HttpServer) -> None:
    with pytest.raises(Killed):
        ask_gemini(journal, http, KilledAfterSubmission)
    assert spend(journal).possible > 0
    billed = check_gemini(journal, http, ask_gemini(journal, http))
    assert billed["requests"] == 20
    assert http.ledger()["jobs"] == 2
