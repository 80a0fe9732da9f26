"""Fixtures of the tests of engine and journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from spot.oracle import task_loop


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "oracle.jsonl"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once."""
    monkeypatch.setattr(
        "spot.oracle.async_runner.backoff", lambda failures, after, draw: after or 0.001
    )


@pytest.fixture(autouse=True)
def _nothing_said_yet() -> None:
    """What a process says once is said in every test: commands run in the tests' own process."""
    task_loop._say_held.cache_clear()
