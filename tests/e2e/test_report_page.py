"""The report's page in a real browser: from a file, light and dark, on a phone and on paper."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spot import report
from tests.oracle.chromium import Tab, chromium, executable
from tests.support.runs import make_run
from tests.unit.test_report_arms import NINE

pytestmark = pytest.mark.browser

WIDER = """[...document.querySelectorAll('table, pre, figure svg, .pair')].filter(e => {
  const box = e.getBoundingClientRect(), frame = (e.closest('.wide') || document.body).getBoundingClientRect();
  return box.right > Math.min(innerWidth, frame.right) + 1 || box.left < -1; }).map(e => e.outerHTML.slice(0, 80))"""
LUMINANCE = """(() => { const of = c => c.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b, 0);
  const style = getComputedStyle(document.body); return [of(style.backgroundColor), of(style.color)]; })()"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study at the paper's scale: nine benchmarks, hostile texts, an unfinished job."""
    sweep = tmp_path_factory.mktemp("outputs") / "sweep"
    for number in range(6):
        arm = ("sft_plus", "spot_bco", "spot_bce")[number // 2]
        shares = [0.5 + 0.05 * number] * 8 + [0.9]
        make_run(sweep, number, arm, number % 2, shares, study="table1", domains=NINE)
    (sweep / "6").mkdir()
    return report.build(sweep)


@pytest.fixture
def tab(tmp_path: Path, needs: Callable[[object, str], None]) -> Iterator[Tab]:
    needs(executable(), "Chromium")
    with chromium(tmp_path) as tab:
        tab.call("Network.enable")
        yield tab


def show(tab: Tab, page: Path, width: int = 1280, scheme: str = "light") -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])  # fmt: skip
    tab.load("Page.navigate", url=page.as_uri())


def test_it_opens_from_a_file_without_network_or_complaints(tab: Tab, study: Path) -> None:
    show(tab, study)
    assert tab.value("document.querySelectorAll('figure svg').length") >= 6
    assert tab.value("performance.getEntriesByType('resource').length") == 0
    assert tab.value("document.scripts.length") == 0
    assert "<script>alert(1)</script>" in tab.value("document.querySelector('#pairs').textContent")
    assert tab.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_in_both_schemes(tab: Tab, study: Path, scheme: str) -> None:
    show(tab, study, scheme=scheme)
    back, ink = tab.value(LUMINANCE)
    assert (back > 700 and ink < 200) if scheme == "light" else (back < 120 and ink > 600)
    # Figures follow: their ink is the page's, their ground is transparent.
    fills = tab.value(
        "[...document.querySelectorAll('figure svg')].map(e => getComputedStyle(e.querySelector('path')).fill)"
    )
    assert set(fills) == {"none"}


def test_every_table_fits_a_laptops_screen(tab: Tab, study: Path) -> None:
    show(tab, study)
    tab.value("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    assert tab.value(WIDER) == []
    assert tab.value("document.documentElement.scrollWidth <= innerWidth")


def test_a_phone_scrolls_tables_and_not_the_page(tab: Tab, study: Path) -> None:
    show(tab, study, width=390)
    tab.value("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    assert tab.value("document.documentElement.scrollWidth") <= 390
    wide = "document.querySelector('#scores .wide')"
    assert tab.value(f"{wide}.scrollWidth > {wide}.clientWidth")
    claims = "document.querySelector('#claims .wide')"  # folded, so that no number is out of sight
    assert tab.value(f"{claims}.scrollWidth <= {claims}.clientWidth")


def test_print_keeps_hashes_and_configuration(tab: Tab, study: Path) -> None:
    show(tab, study)
    tab.call("Emulation.setEmulatedMedia", media="print")
    heights = tab.value("[...document.querySelectorAll('details.kept')].map(e => e.getBoundingClientRect().height)")  # fmt: skip
    tab.call("Emulation.setEmulatedMedia", media="")
    assert len(heights) == 2
    assert min(heights) > 100


def test_it_prints_on_several_pages(tab: Tab, study: Path) -> None:
    show(tab, study)
    printed = tab.call("Page.printToPDF", printBackground=True)
    pdf = base64.b64decode(printed["data"])
    assert pdf.startswith(b"%PDF")
    pages = pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page/") + pdf.count(b"/Type /Page ")
    assert pages > 1, json.dumps(pages)
