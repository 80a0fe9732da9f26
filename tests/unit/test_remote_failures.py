"""Generation by servers that fail, are slow or go away, and by callers who stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from spot.generation import remote as remote_module
from spot.generation import scheduler
from spot.utils import openai_client
from spot.utils.errors import UserError
from tests.generation.asking import generator, refused, requests, run, text
from tests.generation.server import MISSHAPEN, UNREADABLE, Plan, Server, serving

PASSING = ("408", "429", "429_after", "500", "502", "503", "drop", "reset", "torn", "html")


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spot.utils.http.backoff", lambda failures, after, draw: after or 0.01)


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "generation"]


# ---- failures that pass --------------------------------------------------------------------------


@pytest.mark.parametrize("fault", PASSING)
def test_a_failure_that_passes_is_asked_again(fault: str) -> None:
    with serving(Plan(scripts={"*": [fault, fault, "ok"]})) as server:
        found = run(generator(server.url), requests(12))
        ledger = server.ledger()
    assert len(found) == 12
    assert ledger["faults"][fault] == 24
    assert set(ledger["answered"].values()) == {1}


def test_what_cannot_be_read_is_asked_again() -> None:
    faults = [*UNREADABLE, *MISSHAPEN]
    scripts = {text(i): [fault, fault] for i, fault in enumerate(faults)}
    with serving(Plan(scripts=scripts, changes=MISSHAPEN)) as server:
        found = run(generator(server.url), requests(len(faults)))
        ledger = server.ledger()
    assert {completion.finish_reason for completion in found.values()} == {"stop"}
    assert {ledger["faults"][fault] for fault in faults} == {2}


def test_a_request_that_hangs_is_cut_off() -> None:
    with serving(Plan(scripts={text(2): ["hang"]})) as server:
        assert len(run(generator(server.url, timeout=0.5), requests(6))) == 6
        assert server.ledger()["cancelled"] == 1


def test_a_server_says_when_to_come_back() -> None:
    with serving(Plan(scripts={"*": ["429_after"]}, retry_after=0.7)) as server:
        began = time.monotonic()
        run(generator(server.url), requests(1))
        assert 0.7 <= time.monotonic() - began < 3
        server.plan(Plan(scripts={"*": ["429_after"]}, retry_after=500))
        # another prompt: its first visit
        said = refused(generator(server.url), requests(2)[1:])
    assert "asks to wait 500 s" in said


def test_another_server_takes_over() -> None:
    with serving(Plan(faults={"500": 1.0})) as broken, serving() as whole:
        assert len(run(generator(broken.url, whole.url), requests(100))) == 100
        assert sum(whole.ledger()["answered"].values()) == 100


def test_a_server_that_is_away_does_not_stop_the_others() -> None:
    with serving() as gone:
        pass
    with serving() as whole:
        assert len(run(generator(gone.url, whole.url, patience=0.1), requests(100))) == 100


def test_a_server_comes_back_on_its_address() -> None:
    with serving(Plan(latency=0.02)) as first:
        answers = generator(first.url).generate(requests(200))
        found = [next(answers).key for _ in range(50)]
    restarted: list[Server] = []

    def restart() -> None:
        time.sleep(1.0)
        with serving(port=first.port) as server:
            restarted.append(server)
            finished.wait(30)

    finished = threading.Event()
    thread = threading.Thread(target=restart)
    thread.start()
    found += [completion.key for completion in answers]
    finished.set()
    thread.join()
    assert restarted
    assert sorted(found) == sorted(request.key for request in requests(200))


def test_a_server_that_starts_late_is_waited_for() -> None:
    with serving(Plan(models_status=503)) as server:
        timer = threading.Timer(0.7, server.plan, [Plan()])
        timer.start()
        assert len(run(generator(server.url), requests(5))) == 5
        timer.join()


def test_a_server_that_is_replaced_is_greeted_again() -> None:
    denied = {text(i): ["404", "401", "403"] for i in range(20, 40)}
    with serving(Plan(scripts=denied)) as server:
        assert len(run(generator(server.url), requests(100))) == 100
        assert server.ledger()["faults"]["403"] == 20
        server.plan(Plan(latency=0.01))
        answers = generator(server.url).generate(requests(200))
        found = [next(answers).key for _ in range(20)]
        server.plan(Plan(faults={"404": 1.0}, models_status=404))
        timer = threading.Timer(0.5, server.plan, [Plan()])
        timer.start()
        found += [completion.key for completion in answers]
        timer.join()
    assert len(set(found)) == 200


def test_a_server_that_is_replaced_before_its_first_answer_is_greeted_again() -> None:
    with serving(Plan(faults={"503": 1.0})) as server:
        plans = (Plan(faults={"503": 1.0}, models_status=404), Plan())
        timers = [threading.Timer(0.4 * n, server.plan, [p]) for n, p in enumerate(plans, 1)]
        for timer in timers:
            timer.start()
        assert len(run(generator(server.url), requests(10))) == 10
        for timer in timers:
            timer.join()


def test_an_address_that_denies_everything_does_not_stop_the_others() -> None:
    with serving(Plan(faults={"401": 1.0})) as closed, serving(Plan(latency=0.02)) as whole:
        urls = (f"{whole.root}/nowhere", closed.url, whole.url)
        assert len(run(generator(*urls), requests(200))) == 200
        assert "list of models" in refused(generator(*urls[:1], closed.root), requests(1))


def test_what_a_silent_server_had_is_asked_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "PROBE_EVERY", 0.1)
    monkeypatch.setattr(scheduler, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(openai_client, "PROBE_SECONDS", 0.2)
    with serving(Plan(latency=30)) as hung, serving(Plan(latency=0.01)) as whole:
        found: list[str] = []
        answers = generator(hung.url, whole.url, timeout=60).generate(requests(60))
        found.append(next(answers).key)
        assert _in_flight(hung, 8) == 0
        time.sleep(0.8)  # it is probed and answers: long responses are none of our business
        assert _in_flight(hung, 8) == 0
        hung.plan(Plan(latency=30, silent=True))
        began = time.monotonic()
        found += [completion.key for completion in answers]
        assert time.monotonic() - began < 10
        assert len(set(found)) == 60
        assert _in_flight(hung, 0) == 8


# ---- failures that do not ------------------------------------------------------------------------


def test_nobody_answers() -> None:
    with serving() as server:
        pass
    said = refused(generator(server.url, patience=0.3), requests(3))
    assert said.startswith("No server has answered for 0.3 s")
    assert f"{server.url}: no connection: Connection refused" in said
    assert "the same command goes on from here" in said


def test_requests_that_always_fail_are_named_when_the_others_are_done() -> None:
    bad = {text(2): ["500"] * 1000, text(7): ["500"] * 1000}
    with serving(Plan(scripts=bad, words="no kernel image", latency=0.1)) as server:
        found: list[str] = []
        answers = generator(server.url, patience=0.2).generate(requests(100))
        with pytest.raises(UserError) as caught:
            found.extend(completion.key for completion in answers)
        said = str(caught.value)
        assert sum(server.ledger()["answered"].values()) == 98
    assert set(found) == {f"q{i}#0" for i in range(100) if i not in (2, 7)}
    assert said.startswith("2 request(s) failed for longer than 0.2 s: q")
    assert "status 500: no kernel image" in said
    assert "the same command goes on from here" in said
    with serving() as server:
        rest = [c.key for c in generator(server.url).generate(requests(100), found)]
    assert sorted(rest) == ["q2#0", "q7#0"]


def test_no_request_is_begun_while_all_fail() -> None:
    with serving(Plan(faults={"500": 1.0})) as server:
        said = refused(generator(server.url, patience=0.5), requests(20_000))
        begun = len(server.ledger()["visits"])
    assert said.startswith(f"{begun} request(s) failed")
    assert begun < 10_000


def test_what_no_waiting_mends_ends_at_once() -> None:
    for status, words in (
        ("400", "refuses the request for q0#0"),
        ("404", "ends in /v1"),
        ("403", "refuses access"),
    ):
        plan = Plan(faults={status: 1.0}, words="see the\nmanual")
        with serving(plan) as server:
            said = refused(generator(server.url), requests(1))
        assert f"status {status}: see the manual" in said
        if status != "404":
            assert words in said


def test_an_address_that_is_no_server_of_models() -> None:
    with serving() as server:
        said = refused(generator(server.root), requests(1))
        assert "list of models" in said
        assert "/v1" in said
        page = server.url.replace("/v1", "/ledger")
        assert "list of models" in refused(generator(page), requests(1))


# ---- who is asked, and how much ------------------------------------------------------------------


def test_requests_are_dealt_evenly_and_within_limits() -> None:
    with serving(Plan(latency=0.1)) as one, serving(Plan(latency=0.1)) as two:
        run(generator(one.url, two.url), requests(200))
        ledgers = [server.ledger() for server in (one, two)]
    assert [ledger["most_in_flight"] for ledger in ledgers] == [8, 8]
    assert min(ledger["requests"] for ledger in ledgers) > 60


def test_a_slow_answer_holds_nobody_back() -> None:
    plan = Plan(slow={text(0): 3.0})
    with serving(plan) as one, serving(plan) as two:
        keys = [c.key for c in generator(one.url, two.url).generate(requests(60))]
    assert keys[-1] == "q0#0"


def test_a_caller_who_is_behind_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "BUFFER", 10)
    with serving() as server:
        answers = generator(server.url).generate(requests(200))
        next(answers)
        time.sleep(0.5)
        assert server.ledger()["requests"] <= 10 + 8 + 1
        assert len(list(answers)) == 199


# ---- how it ends ---------------------------------------------------------------------------------


def _in_flight(server: Server, count: int) -> int:
    """Requests that the client has given up, once so many are in flight."""
    end = time.monotonic() + 10
    while (ledger := server.ledger())["in_flight"] != count:
        assert time.monotonic() < end, ledger
        time.sleep(0.02)
    return int(ledger["cancelled"])


def _slow() -> Plan:
    """All but the first request take long."""
    return Plan(latency=30, slow={text(0): 0.0})


def test_closing_the_iterator_cancels_what_is_in_flight() -> None:
    with serving(_slow()) as server:
        answers = generator(server.url).generate(requests(50))
        next(answers)
        assert _in_flight(server, 8) == 0
        answers.close()  # type: ignore[attr-defined]
        assert _in_flight(server, 0) == 8


def test_closing_the_generator_cancels_what_is_in_flight_and_is_not_the_end_of_the_work() -> None:
    with serving(_slow()) as server:
        given = generator(server.url)
        answers = given.generate(requests(50))
        next(answers)
        assert _in_flight(server, 8) == 0
        given.close()
        assert _in_flight(server, 0) == 8
        with pytest.raises(RuntimeError, match="closed after 1 of 50"):
            list(answers)


def test_an_interrupt_cancels_what_is_in_flight() -> None:
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored where pytest runs under nohup
    with serving(_slow()) as server:
        answers = generator(server.url).generate(requests(50))
        next(answers)
        assert _in_flight(server, 8) == 0
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            next(answers)
        assert _in_flight(server, 0) == 8


def test_whoever_watches_the_servers_can_stop_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "ALIVE_SECONDS", 0.2)
    calls = []

    def alive() -> None:
        calls.append(threading.current_thread())
        if len(calls) == 2:
            raise UserError("the server cannot be started")

    with serving(_slow()) as server:
        given = generator(server.url, alive=alive)
        assert "cannot be started" in refused(given, requests(50))
        assert _in_flight(server, 0) == 8
    assert set(calls) == {threading.main_thread()}
