"""How large the pair page is, how soon it shows something, and whether it stays smooth.

    python -m performance.pair_page [--pairs 500,5000] [--words 1300]

Made responses of mathematics, about 1.5 tokens a word (1,300 words: 2,000 tokens), every third word of a
stretch edited; a headless Chromium opens the file from disk and does what a reader does.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from performance.common import RESULTS, conditions, markdown
from spot.data.rows import Pair, to_json
from spot.report import pair_page
from tests.support.browser import chromium, wait

TOKENS_A_WORD = 1.5
TURNS = 3  # the machine is shared: the best counts
WORDS = (
    "we then find that the value of this sum is equal to so now let us write it as follows".split()
)
READY = "document.getElementById('pair').dataset.drawn !== undefined"
# Time from the click to the frame after the count has changed, and the longest task meanwhile.
TIMED = """(async () => {
  const tasks = [];
  const watch = new PerformanceObserver((list) => tasks.push(...list.getEntries().map((e) => e.duration)));
  watch.observe({ entryTypes: ['longtask'] });
  const began = performance.now();
  %s
  const took = performance.now() - began;
  await new Promise((resolve) => setTimeout(resolve, 200));
  watch.disconnect();
  window.measured = { took, longest: Math.max(0, ...tasks) };
})()"""
FRAME = "await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));"
SEARCH = """state.words = '%s';
  await new Promise((resolve) => state.search.run(state.words, 'all', (found, share) => {
    state.found = new Set(found); if (share === 1) { refresh(); resolve(); } }));"""
SCROLL = """const box = document.getElementById('list');
  for (let i = 1; i <= 120; i++) { box.scrollTop = i * box.scrollHeight / 121;
    await new Promise((resolve) => requestAnimationFrame(resolve)); }"""
NEXT = "for (let i = 0; i < 40; i++) { choose(state.list.at + 1); await new Promise((r) => setTimeout(r, 50)); }"


def made(count: int, words: int, seed: int = 0) -> Iterator[Pair]:
    """Pairs of about `words` words a side, with a formula every 12 words."""
    rng = random.Random(f"pair page {seed}")
    for i in range(count):
        chosen = [_word(rng) for _ in range(words)]
        share = rng.random() ** 2
        start = rng.randrange(words // 2)
        rejected = [
            _word(rng) if at >= start and rng.random() < share else word
            for at, word in enumerate(chosen)
        ]
        tokens = round(TOKENS_A_WORD * words)
        yield Pair(
            f"q{i:05}#0", f"q{i:05}", "math", "rectified", f"Find $x_{{{i}}}$ where $x^2 = {i}$.",
            str(i), " ".join(chosen), " ".join(rejected), share * (words - start) / words,
            round(TOKENS_A_WORD * start), tokens, tokens,
        )  # fmt: skip


def _word(rng: random.Random) -> str:
    a, b = rng.randrange(1000), rng.randrange(1000)
    return (
        f"$\\frac{{{a}}}{{{b}}}x^2$" if rng.random() < 1 / 12 else rng.choice(WORDS) + str(a % 40)
    )


def measure(count: int, words: int) -> dict[str, Any]:
    """One row of the table: seconds, but for milliseconds where it says so."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "pairs.jsonl"
        source.write_text("".join(to_json(pair) + "\n" for pair in made(count, words)))
        began, worked = time.perf_counter(), time.process_time()
        pair_page.build(source, folder / "pairs.html")
        built, worked = time.perf_counter() - began, time.process_time() - worked
        row = {
            "pairs": count,
            "tokens a response": round(TOKENS_A_WORD * words),
            "texts MB": source.stat().st_size / 1e6,
            "page MB": (folder / "pairs.html").stat().st_size / 1e6,
            "build s": built,
            "build s of processor": worked,
        }
        with chromium() as browser:
            return row | _looked_at(browser.new_page(), folder / "pairs.html")


def _looked_at(tab: Page, page: Path) -> dict[str, Any]:
    """What a reader would notice."""
    tab.add_init_script(
        """new MutationObserver((_, watch) => { if (document.querySelector('.sides')) {
          window.first = performance.now(); watch.disconnect(); } })
          .observe(document, { childList: true, subtree: true });"""
    )
    tab.goto(page.as_uri())
    wait(tab, READY)
    first = tab.evaluate("window.first")
    filtered = _timed(tab, f"document.getElementById('low').value = .3; refresh(); {FRAME}")
    tab.evaluate("document.getElementById('low').value = 0; refresh()")
    searched = _timed(tab, *(SEARCH % words for words in ("value17 so3", "value18 so3", "value19")))
    tab.evaluate("state.found = null; refresh()")
    scrolled, walked = _timed(tab, SCROLL), _timed(tab, NEXT)
    devtools = tab.context.new_cdp_session(tab)
    devtools.send("HeapProfiler.collectGarbage")
    return {
        "first pair ms": first,
        "filter ms": filtered["took"],
        "search s": searched["took"] / 1000,
        "longest task of a search ms": searched["longest"],
        "longest task of scrolling the list ms": scrolled["longest"],
        "longest task of 40 × j ms": walked["longest"],
        "JavaScript heap MB": devtools.send("Runtime.getHeapUsage")["usedSize"] / 1e6,
    }


def _timed(tab: Page, *scripts: str) -> dict[str, float]:
    """ms that a step took and that its longest task took, each the best of three turns."""
    turns = []
    for turn in range(TURNS):
        tab.evaluate("window.measured = null")
        tab.evaluate(TIMED % scripts[turn % len(scripts)] + "; 0")
        wait(tab, "window.measured !== null")
        turns.append(tab.evaluate("window.measured"))
    return {name: min(turn[name] for turn in turns) for name in ("took", "longest")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", default="500,5000", help="how many, one row each")
    parser.add_argument("--words", type=int, default=1333, help="of a response")
    asked = parser.parse_args()
    rows = [measure(int(count), asked.words) for count in asked.pairs.split(",")]
    said = conditions()
    text = markdown(
        [{"": key} | {f"{row['pairs']:,} pairs": row[key] for row in rows} for key in rows[0]]
    )
    RESULTS.mkdir(exist_ok=True)
    head = f"# The pair page\n\n`python -m performance.pair_page`, {said['date']}: {said['machine']}, headless Chromium.\n"
    why = (
        "A task is what keeps the page from answering; the browser reports those above 50 ms, so 0 means\n"
        f"none. Steps in the page are the best of {TURNS} turns; {os.getloadavg()[1]:.0f} processes wanted the cores meanwhile.\n"
    )
    (RESULTS / "pair_page.md").write_text(f"{head}{why}\n{text}\n")
    print(text)


if __name__ == "__main__":
    main()
