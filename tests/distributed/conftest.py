"""What every start of DeepSpeed on processors needs."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def prerequisites(needs: Callable[[object, str], None]) -> None:
    """A compiler, for DeepSpeed's collectives in shared memory."""
    needs(shutil.which("g++"), "a C++ compiler (g++)")
