"""The documentation builds strictly, is complete, and shows itself without a network."""

from __future__ import annotations

import functools
import html
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from spot import config
from spot.cli import main
from spot.config import compose
from spot.data import answers, hub
from spot.grading.registry import FAMILIES
from spot.utils import finish

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.docs


@pytest.fixture
def site(request: pytest.FixtureRequest, needs: Callable[[object, str], None]) -> Path:
    needs(importlib.util.find_spec("zensical"), "zensical (make install)")
    built: Path = request.getfixturevalue("built")
    return built


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "docs/tools/pages.py", str(site)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return site


class Loads(HTMLParser):
    """What a page loads by itself, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id", ""))
        self.loaded += [
            given[name] for name in ("src", "srcset", "data", "poster") if name in given
        ]
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(given.get("href", ""))


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = {path: Loads(path.read_text("utf-8")) for path in site.rglob("*.html")}
    assert len(pages) > 25
    for path, page in pages.items():
        assert page.loaded, path
        assert not [each for each in page.loaded if "//" in each], path
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", sheet.read_text("utf-8")), (
            sheet
        )


def test_every_command_has_its_section_and_every_section_its_command(site: Path) -> None:
    page = (site / "commands.html").read_text("utf-8")
    documented = {each[5:] for each in Loads(page).ids if each.startswith("spot-")}
    assert documented == set(main.COMMANDS)


@pytest.mark.parametrize(
    ("mark", "refused"),
    [
        ('--8<-- "loss/hinge.patch"', True),
        ('--8 < --"loss/hinge.patch"', True),  # as a formatter of Python leaves it
        ("<!-- studies -->", True),
        ("x = 8 < 9", False),
    ],
)
def test_an_include_that_was_not_made_stops_the_build(
    mark: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs/tools")
    pages = importlib.import_module("pages")
    text = html.escape(mark, quote=False)
    (tmp_path / "index.html").write_text(f"<pre><code><span>{text}</span></code></pre>")
    found = pages.faults(tmp_path)
    assert len(found) == refused
    assert all(line.startswith("index.html shows") for line in found)


def test_a_missing_image_and_a_page_without_a_place_stop_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs/tools")
    pages = importlib.import_module("pages")
    (tmp_path / "index.html").write_text('<img alt="a" src="images/none.png"><img src="data:,">')
    assert pages.faults(tmp_path) == ["index.html shows images/none.png, which is not there."]
    monkeypatch.setattr(pages, "FROM_ELSEWHERE", {"README.md": "readme.md"})
    with pytest.raises(ValueError, match=r"readme\.md is not in the navigation"):
        pages.together(tmp_path)


def test_what_is_supported_is_what_the_code_has(site: Path) -> None:
    page = (site / "supported.html").read_text("utf-8")
    names = {*finish.FINISH_REASONS, *hub.SUFFIXES, *answers.ANSWER_FORMATS, *FAMILIES}
    assert not [name for name in names if f"<code>{html.escape(name)}</code>" not in page]


def test_no_description_is_cut(site: Path) -> None:
    """A cell with a bar in it, a comment of two lines, a placeholder in code."""
    commands = (site / "commands.html").read_text("utf-8")
    assert "the reader of the output stopped (spot config | head)" in commands
    for group, end in (
        ("benchmarks", "+benchmark@benchmarks.tasks.math500=math500"),
        ("data", "data=gsm8k_attempts data.path=&lt;file&gt;</code>"),
        ("oracle", "oracle.model=&lt;name&gt;"),
    ):
        assert end in (site / f"configuration/{group}.html").read_text("utf-8").split("<h2")[0]


def paths(tree: Any, prefix: str = "") -> Iterator[str]:
    """The path of every value of a configuration, but for what is kept by name."""
    if not isinstance(tree, dict) or prefix in ("benchmarks.tasks", "model.tuned", "evaluator"):
        yield prefix
        return
    for key, value in tree.items():
        yield from paths(value, f"{prefix}.{key}" if prefix else key)


def test_every_key_and_every_option_is_in_the_reference(site: Path) -> None:
    pages = {path.stem: path.read_text("utf-8") for path in site.glob("configuration/*.html")}
    keys = [
        path for path in paths(config.plain(compose.compose())) if "." in path or path == "seed"
    ]
    keys += [f"benchmark.{field.name}" for field in fields(config.BenchmarkConfig)]
    assert len(keys) > 130
    for key in keys:
        page = pages.get(key.split(".")[0], pages["index"])
        assert f"<code>{key}</code>" in page or f"<code>{key.rpartition('.')[0]}</code>" in page, (
            key
        )
    for option in compose.CONF.glob("*/*.yaml"):
        assert f"{option.parent.name}={option.stem}</code>" in pages[option.parent.name], option


def test_a_row_of_the_reference_says_type_default_range_and_meaning(site: Path) -> None:
    page = (site / "configuration/loss.html").read_text("utf-8")
    row = next(row for row in page.split("<tr>") if "<code>loss.delta.decay</code>" in row)
    cells = [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
    assert cells[1:4] == ["number", "0.9", "≥ 0, ≤ 1"]
    assert "average" in cells[4]


@pytest.fixture
def served(site: Path) -> Iterator[str]:
    """The address of the site on this machine."""
    handler = functools.partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.mark.browser
@pytest.mark.parametrize("width", [480, 1280])
def test_no_page_is_wider_than_the_window(site: Path, page: Page, width: int) -> None:
    """A wide table or a long line of code scrolls within itself; a subscript is small and low."""
    page.set_viewport_size({"width": width, "height": 900})
    names = (
        "index",
        "method",
        "commands",
        "decisions",
        "configuration/data",
        "extending/loss",
        "laptop/index",
    )
    for name in names:
        page.goto(f"{site.as_uri()}/{name}.html")
        overhang = "document.documentElement.scrollWidth - window.innerWidth"
        assert page.evaluate(overhang) <= 0, name
    page.goto(f"{site.as_uri()}/method.html")
    family = page.evaluate("getComputedStyle(document.querySelector('math')).fontFamily")
    assert "Math" in family.split(",")[0]


@pytest.mark.browser
def test_a_reader_needs_no_network(
    site: Path, served: str, page: Page, complaints: list[str]
) -> None:
    """Formulas, search and the dark palette; pages that are opened from disk have their formulas, too."""
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 1280, "height": 900})
    for start in (served, f"{site.as_uri()}/"):
        for name in ("method", "index", "configuration/oracle"):
            page.goto(f"{start}{name}.html")
            formulas = page.locator(".arithmatex").count()
            assert page.locator(".arithmatex math").count() == formulas
            assert (formulas > 40) is (name == "method")
            expect(page.locator("body")).to_have_attribute("data-md-color-scheme", "slate")
    page.goto(f"{served}index.html")
    page.keyboard.press("/")
    page.locator("input[aria-label=Search]").fill("delta")
    expect(page.get_by_text("The threshold δ").first).to_be_visible()
    loaded = page.evaluate("performance.getEntriesByType('resource').map(e => e.name)")
    assert len(loaded) > 5
    assert not [url for url in loaded if not url.startswith((served, "data:", "blob:"))]
    assert not complaints
