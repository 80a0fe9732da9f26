"""Servers that reply with anything at all, and bill honestly: no traceback, no money out of sight."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spot.config import OracleConfig
from spot.oracle.async_runner import blocking, rectify
from spot.oracle.batch_runner import rectify_in_batches
from spot.oracle.journal import Journal, Request, Spend
from spot.oracle.postprocess import Judgement
from spot.oracle.task_loop import Budget, OracleTask
from spot.oracle.types import Result, Task, Try
from spot.utils.errors import UserError
from spot.utils.http import TransientError
from tests.fake_server import MISSING, serving_here
from tests.oracle import soak, world
from tests.oracle.server import UNREADABLE, Plan, Server
from tests.oracle.stand_in import WHOLE

KINDS = ["gemini", "openai"]
pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("impatient", "keys")]

# Replies by what is wrong with them: (of which protocol, what is changed in the reply)
CHOICE, CANDIDATE = "choices.0", "candidates.0"
FAILED: dict[str, tuple[str, dict[str, Any]]] = {
    "a list": ("", {"": [1]}),
    "null": ("", {"": None}),
    "an empty object": ("", {"": {}}),
    "words for choices": ("openai", {"choices": "none"}),
    "an error with status 200": ("openai", {"": {"error": {"message": "upstream", "code": 502}}}),
    "null for a choice": ("openai", {"choices": [None]}),
    "words for a message": ("openai", {f"{CHOICE}.message": "Hello."}),
    "a number for content": ("openai", {f"{CHOICE}.message.content": 5}),
    "a number for a part": ("openai", {f"{CHOICE}.message.content": [{"text": 5}]}),
    "a list for reasoning": ("openai", {f"{CHOICE}.message.reasoning": [1]}),
    "a number for the model": ("openai", {"model": 5}),
    "a list for the model": ("openai", {"model": ["gpt"]}),
    "a number for the version": ("gemini", {"modelVersion": 5}),
    "a list for the version": ("gemini", {"modelVersion": ["gemini"]}),
    "words for candidates": ("gemini", {"candidates": "none"}),
    "words for a candidate": ("gemini", {CANDIDATE: "Hello."}),
    "words for content": ("gemini", {f"{CANDIDATE}.content": "Hello."}),
    "words for parts": ("gemini", {f"{CANDIDATE}.content.parts": "Hello."}),
    "a number as text": ("gemini", {f"{CANDIDATE}.content.parts": [{"text": 5}]}),
    "words for the feedback": ("gemini", {"candidates": [], "promptFeedback": "no"}),
}
JUNK = [
    -5,
    0,
    math.nan,
    math.inf,
    1e30,
    -1e30,
    0.5,
    10**12,
    "7",
    "many",
    "",
    [],
    [7],
    {},
    True,
    False,
]
JUNK += [None, MISSING, 1, soak.MOST_OUTPUT + 1, 100_000]
USAGE = {
    "openai": [
        "usage.prompt_tokens",
        "usage.completion_tokens",
        "usage.total_tokens",
        "usage",
        "usage.prompt_tokens_details",
        "usage.completion_tokens_details",
    ],
    "gemini": [
        *(f"usageMetadata.{n}TokenCount" for n in ("prompt", "candidates", "thoughts", "total")),
        "usageMetadata",
    ],
}


def prompt(task: Task, tries: Sequence[Try]) -> tuple[str, str]:
    return "rectify", f"{world.STARTED} {task.question} Again: {len(tries)}"


def judge(text: str, finish: str, task: Task) -> Judgement:
    if finish != "stop":
        return Judgement("safety", reason=finish)
    return Judgement("ok", text, "1")


SPEC = OracleTask(prompt, judge, soak.cost, soak.limit)
ITEMS = itertools.count(step=1000)  # of each run its own: a server counts visits


def planned(server: Server, faults: Sequence[str], **more: Any) -> list[Task]:
    """Tasks, at whose first requests these things go wrong."""
    numbers = range(start := next(ITEMS), start + len(faults))
    scripts = {str(number): [fault] for number, fault in zip(numbers, faults, strict=True)}
    server.plan(Plan(scripts=scripts, **more))
    return [world.task(number) for number in numbers]


def run(
    kind: str,
    server: Server,
    journal: Path,
    tasks: Sequence[Task],
    budget: Budget = WHOLE,
    retries: int = 3,
    concurrency: int | None = 4,
) -> tuple[list[Result], Spend, float]:
    """Results, what the journal says that they cost, and what the server billed for this run."""
    before = soak.bill(server.ledger()["billed"]["single"])
    config = OracleConfig(concurrency=concurrency, timeout=20, retries=retries, give_up=True)
    oracle = soak.client(kind, server.root, 20)
    with Journal(journal) as opened:
        results = rectify(tasks, oracle, SPEC, opened, config, budget)
        found = list(blocking(results, oracle.close))
        spent = opened.spend
    with Journal(journal) as again:
        assert again.spend == spent, "what was written is what is read"
    return found, spent, soak.bill(server.settled()["billed"]["single"]) - before


def bounded(spent: Spend, bill: float) -> None:
    assert math.isfinite(spent.possible)
    assert 0 <= spent.recorded <= bill + 1e-12
    assert bill <= spent.recorded + spent.possible + 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_read_is_one_failure_of_its_request(
    kind: str, server: Server, journal: Path
) -> None:
    faults = [*UNREADABLE, *(name for name, (whose, _) in FAILED.items() if whose in ("", kind))]
    changes = {name: change for name, (_, change) in FAILED.items()}
    tasks = planned(server, faults, changes=changes)
    found, spent, bill = run(kind, server, journal, tasks)
    assert {r.outcome for r in found} == {"ok"}
    assert (spent.answered, spent.lost, spent.failed) == (len(faults), len(faults), 0)
    bounded(spent, bill)
    again, after, more = run(kind, server, journal, tasks)
    assert (more, after) == (0, spent), "nothing is paid twice"
    assert {r.task.id: r for r in again} == {r.task.id: r for r in found}


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_always_wrong_leaves_rows_without_an_answer(
    kind: str, server: Server, journal: Path
) -> None:
    changes = {"wrong": FAILED["a list"][1]}
    server.plan(Plan(scripts={"*": ["wrong"] * 99}, changes=changes))
    tasks = [world.task(next(ITEMS)) for _ in range(2)]
    found, spent, bill = run(kind, server, journal, tasks, retries=1)
    assert [(r.outcome, r.tries[0].reason[:15]) for r in found] == [
        ("unavailable", "unreadable body")
    ] * 2
    bounded(spent, bill)


SAID = "".join(("to", "gether"))
READ: dict[str, tuple[str, dict[str, Any], str]] = {
    "text": ("openai", {f"{CHOICE}.message.content": SAID}, SAID),
    "strings": ("openai", {f"{CHOICE}.message.content": ["to", "gether"]}, SAID),
    "parts": (
        "openai",
        {
            f"{CHOICE}.message.content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
                {"type": "reasoning", "text": "Hm."},
                {"type": "text", "text": None},
                None,
                {"type": "text", "text": "to"},
                {"type": "output_text", "text": {"value": "gether", "annotations": []}},
                {"type": "image_url", "image_url": {"url": "x"}},
            ]
        },
        SAID,
    ),
    "one part": ("openai", {f"{CHOICE}.message.content": {"type": "text", "text": SAID}}, SAID),
    "a completion": (
        "openai",
        {CHOICE: {"text": SAID, "finish_reason": "stop"}},
        SAID,
    ),
    "reasoning only": (
        "openai",
        {f"{CHOICE}.message": {"content": None, "reasoning_content": "Hm."}},
        "empty: no text",
    ),
    "no choices": ("openai", {"choices": []}, "empty: no choices"),
    "null message": ("openai", {f"{CHOICE}.message": None}, "empty: no text"),
    "null text": (
        "gemini",
        {f"{CANDIDATE}.content.parts": [{"text": None}, None, {"text": "to"}, {"text": "gether"}]},
        SAID,
    ),
    "null candidate": ("gemini", {"candidates": [None]}, "empty: no candidates"),
    "null candidates": ("gemini", {"candidates": None}, "empty: no candidates"),
    "null content": ("gemini", {f"{CANDIDATE}.content": None}, "empty: no text"),
    "null parts": ("gemini", {f"{CANDIDATE}.content.parts": None}, "empty: no text"),
    "odd reason": (
        "gemini",
        {"candidates": [], "promptFeedback": {"blockReason": ["X"]}},
        "safety: ['X']",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_can_be_read_is_an_answer_or_a_named_end(kind: str, server: Server) -> None:
    mine = {name: case for name, case in READ.items() if case[0] == kind}
    changes = {name: change for name, (_, change, _) in mine.items()}
    tasks = planned(server, list(mine), changes=changes)

    async def ask() -> dict[str, str]:
        oracle = soak.client(kind, server.root, 20)
        found = {}
        for task, name in zip(tasks, mine, strict=True):
            reply = await oracle.ask(prompt(task, ())[1])
            assert reply.usage.input > 0, name
            found[name] = (
                reply.text if reply.finish == "stop" else f"{reply.finish}: {reply.reason}"
            )
        await oracle.close()
        return found

    assert asyncio.run(ask()) == {name: want for name, (_, _, want) in mine.items()}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_money_stays_within_its_bounds_under_any_usage(
    kind: str, server: Server, data: st.DataObject
) -> None:
    lie = st.dictionaries(st.sampled_from(USAGE[kind]), st.sampled_from(JUNK), min_size=1)
    lies = data.draw(st.lists(lie, min_size=1, max_size=8))
    ends = st.sampled_from(["ok", "500", "reset", "no_usage", "deep"])
    names = [f"lie {number}" for number in range(len(lies))]
    faults = [*names, *data.draw(st.lists(ends, min_size=2, max_size=4))]
    cap = data.draw(st.sampled_from([None, 0.001, 0.01, 0.02]))
    tasks = planned(server, faults, changes=dict(zip(names, lies, strict=True)))
    before = soak.bill(server.ledger()["billed"]["single"])
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "oracle.jsonl"
        try:
            found, spent, bill = run(kind, server, journal, tasks, Budget(cap))
            assert len(found) == len(tasks)
        except UserError:
            assert cap is not None, "nothing else stops it"
            with Journal(journal) as opened:
                spent = opened.spend
            bill = soak.bill(server.settled()["billed"]["single"]) - before
    bounded(spent, bill)
    if cap is not None:
        assert bill <= cap


def test_usage_that_cannot_be_is_said_and_counted(
    server: Server, journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from spot.oracle import task_loop

    task_loop._say_held.cache_clear()
    changes = {
        "negative": {"usage.completion_tokens": -(10**7), "usage.total_tokens": MISSING},
        "huge": {"usage": {"prompt_tokens": 50, "completion_tokens": 401}},
    }
    tasks = planned(server, ["negative", "huge", "ok"], changes=changes)
    found, spent, _ = run("openai", server, journal, tasks)
    assert {r.outcome for r in found} == {"ok"}, "what was paid for is used"
    most = [SPEC.most(prompt(task, ())[1]) for task in tasks[:2]]
    assert spent.doubted == 2
    assert spent.possible == pytest.approx(sum(most))
    assert capsys.readouterr().err.count("counted as possible") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_thoughts_beside_the_text_are_counted(kind: str, server: Server) -> None:
    """xAI and some gateways leave them out of completion_tokens; the total tells."""
    fields = {
        "openai": {
            "prompt_tokens": 30,
            "completion_tokens": 0,
            "total_tokens": 90,
            "completion_tokens_details": {"reasoning_tokens": 60},
        },
        "gemini": {"promptTokenCount": 30, "thoughtsTokenCount": 60, "totalTokenCount": 90},
    }[kind]
    place = {"openai": "usage", "gemini": "usageMetadata"}[kind]
    [task] = planned(server, ["beside"], changes={"beside": {place: fields}})

    async def ask() -> Any:
        oracle = soak.client(kind, server.root, 20)
        try:
            return await oracle.ask(prompt(task, ())[1])
        finally:
            await oracle.close()

    usage = asyncio.run(ask()).usage
    assert (usage.input, usage.output, usage.thoughts) == (30, 60, 60)


def test_batch_rows_that_cannot_be_read_may_be_billed(server: Server, journal: Path) -> None:
    before = soak.bill(server.ledger()["billed"]["batch"])
    changes = {
        "number": FAILED["a number for the version"][1],
        "null": FAILED["null"][1],
        "negative": {"usageMetadata.promptTokenCount": -(10**7)},
    }
    names = ["number", "null", "negative", "torn row", "no key"]
    tasks = planned(server, [*names, "ok", "ok"], changes=changes, batch_seconds=0.05)
    config = OracleConfig(timeout=20, retries=3, batch_poll=0.05)
    oracle = soak.client("gemini", server.root, 20)
    with Journal(journal) as opened:
        results = rectify_in_batches(tasks, oracle, SPEC, opened, config, WHOLE)
        found = list(blocking(results, oracle.close))
        spent = opened.spend
    assert {r.outcome for r in found} == {"ok"}
    assert spent.lost == 4
    assert spent.doubted == 1
    bounded(spent, soak.bill(server.ledger()["billed"]["batch"]) - before)


# ---------------------------------------------------------------------------------------- journals

REPLY = {"text": "42", "finish": "stop", "model_version": "m", "reason": ""}
USED = {"input": 10, "cached": 0, "output": 5, "thoughts": 2}
GOOD = {"event": "answered", "n": 1, "reply": {**REPLY, "usage": USED}, "cost": 0.05}


def line(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


@pytest.mark.parametrize(
    "damaged",
    [
        line(reply={**REPLY, "usage": [1]}),
        line(reply={**REPLY, "usage": {**USED, "input": "10"}}),
        line(reply={**REPLY, "usage": {**USED, "input": True}}),
        line(reply={**REPLY, "usage": USED, "model_version": 5}),
        line(reply={**REPLY, "usage": USED, "model_version": ["m"]}),
        line(reply={**REPLY, "usage": USED, "text": 5}),
        line(reply={**REPLY, "usage": USED, "more": 5}),
        line(reply="42"),
        line(cost="much"),
        line(cost=[]),
        line(n=[1]),
        line(n="1"),
        '{"event": "answered", "n": 1, "reply": ' + "[" * 100_000 + "]" * 100_000 + "}",
        line().replace("0.05", "9" * 6000),
        line()[:40],
    ],
)
def test_a_journal_with_a_damaged_line_opens_and_holds_its_money(
    damaged: str, journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [
        {"event": "asked", "n": n, "request": f"d{n}", "id": f"q{n}", "most": 0.1 + n}
        for n in range(3)
    ]
    lines = [{"event": "journal", "schema": 1}, *asked, {**GOOD, "n": 0}, {**GOOD, "n": 2}]
    text = [json.dumps(each) for each in lines]
    journal.write_text("\n".join([*text[:5], damaged, text[5]]) + "\n")
    for _ in range(2):  # and once more
        with Journal(journal) as opened:
            assert opened.spend == Spend(0.1, pytest.approx(1.1), 2, 0, 1, damaged=1)
            assert opened.version == "m"
    said = capsys.readouterr().err
    assert f"line 6 of {journal} cannot be read" in said


@pytest.mark.parametrize("cost", [-36_257.0, 1e30, math.nan, 0.2])
def test_a_cost_that_cannot_be_is_held_when_it_is_read(cost: float, journal: Path) -> None:
    asked = {"event": "asked", "n": 1, "request": "d", "id": "q", "most": 0.1}
    journal.write_text(f"{json.dumps(asked)}\n{line(cost=cost)}\n")
    with Journal(journal) as opened:
        assert opened.spend == Spend(0.0, 0.1, 1, 0, 0, doubted=1)


@pytest.mark.parametrize(
    ("damaged", "held"),
    [("not JSON", 0.1), ('{"event": "asked", "n": 1, "request": "d"', 0.1), ("\0" * 200, 0.3)],
)
def test_a_request_that_nobody_knows_of_is_held_at_the_most_of_any(
    damaged: str, held: float, journal: Path
) -> None:
    asked = [
        json.dumps({"event": "asked", "n": n, "request": f"d{n}", "id": "q", "most": 0.1})
        for n in (0, 4 if "\0" in damaged else 2)
    ]
    answered = [line(n=0), line(n=4 if "\0" in damaged else 2)]
    journal.write_text("\n".join([asked[0], damaged, asked[1], *answered]) + "\n")
    with Journal(journal) as opened:
        assert opened.spend == Spend(0.1, pytest.approx(held), 2, 0, 0, damaged=1)


def test_a_damaged_job_is_held_for_all_its_requests(journal: Path) -> None:
    with Journal(journal) as opened:
        opened.asked(Request("q", "d", "rectify", "p"), 0.1)
        opened.submitted("job", [(Request("q", f"d{n}", "rectify", "p"), 0.1) for n in range(5)])
    journal.write_text(journal.read_text().replace('"submitted"', '"submittes"'))
    with Journal(journal) as opened:
        assert opened.spend == Spend(0.0, pytest.approx(0.6), 0, 0, 1, damaged=1)


def test_a_journal_of_another_version_is_not_guessed_at(journal: Path) -> None:
    journal.write_text('{"event": "journal", "schema": 2}\n')
    with pytest.raises(UserError, match="another version"):
        Journal(journal)


# ------------------------------------------------------------------------------ errors and batches

WORDS: list[Any] = [
    None, 5, "x", [], [1], [{}], {}, {"error": None}, {"error": "x"}, {"error": [1]}, {"detail": [5]},
    {"error": {"message": {"a": 1}, "code": [1], "status": 5, "details": "xyz"}},
    {"error": {"message": 5, "details": [5, {"reason": 5, "violations": 5, "retryDelay": "²s"}]}},
    {"error": {"message": "\x1b[2J\u202ewords"}},
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_no_words_of_a_refusal_are_a_traceback(kind: str) -> None:
    async def reply(request: web.Request) -> web.Response:
        status, number, wait = (int(part) for part in prompts[-1].split("/"))
        headers = {"Retry-After": ["soon", "9" * 400, "²", "Fri, 31 Dec 9999 23:59:59 -2359"][wait]}
        if number < len(WORDS):
            return web.json_response(WORDS[number], status=status, headers=headers)
        body = [b"", b"<html>", b"\xff\xfe", b"[" * 100_000, b"9" * 6000][number - len(WORDS)]
        kind = {"Content-Type": "application/json; charset=none"} if number % 2 else {}
        return web.Response(body=body, status=status, headers=headers | kind)

    async def ask(url: str) -> None:
        oracle = soak.client(kind, url, 20)
        for status, wait in ((200, 0), (400, 0), (401, 0), (429, 1), (500, 2), (503, 3), (599, 0)):
            for number in range(len(WORDS) + 5):
                prompts.append(f"{status}/{number}/{wait}")
                with pytest.raises((TransientError, UserError)) as caught:
                    await oracle.ask("Hello.")
                assert not re.search("[\x1b\u202e\n]", str(caught.value))
        await oracle.close()

    prompts: list[str] = []
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", reply)
    with serving_here(app) as here:
        asyncio.run(ask(here.root))


JOBS: list[Any] = [
    None, 5, "x", [1], {"name": 5, "metadata": {}}, {"name": "batches/b0", "metadata": "x"},
    {"name": "batches/b0", "metadata": {"state": ["x"]}},
    {"name": "batches/b0", "metadata": {"state": "BATCH_STATE_SUCCEEDED", "output": "x"}},
    {"operations": [5]}, {"operations": [{"name": 5, "metadata": {"displayName": [1], "state": {}}}]},
    {"operations": [], "nextPageToken": 5}, {"file": {"name": 5}},
]  # fmt: skip


@pytest.mark.parametrize("call", ["upload", "create", "list", "get", "download"])
def test_no_words_about_a_batch_job_are_a_traceback(call: str, server: Server) -> None:
    changes = {f"job {number}": {"": job} for number, job in enumerate(JOBS)}
    prompts = [("a", prompt(world.task(next(ITEMS)), ())[1])]

    async def look() -> None:
        oracle = soak.client("gemini", server.root, 20)
        job = await oracle.submit(prompts, "ours")
        await oracle.poll(job)
        calls = {
            "upload": lambda: oracle.submit(prompts, "more"),
            "create": lambda: oracle.submit(prompts, "more"),
            "list": lambda: oracle.find("ours"),
            "get": lambda: oracle.poll(job),
            "download": lambda: oracle.results(job),
        }
        for name in (*UNREADABLE, *changes):
            server.plan(Plan(batch_seconds=0, batch_calls={call: [name]}, changes=changes))
            if (
                call == "list"
            ):  # the package reads some as a list without ours, which holds its money
                with suppress(TransientError):
                    assert await oracle.find("ours") is None, name
                continue
            with pytest.raises(TransientError) as caught:
                await calls[call]()
            assert caught.value.billed is (call != "upload"), name
        await oracle.close()

    server.plan(Plan(batch_seconds=0))
    asyncio.run(look())


@pytest.mark.parametrize(
    "extra",
    [
        {"max_tokens": 40_000},
        {"max_completion_tokens": 1e9},
        {"n": 2},
        {"stream": True},
        {"n": "2"},
    ],
)
def test_no_more_is_asked_for_than_is_reckoned_with(extra: dict[str, Any]) -> None:
    [name] = extra
    with pytest.raises(UserError, match=rf"oracle\.extra\.{name}"):
        OracleConfig("openai", model="m", extra=extra)
    OracleConfig(
        "openai", model="m", extra={"max_tokens": None, "max_completion_tokens": 100, "n": 1}
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_busy_server_is_asked_as_much_as_it_takes_and_no_more(
    kind: str, server: Server, journal: Path
) -> None:
    """By the real clients and without a number: found out from its refusals, which cost nothing."""
    tasks = planned(server, ["ok"] * 200, latency=0.3, at_once=8, retry_after=0.2)
    before = server.ledger()
    found, spent, bill = run(kind, server, journal, tasks, concurrency=None)
    after = server.ledger()
    assert {r.outcome for r in found} == {"ok"}
    assert after["faults"]["busy"] - before["faults"].get("busy", 0) < 0.1 * len(tasks)
    assert after["most_in_flight"] > 8, "until one more was too many"
    assert (spent.possible, spent.recorded) == (0, pytest.approx(bill))

    tasks = planned(server, ["ok"] * 200, latency=0.2, per_second=60, retry_after=0.1)
    busy = server.ledger()["faults"]["busy"]
    found, spent, bill = run(kind, server, journal, tasks, concurrency=None)
    assert {r.outcome for r in found} == {"ok"}
    assert server.ledger()["faults"]["busy"] - busy < 0.2 * len(tasks)
