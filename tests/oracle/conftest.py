"""Fixtures of the tests of engine and journal."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "oracle.jsonl"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once."""
    monkeypatch.setattr(
        "spot.oracle.async_runner.backoff", lambda failures, after, draw: after or 0.001
    )
