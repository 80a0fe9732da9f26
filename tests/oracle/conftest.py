"""Fixtures of the tests of Oracles: a server, keys, a journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spot.oracle import task_loop
from tests.oracle.server import Server, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def key() -> str:
    """What `keys` sets."""
    return "a-key"


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Keys of both services, and no other."""
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    for name in ("GEMINI_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, key)


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
