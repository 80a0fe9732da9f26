"""The real google-genai and openai packages against the local server, one request at a time."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from spot.oracle.gemini import GeminiClient
from spot.oracle.openai_compatible import OpenAIClient
from spot.oracle.types import Reply, Usage
from spot.utils import http
from spot.utils.errors import UserError
from spot.utils.http import TransientError
from tests.oracle import world
from tests.oracle.protocols import ENDS
from tests.oracle.server import BROKEN, REFUSALS, Plan, Server

PROMPT = f"Correct this and write {world.STARTED}. {world.question(7)} {world.wrong_response(7)}"
KINDS = ["gemini", "openai"]
pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("keys")]


def client(kind: str, server: Server, **options: Any) -> GeminiClient | OpenAIClient:
    if kind == "gemini":
        return GeminiClient("gemini-x", server.root, **options)
    return OpenAIClient("gpt-x", server.url, **options)


def run(
    made: GeminiClient | OpenAIClient, use: Callable[[Any], Awaitable[Any]] | None = None
) -> Any:
    """What `use` makes of a client (by default, one answer to PROMPT); closes it."""

    async def using() -> Any:
        try:
            return await (use(made) if use else made.ask(PROMPT))
        finally:
            await made.close()

    return asyncio.run(using())


def always(fault: str, **more: Any) -> Plan:
    return Plan(scripts={"*": [fault] * 10_000}, **more)


def difference(after: dict[str, Any], before: dict[str, Any]) -> Usage:
    """What the server billed for single requests in between."""
    names = ("input", "cached", "output", "thoughts")
    bills = [ledger["billed"]["single"] for ledger in (after, before)]
    return Usage(**{name: bills[0][name] - bills[1][name] for name in names})


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_has_its_text_its_bill_and_who_answered(kind: str, server: Server) -> None:
    server.plan(Plan(thoughts=50, cached=9, version="model-of-today"))
    before = server.ledger()
    reply = run(client(kind, server))
    assert reply.text == world.marked(world.corrected(7))
    assert (reply.finish, reply.reason, reply.model_version) == ("stop", "", "model-of-today")
    assert reply.usage == difference(server.ledger(), before)
    assert reply.usage == Usage(
        input=-(-len(PROMPT) // 4), cached=9, output=50 + -(-len(reply.text) // 4), thoughts=50
    )


@pytest.mark.parametrize(
    ("fault", "finish", "gemini", "openai"),
    [
        ("safety", "safety", "SAFETY", "content_filter"),
        ("blocked", "safety", "PROHIBITED_CONTENT", "refusal"),
        ("no_candidates", "empty", "no candidates", "no choices"),
        ("empty", "empty", "no text", "no text"),
        ("max_tokens", "max_tokens", "MAX_TOKENS", "length"),
        ("recitation", "other", "RECITATION", "abort"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_unusual_ends_have_names_and_are_billed(
    fault: str, finish: str, gemini: str, openai: str, kind: str, server: Server
) -> None:
    server.plan(always(fault))
    before = server.ledger()
    reply = run(client(kind, server))
    assert (reply.text, reply.finish) == ("", finish)
    assert reply.reason == {"gemini": gemini, "openai": openai}[kind]
    assert reply.usage == difference(server.ledger(), before)
    assert reply.usage.input > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_answer_keeps_its_text(kind: str, server: Server) -> None:
    server.plan(always("cut"))
    reply = run(client(kind, server))
    assert reply.finish == "max_tokens"
    assert world.marked(world.corrected(7)).startswith(reply.text)
    assert reply.text


@pytest.mark.parametrize("kind", KINDS)
def test_another_model_and_silence_about_usage_are_reported(kind: str, server: Server) -> None:
    server.plan(always("drift"))
    assert run(client(kind, server)).model_version == "another-model"
    server.plan(always("no_usage"))
    assert run(client(kind, server)).usage == Usage()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fault", "reason", "billed"),
    [
        ("408", "status 408", True),
        ("429", "status 429", False),
        ("500", "status 500", False),
        ("502", "status 502", True),
        ("503", "status 503", False),
        ("504", "status 504", True),
        ("drop", "dropped connection", True),
        ("reset", "dropped connection", True),
        ("torn", "unreadable body", True),
        ("html", "unreadable body", True),
    ],
)
def test_what_is_worth_asking_again(
    kind: str, fault: str, reason: str, billed: bool, server: Server
) -> None:
    server.plan(always(fault))
    with pytest.raises(TransientError) as caught:
        run(client(kind, server))
    assert caught.value.reason.startswith(reason)
    assert (caught.value.billed, caught.value.after) == (billed, None)


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_says_how_long_to_wait(kind: str, server: Server) -> None:
    async def wait(made: Any, fault: str) -> float | None:
        server.plan(always(fault, retry_after=1.5))
        with pytest.raises(TransientError, match="status 429") as caught:
            await made.ask(PROMPT)
        return caught.value.after

    async def waits(made: Any) -> list[float | None]:
        return [await wait(made, fault) for fault in ("429_after", "429_date", "429_delay")]

    seconds, date, delay = run(client(kind, server), waits)
    assert date is not None
    assert seconds == 1.5
    assert 0.3 < date <= 2.5  # whole seconds
    assert delay == (1.5 if kind == "gemini" else None)  # in the body, which only Gemini does


@pytest.mark.parametrize("kind", KINDS)
def test_a_hanging_request_ends_in_time_and_may_be_billed(kind: str, server: Server) -> None:
    server.plan(always("hang"))
    before = server.ledger()
    began = time.monotonic()
    with pytest.raises(TransientError) as caught:
        run(client(kind, server, timeout=0.5))
    assert time.monotonic() - began < 5
    assert (caught.value.reason, caught.value.billed) == ("no reply within 0.5 s", True)
    assert difference(server.settled(), before).output > 0


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_there_is_not_billed(kind: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        nobody = Server(f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(TransientError) as caught:
            run(client(kind, nobody))
    assert caught.value.reason == "no connection: Connection refused"
    assert not caught.value.billed


def test_a_certificate_that_is_not_trusted_is_named() -> None:
    """Its error's number is OpenSSL's, which the system would call "Operation not permitted"."""
    error = ssl.SSLCertVerificationError(1, "self-signed certificate")
    key: Any = SimpleNamespace(host="here", port=443, is_ssl=True, ssl=True)

    async def call() -> None:
        raise aiohttp.ClientConnectorCertificateError(key, error)

    with pytest.raises(TransientError, match=r"no connection: .*self-signed") as caught:
        asyncio.run(http.guarded(call(), 1.0, lambda error: error))
    assert not caught.value.billed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("400", "refuses the request with status 400 (Status 400, says the server.)"),
        ("401", "does not accept the key in {key}"),
        ("403", "may not use oracle.model={model}"),
        ("404", "does not know oracle.model={model}"),
        ("429_quota", "{quota}"),
    ],
)
def test_what_only_the_user_can_mend_is_one_line(
    kind: str, fault: str, words: str, server: Server
) -> None:
    names = {
        "gemini": {"key": "GEMINI_API_KEY", "model": "gemini-x"},
        "openai": {"key": "OPENAI_API_KEY", "model": "gpt-x"},
    }[kind]
    names["quota"] = {"gemini": "run the same command tomorrow", "openai": "has no credit"}[kind]
    server.plan(always(fault))
    with pytest.raises(UserError) as caught:
        run(client(kind, server))
    assert words.format(**names) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_that_is_too_long_costs_its_own_row_only(kind: str, server: Server) -> None:
    server.plan(always("400_long"))
    assert run(client(kind, server)) == Reply("", "other", Usage(), None, "too_long", free=True)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_asked_twice_behind_our_back(kind: str, server: Server) -> None:
    """The packages retry by default, google-genai even with its retries off."""
    for fault in (*REFUSALS, *BROKEN, *ENDS):
        server.plan(always(fault, hang=0.4))
        before = server.ledger()["requests"]
        try:
            run(client(kind, server, timeout=0.3 if fault == "hang" else 30))
        except (TransientError, UserError):
            pass
        else:
            assert fault in {*ENDS, "400_long"}
        assert server.ledger()["requests"] == before + 1, fault


@pytest.mark.parametrize("kind", KINDS)
def test_two_hundred_requests_are_in_flight_at_once(kind: str, server: Server) -> None:
    """Over the packages' and their transports' own limits of connections."""
    server.plan(Plan(latency=3.0))

    async def many(made: Any) -> list[Reply]:
        prompts = [f"{world.STARTED} {world.question(number)}" for number in range(200)]
        return await asyncio.gather(*map(made.ask, prompts))

    replies = run(client(kind, server), many)
    assert [r.text for r in replies] == [world.marked(world.corrected(n)) for n in range(200)]
    assert server.ledger()["most_in_flight"] == 200


def test_gemini_gets_its_settings(server: Server) -> None:
    def sent(**options: Any) -> Any:
        """The settings as they arrive; protobuf reads thinkingBudget and thinking_budget alike."""
        server.plan(Plan())
        run(client("gemini", server, **options))
        settings = server.ledger()["body"].get("generationConfig", {})
        thinking = settings.pop("thinkingConfig", {})
        return settings, {key.replace("_", "").lower(): value for key, value in thinking.items()}

    assert sent(temperature=0.3, max_tokens=77, thinking=16384) == (
        {"temperature": 0.3, "maxOutputTokens": 77},
        {"thinkingbudget": 16384},
    )
    assert sent(thinking="high") == ({}, {"thinkinglevel": "HIGH"})
    assert sent() == ({}, {})  # the server's own defaults


def test_openai_gets_its_settings(server: Server) -> None:
    server.plan(Plan())
    extra = {"reasoning_effort": "low", "top_k": 20}
    run(client("openai", server, temperature=0.3, max_tokens=77, extra=extra))
    assert server.ledger()["body"] == {
        "model": "gpt-x",
        "messages": [{"role": "user", "content": PROMPT}],
        "temperature": 0.3,
        "max_tokens": 77,
        "reasoning_effort": "low",
        "top_k": 20,
    }
    run(client("openai", server))
    assert set(server.ledger()["body"]) == {"model", "messages"}


def test_the_environment_sends_no_request_elsewhere(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only our options say who gets the prompts and the key."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "somebody")
    server.plan(Plan(key="a-key"))
    for kind in KINDS:
        assert run(client(kind, server)).finish == "stop"


def test_a_local_server_needs_no_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server.plan(Plan())
    assert run(client("openai", server, key_name=None)).finish == "stop"
    server.plan(always("401"))
    with pytest.raises(UserError, match=r"set oracle\.key_name"):
        run(client("openai", server, key_name=None))
    with pytest.raises(UserError, match="set OPENAI_API_KEY in the environment"):
        client("openai", server)


def test_options_that_cannot_be_are_refused_at_once(server: Server) -> None:
    with pytest.raises(UserError, match=r"oracle\.thinking_level=much is unknown"):
        client("gemini", server, thinking="much")
    with pytest.raises(UserError, match="is not an address"):
        OpenAIClient("gpt-x", "localhost:8000")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("1.25", 1.25),
        ("Fri, 07 Nov 2025 12:00:30 GMT", 30.0),
        ("Friday, 07-Nov-25 12:00:30 GMT", 30.0),
        ("Fri, 07 Nov 2025 13:00:30 +0100", 30.0),
        ("Fri, 07 Nov 2025 11:00:00 GMT", 0.0),  # past
        ("soon", None),
        ("-3", None),
        ("", None),
    ],
)
def test_retry_after_is_read_in_each_of_its_forms(value: str, seconds: float | None) -> None:
    noon = datetime.datetime(2025, 11, 7, 12, tzinfo=datetime.UTC)
    assert http.retry_after({"Retry-After": value}, noon) == seconds


def test_a_misspelt_fault_is_no_quiet_day() -> None:
    with pytest.raises(ValueError, match="no such faults"):
        Plan(faults={"tempest": 0.1})
