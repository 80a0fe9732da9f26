"""The engine against an Oracle inside of this process, which keeps its own bill."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import pytest

from spot.config import OracleConfig
from spot.oracle.async_runner import RateLimit, blocking, rectify
from spot.oracle.journal import Journal, Request, Spend
from spot.oracle.pace import Pace
from spot.oracle.task_loop import Budget
from spot.oracle.types import Reply, Result, Task, Usage
from spot.utils.errors import UserError
from spot.utils.http import TransientError
from tests.oracle.stand_in import FAST, MOST, PRICE, SPEC, Oracle, ask, spend, tasks

pytestmark = pytest.mark.oracle

# ----------------------------------------------------------------------------------- the usual way


def test_every_task_has_one_row_and_is_paid_once(journal: Path) -> None:
    oracle = Oracle()
    results = ask(journal, oracle, tasks(50))
    assert sorted(r.task.id for r in results) == sorted(t.id for t in tasks(50))
    assert {r.chosen for r in results} == {f"y+ of q{i}" for i in range(50)}
    assert oracle.most_flying == 4
    assert spend(journal) == Spend(pytest.approx(50 * 5 * PRICE), 0.0, 50, 0, 0)
    again = ask(journal, oracle, tasks(50))
    assert len(oracle.prompts) == 50, "what was answered is not asked again"
    assert {r.task.id: r for r in again} == {r.task.id: r for r in results}


def test_a_wrong_answer_is_asked_for_again_with_the_reason_and_every_try_is_kept(
    journal: Path,
) -> None:
    oracle = Oracle({"q0": ["12", "right"], "q1": ["12", "13", "14"], "q2": ["blocked"]})
    by_id = {
        r.task.id: r
        for r in ask(journal, oracle, tasks(3), config=dataclasses.replace(FAST, reask=2))
    }
    assert by_id["q0"].outcome == "ok"
    assert [(t.prompt, t.text, t.outcome) for t in by_id["q0"].tries] == [
        ("rectify", "12", "wrong"),
        ("reask", "right", "ok"),
    ]
    assert "q0 again, because 12 does not match: 12" in oracle.prompts
    assert by_id["q1"].outcome == "wrong"
    assert by_id["q1"].chosen == ""
    assert len(by_id["q1"].tries) == 3
    assert sum(t.cost for t in by_id["q1"].tries) == pytest.approx(3 * 5 * PRICE)
    assert [(t.outcome, t.reason) for t in by_id["q2"].tries] == [("safety", "PROHIBITED")]


def test_text_that_no_file_can_hold_is_mended(journal: Path) -> None:
    results = ask(
        journal,
        Oracle({"q0": ["half \ud800 a pair"]}),
        tasks(1),
        config=dataclasses.replace(FAST, reask=0),
    )
    assert results[0].tries[0].text == "half ? a pair"
    assert ask(journal, Oracle(), tasks(1), config=dataclasses.replace(FAST, reask=0)) == results


# -------------------------------------------------------------------------------------- failures


def test_retries_honour_the_server_and_lost_replies_are_possible_spend(journal: Path) -> None:
    limited, lost = TransientError("429", after=1.5), TransientError("dropped", billed=True)
    oracle = Oracle({"q0": [limited], "q1": [lost]})
    results = ask(journal, oracle, tasks(2))
    assert [r.outcome for r in results] == ["ok", "ok"]
    asked = [t for t, p in zip(oracle.times, oracle.prompts, strict=True) if p.startswith("q0")]
    assert asked[1] - asked[0] >= 1.5
    spent = spend(journal)
    assert spent == Spend(pytest.approx(10 * PRICE), pytest.approx(MOST), 2, 1, 1)
    assert spent.recorded <= oracle.bill <= spent.recorded + spent.possible


def test_a_reply_that_does_not_say_what_it_used_is_possible_spend(journal: Path) -> None:
    class Silent(Oracle):
        async def ask(self, prompt: str) -> Reply:
            return dataclasses.replace(await super().ask(prompt), usage=Usage())

    ask(journal, Silent(), tasks(3))
    assert spend(journal) == Spend(0.0, pytest.approx(3 * MOST), 3, 0, 0, doubted=3)


def test_a_reply_that_never_comes_is_asked_for_again(journal: Path, impatient: None) -> None:
    class Hanging(Oracle):
        async def ask(self, prompt: str) -> Reply:
            if not self.prompts:
                self.seconds = 60
                task = asyncio.create_task(super().ask(prompt))
                await asyncio.sleep(0)
                self.seconds = 0
                return await task
            return await super().ask(prompt)

    results = ask(journal, Hanging(), tasks(1), OracleConfig(concurrency=1, timeout=0.2))
    assert [r.outcome for r in results] == ["ok"]
    assert spend(journal).lost == 1


@pytest.mark.usefixtures("impatient")
def test_a_request_that_alone_fails_becomes_a_row_and_a_dead_server_stops_the_run(
    journal: Path,
) -> None:
    down = [TransientError("503")] * 3
    results = ask(journal, Oracle({"q3": down}), tasks(20))
    assert Counter(r.outcome for r in results) == {"ok": 19, "unavailable": 1}
    (given_up,) = (r for r in results if r.outcome == "unavailable")
    assert given_up.task.id == "q3"
    assert given_up.tries[0].reason == "503 (3 times)"

    other = journal.with_name("other.jsonl")
    dead = Oracle({f"q{i}": down * 99 for i in range(20)})
    with pytest.raises(UserError, match=r"does not answer \(503, 3 times\): run the same command"):
        ask(other, dead, tasks(20))
    assert spend(other).recorded == spend(other).possible == 0
    assert len(ask(other, Oracle(), tasks(20))) == 20
    third = journal.with_name("third.jsonl")
    results = ask(
        third, Oracle({"q0": down}), tasks(1), config=dataclasses.replace(FAST, give_up=True)
    )
    assert results[0].outcome == "unavailable"


def test_a_server_that_asks_for_hours_stops_the_run(journal: Path) -> None:
    oracle = Oracle({"q0": [TransientError("429: daily quota", after=7200)]})
    with pytest.raises(UserError, match="asks to wait 7200 s"):
        ask(journal, oracle, tasks(1))


def test_a_wrong_key_stops_the_run_but_not_what_was_in_flight(journal: Path) -> None:
    oracle = Oracle({"q2": [UserError("the key is wrong: set GEMINI_API_KEY.")]})
    found: list[Result] = []
    with pytest.raises(UserError, match="the key is wrong"):
        ask(journal, oracle, tasks(100), found=found)
    assert {r.task.id for r in found} >= {"q0", "q1", "q3"}
    assert len(found) == len(oracle.prompts) - 1 < 12
    assert spend(journal).recorded == pytest.approx(oracle.bill)


def test_a_reader_that_leaves_early_loses_nothing(journal: Path) -> None:
    oracle = Oracle()
    with Journal(journal) as open_journal:
        results = blocking(
            rectify(tasks(100), oracle, SPEC, open_journal, FAST, Budget()), oracle.close
        )
        first = next(results)
        results.close()
    spent = spend(journal)
    assert spent.lost <= FAST.concurrency
    assert spent.recorded <= oracle.bill + 1e-9 <= spent.recorded + spent.possible + 2e-9
    rest = ask(journal, oracle, [t for t in tasks(100) if t.id != first.task.id])
    assert len(rest) == 99
    assert len(oracle.prompts) <= 100 + spent.lost


# ------------------------------------------------------------------------------- budget and target


def test_the_bill_never_exceeds_the_cap_and_a_higher_cap_goes_on(journal: Path) -> None:
    oracle = Oracle()
    with pytest.raises(UserError, match=r"oracle.max_cost=1 USD is reached: .* Raise"):
        ask(journal, oracle, tasks(100), OracleConfig(concurrency=50), Budget(1.0))
    first = oracle.bill
    assert 1.0 - MOST < first <= 1.0, "used as far as the greatest cost of one more allows"
    results = ask(journal, oracle, tasks(100), budget=Budget(5.1))
    assert len(results) == 100
    assert oracle.bill == pytest.approx(100 * 5 * PRICE)
    assert max(oracle.visits.values()) == 1


def test_lost_replies_count_against_the_cap(journal: Path) -> None:
    with Journal(journal) as killed:
        for number in range(9):
            killed.asked(Request(f"q{number}", str(number), "rectify", "?"), MOST)
    oracle = Oracle()
    with pytest.raises(UserError, match=r"0.90 USD more may be charged for replies that are lost"):
        ask(journal, oracle, tasks(9), budget=Budget(1.0))
    assert oracle.bill <= 0.1


def test_a_target_is_reached_exactly(journal: Path) -> None:
    oracle = Oracle({f"q{i}": ["12", "12"] for i in range(0, 100, 3)})
    results = ask(journal, oracle, tasks(100), OracleConfig(), Budget(target=20, verified=5))
    assert sum(r.outcome == "ok" for r in results) == 15
    assert len(oracle.visits) < 32, "and hardly more is asked than is needed"
    assert ask(journal, oracle, tasks(100), budget=Budget(target=20, verified=20)) == []


# ----------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("limit", ["requests", "tokens"])
def test_no_minute_holds_more_than_its_limit(journal: Path, limit: str) -> None:
    oracle = Oracle()
    if limit == "requests":
        config = OracleConfig(concurrency=8, requests_per_minute=1200)  # one each 50 ms
    else:
        config = OracleConfig(concurrency=8, tokens_per_minute=15 * 1200)  # 15 tokens a request
    ask(journal, oracle, tasks(31), config)
    took = oracle.times[-1] - oracle.times[0]
    assert took >= 0.05 * 30 * (1 if limit == "requests" else 0.9)
    assert took < 4


class Busy(Oracle):
    """Takes so many requests at a time, and asks the others to come again in 50 ms."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.seconds = most, 0.05
        self.refused: list[float] = []

    async def ask(self, prompt: str) -> Reply:
        if self.flying >= self.most:
            self.refused.append(asyncio.get_running_loop().time())
            raise TransientError("status 429", after=0.05, busy=True)
        return await super().ask(prompt)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("most", [3, 40])
def test_without_a_number_as_many_are_asked_as_the_server_takes(journal: Path, most: int) -> None:
    oracle = Busy(most)
    results = ask(journal, oracle, tasks(30 * most), OracleConfig())
    assert [r.outcome for r in results] == ["ok"] * 30 * most
    assert oracle.most_flying == most
    whole = oracle.times[-1] - oracle.times[0] + oracle.seconds
    used = oracle.seconds * len(results) / (most * whole)
    assert used > 0.6, "and nearly as many all the time"
    assert len(oracle.refused) < 8 + 0.05 * len(results), "without a storm of refusals"
    for refused in oracle.refused:
        early = [t for t in oracle.times if refused < t < refused + 0.045]
        assert len(early) <= 1, "nobody comes before the server said so"
    assert spend(journal).recorded == pytest.approx(oracle.bill)


def test_without_a_refusal_it_stops_at_what_a_queue_would_hold(journal: Path) -> None:
    oracle = Oracle()
    oracle.seconds = 0.2
    ask(journal, oracle, tasks(2000), OracleConfig())
    assert oracle.most_flying == 256


def test_one_refusal_of_those_sent_together_counts() -> None:
    pace, busy = Pace(None), TransientError("status 503", after=2.0, busy=True)
    assert (pace.limit, pace.wait(0.0)) == (8, 0)
    pace.failed(busy, sent=0.0, now=1.0)
    pace.failed(busy, sent=0.0, now=1.5)
    assert (pace.limit, pace.slots.size, pace.wait(1.5)) == (pytest.approx(6.4), 6, 2.0)
    pace.failed(TransientError("dropped connection", billed=True), sent=2.0, now=3.0)
    assert pace.limit == pytest.approx(6.4), "it says nothing of how busy the server is"
    pace.answered()
    assert pace.limit == pytest.approx(6.4), "with slots to spare there is no need of more"
    fixed = Pace(16)
    fixed.failed(busy, sent=0.0, now=1.0)
    assert (fixed.limit, fixed.wait(1.0)) == (16, 0)


def test_reservations_are_spaced_and_corrected() -> None:
    limit = RateLimit(per_minute=60)
    assert [limit.reserve(10.0) for _ in range(3)] == [0, 1, 2]
    limit.correct(5)
    assert limit.reserve(10.0) == 8
    assert limit.reserve(100.0) == 0
    assert RateLimit(None).reserve(0.0, 1e9) == 0


def test_tasks_are_taken_as_workers_become_free(journal: Path) -> None:
    oracle, counter = Oracle(), itertools.count()
    endless = (Task(f"q{next(counter)}", "?", "1", "y-") for _ in iter(int, 1))
    ask(journal, oracle, endless, budget=Budget(target=10))
    assert next(counter) <= 11
