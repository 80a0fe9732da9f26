"""The report's page in a real browser: from a file, light and dark, on a phone and on paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from spot import report
from tests.support.browser import PHONE
from tests.support.runs import make_run
from tests.unit.test_report_arms import NINE

pytestmark = pytest.mark.browser

WIDER = """[...document.querySelectorAll('table, pre, figure svg, .pair')].filter(e => {
  const box = e.getBoundingClientRect(), frame = (e.closest('.wide') || document.body).getBoundingClientRect();
  return box.right > Math.min(innerWidth, frame.right) + 1 || box.left < -1; }).map(e => e.outerHTML.slice(0, 80))"""
OPEN_ALL = "document.querySelectorAll('details').forEach(e => { e.open = true; })"
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
def page(page: Page, study: Path) -> Page:
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(study.as_uri())
    return page


def test_it_opens_from_a_file_without_network_or_complaints(
    complaints: list[str], page: Page
) -> None:
    page.reload()
    assert page.locator("figure svg").count() >= 6
    assert page.evaluate("performance.getEntriesByType('resource').length") == 0
    assert page.evaluate("document.scripts.length") == 0
    assert "<script>alert(1)</script>" in str(page.text_content("#pairs"))
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_in_both_schemes(page: Page, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    back, ink = page.evaluate(LUMINANCE)
    assert (back > 700 and ink < 200) if scheme == "light" else (back < 120 and ink > 600)
    # Figures follow: their ink is the page's, their ground is transparent.
    fills = page.evaluate(
        "[...document.querySelectorAll('figure svg')].map(e => getComputedStyle(e.querySelector('path')).fill)"
    )
    assert set(fills) == {"none"}


def test_every_table_fits_a_laptops_screen(page: Page) -> None:
    page.evaluate(OPEN_ALL)
    assert page.evaluate(WIDER) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_phone_scrolls_tables_and_not_the_page(browser: Browser, study: Path) -> None:
    page = browser.new_page(**PHONE)
    page.goto(study.as_uri())
    page.evaluate(OPEN_ALL)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    scrolls = "e => e.scrollWidth > e.clientWidth"
    assert page.eval_on_selector("#scores .wide", scrolls)
    assert not page.eval_on_selector("#claims .wide", scrolls)  # folded: no number is out of sight
    page.close()


def test_paper_has_several_pages_with_hashes_and_configuration(page: Page) -> None:
    page.emulate_media(media="print")
    kept = page.locator("details.kept").all()
    heights = [box["height"] for each in kept if (box := each.bounding_box())]
    assert len(heights) == 2
    assert min(heights) > 100
    pdf = page.pdf(print_background=True)
    assert pdf.startswith(b"%PDF")
    assert sum(pdf.count(b"/Type /Page" + end) for end in (b"\n", b"/", b" ")) > 1
