"""Pictures of a report and of a pair page for the README and the documentation, from headless Chromium.

    python -m docs.tools.screenshots report=<run, sweep or archive> pairs=<run or product>

writes docs/images/report.png and pairs.png, and the same in dark beside them.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Page, ViewportSize

from tests.support.browser import chromium, complaints_of

IMAGES = Path(__file__).resolve().parents[1] / "images"
WIDTH, HEIGHT = 1280, 860  # of the window, in CSS pixels
SCHEMES: dict[Literal["light", "dark"], str] = {
    "light": "",
    "dark": "-dark",
}  # → what the file's name ends in
COLOURS = 128  # of the palette: text stays sharp and the file small
LARGEST = 300_000  # bytes of a picture


def main(arguments: list[str]) -> None:
    """Make each page that is asked for, and its two pictures."""
    given = dict(argument.split("=", 1) for argument in arguments)
    if not given or not given.keys() <= {"report", "pairs"}:
        sys.exit("usage: python -m docs.tools.screenshots report=<source> pairs=<source>")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pages = {name: page(name, source, folder) for name, source in given.items()}
        with chromium() as browser:
            for scheme, ending in SCHEMES.items():
                size: ViewportSize = {"width": WIDTH, "height": HEIGHT}
                tab = browser.new_page(viewport=size, device_scale_factor=1.5, color_scheme=scheme)
                complaints = complaints_of(tab)
                for name, path in pages.items():
                    save(IMAGES / f"{name}{ending}.png", picture(tab, path))
                assert not complaints, complaints


def page(name: str, source: str, folder: Path) -> Path:
    """The HTML file that `spot report` or `spot pairs` makes of a source."""
    out = folder / ("report" if name == "report" else "pairs.html")
    spot = [sys.executable, "-m", "spot.cli.main", name, source, f"out={out}"]
    subprocess.run(spot, check=True)
    return out / "report.html" if name == "report" else out


def picture(page: Page, path: Path) -> bytes:
    """What a reader sees first of a page, as PNG."""
    page.goto(path.as_uri())
    page.wait_for_timeout(1000)  # what is drawn late is there
    return page.screenshot()


def save(path: Path, png: bytes) -> None:
    """Write it with a palette, which is enough for pages of text and figures."""
    small = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    size = path.stat().st_size
    assert size < LARGEST, f"{path} has {size} bytes"
    print(f"{path.relative_to(Path.cwd())}: {small.width} × {small.height}, {size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
