"""The pair page in a browser, opened from disk as a reader does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spot.data.rows import Pair, Rectification, to_json
from spot.report import pair_page
from tests.oracle.chromium import Tab, chromium, executable

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


@pytest.fixture
def tab(tmp_path: Path, needs: Callable[[object, str], None]) -> Iterator[Tab]:
    """A browser that says what it asks a network for, in `tab.complaints` with all else."""
    needs(executable(), "Chromium")
    with chromium(tmp_path) as tab:
        yield tab
        assert tab.complaints == []
        loaded = tab.value("performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert loaded == [], "the page is one file"


def opened(tab: Tab, folder: Path, *rows: Any, at: str = "") -> None:
    source = folder / "rows.jsonl"
    source.write_text("".join(to_json(row) + "\n" for row in rows), encoding="utf-8")
    pair_page.build(source, folder / "pairs.html")
    tab.load("Page.navigate", url=(folder / "pairs.html").as_uri() + at)
    drawn(tab)


def drawn(tab: Tab) -> None:
    tab.wait("document.getElementById('pair').dataset.drawn !== undefined")


def texts(tab: Tab, selector: str) -> list[str]:
    return list(
        tab.value(
            f"[...document.querySelectorAll({json.dumps(selector)})].map((node) => node.textContent)"
        )
    )


def said(tab: Tab) -> str:
    return str(tab.value("document.getElementById('count').textContent"))


def test_the_right_words_are_marked_and_formulas_are_drawn(tab: Tab, tmp_path: Path) -> None:
    before = "First we add $a^2 + b^2$ and\n  3 + 4 = 8. Since $x = 1 + 2 + 5$ we get: \\[y = 9\\] So $\\boxed{8}$."
    after = "First we add $a^2 + b^2$ and\n  3 + 4 = 7. Since $x = 1 + 2 + 4$ we now get: \\[y = 9\\] So $\\boxed{7}$."
    opened(tab, tmp_path, pair(1, before, after))
    assert said(tab) == "1 of 1 shown"
    assert texts(tab, ".before .text .prefix")[0].startswith("First we add")
    assert texts(tab, ".before .text annotation") == [
        "a^2 + b^2",
        "x = 1 + 2 + 5",
        "y = 9",
        "\\boxed{8}",
    ]
    assert tab.value("document.querySelectorAll('.before math, .after math').length") == 8
    assert tab.value("document.querySelectorAll('.before math[display=block]').length") == 1
    assert texts(tab, ".before math .del") == ["5"], "the edited word inside of a formula"
    assert texts(tab, ".after math .ins") == ["4"]

    tab.key("r")  # the source, to the letter
    drawn(tab)
    assert tab.value("document.querySelectorAll('math').length") == 0
    assert texts(tab, ".before .text") == [before]
    assert texts(tab, ".after .text") == [after]
    assert texts(tab, ".before del") == ["8.", "5$", "", "$\\boxed{8}$."]
    assert texts(tab, ".after ins") == ["7.", "4$", "now", "$\\boxed{7}$."]
    facts = texts(tab, ".about .facts dd")
    assert facts == ["25.0%", "3 tokens", "8 → 9", "rectified", "2"]


def test_an_edit_that_breaks_a_formula_marks_all_of_it(tab: Tab, tmp_path: Path) -> None:
    before, after = "So $\\frac{1 + a}{b + 2} = 3$ it is", "So $\\frac{1 + c}{d + 2} = 3$ it is"
    opened(tab, tmp_path, pair(1, before, after))
    assert texts(tab, ".before .whole annotation") == ["\\frac{1 + a}{b + 2} = 3"]
    assert tab.value("document.querySelectorAll('.before math .del').length") == 0
    tab.key("r")
    drawn(tab)
    assert texts(tab, ".before del") == ["a}{b"]


def test_filters_search_and_keys(tab: Tab, tmp_path: Path) -> None:
    rows = [
        pair(n, f"{n} start {'same ' * n} wrong{n}", f"{n} start {'same ' * n} right{n}", change_ratio=n / 40,
             common_prefix=n + 2, arm="direct" if n % 4 == 0 else "rectified")
        for n in range(40)
    ]  # fmt: skip
    opened(tab, tmp_path, *rows, at="#q0007%230")
    assert texts(tab, "main h2")[0].startswith("q0007#0"), "the address names the pair"
    set_ = "Object.assign(document.getElementById('{}'), {{value: '{}'}}).dispatchEvent(new Event('input', {{bubbles: true}}))"

    tab.value(set_.format("low", 0.5))
    tab.wait("document.getElementById('count').textContent === '20 of 40 shown'")
    assert texts(tab, "#rows .id")[0] == "q0020#0"
    tab.value(set_.format("high", 0.75))
    tab.wait("document.getElementById('count').textContent === '11 of 40 shown'")
    tab.click("#kinds label:last-child")  # direct: 20, 24, 28
    tab.wait("document.getElementById('count').textContent === '3 of 40 shown'")
    assert texts(tab, "#rows .id") == ["q0020#0", "q0024#0", "q0028#0"]
    tab.value(set_.format("prefix-low", 26))
    tab.wait("document.getElementById('count').textContent === '2 of 40 shown'")
    tab.value(set_.format("sort", "-ratio"))
    tab.wait(f"{SHOWN}[0] === 'q0028#0'")
    tab.click("#reset")
    tab.wait("document.getElementById('count').textContent === '40 of 40 shown'")

    tab.value("document.getElementById('pair').focus()")
    tab.key("/")
    tab.write("RIGHT17")
    tab.wait("document.getElementById('count').textContent === '1 of 40 shown'")
    drawn(tab)
    assert texts(tab, ".after ins") == ["right17"]
    assert tab.value("CSS.highlights.get('found').size") == 1
    tab.value(set_.format("where", "before"))
    tab.wait("document.getElementById('count').textContent === '0 of 40 shown'")
    assert texts(tab, "main .nothing") == [
        "No pair passes. Press reset, or search for other words."
    ]
    tab.click("#reset")
    tab.wait("document.getElementById('count').textContent === '40 of 40 shown'")

    tab.value("document.getElementById('list').focus()")
    tab.key("Home")
    for key in ("j", "ArrowDown", "j", "k"):
        tab.key(key)
    tab.wait("location.hash === '#q0002%230'")
    tab.wait("document.querySelector('main h2').textContent.startsWith('q0002#0')")
    selected = "document.querySelector('#rows [aria-selected=true]')"
    assert tab.value(f"{selected}.id") == tab.value(
        "document.getElementById('list').getAttribute('aria-activedescendant')"
    )
    tab.key("Enter")
    assert tab.value("document.activeElement.id") == "pair"
    tab.key("n")
    assert texts(tab, "ins.now") == ["right2"]
    tab.key("?")
    assert tab.value("document.getElementById('keys').open") is True


def test_a_long_prefix_folds(tab: Tab, tmp_path: Path) -> None:
    same = "word " * 400
    opened(tab, tmp_path, pair(1, f"{same}3", f"{same}4"))
    tab.key("p")
    tab.wait("document.querySelectorAll('.unfold').length === 2")
    assert texts(tab, ".after ins") == ["4"]
    assert len(texts(tab, ".after .text")[0]) < 300
    tab.click(".unfold")
    tab.wait("document.querySelectorAll('.unfold').length === 0")


def test_what_models_wrote_is_text(tab: Tab, tmp_path: Path) -> None:
    wide = "$" + "x" * 1_000_000 + "$ " + "$\\sqrt{" * 20_000
    deep = "$" + "{" * 900 + "x" + "}" * 900 + "$ $\\rule{900em}{900em}$ $\\kern-900em x$"
    many = "$x$ " * 3000 + "\\( " * 3000
    rows = [
        pair(1, f"{HOSTILE} 3", f"{HOSTILE} 4", question=HOSTILE, answer=HOSTILE, id=HOSTILE, arm=HOSTILE),
        pair(2, wide, f"{wide} right"),
        pair(3, deep, f"{deep} right"),
        pair(4, many, f"{many} right"),
    ]  # fmt: skip
    opened(tab, tmp_path, *rows)
    scripts = tab.value("document.querySelectorAll('script:not([type])').length")
    assert scripts == 2, "KaTeX and the page's own"
    assert texts(tab, "ins") == ["4"]
    assert (
        tab.value(
            "document.querySelectorAll('main img, main script, main a:not(.link), main [data-a]').length"
        )
        == 0
    )
    unseen = "[...document.querySelectorAll('.after .unseen')].map((node) => node.dataset.code)"
    assert tab.value(unseen) == ["U+2028", "U+202E"]
    tab.key("r")
    drawn(tab)
    assert texts(tab, ".after .text") == [f"{HOSTILE} 4"]
    assert texts(tab, ".question .text") == [HOSTILE]
    tab.key("r")
    for row in rows[1:]:
        tab.key("j")
        tab.wait(f"document.querySelector('main h2').textContent.startsWith('{row.id}')")
        drawn(tab)
        assert texts(tab, "ins") == ["right"]
        right = "document.querySelector('.after .text').getBoundingClientRect().right"
        assert tab.value(right) <= tab.value("innerWidth")
    assert tab.value("window.hacked") is None


def test_an_oracle_is_audited(tab: Tab, tmp_path: Path) -> None:
    def row(name: str, outcome: str, chosen: str = "", **detail: Any) -> Rectification:
        return Rectification(
            name, name, "sums", "What is 1 + 1?", "2", "rectified", "It is 3 .", chosen,
            "2" if outcome == "ok" else None, outcome, "gemini:pro", detail,
        )  # fmt: skip

    tried = {
        "prompt": "rectify",
        "text": "It is <b>5</b> .",
        "outcome": "wrong",
        "reason": "5 does not match",
    }
    rows = [row("a", "ok", "It is 2 ."), row("b", "wrong", tries=[tried]), row("c", "refused")]
    opened(tab, tmp_path, *rows)
    assert texts(tab, ".tries") == []
    tab.click("#correct label:last-child")
    tab.wait("document.getElementById('count').textContent === '2 of 3 shown'")
    tab.wait("document.querySelector('main h2').textContent.startsWith('b')")
    drawn(tab)
    assert texts(tab, ".after ins") == ["<b>5</b>"]
    assert "not taken" in texts(tab, ".after h3")[0]
    assert texts(tab, ".tries p") == ["wrong 5 does not match · rectify"]
    tab.key("j")
    tab.wait("document.querySelector('main .nothing') !== null")
    assert texts(tab, "main .nothing") == ["No correction: refused."]


def test_pairs_without_a_rejected_response(tab: Tab, tmp_path: Path) -> None:
    alone = {"change_ratio": None, "common_prefix": None, "rejected_tokens": None, "arm": "self"}
    opened(tab, tmp_path, pair(1, None, "By itself $1$.", **alone))
    assert texts(tab, ".sides h3") == ["y⁺"]
    assert tab.value("document.querySelectorAll('ins, del').length") == 0


def test_dark_narrow_and_paper(tab: Tab, tmp_path: Path) -> None:
    opened(tab, tmp_path, pair(1, "We add 3 $+ 4$ to it. " * 60, "We add 3 $+ 5$ to it. " * 60))
    for scheme in ("light", "dark"):
        feature = [{"name": "prefers-color-scheme", "value": scheme}]
        tab.call("Emulation.setEmulatedMedia", features=feature)
        colours = [
            tab.value(f"getComputedStyle(document.body).{name}")
            for name in ("color", "backgroundColor")
        ]
        dark = [sum(map(int, c[4:-1].split(","))) < 384 for c in colours]
        assert dark == ([True, False] if scheme == "light" else [False, True])
    tab.call(
        "Emulation.setDeviceMetricsOverride",
        width=390,
        height=800,
        deviceScaleFactor=1,
        mobile=True,
    )
    assert tab.value("document.documentElement.scrollWidth") <= 390
    assert tab.call("Page.printToPDF")["data"].startswith("JVBERi")
    assert tab.value("document.querySelectorAll('.tex:not(.drawn)').length") == 0, (
        "paper shows all formulas"
    )


@pytest.mark.slow
def test_five_thousand_long_pairs(tab: Tab, tmp_path: Path) -> None:
    words = [f"word{i} $x_{{{i}}}$" if i % 12 == 0 else f"word{i}" for i in range(1300)]
    before = " ".join(words)
    rows = (
        pair(n, before, before.replace(f"word{n % 1300}", f"right{n}", 1), change_ratio=n / 5000)
        for n in range(5000)
    )
    opened(tab, tmp_path, *rows)
    assert said(tab) == "5,000 of 5,000 shown"
    tab.value("document.getElementById('list').focus()")
    tab.key("End")
    tab.wait("document.querySelector('main h2').textContent.startsWith('q4999#0')")
    assert tab.value("document.querySelectorAll('#rows > *').length") < 60, (
        "rows out of sight are not there"
    )
    tab.value("document.getElementById('pair').focus()")
    tab.key("/")
    tab.write("right4321")
    tab.wait("document.getElementById('count').textContent === '1 of 5,000 shown'")
    tab.wait("document.querySelector('main h2').textContent.startsWith('q4321#0')")
    drawn(tab)
    assert "right4321" in texts(tab, ".after ins")[0]
