"""`generator=vllm`: starts vLLM servers for one model, watches them, and ends them.

vLLM pins its own torch and may live in another environment: it is a command here, not an import.
A thread starts the servers and restarts what crashes; they end with it, however this process ends.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from spot.config import GeneratorConfig
from spot.generation import vllm_process
from spot.generation.folder import check_folder
from spot.generation.remote import RemoteGenerator
from spot.generation.types import Completion, Request
from spot.generation.vllm_process import ServerProcess
from spot.utils.errors import UserError
from spot.utils.http import Key
from spot.utils.progress import say

LOOK_SECONDS = 0.5  # between two looks at the processes
PROBE_EVERY = 10.0  # seconds between two questions to a healthy server
SILENT_SECONDS = 300.0  # a server that has not been healthy for so long is started again
RESTARTS = 3  # in a row, without a minute of health in between
STEADY_SECONDS = 60.0  # of health, after which a server's earlier restarts are forgotten


class Servers:
    """The servers of the model in `folder`, all of which call it `served`.

    Nothing runs before `start` and nothing after `close`. Each writes to `logs`/server-<n>.log.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        context_length: int,
        config: GeneratorConfig,
        logs: Path,
        group: str = "generator",
    ) -> None:
        self.folder, self.name, self.context_length = folder, name, context_length
        self.served = f"{name}-{secrets.token_hex(8)}"  # no other server's
        self.key = Key(vllm_process.KEY, secrets.token_urlsafe(32))  # other users reach the port
        self.config, self.logs, self.group = config, logs, group
        self.error: BaseException | None = None  # what made them unusable
        self._watched: list[_Watched] = []
        self._thread: threading.Thread | None = None  # starts, restarts and ends them
        self._settled = threading.Event()  # all are healthy, or one never will be
        self._stopping = threading.Event()

    @property
    def base_urls(self) -> list[str]:
        """Where they are, once they have started."""
        return [watched.process.url for watched in self._watched]

    def start(self) -> None:
        """Start them if they do not run yet; return when all are healthy. Raises UserError."""
        if self._thread is not None:
            return self.check()
        self._watched = [_Watched(each, self.config, self.group) for each in self._plan()]
        count = f"{len(self._watched)} servers" if len(self._watched) > 1 else "a server"
        say(f"vllm: starting {count} for {self.name}; logs in {self.logs}")
        began = time.monotonic()
        self.error = None
        self._settled.clear()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._watch, name="vllm servers", daemon=True)
        self._thread.start()
        try:
            while not self._settled.wait(LOOK_SECONDS):  # a plain wait would not see Ctrl-C
                pass
            self.check()
        except BaseException:
            self.close()
            raise
        say(f"vllm: ready after {time.monotonic() - began:.0f} s")

    def check(self) -> None:
        """Raise what made the servers unusable, if anything did. Costs nothing; call it often."""
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """End them; return when nothing of them is left, so that their memory is free."""
        if self._thread is not None:
            self._stopping.set()
            self._thread.join()
            self._thread = None

    def _watch(self) -> None:
        try:
            for watched in self._watched:
                watched.process.start()
            while not self._stopping.wait(LOOK_SECONDS):
                for watched in self._watched:
                    watched.look()
                if all(watched.known for watched in self._watched):
                    self._settled.set()
        except BaseException as error:
            self.error = error
        finally:
            self._settled.set()
            for watched in self._watched:
                watched.process.stop()
            for watched in self._watched:
                watched.process.wait()

    def __enter__(self) -> Servers:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _plan(self) -> list[ServerProcess]:
        """The servers that are to run. Raises UserError for what cannot."""
        executable, dealt = vllm_process.startable(self.config, self.group)
        self.logs.mkdir(parents=True, exist_ok=True)
        own = {self.key.name: self.key.value}
        if self.config.batch_invariant:
            own[vllm_process.BATCH_INVARIANT] = "1"
        processes = []
        for number, (gpus, port) in enumerate(
            zip(dealt, _ports(self.config.port, len(dealt), self.group), strict=True)
        ):
            log = self.logs / f"server-{number}.log"
            log.write_bytes(b"")
            environment = vllm_process.environment(executable, gpus) | own
            command = self._command(executable, on_cpu=gpus is None)
            processes.append(ServerProcess(command, port, self.served, log, environment))
        return processes

    def _command(self, executable: str, on_cpu: bool) -> list[str]:
        command = [executable, "serve", str(self.folder.absolute())]
        options = {
            "host": vllm_process.HOST,
            "served-model-name": self.served,
            "max-model-len": self.context_length,
            "tensor-parallel-size": self.config.tensor_parallel,
            "data-parallel-size": self.config.data_parallel,
            "dtype": self.config.dtype,
        }
        for option, value in options.items():
            command += [f"--{option}", str(value)]
        if on_cpu:
            # where a prompt is read in parts, vLLM 0.32 rewinds its request's generator of random
            # numbers, which torch cannot on a CPU: the engine dies
            command.append("--no-enable-chunked-prefill")
        return [*command, "--disable-uvicorn-access-log", *self.config.arguments]


class VllmGenerator:
    """Generates with servers of its own, which start when there is something to ask."""

    def __init__(
        self, servers: Servers, tokenizer: Any, thinking: bool = False, name: str | None = None
    ) -> None:
        self.servers, self.tokenizer, self.thinking, self.name = servers, tokenizer, thinking, name

    def generate(
        self, requests: Sequence[Request], done: Collection[str] = ()
    ) -> Iterator[Completion]:
        """Completions as they finish, without the `done`. Raises UserError."""
        if {request.key for request in requests} <= set(done):
            return
        self.servers.start()
        config = self.servers.config
        client = RemoteGenerator(
            replace(
                config,
                kind="openai",
                base_urls=self.servers.base_urls,
                model=self.servers.served,
                concurrency=config.concurrency * config.data_parallel,
                # a crashed server is back after as long as it took to start
                patience=config.patience + config.start_seconds,
            ),
            self.tokenizer,
            self.servers.context_length,
            thinking=self.thinking,
            name=self.name,
            alive=self.servers.check,
            group=self.servers.group,
        )
        client.key = self.servers.key
        yield from client.generate(requests, done)

    def ready(self) -> None:
        """Start the servers; return when all are healthy. Raises UserError."""
        self.servers.start()

    def close(self) -> None:
        """End the servers; return when their memory is free."""
        self.servers.close()


def load(
    folder: str | Path,
    config: GeneratorConfig,
    *,
    context_length: int,
    logs: Path,
    thinking: bool = False,
    name: str = "model",
    group: str = "generator",
) -> VllmGenerator:
    """A generator of the model saved in `folder` (Hugging Face format); starts nothing yet.

    context_length: the most tokens of prompt and response. name: what completions say answered them.
    Raises UserError for a folder that cannot be served.
    """
    tokenizer = check_folder(folder)
    servers = Servers(Path(folder), name, context_length, config, logs, group)
    return VllmGenerator(servers, tokenizer, thinking, name)


def _ports(first: int | None, count: int, group: str) -> list[int]:
    """Ports that nobody listens on: `first` and those after it, or any."""
    wanted = [0] * count if first is None else range(first, first + count)
    ports = []
    with ExitStack() as held:  # together, so that they differ
        for port in wanted:
            sock = held.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((vllm_process.HOST, port))
            except (OSError, OverflowError) as error:
                raise UserError(
                    f"{group}.port={first}: port {port} cannot be used ({error}): give another, or "
                    "null for free ones."
                ) from error
            ports.append(int(sock.getsockname()[1]))
    return ports


class _Watched:
    """A server and what is known of its health."""

    def __init__(self, process: ServerProcess, config: GeneratorConfig, group: str) -> None:
        self.process, self.config, self.group = process, config, group
        self.known = False  # it has been healthy
        self.healthy = False  # since its last start
        self.restarts = 0  # in a row
        self.why: str | None = None  # the first error of its last end
        self.probed = self.answered = self.healthy_since = 0.0  # when, by time.monotonic()

    def look(self) -> None:
        """See how it does, and start it again if it is lost. Raises UserError when that is no use."""
        now = time.monotonic()
        ended = self.process.ended()
        if ended is not None:
            self._lost(ended)
        elif not self.healthy or now - self.probed >= PROBE_EVERY:
            self.probed = now
            if self.process.healthy():
                self._answers(now)
            elif not self.healthy and now - self.process.began > self.config.start_seconds:
                self._lost(f"was not healthy after {self.config.start_seconds:g} s")
            elif self.healthy and now - self.answered > SILENT_SECONDS:
                self._lost(f"has not been healthy for {SILENT_SECONDS:g} s")

    def _answers(self, now: float) -> None:
        if not self.healthy:
            if self.known:
                say(f"vllm: {self.process.url} is back")
            self.healthy_since = now
        elif now - self.healthy_since > STEADY_SECONDS:
            self.restarts = 0
        self.known = self.healthy = True
        self.answered = now

    def _lost(self, how: str) -> None:
        """Start it again, unless it does not come back, or has not begun for a reason that stays.

        Until it has been healthy once nobody knows its port, which may be what was taken from it.
        """
        before, self.why = self.why, self.process.first_error()
        late = not self.known and "not healthy after" in how
        stays = not self.known and self.why is not None and self.why == before
        if late or stays or self.restarts == RESTARTS:
            again = "" if self.known else " before it was ready"
            again += ", as before" if stays else f", as {RESTARTS} times before"
            if "not healthy after" in how:
                again = f" ({self.group}.start_seconds)"
            raise UserError(
                f"{self.config.executable} serve {how}{again}: fix what its log says; the same "
                f"command goes on from here. {self.process.last_words()}"
            )
        why = f" ({self.why})" if self.why else ""
        say(f"vllm: {self.process.url} {how}{why}; starting it again")
        self.process.stop()
        self.process.wait()
        if not self.known and self.config.port is None:
            [self.process.port] = _ports(None, 1, self.group)
        self.process.start()
        self.healthy, self.restarts = False, self.restarts + 1
