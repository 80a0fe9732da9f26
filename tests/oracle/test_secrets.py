"""A planted key appears nowhere: in no log, exception, journal or output, whatever goes wrong."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from spot.config import OracleConfig
from spot.oracle.api_errors import read_key
from spot.oracle.async_runner import blocking, rectify
from spot.oracle.gemini import GeminiClient
from spot.oracle.journal import Journal
from spot.oracle.openai_compatible import OpenAIClient
from spot.oracle.task_loop import Budget, Judgement, OracleTask
from spot.oracle.types import Task, Usage
from spot.utils.errors import UserError
from spot.utils.http import Key, TransientError, check_key_name
from tests.oracle import world
from tests.oracle.protocols import ENDS
from tests.oracle.server import BROKEN, REFUSALS, ROOT, Plan, Server
from tests.oracle.test_clients import KINDS, always, client, run

KEY = "sk-planted-0123456789-abcdefghijklmnopqrstuvwxyz"
pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("keys")]


@pytest.fixture
def key() -> str:
    return KEY


def everything(error: BaseException) -> str:
    """All that a handler of an exception, or a tracker of errors, may get to see of it."""
    parts = ["".join(traceback.format_exception(error)), repr(error), repr(vars(error))]
    seen: list[BaseException] = []
    while error not in seen:  # what Python hides behind `from None` is walked, too
        seen.append(error)
        error = error.__cause__ or error.__context__ or error
    return "\n".join([*parts, *(f"{e!r} {e} {vars(e)!r}" for e in seen)])


@pytest.mark.parametrize("kind", KINDS)
def test_no_failure_tells_the_key(
    kind: str, server: Server, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every fault, with every library logging all it can, and a server that repeats the key."""
    caplog.set_level(logging.DEBUG)
    told = []
    for fault in ("ok", *REFUSALS, *BROKEN, *ENDS):
        server.plan(always(fault, hang=0.4))
        try:
            told.append(repr(run(client(kind, server, timeout=0.3 if fault == "hang" else 30))))
        except (TransientError, UserError) as error:
            told.append(everything(error))
    server.plan(Plan(key="another"))
    with pytest.raises(UserError) as caught:
        run(client(kind, server))
    told.append(everything(caught.value))
    told.append(repr(client(kind, server)))
    streams = capfd.readouterr()
    assert len(told) > 20
    assert "asyncio" in caplog.text  # logging was on
    for text in (*told, caplog.text, streams.out, streams.err):
        assert KEY not in text


def test_a_batch_tells_no_key(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    prompts = [("k", f"{world.STARTED} {world.question(1)}")]

    async def submit(made: GeminiClient) -> str:
        return repr(await made.submit(prompts, "ours"))

    server.plan(Plan())
    assert KEY not in run(client("gemini", server), submit)
    server.plan(Plan(key="another"))
    with pytest.raises(UserError) as caught:
        run(client("gemini", server), submit)
    assert KEY not in everything(caught.value)
    assert KEY not in caplog.text


def test_the_servers_own_words_are_cleaned(server: Server) -> None:
    """A server that puts the key into the message of an error that we pass on."""
    server.plan(always("403", words=f"key {KEY} is not for you"))
    for kind in KINDS:
        with pytest.raises(UserError, match=r"\(key \*\*\* is not for you\)") as caught:
            run(client(kind, server))
        assert KEY not in everything(caught.value)


def spec() -> OracleTask:
    def judge(text: str, finish: str, task: Task) -> Judgement:
        return Judgement("ok" if finish == "stop" else finish, text)

    def prompt(task: Task, tries: Any) -> tuple[str, str]:
        return "rectify", f"{world.STARTED} {task.question}"

    return OracleTask(
        prompt, judge, lambda usage: 1e-6 * usage.output, lambda prompt: Usage(9000, output=1000)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_and_its_journal_tell_no_key(
    kind: str, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.plan(Plan(faults={"429": 0.1, "reset": 0.1, "safety": 0.2, "torn": 0.1}))
    path = tmp_path / "oracle.jsonl"

    def ask(todo: range) -> list[Any]:
        made = client(kind, server)
        with Journal(path) as journal:
            tasks = [world.task(number) for number in todo]
            results = rectify(tasks, made, spec(), journal, OracleConfig(), Budget())
            return list(blocking(results, made.close))

    results = ask(range(30))
    assert len(results) == 30
    server.plan(Plan(key="another"))
    with pytest.raises(UserError) as caught:
        ask(range(30, 40))
    journal = path.read_text()
    assert journal.count('"failed"') > 1  # faults and the refused key are in it
    for text in (repr(results), journal, everything(caught.value), caplog.text):
        assert KEY not in text


CRASH = """
import asyncio, logging, sys
from spot.oracle.gemini import GeminiClient
from spot.oracle.openai_compatible import OpenAIClient
logging.basicConfig(level=logging.DEBUG)
kind, url = sys.argv[1:]
made = GeminiClient("m", url) if kind == "gemini" else OpenAIClient("m", url)
print(made, vars(made).keys(), sys.argv)
asyncio.run(made.ask("Hello."), debug=True)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_prints_no_key(kind: str, server: Server) -> None:
    """An exception that nobody catches, in development mode, with the package's own debug log."""
    server.plan(Plan(key="another"))
    url = server.root if kind == "gemini" else server.url
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", CRASH, kind, url],
        env={**os.environ, "OPENAI_LOG": "debug", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "UserError" in done.stderr
    assert KEY not in done.stdout + done.stderr


def test_the_key_comes_from_the_first_variable_that_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FIRST_KEY", "  ")
    monkeypatch.setenv("SECOND_KEY", " two\n")  # as it comes out of a file
    assert read_key("FIRST_KEY", "SECOND_KEY") == Key("SECOND_KEY", "two")
    monkeypatch.delenv("SECOND_KEY")
    with pytest.raises(UserError, match="set FIRST_KEY or SECOND_KEY in the environment"):
        read_key("FIRST_KEY", "SECOND_KEY")


@pytest.mark.parametrize("key", ["sk-one sk-two", "sk-one\nsk-two", "sk-schlüssel"])
def test_what_cannot_be_a_key_is_refused_without_being_shown(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="OPENAI_API_KEY holds more than a key") as caught:
        read_key("OPENAI_API_KEY")
    assert "sk-" not in everything(caught.value)


@pytest.mark.parametrize(
    "given", [KEY, "AIzaSyA-planted_0123456789", "AKIAIOSFODNN7EXAMPLE", "openai_api_key", ""]
)
def test_a_key_in_place_of_its_name_is_refused_without_being_shown(given: str) -> None:
    with pytest.raises(UserError, match=r"oracle\.key_name must name an environment variable") as e:
        check_key_name("oracle.key_name", given)
    assert not given or given not in everything(e.value)


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "MY_KEY_2", "HF_TOKEN"])
def test_names_of_variables_are_accepted(name: str) -> None:
    check_key_name("oracle.key_name", name)


@pytest.mark.parametrize("url", [f"https://me:{KEY}@host/v1", f"https://host/v1?key={KEY}"])
def test_an_address_with_a_key_in_it_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(UserError, match="must not carry a key") as caught:
        OpenAIClient("m", url)
    assert KEY not in everything(caught.value)


def test_a_key_hides_itself() -> None:
    key = Key("MY_KEY", KEY)
    assert repr(key) == "Key(name='MY_KEY')"
    assert key.hide(f"{KEY} {KEY}!") == "*** ***!"
    assert Key("MY_KEY", "").hide("a server without a key") == "a server without a key"
