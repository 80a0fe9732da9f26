"""The pair page in a browser, opened from disk as a reader does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from spot.data.rows import Pair, Rectification, to_json
from spot.report import pair_page
from tests.support.browser import PHONE, wait

pytestmark = pytest.mark.browser

HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'> &lt;b&gt; "
    "{{ 7 * 7 }} \u2028 \u202etxt $\\href{javascript:window.hacked=3}{x}$ $\\htmlData{a=b}{y}$ "
    "$\\includegraphics{https://example.org/x.png}$ $\\def\\a{\\a\\a}\\a$ $\\url{file:///x}$ 漢字 🙂"
)
SHOWN = "[...document.querySelectorAll('#rows .id')].map((node) => node.textContent)"


def pair(number: int, before: str | None, after: str, **changed: Any) -> Pair:
    values: dict[str, Any] = {
        "id": f"q{number:04}#0", "question_id": f"q{number}", "task": "sums", "arm": "rectified",
        "question": f"Find $x_{{{number}}}$.", "answer": "2", "chosen": after, "rejected": before,
        "change_ratio": 0.25, "common_prefix": 3, "chosen_tokens": 9, "rejected_tokens": 8,
    }  # fmt: skip
    return Pair(**values | changed)


@pytest.fixture(autouse=True)
def one_file(page: Page, complaints: list[str]) -> Iterator[None]:
    """It asks a network for nothing and runs without a complaint."""
    yield
    assert complaints == []
    assert (
        page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)") == []
    )


def opened(page: Page, folder: Path, *rows: Any, at: str = "") -> None:
    source = folder / "rows.jsonl"
    source.write_text("".join(to_json(row) + "\n" for row in rows), encoding="utf-8")
    pair_page.build(source, folder / "pairs.html")
    page.goto((folder / "pairs.html").as_uri() + at)
    drawn(page)


def drawn(page: Page) -> None:
    wait(page, "document.getElementById('pair').dataset.drawn !== undefined")


def counted(page: Page, text: str) -> None:
    expect(page.locator("#count")).to_have_text(text)


def title(page: Page, start: str) -> None:
    wait(page, f"document.querySelector('main h2').textContent.startsWith('{start}')")


def texts(page: Page, selector: str) -> list[str]:
    return page.locator(selector).evaluate_all("nodes => nodes.map((node) => node.textContent)")


def test_the_right_words_are_marked_and_formulas_are_drawn(page: Page, tmp_path: Path) -> None:
    before = "First we add $a^2 + b^2$ and\n  3 + 4 = 8. Since $x = 1 + 2 + 5$ we get: \\[y = 9\\] So $\\boxed{8}$."
    after = "First we add $a^2 + b^2$ and\n  3 + 4 = 7. Since $x = 1 + 2 + 4$ we now get: \\[y = 9\\] So $\\boxed{7}$."
    opened(page, tmp_path, pair(1, before, after))
    counted(page, "1 of 1 shown")
    assert texts(page, ".before .text .prefix")[0].startswith("First we add")
    formulas = ["a^2 + b^2", "x = 1 + 2 + 5", "y = 9", "\\boxed{8}"]
    assert texts(page, ".before .text annotation") == formulas
    assert page.locator(".before math, .after math").count() == 8
    assert page.locator(".before math[display=block]").count() == 1
    assert texts(page, ".before math .del") == ["5"], "the edited word inside of a formula"
    assert texts(page, ".after math .ins") == ["4"]

    page.keyboard.press("r")  # the source, to the letter
    drawn(page)
    assert page.locator("math").count() == 0
    assert texts(page, ".before .text") == [before]
    assert texts(page, ".after .text") == [after]
    assert texts(page, ".before del") == ["8.", "5$", "", "$\\boxed{8}$."]
    assert texts(page, ".after ins") == ["7.", "4$", "now", "$\\boxed{7}$."]
    facts = texts(page, ".about .facts dd")
    assert facts == ["25.0%", "3 tokens", "8 → 9", "rectified", "2"]


def test_an_edit_that_breaks_a_formula_marks_all_of_it(page: Page, tmp_path: Path) -> None:
    before, after = "So $\\frac{1 + a}{b + 2} = 3$ it is", "So $\\frac{1 + c}{d + 2} = 3$ it is"
    opened(page, tmp_path, pair(1, before, after))
    assert texts(page, ".before .whole annotation") == ["\\frac{1 + a}{b + 2} = 3"]
    assert page.locator(".before math .del").count() == 0
    page.keyboard.press("r")
    drawn(page)
    assert texts(page, ".before del") == ["a}{b"]


def test_filters_search_and_keys(page: Page, tmp_path: Path) -> None:
    rows = [
        pair(n, f"{n} start {'same ' * n} wrong{n}", f"{n} start {'same ' * n} right{n}", change_ratio=n / 40,
             common_prefix=n + 2, arm="direct" if n % 4 == 0 else "rectified")
        for n in range(40)
    ]  # fmt: skip
    opened(page, tmp_path, *rows, at="#q0007%230")
    assert texts(page, "main h2")[0].startswith("q0007#0"), "the address names the pair"
    set_ = "Object.assign(document.getElementById('{}'), {{value: '{}'}}).dispatchEvent(new Event('input', {{bubbles: true}}))"

    page.evaluate(set_.format("low", 0.5))
    counted(page, "20 of 40 shown")
    assert texts(page, "#rows .id")[0] == "q0020#0"
    page.evaluate(set_.format("high", 0.75))
    counted(page, "11 of 40 shown")
    page.click("#kinds label:last-child")  # direct: 20, 24, 28
    counted(page, "3 of 40 shown")
    assert texts(page, "#rows .id") == ["q0020#0", "q0024#0", "q0028#0"]
    page.evaluate(set_.format("prefix-low", 26))
    counted(page, "2 of 40 shown")
    page.evaluate(set_.format("sort", "-ratio"))
    wait(page, f"{SHOWN}[0] === 'q0028#0'")
    page.click("#reset")
    counted(page, "40 of 40 shown")

    page.focus("#pair")
    page.keyboard.press("/")
    page.keyboard.insert_text("RIGHT17")
    counted(page, "1 of 40 shown")
    drawn(page)
    assert texts(page, ".after ins") == ["right17"]
    assert page.evaluate("CSS.highlights.get('found').size") == 1
    page.evaluate(set_.format("where", "before"))
    counted(page, "0 of 40 shown")
    assert texts(page, "main .nothing") == [
        "No pair passes. Press reset, or search for other words."
    ]
    page.click("#reset")
    counted(page, "40 of 40 shown")

    page.focus("#list")
    page.keyboard.press("Home")
    for key in ("j", "ArrowDown", "j", "k"):
        page.keyboard.press(key)
    wait(page, "location.hash === '#q0002%230'")
    title(page, "q0002#0")
    selected = "document.querySelector('#rows [aria-selected=true]')"
    assert page.evaluate(f"{selected}.id") == page.evaluate(
        "document.getElementById('list').getAttribute('aria-activedescendant')"
    )
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "pair"
    page.keyboard.press("n")
    assert texts(page, "ins.now") == ["right2"]
    page.keyboard.press("?")
    assert page.evaluate("document.getElementById('keys').open") is True


def test_a_long_prefix_folds(page: Page, tmp_path: Path) -> None:
    same = "word " * 400
    opened(page, tmp_path, pair(1, f"{same}3", f"{same}4"))
    page.keyboard.press("p")
    wait(page, "document.querySelectorAll('.unfold').length === 2")
    assert texts(page, ".after ins") == ["4"]
    assert len(texts(page, ".after .text")[0]) < 300
    page.click(".unfold")
    wait(page, "document.querySelectorAll('.unfold').length === 0")


def test_what_models_wrote_is_text(page: Page, tmp_path: Path) -> None:
    wide = "$" + "x" * 1_000_000 + "$ " + "$\\sqrt{" * 20_000
    deep = "$" + "{" * 900 + "x" + "}" * 900 + "$ $\\rule{900em}{900em}$ $\\kern-900em x$"
    many = "$x$ " * 3000 + "\\( " * 3000
    rows = [
        pair(1, f"{HOSTILE} 3", f"{HOSTILE} 4", question=HOSTILE, answer=HOSTILE, id=HOSTILE, arm=HOSTILE),
        pair(2, wide, f"{wide} right"),
        pair(3, deep, f"{deep} right"),
        pair(4, many, f"{many} right"),
    ]  # fmt: skip
    opened(page, tmp_path, *rows)
    scripts = page.locator("script:not([type])").count()
    assert scripts == 2, "KaTeX and the page's own"
    assert texts(page, "ins") == ["4"]
    assert page.locator("main img, main script, main a:not(.link), main [data-a]").count() == 0
    unseen = "[...document.querySelectorAll('.after .unseen')].map((node) => node.dataset.code)"
    assert page.evaluate(unseen) == ["U+2028", "U+202E"]
    page.keyboard.press("r")
    drawn(page)
    assert texts(page, ".after .text") == [f"{HOSTILE} 4"]
    assert texts(page, ".question .text") == [HOSTILE]
    page.keyboard.press("r")
    for row in rows[1:]:
        page.keyboard.press("j")
        title(page, row.id)
        drawn(page)
        assert texts(page, "ins") == ["right"]
        right = "document.querySelector('.after .text').getBoundingClientRect().right"
        assert page.evaluate(right) <= page.evaluate("innerWidth")
    assert page.evaluate("window.hacked") is None


def test_an_oracle_is_audited(page: Page, tmp_path: Path) -> None:
    def row(name: str, outcome: str, chosen: str = "", **detail: Any) -> Rectification:
        return Rectification(
            name, name, "sums", "What is 1 + 1?", "2", "rectified", "It is 3 .", chosen,
            "2" if outcome == "ok" else None, outcome, "gemini:pro", detail,
        )  # fmt: skip

    reason = "5 does not match"
    tried = {"prompt": "rectify", "text": "It is <b>5</b> .", "outcome": "wrong", "reason": reason}
    rows = [row("a", "ok", "It is 2 ."), row("b", "wrong", tries=[tried]), row("c", "refused")]
    opened(page, tmp_path, *rows)
    assert texts(page, ".tries") == []
    page.click("#correct label:last-child")
    counted(page, "2 of 3 shown")
    title(page, "b")
    drawn(page)
    assert texts(page, ".after ins") == ["<b>5</b>"]
    assert "not taken" in texts(page, ".after h3")[0]
    assert texts(page, ".tries p") == ["wrong 5 does not match · rectify"]
    page.keyboard.press("j")
    wait(page, "document.querySelector('main .nothing') !== null")
    assert texts(page, "main .nothing") == ["No correction: refused."]


def test_pairs_without_a_rejected_response(page: Page, tmp_path: Path) -> None:
    alone = {"change_ratio": None, "common_prefix": None, "rejected_tokens": None, "arm": "self"}
    opened(page, tmp_path, pair(1, None, "By itself $1$.", **alone))
    assert texts(page, ".sides h3") == ["y⁺"]
    assert page.locator("ins, del").count() == 0


def test_dark_narrow_and_paper(browser: Browser, page: Page, tmp_path: Path) -> None:
    opened(page, tmp_path, pair(1, "We add 3 $+ 4$ to it. " * 60, "We add 3 $+ 5$ to it. " * 60))
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        colours = [
            page.evaluate(f"getComputedStyle(document.body).{name}")
            for name in ("color", "backgroundColor")
        ]
        dark = [sum(map(int, c[4:-1].split(","))) < 384 for c in colours]
        assert dark == ([True, False] if scheme == "light" else [False, True])
    phone = browser.new_page(**PHONE)
    phone.goto(page.url)
    drawn(phone)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.close()
    assert page.pdf().startswith(b"%PDF")
    assert page.locator(".tex:not(.drawn)").count() == 0, "paper shows all formulas"


@pytest.mark.slow
def test_five_thousand_long_pairs(page: Page, tmp_path: Path) -> None:
    words = [f"word{i} $x_{{{i}}}$" if i % 12 == 0 else f"word{i}" for i in range(1300)]
    before = " ".join(words)
    rows = (
        pair(n, before, before.replace(f"word{n % 1300}", f"right{n}", 1), change_ratio=n / 5000)
        for n in range(5000)
    )
    opened(page, tmp_path, *rows)
    counted(page, "5,000 of 5,000 shown")
    page.focus("#list")
    page.keyboard.press("End")
    title(page, "q4999#0")
    assert page.locator("#rows > *").count() < 60, "rows out of sight are not there"
    page.focus("#pair")
    page.keyboard.press("/")
    page.keyboard.insert_text("right4321")
    counted(page, "1 of 5,000 shown")
    title(page, "q4321#0")
    drawn(page)
    assert "right4321" in texts(page, ".after ins")[0]
