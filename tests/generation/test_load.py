"""Many requests, servers that fail, a client that is killed: nothing is lost or doubled or hoarded."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from spot.data.artifacts import PARTIAL
from tests.generation import client
from tests.generation.asking import requests
from tests.generation.server import ROOT, Plan, answer, serving_apart

COUNT, CONCURRENCY = 20_000, 64
FAULTS = {"500": 0.01, "429": 0.005, "429_after": 0.005, "reset": 0.01, "hang": 0.01, "torn": 0.01}
MOST_MEMORY, MOST_GROWTH = 500e6, 50e6  # bytes
KILLED_AT = (3_000, 8_000)  # rows on disk


class _Watched:
    """A client, how many rows it has written, and the memory it had meanwhile."""

    def __init__(self, url: str, folder: Path) -> None:
        pace = {"concurrency": CONCURRENCY, "timeout": 2.0, "patience": 30.0}
        command = client.command([url], folder, COUNT, **pace)
        self.process = subprocess.Popen(command, cwd=ROOT)
        self.partial = client.target(folder).folder / PARTIAL
        self.memory: list[float] = []  # bytes, one figure a tenth of a second while it generates
        self.rows, self.read = 0, 0
        self.look()

    def look(self) -> None:
        if self.partial.exists():
            with self.partial.open("rb") as file:
                file.seek(self.read)
                new = file.read()
            self.read += len(new)
            self.rows += new.count(b"\n")

    def until(self, rows: int) -> None:
        """Wait until so many rows are there or the client ends."""
        begun = self.rows
        while self.process.poll() is None and self.rows < rows:
            self.look()
            if self.rows > begun:
                self.memory.append(psutil.Process(self.process.pid).memory_info().rss)
            time.sleep(0.1)


@pytest.mark.parametrize(("limit", "bounded"), [("-n", True), ("-Sn", False)])
def test_more_requests_than_open_files(tmp_path: Path, limit: str, bounded: bool) -> None:
    """-n: the soft limit and the hard one, -Sn: the soft one alone, which may be raised."""
    with serving_apart(Plan(latency=0.5)) as server:
        pace = {"concurrency": 400, "timeout": 30.0, "patience": 30.0}
        asked = client.command([server.url], tmp_path, 600, **pace)
        limited = ["sh", "-c", f'ulimit {limit} 256 && exec "$@"', "sh", *asked]
        done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True)
        most = server.ledger()["most_in_flight"]
    assert done.returncode == 0, done.stderr
    assert len(list(client.rows(tmp_path))) == 600
    assert (100 < most < 256) if bounded else most == 400
    said = f"{most} requests at once, not 400: this system allows 256 open files"
    assert (said in done.stderr) == bounded


@pytest.mark.slow
def test_twenty_thousand_requests(tmp_path: Path) -> None:
    plan = Plan(latency=0.005, faults=FAULTS, retry_after=0.2)
    began = time.monotonic()
    with serving_apart(plan) as server:
        for rows in KILLED_AT:
            killed = _Watched(server.url, tmp_path)
            killed.until(rows)
            assert killed.process.poll() is None
            killed.process.kill()
            killed.process.wait()
        last = _Watched(server.url, tmp_path)
        begun = last.rows
        last.until(COUNT)
        assert last.process.wait(60) == 0
        ledger = server.ledger()
    assert begun >= KILLED_AT[-1]
    assert time.monotonic() - began < 240

    made = [json.loads(line) for line in client.rows(tmp_path)]
    assert sorted(row["id"] for row in made) == sorted(r.key for r in requests(COUNT))
    assert all(row["response"] == answer(row["question"], row["seed"]) for row in made)

    asked_twice = sum(visits - 1 for visits in ledger["answered"].values() if visits)
    assert asked_twice <= 2 * (CONCURRENCY + 256 + 1)  # lost with the kills, and no others
    assert (
        ledger["most_in_flight"] <= 2 * CONCURRENCY
    )  # those of a killed client end a little later
    assert min(ledger["faults"][fault] for fault in FAULTS) > 50

    half = len(last.memory) // 2
    assert half >= 20
    assert max(last.memory) <= MOST_MEMORY
    assert max(last.memory[half:]) - max(last.memory[:half]) <= MOST_GROWTH
    print(f"memory {min(last.memory) / 1e6:.0f} to {max(last.memory) / 1e6:.0f} MB")
