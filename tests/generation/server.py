"""A local server that speaks OpenAI's protocol as vLLM does, and breaks on demand.

    with serving(Plan(faults={"500": 0.05})) as server:     # in a thread, at once
        RemoteGenerator(Target([server.url]), ...)
        server.plan(Plan(latency=0.1))                      # from now on; the ledger goes on
        server.ledger()["requests"]

    with serving_apart(Plan()) as server:                   # in a process of its own

It reads prompts with the shipped student's tokenizer. What it answers depends on the prompt and the
seed; what goes wrong is drawn from (plan's seed, prompt, visit), so it does not depend on the order.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import hashlib
import json
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from spot.data.chat import chat_ids

ROOT = Path(__file__).parents[2]
STUDENT = ROOT / "src/spot/training/assets/tiny"
STATUSES = (
    "400",
    "400_long",
    "400_much",
    "401",
    "403",
    "404",
    "408",
    "429",
    "429_after",
    "500",
    "502",
    "503",
)
MISSHAPEN = ("array", "no_choice", "no_message", "words_for_usage", "words_for_ids")
BROKEN = ("drop", "reset", "hang", "torn", "html", "abort", *MISSHAPEN)
FAULTS = ("ok", *STATUSES, *BROKEN)
TOO_MUCH = (
    "'max_tokens' or 'max_completion_tokens' is too large: 64. This model's maximum context length "
    "is 40 tokens and your request has 12 input tokens (64 > 40 - 12)."
)
TOO_LONG = "This model's maximum context length is 9 tokens. Please reduce the length of the input."


@dataclass
class Plan:
    """What the server does, until it gets another plan."""

    latency: float = 0.0  # seconds for each answer
    slow: dict[str, float] = field(default_factory=dict)  # seconds, by the prompt's last message
    faults: dict[str, float] = field(default_factory=dict)  # share of requests
    scripts: dict[str, list[str]] = field(default_factory=dict)
    # ^ faults of the 1st, 2nd, … visit, by the prompt's last message or "*"; then `faults`
    seed: int = 0
    models: dict[str, Any] = field(default_factory=lambda: {"student": 512})
    answers_as: str | None = None  # the model that replies name
    prefix: str = ""  # before every first message, as another chat template would put it
    swapped: bool = False  # reads the last two tokens of a prompt the other way round
    tells_ids: bool = True
    tells_usage: bool = True
    tokenize_status: int = 200
    models_status: int = 200
    silent: bool = False  # asked for the models, it says nothing
    key: str | None = None  # the only one accepted
    reasoning: str | None = None  # what is split off before each answer
    content: str | None = None  # instead of its own answer
    finish: str = "stop"
    retry_after: float = 0.1  # seconds asked for by 429_after
    hang: float = 30.0  # seconds until a hanging request is given up
    words: str = "out of order"  # of a refusal

    def fault(self, prompt: str, visit: int) -> str:
        script = self.scripts.get(prompt, self.scripts.get("*", []))
        if visit < len(script):
            return script[visit]
        digest = hashlib.sha256(f"{self.seed}/{prompt}/{visit}".encode()).digest()
        draw = int.from_bytes(digest[:8], "big") / 2**64
        for name, share in self.faults.items():
            if draw < share:
                return name
            draw -= share
        return "ok"


@dataclass
class Ledger:
    """What was asked."""

    requests: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    cancelled: int = 0  # by the client, before they were answered
    answered: Counter[str] = field(default_factory=Counter)  # by the prompt's last message
    visits: Counter[str] = field(default_factory=Counter)  # the same, answered or not
    faults: Counter[str] = field(default_factory=Counter)
    tokenized: int = 0
    body: Any = None  # of the last request


@functools.cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(STUDENT)


def answer(prompt: str, seed: int) -> str:
    """What the model says."""
    number = int.from_bytes(hashlib.sha256(f"{prompt}/{seed}".encode()).digest()[:2], "big")
    return f"{number} + 1 = {number + 1}. The answer is {number + 1}."


class State:
    """The plan in force and the ledger, and what is done with a request."""

    def __init__(self) -> None:
        self.plan, self.ledger = Plan(), Ledger()

    def prompt_ids(self, body: Any) -> list[int]:
        messages = [dict(message) for message in body["messages"]]
        messages[0]["content"] = self.plan.prefix + messages[0]["content"]
        thinking = body["chat_template_kwargs"]["enable_thinking"]
        ids = chat_ids(tokenizer(), messages, thinking=thinking)  # type: ignore[arg-type]
        return [*ids[:-2], ids[-1], ids[-2]] if self.plan.swapped else ids

    def reply(self, body: Any) -> dict[str, Any]:
        """The body of a chat completion."""
        plan = self.plan
        said = plan.content
        if said is None:
            said = answer(body["messages"][-1]["content"], body["seed"])
        whole = said
        if plan.reasoning is not None and plan.finish == "length":  # cut within the reasoning
            whole, said = f"<think>{plan.reasoning}", ""
        elif plan.reasoning is not None:
            whole = f"<think>{plan.reasoning}</think>{said}"
        ids = list(tokenizer()(whole, add_special_tokens=False)["input_ids"])
        cut = plan.finish == "length" or len(ids) >= body["max_tokens"]
        ids = ids[: body["max_tokens"]] if cut else [*ids, tokenizer().eos_token_id]
        if cut and plan.reasoning is None:
            said = tokenizer().decode(ids)
        prompt = self.prompt_ids(body)
        message: dict[str, Any] = {"role": "assistant", "content": said}
        if plan.reasoning is not None:
            message["reasoning"] = plan.reasoning
        choice: dict[str, Any] = {
            "index": 0,
            "message": message,
            "finish_reason": "length" if cut else plan.finish,
        }
        told: dict[str, Any] = {
            "object": "chat.completion",
            "model": plan.answers_as or body["model"],
            "choices": [choice],
        }
        if plan.tells_usage:
            told["usage"] = {"prompt_tokens": len(prompt), "completion_tokens": len(ids)}
        if plan.tells_ids:
            told["prompt_token_ids"] = prompt
            choice |= {"token_ids": ids, "stop_reason": None}
        return told


async def chat(state: State, request: web.Request) -> web.StreamResponse:
    """One chat completion, or what goes wrong instead."""
    ledger = state.ledger
    body = await request.json()
    prompt = body["messages"][-1]["content"]
    fault = state.plan.fault(prompt, ledger.visits[prompt])
    ledger.body = body
    ledger.requests += 1
    ledger.visits[prompt] += 1
    ledger.faults[fault] += 1
    ledger.in_flight += 1
    ledger.most_in_flight = max(ledger.most_in_flight, ledger.in_flight)
    try:
        response = await _outcome(state, request, body, fault)
        ledger.answered[prompt] += fault == "ok"
        return response
    except asyncio.CancelledError:
        ledger.cancelled += 1
        raise
    finally:
        ledger.in_flight -= 1


async def _outcome(state: State, request: web.Request, body: Any, fault: str) -> web.StreamResponse:
    plan = state.plan
    if fault in STATUSES:
        words = {"400_long": TOO_LONG, "400_much": TOO_MUCH}.get(fault, plan.words)
        headers = {"Retry-After": str(plan.retry_after)} if fault == "429_after" else None
        status = int(fault.partition("_")[0])
        return web.json_response({"error": {"message": words}}, status=status, headers=headers)
    if fault == "drop":
        return _abort(request)
    if fault == "hang":
        await asyncio.sleep(plan.hang)
        return _abort(request)
    await asyncio.sleep(plan.slow.get(body["messages"][-1]["content"], plan.latency))
    reply = state.reply(body)
    content = json.dumps(_spoilt(reply, fault)).encode()
    if fault == "reset":
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[: len(content) // 2])
        await asyncio.sleep(0.01)  # let the half go out first
        return _abort(request, response)
    if fault == "torn":
        content = content[: len(content) // 2]
    if fault == "html":
        return web.Response(text="<html>Bad day</html>", content_type="text/html")
    return web.Response(body=content, content_type="application/json")


def _spoilt(reply: dict[str, Any], fault: str) -> Any:
    """The reply with what is wrong in it."""
    choice = reply["choices"][0]
    if fault == "abort":
        choice["finish_reason"] = "abort"
    if fault == "no_message":
        choice["message"] = choice["message"]["content"]
    if fault == "words_for_ids":
        choice["token_ids"] = ["one", "two"]
    if fault == "words_for_usage":
        reply["usage"] = "little"
    if fault == "no_choice":
        reply["choices"] = []
    return [] if fault == "array" else reply


def _abort(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return response or web.Response()


def application(state: State) -> web.Application:
    @web.middleware
    async def keyed(request: web.Request, handler: Any) -> web.StreamResponse:
        wanted, told = state.plan.key, request.headers.get("Authorization", "")
        if wanted and request.path.startswith("/v1") and told != f"Bearer {wanted}":
            said = {"error": {"message": f"wrong key {told}"}}
            return web.json_response(said, status=401)
        response: web.StreamResponse = await handler(request)
        return response

    async def models(request: web.Request) -> web.Response:
        if state.plan.silent:
            await asyncio.sleep(state.plan.hang)
        if state.plan.models_status != 200:
            return web.Response(status=state.plan.models_status)
        cards = [{"id": name, "max_model_len": n} for name, n in state.plan.models.items()]
        return web.json_response({"object": "list", "data": cards})

    async def tokenize(request: web.Request) -> web.Response:
        if state.plan.tokenize_status != 200:
            return web.Response(status=state.plan.tokenize_status)
        state.ledger.tokenized += 1
        ids = state.prompt_ids(await request.json())
        return web.json_response({"count": len(ids), "max_model_len": 512, "tokens": ids})

    async def plan(request: web.Request) -> web.Response:
        state.plan = Plan(**await request.json())
        return web.json_response({})

    async def ledger(request: web.Request) -> web.Response:
        return web.json_response(vars(state.ledger))

    app = web.Application(client_max_size=2**26, middlewares=[keyed])
    app.router.add_put("/plan", plan)
    app.router.add_get("/ledger", ledger)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/tokenize", tokenize)
    app.router.add_post("/v1/chat/completions", functools.partial(chat, state))
    return app


async def start(state: State, port: int) -> tuple[web.AppRunner, int]:
    runner = web.AppRunner(
        application(state), access_log=None, shutdown_timeout=0, handler_cancellation=True
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    return runner, runner.addresses[0][1]


@dataclass(frozen=True)
class Server:
    """A running server, seen from a test."""

    root: str

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    @property
    def port(self) -> int:
        return int(self.root.rpartition(":")[2])

    def plan(self, plan: Plan) -> None:
        self._call("PUT", "/plan", asdict(plan))

    def ledger(self) -> dict[str, Any]:
        return self._call("GET", "/ledger")

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, data=data, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never by a proxy
        with opener.open(request, timeout=30) as response:
            return json.loads(response.read())


@contextlib.contextmanager
def serving(plan: Plan | None = None, port: int = 0) -> Iterator[Server]:
    """A server in a thread, until the block ends, which cuts all connections."""
    tokenizer()
    state = State()
    state.plan = plan or Plan()
    loop = asyncio.new_event_loop()
    runner, port = loop.run_until_complete(start(state, port))
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
def serving_apart(plan: Plan | None = None) -> Iterator[Server]:
    """A server in a process of its own, until the block ends."""
    command = [sys.executable, "-m", "tests.generation.server"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            if not port:
                raise RuntimeError("the server did not start: see its error output above")
            server = Server(f"http://127.0.0.1:{port}")
            server.plan(plan or Plan())
            yield server
        finally:
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


async def _run(port: int) -> None:
    runner, port = await start(State(), port)
    tokenizer()
    print(port, flush=True)
    # whoever started this server holds its standard input: no orphan is left behind
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(_run(parser.parse_args().port))
