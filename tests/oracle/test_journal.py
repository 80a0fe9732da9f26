"""The journal: what was answered and by whom, cut at any byte, damaged, or held by another process."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from spot.oracle.journal import Journal
from spot.oracle.task_loop import is_snapshot
from spot.utils.errors import UserError
from spot.utils.http import TransientError
from tests.oracle.stand_in import FAST, PRICE, SPEC, Oracle, ask, spend, tasks

pytestmark = pytest.mark.oracle

# ---------------------------------------------------------------------------------------- versions


def test_another_model_stops_the_run_until_it_is_accepted(journal: Path) -> None:
    oracle = Oracle()
    ask(journal, oracle, tasks(3))
    oracle.version = "oracle-2"
    with pytest.raises(UserError, match="oracle-1 was asked for and oracle-2 answered"):
        ask(journal, oracle, tasks(50))
    asked = len(oracle.prompts)
    assert asked <= 3 + FAST.concurrency
    with pytest.raises(UserError, match="allow_version_drift=true"):
        ask(journal, oracle, tasks(50))
    assert len(oracle.prompts) - asked < FAST.concurrency, "it stops at what is known already"
    results = ask(
        journal, oracle, tasks(50), config=dataclasses.replace(FAST, allow_version_drift=True)
    )
    assert len(results) == 50
    assert max(oracle.visits.values()) == 1
    assert {r.tries[0].model_version for r in results} == {"oracle-1", "oracle-2"}


def test_a_second_snapshot_is_another_model(journal: Path) -> None:
    oracle = Oracle()
    oracle.version = "oracle-1-2026-01-01"
    ask(journal, oracle, tasks(3))
    oracle.version = "oracle-1-2026-02-02"
    with pytest.raises(UserError, match="oracle-1-2026-01-01 has answered until now"):
        ask(journal, oracle, tasks(5))


@pytest.mark.parametrize(
    ("version", "same"),
    [
        ("gpt-4.1", True),
        ("gpt-4.1-2025-04-14", True),
        ("models/gpt-4.1", True),
        ("gpt-4.1-002", True),
        ("gpt-4.1-mini", False),
        ("gpt-4.1-mini-2025-04-14", False),
        ("gpt-4.10", False),
        ("gpt-5", False),
    ],
)
def test_snapshots_belong_to_their_model(version: str, same: bool) -> None:
    assert is_snapshot("gpt-4.1", version) is same


# ----------------------------------------------------------------------------------------- journal


def test_a_journal_cut_at_any_byte_goes_on(journal: Path, impatient: None) -> None:
    script = {"q1": ["12"], "q2": [TransientError("dropped", billed=True)]}
    oracle = Oracle(script)
    whole = {r.task.id: r.chosen for r in ask(journal, oracle, tasks(4))}
    content = journal.read_bytes()
    cut = journal.with_name("cut.jsonl")
    for size in range(0, len(content), 37):
        cut.write_bytes(content[:size])
        before = spend(cut)
        asked = sum(json.loads(line)["event"] == "asked" for line in cut.read_text().splitlines())
        bill = asked * 5 * PRICE  # of what had been sent when this was all that was written
        assert before.recorded - 1e-9 <= bill <= before.recorded + before.possible + 1e-9
        again = Oracle({"q1": ["12"]})
        again.visits["q1"] = cut.read_bytes().count(b'"text": "12"')
        results = {r.task.id: r.chosen for r in ask(cut, again, tasks(4))}
        assert results == whole
        assert len(again.prompts) == 5 - before.answered
        after = spend(cut)
        assert after.recorded == pytest.approx(5 * 5 * PRICE)
        assert after.possible == pytest.approx(before.possible)


def test_one_process_at_a_time(journal: Path) -> None:
    with Journal(journal), pytest.raises(UserError, match="belongs to another process"):
        Journal(journal)


def test_a_changed_prompt_is_another_request(journal: Path) -> None:
    oracle = Oracle()
    ask(journal, oracle, tasks(2))
    changed = dataclasses.replace(
        SPEC, prompt=lambda task, tries: ("rectify", f"{task.id} in other words")
    )
    assert len(ask(journal, oracle, tasks(2), spec=changed)) == 2
    assert len(oracle.prompts) == 4
