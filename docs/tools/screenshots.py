"""Pictures of a report and of a pair page for the README and the documentation, from headless Chromium.

    python -m docs.tools.screenshots report=<run, sweep or archive> pairs=<run or product>

writes docs/images/report.png and pairs.png, and the same in dark beside them.
"""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.oracle.chromium import Tab, chromium

IMAGES = Path(__file__).resolve().parents[1] / "images"
WIDTH, HEIGHT = 1280, 860  # of the window, in CSS pixels
SCHEMES = {"light": "", "dark": "-dark"}  # → what the file's name ends in
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
        with chromium(folder) as tab:
            for name, path in pages.items():
                for scheme, ending in SCHEMES.items():
                    save(IMAGES / f"{name}{ending}.png", picture(tab, path, scheme))
            assert not tab.complaints, tab.complaints


def page(name: str, source: str, folder: Path) -> Path:
    """The HTML file that `spot report` or `spot pairs` makes of a source."""
    out = folder / ("report" if name == "report" else "pairs.html")
    spot = [sys.executable, "-m", "spot.cli.main", name, source, f"out={out}"]
    subprocess.run(spot, check=True)
    return out / "report.html" if name == "report" else out


def picture(tab: Tab, path: Path, scheme: str) -> bytes:
    """What a reader sees first of a page, as PNG, in one of the two colour schemes."""
    size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1.5, "mobile": False}
    tab.call("Emulation.setDeviceMetricsOverride", **size)
    tab.call("Emulation.setScrollbarsHidden", hidden=True)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    tab.call("Emulation.setEmulatedMedia", features=media)
    tab.call("Page.navigate", url=path.as_uri())
    tab.wait(f"location.href.startsWith({path.as_uri()!r}) && document.readyState === 'complete'")
    tab.call(  # two frames later everything that is drawn late is there
        "Runtime.evaluate",
        expression="new Promise(done => requestAnimationFrame(() => setTimeout(done, 1000)))",
        awaitPromise=True,
    )
    return base64.b64decode(tab.call("Page.captureScreenshot", format="png")["data"])


def save(path: Path, png: bytes) -> None:
    """Write it with a palette, which is enough for pages of text and figures."""
    small = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    size = path.stat().st_size
    assert size < LARGEST, f"{path} has {size} bytes"
    print(f"{path.relative_to(Path.cwd())}: {small.width} × {small.height}, {size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
