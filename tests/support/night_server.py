"""`vllm serve` for a walk through the paper's command: the test server behind vLLM's own arguments.

Questions of `tests.oracle.world` are answered with their usual slip at even seeds and right at odd ones,
anything else by the test server's own sum.
"""

from __future__ import annotations

import argparse

from aiohttp import web
from transformers import AutoTokenizer

from tests.generation import server
from tests.oracle import world

parser = argparse.ArgumentParser()
parser.add_argument("serve")
parser.add_argument("folder")
parser.add_argument("--port", type=int)
parser.add_argument("--served-model-name")
parser.add_argument("--max-model-len", type=int)


def answer(prompt: str, seed: int) -> str:
    name = world.item(prompt)
    if name == "?":
        return own_answer(prompt, seed)
    number = int(name)
    return world.corrected(number) if seed % 2 else world.wrong_response(number)


async def healthy(_: web.Request) -> web.Response:
    return web.Response()


if __name__ == "__main__":
    options, _ = parser.parse_known_args()
    own_answer, server.answer = server.answer, answer
    read = AutoTokenizer.from_pretrained(options.folder)
    server.tokenizer = lambda: read
    state = server.State()
    state.plan.models = {options.served_model_name: options.max_model_len}
    app = server.application(state)
    app.router.add_get("/health", healthy)
    web.run_app(app, host="127.0.0.1", port=options.port, access_log=None)
