"""Thousands of requests at concurrency 200, a tenth of them failing, with and without kills.

The real clients against the local server; rows through the store, as in a real run. The server keeps
the bill, the journal says what it believes it is.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from spot.config import OracleConfig
from spot.oracle.journal import Journal
from tests.oracle import soak, world
from tests.oracle.server import ROOT, Plan, Server, serving

pytestmark = [pytest.mark.oracle, pytest.mark.slow, pytest.mark.distributed]
COUNT, CONCURRENCY, KILLS = 5000, 200, 5
CONFIG = OracleConfig(concurrency=CONCURRENCY, timeout=20.0)
REFUSED = {"429": 0.01, "429_after": 0.01, "429_date": 0.005, "500": 0.01, "503": 0.01}
LOST = {"drop": 0.01, "reset": 0.01, "torn": 0.01, "hang": 0.005}  # the last three are billed
POOR = {"wrong": 0.01, "empty": 0.005, "max_tokens": 0.005}  # paid, and asked again
FINE = {"double_markers": 0.02, "meta": 0.02}
FAULTS = REFUSED | LOST | POOR
PLAN = Plan(latency=0.1, faults=FAULTS | FINE, hang=60.0)


def test_the_faults_are_a_tenth() -> None:
    assert sum(FAULTS.values()) == pytest.approx(0.1)


@pytest.fixture
def server() -> Any:
    with serving(PLAN) as running:
        yield running


@pytest.mark.parametrize("protocol", ["gemini", "openai"])
def test_more_requests_than_open_files(protocol: str, tmp_path: Path) -> None:
    with serving(Plan(latency=0.5)) as running:
        config = OracleConfig(concurrency=400, timeout=30.0)
        asked = soak.command(protocol, running.root, tmp_path, 600, config)
        limited = ["sh", "-c", 'ulimit -n 256 && exec "$@"', "sh", *asked]
        done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(soak.rows(tmp_path))) == 600
    assert "requests at once, not 400: this system allows 256 open files" in done.stderr


def start(protocol: str, server: Server, folder: Path) -> subprocess.Popen[str]:
    command = soak.command(protocol, server.root, folder, COUNT, CONFIG)
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a run says at its end."""
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0
    said: dict[str, Any] = json.loads(output.splitlines()[-1])
    return said


def check_rows(folder: Path) -> list[dict[str, Any]]:
    """Every item once, with its own correction. Returns all tries."""
    rows = list(soak.rows(folder))
    assert [row["id"] for row in rows] == sorted(world.task(n).id for n in range(COUNT))
    assert Counter(row["outcome"] for row in rows) == {"ok": COUNT}
    right = {world.task(n).id: world.corrected(n) for n in range(COUNT)}
    assert all(row["chosen"] == right[row["id"]] for row in rows)
    return [each for row in rows for each in row["detail"]["tries"]]


def test_without_a_kill_the_spend_is_exact(server: Server, tmp_path: Path) -> None:
    spent = finish(start("openai", server, tmp_path))
    tries = check_rows(tmp_path)
    ledger = server.settled()
    billed, undelivered = ledger["billed"]["single"], ledger["undelivered"]
    assert spent["recorded"] == soak.bill(billed) - soak.bill(undelivered)
    assert spent["recorded"] == sum(each["cost"] for each in tries)
    assert soak.bill(billed) <= spent["recorded"] + spent["possible"]
    happened = ledger["faults"]
    assert sum(happened[fault] for fault in FAULTS) > 0.08 * COUNT
    assert spent["failed"] == sum(happened[fault] for fault in REFUSED)
    assert spent["lost"] == sum(happened[fault] for fault in LOST)
    assert spent["answered"] == len(tries) == billed["requests"] - undelivered["requests"]
    assert ledger["most_in_flight"] > CONCURRENCY / 2


def test_kills_at_random_moments_lose_and_double_nothing(server: Server, tmp_path: Path) -> None:
    draw = random.Random(time.time_ns())
    moments = sorted(draw.sample(range(COUNT // 50, COUNT * 9 // 10), KILLS))
    for moment in moments:
        process = start("gemini", server, tmp_path)
        while server.ledger()["requests"] < moment:
            assert process.poll() is None
            time.sleep(draw.uniform(0.02, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    spent = finish(start("gemini", server, tmp_path))
    tries = check_rows(tmp_path)
    ledger = server.settled()
    bill = soak.bill(ledger["billed"]["single"])
    print(f"killed at requests {moments}: {spent}, bill {bill}")
    assert spent["recorded"] <= bill <= spent["recorded"] + spent["possible"]
    assert spent["recorded"] == sum(each["cost"] for each in tries), "all that was paid is used"
    lost = spent["lost"] - sum(ledger["faults"][fault] for fault in LOST)
    assert lost <= KILLS * CONCURRENCY, "asked again: what was in flight, and nothing else"
    with Journal(tmp_path / soak.JOURNAL) as journal:
        assert journal.spend.recorded == spent["recorded"], "and it is kept"
