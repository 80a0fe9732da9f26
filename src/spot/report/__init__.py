"""Pages that say what a run or a sweep found: `build(folder)` writes them."""

from spot.report.page import build

__all__ = ["build"]
