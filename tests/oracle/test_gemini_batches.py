"""Gemini's batch jobs: the real google-genai package against the local server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest

from spot.oracle.gemini import GeminiClient, read_results
from spot.oracle.types import Job, Reply
from spot.utils.errors import UserError
from spot.utils.http import TransientError
from tests.oracle import world
from tests.oracle.server import Plan, Server, serving

T = TypeVar("T")
PROMPTS = [(f"k{n}", f"{world.STARTED} {world.question(n)}") for n in range(10)]
pytestmark = pytest.mark.oracle


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", "a-key")


def run(server: Server, use: Callable[[GeminiClient], Awaitable[T]]) -> T:
    async def using() -> T:
        made = GeminiClient("gemini-x", server.root, temperature=0.5, thinking=99)
        try:
            return await use(made)
        finally:
            await made.close()

    return asyncio.run(using())


async def finish(made: GeminiClient, job: Job | None) -> tuple[str, dict[str, Reply | str]]:
    """The state in which a job ends, and its results."""
    assert job is not None
    while job.state == "running":
        await asyncio.sleep(0.02)
        job = await made.poll(job)
    return job.state, await made.results(job)


async def whole(made: GeminiClient) -> tuple[str, dict[str, Reply | str]]:
    return await finish(made, await made.submit(PROMPTS, "ours"))


def test_a_job_answers_every_request_and_is_billed_as_a_batch(server: Server) -> None:
    state, results = run(server, whole)
    assert state == "done"
    assert list(results) == [key for key, _ in PROMPTS]
    replies = [reply for reply in results.values() if isinstance(reply, Reply)]
    assert [r.text for r in replies] == [world.marked(world.corrected(n)) for n in range(10)]
    bill = server.ledger()["billed"]
    assert bill["batch"]["requests"] == 10
    assert bill["batch"]["output"] == sum(reply.usage.output for reply in replies) > 0
    assert bill["batch"]["input"] == sum(reply.usage.input for reply in replies) > 0
    assert bill["single"]["requests"] == 0


def test_requests_carry_the_settings(server: Server) -> None:
    """The server reads the settings out of the last line of the uploaded file."""
    run(server, whole)
    assert server.ledger()["body"]["generationConfig"] == {
        "temperature": 0.5,
        "thinkingConfig": {"thinkingBudget": 99},
    }


@pytest.mark.parametrize(
    ("end", "state", "count"),
    [
        ("EXPIRED", "expired", 5),
        ("PARTIALLY_SUCCEEDED", "done", 5),
        ("CANCELLED", "failed", 5),
        ("FAILED", "failed", 0),
    ],
)
def test_a_job_that_ends_early_gives_what_it_did(
    end: str, state: str, count: int, server: Server
) -> None:
    server.plan(Plan(batch_ends=[end]))
    ended, results = run(server, whole)
    assert ended == state
    assert list(results) == [key for key, _ in PROMPTS[:count]]
    assert server.ledger()["billed"]["batch"]["requests"] == count


def test_rows_fail_on_their_own(server: Server) -> None:
    server.plan(Plan(scripts={"3": ["500"], "4": ["safety"], "5": ["max_tokens"]}))
    _, results = run(server, whole)
    assert results["k3"] == "status 500: Status 500, says the server."
    ends = [getattr(results[key], "finish", None) for key in ("k2", "k4", "k5")]
    assert ends == ["stop", "safety", "max_tokens"]
    assert server.ledger()["billed"]["batch"]["requests"] == 9


def test_a_job_is_found_by_our_name_by_another_process(server: Server) -> None:
    server.plan(Plan(batch_seconds=0))

    async def submit(made: GeminiClient) -> None:
        await made.submit(PROMPTS[:1], "ours")
        for number in range(120):  # more than a page
            await made.submit(PROMPTS[:1], f"other {number}")

    async def resume(made: GeminiClient) -> tuple[str, dict[str, Reply | str]]:
        assert await made.find("nobody's") is None
        return await finish(made, await made.find("ours"))

    run(server, submit)
    state, results = run(server, resume)
    assert (state, list(results)) == ("done", ["k0"])


def test_of_two_jobs_under_one_name_the_newer_counts(server: Server) -> None:
    server.plan(Plan(batch_ends=["FAILED"], batch_seconds=0))

    async def twice(made: GeminiClient) -> Job | None:
        for _ in range(2):
            await made.submit(PROMPTS, "ours")
        return await made.find("ours")

    found = run(server, twice)
    assert found is not None
    assert found.state == "done"


def test_a_job_whose_creation_was_not_answered_is_found(server: Server) -> None:
    server.plan(Plan(batch_calls={"create": ["lost"]}))

    async def lose_and_find(made: GeminiClient) -> tuple[str, dict[str, Reply | str]]:
        with pytest.raises(TransientError) as caught:
            await made.submit(PROMPTS, "ours")
        assert caught.value.billed  # it may be running
        return await finish(made, await made.find("ours"))

    state, results = run(server, lose_and_find)
    assert (state, len(results)) == ("done", 10)


@pytest.mark.parametrize(
    ("call", "fault", "billed"),
    [("upload", "lost", False), ("upload", "503", False), ("create", "503", False)],
)
def test_where_no_job_came_to_be_nothing_is_billed(
    call: str, fault: str, billed: bool, server: Server
) -> None:
    server.plan(Plan(batch_calls={call: [fault]}))

    async def lose_and_find(made: GeminiClient) -> tuple[bool, Job | None]:
        with pytest.raises(TransientError) as caught:
            await made.submit(PROMPTS, "ours")
        return caught.value.billed, await made.find("ours")

    assert run(server, lose_and_find) == (billed, None)


@pytest.mark.parametrize("call", ["list", "get", "download"])
@pytest.mark.parametrize("fault", ["503", "429_delay"])
def test_looking_at_a_job_may_fail_and_be_tried_again(
    call: str, fault: str, server: Server
) -> None:
    server.plan(Plan(batch_seconds=0))

    async def look(made: GeminiClient) -> int:
        job = await made.submit(PROMPTS, "ours")
        server.plan(Plan(batch_seconds=0, batch_calls={call: [fault]}))

        async def all_calls() -> int:
            assert await made.find("ours") is not None
            return len(await made.results(await made.poll(job)))

        with pytest.raises(TransientError) as caught:
            await all_calls()
        assert caught.value.after == (0.2 if fault == "429_delay" else None)
        return await all_calls()

    assert run(server, look) == 10
    assert server.ledger()["billed"]["batch"]["requests"] == 10  # the work is not done again


def test_a_wrong_key_or_model_is_the_users_to_mend(server: Server) -> None:
    server.plan(Plan(batch_calls={"create": ["404"]}))
    with pytest.raises(UserError, match=r"does not know oracle\.model=gemini-x"):
        run(server, whole)
    server.plan(Plan(key="another"))
    with pytest.raises(UserError, match="does not accept the key in GEMINI_API_KEY"):
        run(server, whole)


def test_errors_in_a_file_of_results_have_either_of_their_names() -> None:
    lines = b'{"key": "a", "error": {"code": 13, "message": "m"}}\n{"key": "b", "status": {"code": 4}}\n'
    assert dict(read_results(lines, None)) == {"a": "status 13: m", "b": "status 4: None"}
