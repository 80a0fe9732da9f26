"""Generation by servers that speak OpenAI's protocol: any number of them, all with the same model.

Before a server is asked, it must serve the right model and read prompts as the tokens that training
will see; every reply is held to the same. Requests run in an event loop in a thread of its own, so
that servers are kept busy while the caller grades what came back.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from spot.config import GeneratorConfig
from spot.generation.prompt_check import PromptCheck
from spot.generation.scheduler import Scheduler
from spot.generation.types import Completion, Request
from spot.utils import http
from spot.utils.openai_client import NO_KEY, OpenAIServer

BUFFER = 256  # completions that wait for the caller; nothing is sent while there are more
ALIVE_SECONDS = 1.0  # between two calls of `alive`


class RemoteGenerator:
    """Generates with the servers at `config.base_urls`, which run already.

    context_length: of the model, in tokens; a server may have less. name: what completions say
    answered them, by default the model's name at the server. alive: called about once a second while
    completions are awaited, in the caller's thread; what it raises ends the generation. group: of the
    configuration, for messages.
    """

    def __init__(
        self,
        config: GeneratorConfig,
        tokenizer: Any,
        context_length: int,
        *,
        thinking: bool = False,
        name: str | None = None,
        alive: Callable[[], None] = lambda: None,
        group: str = "generator",
    ) -> None:
        self.config, self.tokenizer, self.context_length = config, tokenizer, context_length
        self.thinking, self.name, self.alive, self.group = thinking, name, alive, group
        self._workers: set[_Worker] = set()
        self.key = NO_KEY
        if config.key:
            self.key = http.read_key(config.key, option=f"{group}.key", owner="The server")

    def generate(
        self, requests: Sequence[Request], done: Collection[str] = ()
    ) -> Iterator[Completion]:
        """Completions as they finish, without the `done`. Raises UserError.

        Closing the iterator cancels what is in flight.
        """
        if len({request.key for request in requests}) != len(requests):
            raise ValueError("two requests have the same key")
        finished = set(done)
        todo = [request for request in requests if request.key not in finished]
        if not todo:
            return
        results: queue.SimpleQueue[Completion | None] = queue.SimpleQueue()
        worker = _Worker(self._answer(todo, results), lambda: results.put(None))
        self._workers.add(worker)
        try:
            count = 0
            for completion in self._received(results):
                count += 1
                yield completion
        finally:
            worker.stop()
            self._workers.discard(worker)
        if worker.error is not None:
            raise worker.error
        if count < len(todo):
            raise RuntimeError(f"closed after {count} of {len(todo)} completions")

    def ready(self) -> None:
        """The servers run already, or are waited for when they are asked."""

    def close(self) -> None:
        """Cancel what is in flight, also of iterators that nobody has closed."""
        for worker in list(self._workers):
            worker.stop()

    def _received(self, results: queue.SimpleQueue[Completion | None]) -> Iterator[Completion]:
        """What is put into the queue, up to the first None."""
        called = time.monotonic()
        while True:
            if time.monotonic() - called >= ALIVE_SECONDS:
                self.alive()
                called = time.monotonic()
            try:
                completion = results.get(timeout=ALIVE_SECONDS)
            except queue.Empty:
                continue
            if completion is None:
                return
            yield completion

    async def _answer(
        self, todo: Sequence[Request], results: queue.SimpleQueue[Completion | None]
    ) -> None:
        check = PromptCheck(self, todo)
        servers = [
            OpenAIServer(url, self.key, self.config.timeout) for url in self.config.base_urls
        ]
        try:
            await Scheduler(
                todo, servers, check, self.config, results.put, lambda: results.qsize() >= BUFFER
            ).run()
        finally:
            for server in servers:
                await server.close()


class _Worker:
    """A coroutine in a thread of its own; `ended` is called there when it is over, however it ends."""

    def __init__(self, work: Coroutine[Any, Any, None], ended: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        self._work, self._ended = work, ended
        self._cancel: Callable[[], object] | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Cancel the coroutine if it runs; return when the thread is gone."""
        self._started.wait()
        if self._cancel is not None:
            with suppress(RuntimeError):  # the loop is closed: it has ended by itself
                self._cancel()
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._follow())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self._started.set()
            self._ended()

    async def _follow(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._cancel = partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)
        self._started.set()
        await self._work
