"""A local server that speaks OpenAI's protocol as vLLM does, and breaks on demand.

    with serving(Plan(faults={"500": 0.05})) as server:     # in a thread, at once
        generator(server.url)
        server.plan(Plan(latency=0.1))                      # from now on; the ledger goes on

    with serving_apart(Plan()) as server:                   # in a process of its own

It reads prompts with the shipped student's tokenizer. What it answers depends on the prompt and the
seed; faults and scripts are by the prompt's last message.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from spot.data.chat import chat_ids
from tests import fake_server
from tests.fake_server import ROOT, UNREADABLE, Server, abort, changed

__all__ = [
    "MISSHAPEN",
    "ROOT",
    "UNREADABLE",
    "Plan",
    "Server",
    "answer",
    "serving",
    "serving_apart",
    "tokenizer",
]

STUDENT = ROOT / "src/spot/training/assets/tiny"
STATUSES = "400 400_long 400_much 401 403 404 408 429 429_after 500 502 503".split()
# Faults by what a reply has, and where; and what is wrong with it is asked for again.
MISSHAPEN: dict[str, dict[str, Any]] = {
    "array": {"": []},
    "null": {"": None},
    "no_choice": {"choices": []},
    "null_choices": {"choices": None},
    "null_choice": {"choices": [None]},
    "words_for_a_choice": {"choices": ["4"]},
    "no_message": {"choices.0.message": "4"},
    "number_for_content": {"choices.0.message.content": 4},
    "words_for_ids": {"choices.0.token_ids": ["one", "two"]},
    "negative_ids": {"choices.0.token_ids": [-1, 2**70]},
    "yes_for_ids": {"choices.0.token_ids": [True]},
    "number_for_the_model": {"model": 5},
    "list_for_the_model": {"model": ["student"]},
    "abort": {"choices.0.finish_reason": "abort"},
    "error": {"choices": None, "error": {"message": "the upstream is away"}},
    "nothing": {"choices.0": {"message": {"content": None}, "finish_reason": None}},
}
TOO_MUCH = (
    "'max_tokens' or 'max_completion_tokens' is too large: 64. This model's maximum context length "
    "is 40 tokens and your request has 12 input tokens (64 > 40 - 12)."
)
TOO_LONG = "This model's maximum context length is 9 tokens. Please reduce the length of the input."


@dataclass
class Plan(fake_server.Plan):
    """What the server does, until it gets another plan."""

    slow: dict[str, float] = field(default_factory=dict)  # seconds, by the prompt's last message
    models: dict[str, Any] = field(default_factory=lambda: {"student": 512})
    answers_as: str | None = None  # the model that replies name
    prefix: str = ""  # before every first message, as another chat template would put it
    swapped: bool = False  # reads the last two tokens of a prompt the other way round
    tells_ids: bool = True
    tells_usage: bool = True
    tokenize_status: int = 200
    models_status: int = 200
    silent: bool = False  # asked for the models, it says nothing
    reasoning: str | None = None  # what is split off before each answer
    content: str | None = None  # instead of its own answer
    finish: str = "stop"


@dataclass
class Ledger(fake_server.Ledger):
    """What was asked."""

    answered: Counter[str] = field(default_factory=Counter)  # by the prompt's last message
    tokenized: int = 0


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
    body = ledger.body = await request.json()
    prompt = body["messages"][-1]["content"]
    fault = state.plan.fault(prompt, ledger.visits[prompt])
    ledger.visits[prompt] += 1
    ledger.faults[fault] += 1
    with ledger.flight():
        response = await _outcome(state, request, body, fault)
        ledger.answered[prompt] += fault == "ok"
        return response


async def _outcome(state: State, request: web.Request, body: Any, fault: str) -> web.StreamResponse:
    plan = state.plan
    if fault in STATUSES:
        words = {"400_long": TOO_LONG, "400_much": TOO_MUCH}.get(
            fault, plan.words or "out of order"
        )
        headers = {"Retry-After": str(plan.retry_after)} if fault == "429_after" else None
        status = int(fault.partition("_")[0])
        return web.json_response({"error": {"message": words}}, status=status, headers=headers)
    if fault == "drop":
        return abort(request)
    if fault == "hang":
        await asyncio.sleep(plan.hang)
        return abort(request)
    await asyncio.sleep(plan.slow.get(body["messages"][-1]["content"], plan.latency))
    reply = state.reply(body)
    reply = changed(reply, plan.changes.get(fault, {}))
    return await fake_server.broken(request, json.dumps(reply).encode(), fault)


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

    app = fake_server.application(state, Plan, middlewares=[keyed])
    app.router.add_get("/v1/models", models)
    app.router.add_post("/tokenize", tokenize)
    app.router.add_post("/v1/chat/completions", functools.partial(chat, state))
    return app


def serving(plan: Plan | None = None, port: int = 0) -> AbstractContextManager[Server]:
    """A server in a thread, until the block ends, which cuts all connections."""
    tokenizer()
    state = State()
    state.plan = plan or Plan()
    return fake_server.serving_here(application(state), port)


def serving_apart(plan: Plan | None = None) -> AbstractContextManager[Server]:
    """A server in a process of its own, until the block ends."""
    return fake_server.serving_apart("tests.generation.server", plan or Plan())


if __name__ == "__main__":
    tokenizer()
    fake_server.main(application(State()), cancels=True)
