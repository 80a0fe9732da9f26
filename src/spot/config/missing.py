"""The mark of a key that has no default and must be given."""

from __future__ import annotations

from typing import Any

MISSING: Any = "???"  # OmegaConf's own mark; training is imported where OmegaConf is not installed
