"""What others wrote, on a terminal: none of it is obeyed."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.panel import Panel
from rich.progress import Progress
from rich.text import Text

from spot.cli import display, sweep_table
from spot.cli.errors import mistakes_in_one_line
from spot.pipeline import run_status
from spot.utils import http, progress, terminal
from spot.utils.errors import RankError, UserError
from spot.utils.terminal import clean

EVIL = "a\x1b[2J\x1b[31mred\x1b]0;title\x07b\x1b]8;;http://x\x1b\\link\x9b1m\x90q\x9cc\x08\x00\x7f\u202etxt\u2066\x1bc"
SAID = "aredblinkctxt"
FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (EVIL, SAID),
        ("plain − text, 漢字 é\u200d", "plain − text, 漢字 é\u200d"),
        ("two\nlines\tand a tab\r\n", "two lines and a tab "),
        ("\x1b]0;no end\nthe next line", "0;no end the next line"),
        ("\x1b[38;5;196", ""),
        ("\x1b(Bx\x1b", "x"),
        ("half \ud83d", "half \ufffd"),
        ("[bold]not markup[/bold]", "[bold]not markup[/bold]"),
    ],
)
def test_what_is_left_of_a_text(text: str, said: str) -> None:
    assert clean(text) == said


@given(st.text(st.characters(codec=None)))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    assert not FORBIDDEN.search(clean(text, lines=True))
    assert not re.search(r"[\t\n]", clean(text))
    assert clean(clean(text)) == clean(text)


@given(st.text("\x1b[]P;0mA\x9b\x9d\x07\\\u202e\n\t", max_size=40))
def test_a_console_shows_none_of_it(text: str) -> None:
    out = io.StringIO()
    console = terminal.Console(file=out, force_terminal=True, width=8, color_system=None)
    table = terminal.table("one", "two")
    table.add_row(text, Text(text, "red"))
    console.print(Panel(Text(text)), table, text)
    assert not FORBIDDEN.search(out.getvalue())


def test_a_console_keeps_its_own_colours() -> None:
    out = io.StringIO()
    console = terminal.Console(file=out, force_terminal=True, color_system="standard")
    console.print(Text(f"x{EVIL}", "red"))
    # Rich itself takes the bell away, which ends the title
    assert out.getvalue() == f"\x1b[31mx{SAID.replace('red', 'red0;title')}\x1b[0m\n"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.25, "4.0/s"), (4.0, "4.0 s each"), (0.0001, "10,000.0/s")]
)
def test_a_bar_says_how_fast_it_goes(seconds: float, said: str) -> None:
    now = iter(range(100))
    with Progress(auto_refresh=False, get_time=lambda: next(now) * seconds) as bar:
        task = bar.add_task("", total=9)
        assert not progress.Rate().render(bar.tasks[0])
        for _ in range(5):
            bar.advance(task)
        assert str(progress.Rate().render(bar.tasks[0])) == said


def test_a_mistake_is_one_clean_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), mistakes_in_one_line():
        raise UserError(f"the server says {EVIL}\nand more: fix it.")
    assert capsys.readouterr().err == f"spot: the server says {SAID} and more: fix it.\n"
    with pytest.raises(SystemExit), mistakes_in_one_line():
        raise RankError(f"rank 1 failed:\nTraceback: {EVIL}")
    assert capsys.readouterr().err == f"spot: rank 1 failed:\nTraceback: {SAID}\n"


def test_progress_and_a_sweep_show_clean_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    list(progress.track([1], EVIL, 1, note=lambda: EVIL))
    progress.say(EVIL)
    sweep_table.print_line("0", EVIL)
    captured = capsys.readouterr()
    assert captured.err == f"{SAID}: 1 of 1; {SAID}\n{SAID}\n"
    assert captured.out == f"    0 | {SAID}\n"


def test_the_words_of_a_server_are_kept_clean() -> None:
    assert http.one_line(f" {EVIL}\r\n more") == f"{SAID} more"


def test_the_last_lines_of_a_run_are_clean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    record = {"version": 1, "status": "failed", "error": EVIL, "command": f"train {EVIL}"}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "job.log").write_text(f"begin\n{EVIL}\n")
    display.show_list(tmp_path)
    display.show_one(run_status.locate(str(folder), Path()))
    out = capsys.readouterr().out
    assert "begin" in out
    assert not FORBIDDEN.search(out), sys.stdout
