"""Pages that say what a run or a sweep found: `build(folder)` writes them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["build"]


def build(source: Path, into: Path | None = None, margin: float | None = None) -> Path:
    """Write the report of a run, a sweep or an archive of one; returns the path of report.html.

    into: where it goes; by default a study's own folder, or beside the archive. margin: percent points
    that are too little to matter in a verdict; by default what claims.yaml says. Raises UserError when
    nothing there is finished or a product is damaged.
    """
    from spot.report.page import write  # with matplotlib, which rows and verdicts do not need

    return write(source, into, margin)
