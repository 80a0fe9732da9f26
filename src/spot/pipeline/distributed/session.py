"""What processes that torchrun or srun started beside each other tell: one runs, the others lend ranks.

A small key-value store at the first process (torchrun's own where there is one) carries the job to
the others, and the first failure to all. Who loses the store knows that the first process is gone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from spot.pipeline.distributed.group import Started, store_address
from spot.utils.errors import UserError

HELLO = 180.0  # seconds in which the first process must begin its run
LINGER = 60.0  # seconds that a failed run waits for the others to learn of it
POLL = 0.5  # seconds between looks at the store
LOST = "The first process is gone or has not begun; its own output says why."


class Session:
    """The store, from one process's side."""

    def __init__(self, started: Started, environment: Mapping[str, str] = os.environ) -> None:
        address = store_address(started, environment)
        try:
            tcp = dist.TCPStore(
                address.host,
                address.port,
                is_master=started.index == 0 and not address.theirs,
                timeout=timedelta(seconds=HELLO),
                wait_for_workers=False,
            )
        except dist.DistError as error:
            raise UserError(f"{address.host}:{address.port} cannot be reached. {LOST}") from error
        # torchrun's store outlives its processes, which it starts again under another number
        self.others = 0 if address.theirs or started.index else started.count - 1
        self.store = dist.PrefixStore(
            f"spot/{environment.get('TORCHELASTIC_RESTART_COUNT', 0)}", tcp
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around the first process's run: whatever ends it, the others learn."""
        self.store.set("hello", "")
        try:
            with self.telling():
                yield
            self.store.set("over", "")
        finally:
            self._linger()

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Whatever ends the block early ends the other processes, too."""
        try:
            yield
        except BaseException as error:
            mistake = isinstance(error, UserError)
            with suppress(dist.DistError):  # the store may be what is gone
                self.fail({"mistake": mistake, "message": str(error) or type(error).__name__})
            raise

    @contextmanager
    def lending(self) -> Iterator[None]:
        """Around another process's part: the store is not needed for it any more afterwards."""
        try:
            with self.telling():
                yield
        finally:
            with suppress(dist.DistError):
                self.store.add("left", 1)

    def _linger(self) -> None:
        """Keep a store of our own until the others, which may still be starting, have left it."""
        deadline = time.monotonic() + LINGER
        while self.store.add("left", 0) < self.others and time.monotonic() < deadline:
            time.sleep(POLL)

    def announce(self, message: Mapping[str, Any]) -> None:
        """Have the other processes train along."""
        self.store.set("job", json.dumps(message))

    def job(self) -> dict[str, Any] | None:
        """What the first process announces; None when its run is over without that.

        Raises what the first process has failed with, or UserError when it is gone.
        """
        begun, deadline = False, time.monotonic() + HELLO
        while not self._has("job"):
            if failure := self.failure():
                raise UserError(f"The first process has failed: {failure['message']}")
            if self._has("over"):
                return None
            begun = begun or self._has("hello")
            if not begun and time.monotonic() > deadline:
                raise UserError(LOST)
            time.sleep(POLL)
        return dict(json.loads(self.store.get("job")))

    def fail(self, failure: Mapping[str, Any]) -> None:
        """Tell all processes; only the first failure counts."""
        self.store.compare_set("failure", "", json.dumps(failure))

    def failure(self) -> dict[str, Any] | None:
        """What has failed first, in any process."""
        return dict(json.loads(self.store.get("failure"))) if self._has("failure") else None

    def _has(self, key: str) -> bool:
        try:
            return bool(self.store.check([key]))
        except dist.DistError as error:
            raise UserError(LOST) from error
