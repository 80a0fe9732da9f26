"""One `vllm serve`: what can start, its command and environment, its process, its health, and the end of its log.

The guard of the sweeps holds each server: a killed `vllm serve` leaves its engine and workers behind,
and only when the last of them is gone is the GPU's memory free.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from spot.config import GeneratorConfig
from spot.utils.errors import UserError
from spot.utils.processes import guarded, inherited, visible_gpus

HOST = "127.0.0.1"
PROBE_SECONDS = 5.0
BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"
KEY = "VLLM_API_KEY"  # in the environment, which other users cannot read as they can a command line
LAST_LINES = 15
DEFAULTS = {  # of the environment, where it says nothing
    "HF_HUB_OFFLINE": "1",  # the model is a folder
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
CPU_DEFAULTS = {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB
_ERROR = re.compile(r"(?:^|[\s\]])(?:\w+\.)*(\w*(?:Error|Exception): \S.*)$")
_NOISE = re.compile(
    r"nanobind|leaked|\[launcher\.py|resource_tracker|warnings\.warn|skipped remainder"
)


class ServerProcess:
    """One server, running or not; `start` may be called again after its end, also with another port.

    command: without the port. name: what the server calls its model, and no other server does.
    environment: with the key that the server asks for, where it does. Linux ends it when the *thread*
    that called `start` ends, however that ends.
    """

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        name: str,
        log: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.command, self.port, self.name = command, port, name
        self.log, self.environment = log, environment
        self.began = 0.0  # s, of time.monotonic()
        self._guard: subprocess.Popen[bytes] | None = None
        self._written = 0  # bytes of the log before the last start

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/v1"

    def start(self) -> None:
        """Start it; what it writes is added to its log."""
        with self.log.open("ab") as log:
            self._written = log.tell()
            self._guard = subprocess.Popen(
                guarded([*self.command, "--port", str(self.port)]),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.began = time.monotonic()

    def ended(self) -> str | None:
        """How it ended; None while it, or anything it started, still runs."""
        code = None if self._guard is None else self._guard.poll()
        if code is None:
            return None
        number = -code if code < 0 else code - 128  # shells' way of telling a signal
        if number in {s.value for s in signal.Signals}:
            return f"was ended by {signal.Signals(number).name}"
        return f"ended with exit code {code}"

    def stop(self) -> None:
        """Ask it to end; the guard kills what does not."""
        if self._guard is not None and self._guard.poll() is None:
            self._guard.terminate()

    def wait(self) -> None:
        """Return when nothing of it is left."""
        if self._guard is not None:
            self._guard.wait()

    def healthy(self) -> bool:
        """Whether GET /health answers 200, and no other server, as vLLM lets it, has taken the port."""
        return self._get("/health") is not None and self.name in (self._get("/v1/models") or "")

    def _get(self, path: str) -> str | None:
        """The body of a reply with status 200."""
        # on this machine, whatever the environment says of proxies
        connection = http.client.HTTPConnection(HOST, self.port, timeout=PROBE_SECONDS)
        try:
            key = self.environment.get(KEY, "")
            connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
            reply = connection.getresponse()
            return reply.read().decode(errors="replace") if reply.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def first_error(self) -> str | None:
        """The first that its log names since its last start: later ones only follow from it."""
        found = (_ERROR.search(line) for line in self._lines())
        return next((match[1] for match in found if match), None)

    def last_words(self) -> str:
        """Where its log is, the first error in it and its last lines, for a message."""
        error = self.first_error()
        first = f" The first error: {error}" if error else ""
        return "\n".join([f"Its log is {self.log}.{first}", *self._lines()[-LAST_LINES:]])

    def _lines(self) -> list[str]:
        """The lines of its log since its last start, without what says nothing."""
        with self.log.open("rb") as log:
            log.seek(self._written)
            lines = log.read().decode(errors="replace").splitlines()
        return [line.rstrip() for line in lines if line.strip() and not _NOISE.search(line)]


def startable(
    config: GeneratorConfig, group: str = "generator"
) -> tuple[str, list[list[str] | None]]:
    """The program, and the GPUs of each server. Raises UserError for what could not start here."""
    found = shutil.which(Path(config.executable).expanduser())
    if found is None:
        raise UserError(
            f"{group}.executable={config.executable} is not a program here: install vLLM in an environment "
            f"of its own and give {group}.executable=<env>/bin/vllm (docs/generation.md)."
        )
    return str(Path(found).absolute()), deal(config, visible_gpus(), group)


def deal(
    config: GeneratorConfig, visible: Sequence[str], group: str = "generator"
) -> list[list[str] | None]:
    """The GPUs of each server, None on a machine without any.

    visible: names of the GPUs that this process may use. Raises UserError.
    """
    gpus = list(visible) if config.gpus is None else [str(gpu) for gpu in config.gpus]
    if missing := [gpu for gpu in gpus if gpu not in visible]:
        there = f"has {', '.join(visible)}" if visible else "has none"
        raise UserError(f"{group}.gpus names {', '.join(missing)}: this machine {there}.")
    if len(set(gpus)) < len(gpus):
        raise UserError(f"{group}.gpus={','.join(gpus)} names a GPU twice: name each once.")
    if not visible and config.batch_invariant:
        raise UserError(
            f"{group}.batch_invariant=true needs an NVIDIA GPU (compute capability 9.0 or later) and this "
            "machine has none: leave it out."
        )
    if not visible:
        return [None] * (config.servers or 1)
    each = config.tensor_parallel * config.data_parallel
    count = config.servers or len(gpus) // each
    if count * each > len(gpus) or count == 0:
        names = ["tensor_parallel"] + ["data_parallel"] * (config.data_parallel > 1)
        product = " × ".join(f"{group}.{name}={getattr(config, name)}" for name in names)
        lower = " or ".join(f"{group}.{name}" for name in ["servers", *names])
        raise UserError(
            f"{max(count, 1)} server(s) of {product} need {max(count, 1) * each} GPUs and there are "
            f"{len(gpus)}: lower {lower}."
        )
    return [gpus[i * each : (i + 1) * each] for i in range(count)]


def environment(executable: str, gpus: Sequence[str] | None) -> dict[str, str]:
    """This process's environment for a server: these GPUs only (None: a CPU), and no rank's place.

    Nor VLLM_PORT, from which all servers of a machine would take the same ports for their engines.

    The commands beside the executable come first: vLLM compiles with those of its own environment.
    """
    kept = inherited()
    kept.pop("VLLM_PORT", None)
    path = os.pathsep.join([str(Path(executable).parent), kept.get("PATH", os.defpath)])
    own = {"PATH": path, "PYTHONUNBUFFERED": "1"}
    if gpus is None:
        return {**DEFAULTS, **CPU_DEFAULTS, **kept, **own}
    return {**DEFAULTS, **kept, **own, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
