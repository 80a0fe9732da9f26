"""The system's Chromium, without a window and with a fresh profile, driven by playwright."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")  # fmt: skip
SECONDS = 60.0  # until something must have happened, on a machine that is busy with other tests
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True}


def executable() -> str | None:
    """The browser of this machine, if it has one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=[*ARGUMENTS])
        yield browser
        browser.close()


def complaints_of(page: Page) -> list[str]:
    """Errors of scripts, requests that failed and violated policies, as they come."""
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("console", lambda line: found.append(line.text) if line.type == "error" else None)
    return found


def wait(page: Page, expression: str) -> None:
    """Until a JavaScript expression is true; `wait_for_function` needs what our pages' policy forbids."""
    end = time.monotonic() + SECONDS
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"{expression} never was true"
        page.wait_for_timeout(50)


@pytest.fixture(scope="module")
def _chromium() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def browser(request: pytest.FixtureRequest, needs: Callable[[object, str], None]) -> Browser:
    needs(executable(), "Chromium")
    started: Browser = request.getfixturevalue("_chromium")
    return started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page with a profile of its own."""
    context = browser.new_context()
    context.set_default_timeout(1000 * SECONDS)
    yield context.new_page()
    context.close()


@pytest.fixture
def complaints(page: Page) -> list[str]:
    return complaints_of(page)
