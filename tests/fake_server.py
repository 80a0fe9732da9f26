"""What the local servers of tests have in common: faults that are drawn, a ledger, a life of their own.

    with serving("tests.oracle.server", Plan(faults={"500": 0.05})) as server:   # a process
        server.plan(Plan(scripts={"7": ["wrong"]}))     # from now on; the ledger goes on
        server.ledger()["requests"]

What goes wrong is drawn from (plan's seed, what is asked for, visit): the same in any order of arrival.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

ROOT = Path(__file__).parents[1]
BROKEN = ("drop", "reset", "hang", "torn", "html")  # `drop` comes before any work is done
UNREADABLE = (
    "gzip",
    "charset",
    "no_charset",
    "chunked",
    "digits",
    "deep",
    "words",
    "number",
)  # whole


@dataclass
class Plan:
    """What a server does, until it gets another plan."""

    latency: float = 0.0  # seconds for each answer
    faults: dict[str, float] = field(default_factory=dict)  # share of requests by fault
    scripts: dict[str, list[str]] = field(default_factory=dict)
    # ^ faults of the 1st, 2nd, … visit ("ok" for none), by what is asked for or "*"; then `faults`
    seed: int = 0
    hang: float = 30.0  # seconds until a hanging request is given up
    retry_after: float = 0.2  # seconds asked for
    key: str | None = None  # the only one accepted; refused ones are repeated in the message
    words: str = ""  # of a refusal
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    # ^ more faults, by what they change in a reply: {"a number": {"choices.0.message.content": 5}}

    def fault(self, name: str, visit: int) -> str:
        """What goes wrong at the `visit`-th time (from 0) that this is asked for."""
        script = self.scripts.get(name, self.scripts.get("*", []))
        if visit < len(script):
            return script[visit]
        digest = hashlib.sha256(f"{self.seed}/{name}/{visit}".encode()).digest()
        draw = int.from_bytes(digest[:8], "big") / 2**64
        for fault, share in self.faults.items():
            if draw < share:
                return fault
            draw -= share
        return "ok"


@dataclass
class Ledger:
    """What was asked."""

    requests: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    cancelled: int = 0  # by the client, before they were answered
    faults: Counter[str] = field(default_factory=Counter)
    visits: Counter[str] = field(default_factory=Counter)  # by what was asked for
    body: Any = None  # of the last request

    @contextlib.contextmanager
    def flight(self) -> Iterator[None]:
        """Count a request while it lasts."""
        self.requests += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            yield
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1


MISSING = "MISSING"  # as a value: takes it out


def changed(reply: Any, changes: dict[str, Any]) -> Any:
    """The reply with other values in the places that it has; "" is the whole of it."""
    for place, value in changes.items():
        if place == "":
            return value
        *way, last = [int(step) if step.isdigit() else step for step in place.split(".")]
        spot = reply
        with contextlib.suppress(KeyError, IndexError, TypeError, AttributeError):
            for step in way:
                spot = spot[step]
            if value == MISSING:
                spot.pop(last, None)
            else:
                spot[last] = value
    return reply


async def broken(request: web.Request, body: bytes, fault: str) -> web.StreamResponse:
    """A reply, or what is left of it: all but `drop` and `hang` come with its work done."""
    if fault in ("reset", "chunked"):
        response = web.StreamResponse()
        if fault == "chunked":
            response.enable_chunked_encoding()
        else:
            response.content_length = len(body)
        response.content_type = "application/json"
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        await asyncio.sleep(0.01)  # let the half go out first
        return abort(request, response)
    if fault == "html":
        return web.Response(text="<html>Bad day</html>", content_type="text/html")
    kind = "application/json"
    if fault == "gzip":
        return web.Response(body=body, content_type=kind, headers={"Content-Encoding": "gzip"})
    if fault in ("charset", "no_charset"):
        name = "utf-8" if fault == "charset" else "no-such-charset"
        headers = {"Content-Type": f"{kind}; charset={name}"}
        return web.Response(body=b"\xff\xfe\xfa" + body, headers=headers)
    body = {
        "torn": body[: len(body) // 2],
        "digits": body.rstrip()[:-1] + b', "n": ' + b"9" * 6000 + b"}",
        "deep": b"[" * 100_000 + b"]" * 100_000,
        "words": b'"Hello."',
        "number": b"5",
    }.get(fault, body)
    return web.Response(body=body, content_type=kind)


def abort(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return response or web.Response()


def application(state: Any, plan_type: type[Plan], **given: Any) -> web.Application:
    """An application that shows `state.ledger` and takes `state.plan`; the rest is the caller's."""

    async def plan(request: web.Request) -> web.Response:
        state.plan = plan_type(**await request.json())
        return web.json_response({})

    async def ledger(request: web.Request) -> web.Response:
        return web.json_response(vars(state.ledger))

    app = web.Application(client_max_size=2**30, **given)
    app.router.add_put("/plan", plan)
    app.router.add_get("/ledger", ledger)
    return app


async def start(app: web.Application, port: int, cancels: bool) -> tuple[web.AppRunner, int]:
    """cancels: whether a client that leaves ends the work on its request."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0, handler_cancellation=cancels)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    return runner, runner.addresses[0][1]


@dataclass(frozen=True)
class Server:
    """A running server, seen from a test."""

    root: str

    @property
    def url(self) -> str:
        """Of OpenAI's protocol."""
        return f"{self.root}/v1"

    @property
    def port(self) -> int:
        return int(self.root.rpartition(":")[2])

    def plan(self, plan: Plan) -> None:
        self._call("PUT", "/plan", asdict(plan))

    def ledger(self) -> dict[str, Any]:
        return self._call("GET", "/ledger")

    def settled(self, seconds: float = 60.0) -> dict[str, Any]:
        """The ledger once nothing is in flight: killed clients leave work that is still billed."""
        end = time.monotonic() + seconds
        while (ledger := self.ledger())["in_flight"]:
            if time.monotonic() > end:
                raise TimeoutError(f"{ledger['in_flight']} requests are still in flight")
            time.sleep(0.05)
        return ledger

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, data=data, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never by a proxy
        with opener.open(request, timeout=30) as response:
            return json.loads(response.read())


@contextlib.contextmanager
def serving_here(app: web.Application, port: int = 0) -> Iterator[Server]:
    """A server in a thread, until the block ends, which cuts all connections."""
    loop = asyncio.new_event_loop()
    runner, port = loop.run_until_complete(start(app, port, cancels=True))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{port}")
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@contextlib.contextmanager
def serving_apart(module: str, plan: Plan) -> Iterator[Server]:
    """A server in a process of its own, with an empty ledger, until the block ends."""
    with subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            if not port:
                raise RuntimeError("the server did not start: see its error output above")
            server = Server(f"http://127.0.0.1:{port}")
            server.plan(plan)
            yield server
        finally:
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def main(app: web.Application, cancels: bool) -> None:
    """Serve until whoever started this closes its standard input: no orphan is left behind."""

    async def run(port: int) -> None:
        runner, port = await start(app, port, cancels)
        print(port, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await runner.cleanup()

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(run(parser.parse_args().port))
