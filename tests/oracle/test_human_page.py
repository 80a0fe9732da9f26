"""The page on which a person corrects: in a browser, and against who should not reach it."""

from __future__ import annotations

import http.client
import json
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from spot.grading.registry import Verifier
from spot.oracle import human_sheet
from spot.oracle.human_page import Corrections, correct
from spot.oracle.human_page import page as served
from spot.oracle.types import Task
from spot.utils.errors import UserError
from tests.support.browser import wait

pytestmark = pytest.mark.oracle

HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>\n"
    "&lt;b&gt; </textarea><b>bold</b> {{ 7 * 7 }} ½ × 漢字 🙂 \u202etxt \\(\\frac{1}{2}\\) $a_1 \\neq b^2$"
)
TASKS = [
    Task("q1#0", "What is $3 + 4$?", "7", "We add:\n  3 + 4 = 8.\nSo $\\boxed{8}$."),
    Task("q2#0", f"Say {HOSTILE}", f"7 {HOSTILE}", f"\n{HOSTILE}\nSo $\\boxed{{8}}$."),
    Task("q3#0", "What is 1 + 1?", "2", "It is\r\n$\\boxed{3}$"),
]


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as verifier:
        yield verifier


@pytest.fixture
def corrections(tmp_path: Path, verifier: Verifier) -> Corrections:
    return Corrections(tmp_path / "sheet.csv", TASKS, verifier)


# ---------------------------------------------------------------- in a browser


def typed(page: Page, text: str) -> None:
    """Replace the whole correction and wait until the page says that it is saved."""
    page.click("#correction")
    page.evaluate("document.getElementById('correction').select()")
    page.keyboard.insert_text(text)
    expect(page.locator("#saved")).to_have_text("saved")


@pytest.mark.browser
def test_open_edit_save_reload_finish(
    page: Page, complaints: list[str], corrections: Corrections
) -> None:
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.accept()))
    with served(corrections) as address:
        page.goto(address)
        expect(page.locator("#ratio")).to_have_text("0.0%")
        assert page.text_content("#question") == TASKS[0].question
        assert page.text_content("#before") == TASKS[0].response
        assert page.text_content("#verdict") == "8: wrong"

        right = "We add:\n  3 + 4 = 7.\nSo $\\boxed{7}$."
        typed(page, right)
        assert human_sheet.read(corrections.sheet, TASKS) == {"q1#0": right}
        expect(page.locator("#verdict")).to_have_text("7: correct")
        assert page.text_content("#ratio") == "22.2%"  # 2 of 9 words
        assert page.text_content("#progress") == "1 of 3 corrected"
        gone = "[...document.querySelectorAll('del')].map((part) => part.textContent)"
        new = "[...document.querySelectorAll('ins')].map((part) => part.textContent)"
        assert page.evaluate(gone) == ["8.", "$\\boxed{8}$."]
        assert page.evaluate(new) == ["7.", "$\\boxed{7}$."]
        assert page.text_content("#after") == right

        page.reload()
        wait(page, f"document.getElementById('correction').value === {json.dumps(right)}")
        expect(page.locator("#verdict")).to_have_text("7: correct")

        page.keyboard.press("Alt+ArrowRight")
        wait(page, "location.hash === '#2'")
        page.click("#next")
        expect(page.locator("#question")).to_have_text("What is 1 + 1?")
        typed(page, "It is\n$\\boxed{2}$")
        page.click("#finish")
        expect(page.locator("#over")).to_be_visible()
        left = "Without a correction that ends in the true answer, and left out: 1 of 3. Finish?"
        assert dialogs == [left]
        assert corrections.finished.is_set()
    done = {"q1#0": right, "q3#0": "It is\r\n$\\boxed{2}$"}
    assert corrections.result() == human_sheet.read(corrections.sheet, TASKS) == done
    assert complaints == []


@pytest.mark.browser
def test_what_a_model_wrote_is_text(
    page: Page, complaints: list[str], corrections: Corrections
) -> None:
    task = TASKS[1]
    with served(corrections) as address:
        page.goto(f"{address}#2")
        expect(page.locator("#ratio")).to_have_text("0.0%")
        assert page.text_content("#question") == task.question
        assert page.text_content("#answer") == task.answer
        assert page.text_content("#before") == page.text_content("#after") == task.response
        assert page.evaluate("document.getElementById('correction').value") == task.response
        right = task.response.replace("8", "<script>window.hacked = 3</script> 7")
        typed(page, right)
        wait(page, f"document.getElementById('after').textContent === {json.dumps(right)}")
        assert human_sheet.read(corrections.sheet, TASKS) == {"q2#0": right}
        assert page.evaluate("document.querySelectorAll('script, img, b').length") == 1, (
            "the page's own"
        )
        assert page.evaluate("window.hacked") is None
        assert page.evaluate("document.title") == "Corrections"
    assert complaints == []


@pytest.mark.browser
def test_an_edit_that_cannot_be_saved_is_not_lost(page: Page, corrections: Corrections) -> None:
    with served(corrections) as address:
        page.goto(address)
        expect(page.locator("#ratio")).to_have_text("0.0%")
        good = corrections.sheet.read_bytes()
        corrections.sheet.write_text("a person has broken it")
        page.click("#correction")
        page.keyboard.insert_text("mine ")
        wait(page, "document.getElementById('saved').textContent.startsWith('not saved: ')")
        assert "keep the first row as it is" in page.text_content("#saved")
        page.click("#next")
        wait(page, "document.getElementById('saved').textContent.startsWith('not saved: ')")
        assert page.evaluate("location.hash") == "#1"
        assert "mine " in page.evaluate("document.getElementById('correction').value")
        corrections.sheet.write_bytes(good)
        page.click("#next")
        wait(page, "location.hash === '#2'")
    assert "mine " in human_sheet.read(corrections.sheet, TASKS)["q1#0"]


# ---------------------------------------------------------------- without one


def ask(
    address: str, path: str, body: object = None, headers: dict[str, str] | None = None
) -> tuple[int, object]:
    """One request to the page; what is not JSON comes as text."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    sent = {} if body is None else {"Content-Type": "application/json"}
    data = body if isinstance(body, str) or body is None else json.dumps(body)
    method = "GET" if body is None else "POST"
    connection.request(method, f"{parts.path}{path}", data, sent | (headers or {}))
    reply = connection.getresponse()
    text = reply.read().decode()
    connection.close()
    is_json = reply.headers.get_content_type() == "application/json"
    return reply.status, json.loads(text) if is_json else text


def edit(text: str, index: object = 0, serial: int = 1) -> dict[str, object]:
    return {"index": index, "text": text, "session": "s", "serial": serial}


def test_the_whole_way_without_a_browser(corrections: Corrections) -> None:
    said: queue.Queue[str] = queue.Queue()
    found: dict[str, str] = {}
    thread = threading.Thread(target=lambda: found.update(correct(corrections, tell=said.put)))
    thread.start()
    line = said.get(timeout=30)
    assert "correct 3 attempts at http" in line
    address = next(word for word in line.split() if word.startswith("http://"))
    ask(address, "save", edit("So $\\boxed{7}$."))
    ask(address, "finish", {})
    thread.join(30)
    assert not thread.is_alive()
    assert found == {"q1#0": "So $\\boxed{7}$."}
    assert said.get(timeout=30) == "1 of 3 attempts are corrected"


def test_only_this_machine_and_who_knows_the_address(corrections: Corrections) -> None:
    with served(corrections) as address:
        assert urlsplit(address).hostname == "127.0.0.1"
        assert ask(address, "")[0] == 200
        assert ask(address, "tasks")[0] == 200
        stranger = address.rsplit("/", 2)[0] + "/guess/"
        for path in ("", "tasks", "task/0", "page.js"):
            assert ask(stranger, path)[0] == 404
        assert ask(stranger, "save", edit("theirs"))[0] == 404
        assert ask(address, "tasks", headers={"Host": "evil.example"})[0] == 404, "DNS rebinding"
        plain = {"Content-Type": "text/plain"}
        assert ask(address, "save", edit("theirs"), plain)[0] == 404, "a form elsewhere"
        assert ask(address, "finish", {}, plain)[0] == 404
        with socket.socket() as other:  # from outside, and so by another of its addresses
            other.settimeout(5)
            assert other.connect_ex(("127.0.0.2", urlsplit(address).port)) != 0
    assert not corrections.finished.is_set()
    assert human_sheet.read(corrections.sheet, TASKS) == {}


def test_the_answer_allows_no_foreign_script(corrections: Corrections) -> None:
    with served(corrections) as address:
        parts = urlsplit(address)
        connection = http.client.HTTPConnection(parts.netloc, timeout=30)
        connection.request("GET", parts.path)
        reply = connection.getresponse()
        reply.read()
        connection.close()
    assert reply.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "unsafe" not in reply.headers["Content-Security-Policy"]
    assert reply.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("save", "{", 400),
        ("save", "[]", 400),
        ("save", {"index": 0}, 400),
        ("save", edit("x", index=3), 400),
        ("save", edit("x", index=-1), 400),
        ("save", edit("x", index="../1"), 400),
        ("look", {"index": 0, "text": 5}, 400),
        ("task/9", None, 404),
        ("task/..%2fhuman.py", None, 404),
        ("../human.py", None, 404),
    ],
)
def test_nonsense_is_refused(
    corrections: Corrections, path: str, body: object, status: int
) -> None:
    with served(corrections) as address:
        assert ask(address, path, body)[0] == status
        assert ask(address, "tasks")[0] == 200, "and the page lives on"
    assert human_sheet.read(corrections.sheet, TASKS) == {}


def test_what_is_too_long_is_not_read(corrections: Corrections) -> None:
    with served(corrections) as address:
        for length in (str(9 << 20), "-1", "many"):
            assert ask(address, "save", "x", {"Content-Length": length})[0] == 413


NONE, WITHOUT = {"done": False, "wrong": False}, {"done": False, "wrong": True}


def test_a_correction_without_the_true_answer_is_not_done(corrections: Corrections) -> None:
    assert corrections.save(0, "So $\\boxed{7}$.") == {"done": True, "wrong": False}
    assert corrections.save(2, "So $\\boxed{3}$.") == WITHOUT
    states = [(task["done"], task["wrong"]) for task in corrections.overview()]
    assert states == [(True, False), (False, False), (False, True)]
    assert corrections.counts() == (
        "1 of 3 attempts are corrected; 1 correction does not end in the true answer and will be left out"
    )
    again = Corrections(corrections.sheet, TASKS, corrections.verifier)
    assert again.overview() == corrections.overview(), "the text is kept"
    assert again.save(2, "So $\\boxed{2}$.") == {"done": True, "wrong": False}


@pytest.mark.browser
def test_the_page_says_that_the_answer_is_not_the_true_one(
    page: Page, complaints: list[str], corrections: Corrections
) -> None:
    with served(corrections) as address:
        page.goto(address)
        expect(page.locator("#ratio")).to_have_text("0.0%")
        typed(page, "So $\\boxed{9}$.")
        assert page.text_content("#progress") == "0 of 3 corrected, 1 without the true answer"
        assert page.locator("#list .wrong").count() == 1
        typed(page, "So $\\boxed{7}$.")
        assert page.text_content("#progress") == "1 of 3 corrected"
        assert page.locator("#list .wrong").count() == 0
    assert complaints == []


def test_every_edit_is_in_the_file_and_an_older_one_never_wins(corrections: Corrections) -> None:
    saved = lambda: human_sheet.read(corrections.sheet, TASKS)  # noqa: E731
    with served(corrections) as address:
        assert ask(address, "save", edit("newer", serial=2)) == (200, WITHOUT)
        assert saved() == {"q1#0": "newer"}
        assert ask(address, "save", edit("older", serial=1)) == (200, WITHOUT)
        assert saved() == {"q1#0": "newer"}
        other = human_sheet.read(corrections.sheet, TASKS) | {"q3#0": "in a spreadsheet"}
        human_sheet.write(corrections.sheet, TASKS, other)
        ask(address, "save", edit("half \ud800 a pair", serial=3))
        assert saved() == {"q1#0": "half ? a pair", "q3#0": "in a spreadsheet"}
        assert ask(address, "save", edit(TASKS[0].response, serial=4)) == (200, NONE)
        assert saved() == {"q3#0": "in a spreadsheet"}, "the attempt itself is no correction"
        same = edit(TASKS[2].response.replace("\r\n", "\n"), index=2, serial=5)
        assert ask(address, "save", same) == (200, NONE)
    again = Corrections(corrections.sheet, TASKS, corrections.verifier)
    assert again.result() == {}


def test_started_again_it_goes_on(corrections: Corrections) -> None:
    corrections.save(0, "So $\\boxed{7}$.")
    again = Corrections(corrections.sheet, TASKS, corrections.verifier)
    assert [task["done"] for task in again.overview()] == [True, False, False]
    assert again.show(0)["correction"] == "So $\\boxed{7}$."


def test_the_ratio_is_that_of_the_policys_tokens(tmp_path: Path, verifier: Verifier) -> None:
    letters = Corrections(tmp_path / "sheet.csv", TASKS, verifier, tokens=lambda t: [*map(ord, t)])
    seen = letters.look(0, "We add:\n  3 + 4 = 7.\nSo $\\boxed{7}$.")
    assert seen["ratio"] == pytest.approx(2 / 36)
    assert (seen["verdict"], seen["extracted"]) == ("correct", "7")
    assert letters.look(0, "")["ratio"] is None


def test_a_taken_port_is_named(corrections: Corrections) -> None:
    with (
        served(corrections) as address,
        pytest.raises(UserError, match=r"oracle\.port=\d+ cannot be used"),
        served(corrections, urlsplit(address).port or 0),
    ):
        pass
