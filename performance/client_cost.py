"""What a request costs the client's own processor: ours, on the openai package, and bare aiohttp's.

    python -m performance.client_cost

Each client runs in a process of its own, the server in another; only the client's processor time
counts (`time.process_time`, all threads), from the first request to the last. Ours tokenises each
prompt, checks the server's ids against it, and hands completions over to another thread; the other
reads the reply's text.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any

from performance.common import run_alone, write_results
from spot.data.chat import user
from spot.generation import Request, Sampling
from tests.generation.server import Plan, serving_apart, tokenizer

LATENCY = 0.02  # seconds
CONCURRENCY = 64
LIMIT = 3000  # new tokens
SENTENCE = "1 + 2 = 3. "
RESPONSES = {"short": 2, "long": 170}  # sentences


def asked(count: int) -> list[Request]:
    sampling = Sampling(temperature=0.7, top_p=0.8, top_k=20, max_new_tokens=LIMIT)
    return [Request(f"q{i}", 0, user(f"What is {i} + 1?"), sampling, i) for i in range(count)]


def ours(url: str, count: int) -> float:
    """Processor seconds of `RemoteGenerator`."""
    from spot.config import GeneratorConfig
    from spot.generation.remote import RemoteGenerator

    config = GeneratorConfig("openai", base_urls=[url], concurrency=CONCURRENCY)
    generator = RemoteGenerator(config, tokenizer(), context_length=4096)
    todo = asked(count)
    list(generator.generate(todo[:CONCURRENCY]))  # what is done once is not counted
    began = time.process_time()
    made = sum(1 for _ in generator.generate(todo))
    assert made == count
    return time.process_time() - began


def body(request: Request) -> dict[str, Any]:
    """What ours sends, too."""
    return {
        "model": "student",
        "messages": list(request.messages),
        "max_tokens": LIMIT,
        "seed": request.seed,
        "temperature": 0.7,
        "top_p": 0.8,
    }


EXTRA = {"return_token_ids": True, "chat_template_kwargs": {"enable_thinking": False}}


async def aiohttp_alone(url: str, bodies: list[dict[str, Any]]) -> float:
    """Processor seconds of sending and reading JSON."""
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(number: int) -> str:
            data = json.dumps(bodies[number] | EXTRA).encode()
            async with session.post(f"{url}/chat/completions", data=data) as response:
                reply = json.loads(await response.read())
            return str(reply["choices"][0]["message"]["content"])

        return await _measured(ask, len(bodies))


async def _measured(ask: Any, count: int) -> float:
    """Processor seconds of `ask(0) … ask(count - 1)`, so many at a time as ours."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            assert await ask(number)

    await ask(0)
    began = time.process_time()
    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return time.process_time() - began


def alone(client: str, url: str, count: int) -> dict[str, Any]:
    if client == "ours":
        seconds = ours(url, count)
    else:
        seconds = asyncio.run(aiohttp_alone(url, [body(request) for request in asked(count)]))
    return {"processor": seconds}


def measure(client: str, length: str, count: int) -> dict[str, Any]:
    """One row of the table."""
    content = SENTENCE * RESPONSES[length]
    plan = Plan(latency=LATENCY, content=content, models={"student": 4096})
    tokens = len(tokenizer()(content)["input_ids"])
    with serving_apart(plan) as server:
        said = run_alone("performance.client_cost", "--alone", client, server.url, str(count))
    return {
        "client": client,
        "response tokens": tokens,
        "requests": count,
        "ms a request": 1000 * said["processor"] / count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000, help="requests of each measurement")
    parser.add_argument("--alone", nargs=3, metavar=("CLIENT", "URL", "COUNT"))
    said = parser.parse_args()
    if said.alone:
        client, url, count = said.alone
        print(json.dumps(alone(client, url, int(count))))
        return
    rows = [
        measure(client, length, said.count)
        for length in RESPONSES
        for client in ("ours", "aiohttp alone")
    ]
    write_results("client_cost", rows, "python -m performance.client_cost")


if __name__ == "__main__":
    main()
