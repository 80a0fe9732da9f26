"""What was asked of a paid Oracle and what came back: one JSON object a line, appended and flushed.

A request is written down with its greatest possible cost before it is sent, and again when it is
answered or has failed. So after a kill at any moment every answer that was written is used again, and
what was in flight is known: recorded ≤ bill ≤ recorded + possible. Lines are flushed to the system:
they outlive the process, not a power cut.

    {"event": "journal", "schema": 1}
    {"event": "asked", "n": 7, "request": "3f…", "id": "q#0", "most": 0.02}
    {"event": "answered", "n": 7, "reply": {…}, "cost": 0.004}
    {"event": "failed", "n": 8, "reason": "503", "billed": false}
    {"event": "submitted", "job": "spot-…", "requests": [[9, "a0…", "q#1", 0.01], …]}
    {"event": "closed", "job": "spot-…", "found": true}
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spot.oracle.types import OTHER, SAFETY, Reply, Usage
from spot.utils import files
from spot.utils.errors import UserError

SCHEMA = 1


@dataclass(frozen=True)
class Request:
    """One prompt of one task. Requests with the same digest are the same request."""

    id: str  # the task's
    digest: str  # of model, task, number of the try and prompt
    kind: str  # rectify | direct | reask
    prompt: str


@dataclass(frozen=True)
class Paid:
    """A reply and what it cost in USD."""

    reply: Reply
    cost: float


@dataclass(frozen=True)
class Spend:
    """USD. recorded: of replies that are here; possible: at most, of requests whose reply was lost or
    does not say what was used.
    """

    recorded: float
    possible: float
    answered: int
    failed: int
    lost: int  # requests of unknown end: in flight at a kill, timed out, connection dropped


@dataclass(frozen=True)
class _Open:
    """A request on its way."""

    request: str  # digest
    most: float
    job: str | None = None


class Journal:
    """The journal of one product. Use it as a context manager: it locks its file.

    Raises UserError when another process holds the file or when a line other than the last is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recorded = 0.0
        self.possible = 0.0
        self.answered_count = self.failed_count = self.lost_count = 0
        self.version: str | None = None  # the first model version that answered
        self._open: dict[int, _Open] = {}
        self._answers: dict[
            str, tuple[int, int]
        ] = {}  # digest → where its line is: texts stay on disk
        self._pending = 0.0
        self._numbers = 0
        self._end = 0  # bytes of whole lines
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b", buffering=0)
        try:
            self._lock()
            self._load()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Flush to the disk and let go of the file."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    # ------------------------------------------------------------------------------ what is known

    @property
    def pending(self) -> float:
        """The greatest possible cost of what is in flight, in USD."""
        return self._pending

    @property
    def in_flight(self) -> int:
        """How many requests are on their way, those of open batch jobs among them."""
        return len(self._open)

    @property
    def committed(self) -> float:
        """The bill, at most: recorded, possible and pending, in USD."""
        return self.recorded + self.possible + self.pending

    @property
    def spend(self) -> Spend:
        """What was spent; what is still in flight counts as lost."""
        return Spend(
            self.recorded,
            self.possible + self.pending,
            self.answered_count,
            self.failed_count,
            self.lost_count + self.in_flight,
        )

    @property
    def jobs(self) -> dict[str, dict[str, int]]:
        """Open batch jobs by name: digest → number of the requests that have no reply yet."""
        found: dict[str, dict[str, int]] = {}
        for number, entry in self._open.items():
            if entry.job is not None:
                found.setdefault(entry.job, {})[entry.request] = number
        return found

    def find(self, request: Request) -> Paid | None:
        """The reply to this request, if it was ever answered."""
        where = self._answers.get(request.digest)
        if where is None:
            return None
        start, length = where
        line = json.loads(os.pread(self._file.fileno(), length, start))
        return Paid(_reply(line["reply"]), float(line["cost"]))

    # ---------------------------------------------------------------------------- what is written

    def asked(self, request: Request, most: float) -> int:
        """Note that a request is about to be sent and may cost so much; returns its number."""
        number = self._numbers
        self._append(
            {
                "event": "asked",
                "n": number,
                "request": request.digest,
                "id": request.id,
                "most": most,
            }
        )
        return number

    def answered(self, number: int, reply: Reply, cost: float) -> Paid:
        """Note the reply to a request."""
        self._append(
            {"event": "answered", "n": number, "reply": dataclasses.asdict(reply), "cost": cost}
        )
        return Paid(reply, cost)

    def failed(self, number: int, reason: str, *, billed: bool) -> None:
        """Note that a request brought no reply; `billed` where the server may charge for it anyhow."""
        self._append({"event": "failed", "n": number, "reason": reason, "billed": billed})

    def submitted(self, job: str, requests: Sequence[tuple[Request, float]]) -> None:
        """Note that a batch job with these requests, each with its greatest cost, is about to be sent."""
        rows = [
            [self._numbers + index, request.digest, request.id, most]
            for index, (request, most) in enumerate(requests)
        ]
        self._append({"event": "submitted", "job": job, "requests": rows})

    def closed(self, job: str, *, found: bool) -> None:
        """Note that nothing more will come of a job. What it left undone is free if it was `found`."""
        self._append({"event": "closed", "job": job, "found": found})

    def _append(self, event: dict[str, Any]) -> None:
        """Write a line, and only then believe it. A full disk leaves no part of it."""
        line = json.dumps(event).encode() + b"\n"  # ASCII: a torn surrogate pair must not stop us
        start, written = self._end, 0
        try:
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError:
            self._file.truncate(start)
            raise
        self._end = start + len(line)
        self._take(event, start, len(line))

    # -------------------------------------------------------------------------------- from the disk

    def _lock(self) -> None:
        if not files.lock(self._file):
            raise UserError(
                f"{self.path} belongs to another process that asks the Oracle now: wait for its end."
            )

    def _load(self) -> None:
        """Read what an earlier process wrote; a torn last line is cut off, as if it never were."""
        size = self.path.stat().st_size
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    if not line.endswith(b"\n"):
                        raise ValueError("no end of line")
                    self._take(json.loads(line), self._end, len(line))
                except (ValueError, KeyError, TypeError):
                    if self._end + len(line) < size:
                        raise UserError(
                            f"{self.path} is damaged in line {number}: it says what was paid, so fix "
                            "the line or move the file away to begin anew."
                        ) from None
                    self._file.truncate(self._end)
                    break
                self._end += len(line)
        for number in [n for n, entry in self._open.items() if entry.job is None]:
            self._lose(self._pop(number))  # it was in flight when that process ended
        if self._end == 0:
            self._append({"event": "journal", "schema": SCHEMA})

    def _take(self, event: dict[str, Any], start: int, length: int) -> None:
        """Let an event, read or just written, change what is known."""
        kind = event["event"]
        if kind == "asked":
            self._sent([(event["n"], event["request"], event["id"], event["most"])], None)
        elif kind == "submitted":
            self._sent(event["requests"], event["job"])
        elif kind == "answered":
            reply = _reply(event["reply"])
            entry = self._pop(event["n"])
            self._answers[entry.request] = (start, length)
            self.recorded += event["cost"]
            self.answered_count += 1
            self.version = self.version or reply.model_version
            if reply.usage == Usage() and not _turned_away(reply):
                self.possible += entry.most  # the server does not say what it charges for
        elif kind == "failed":
            entry = self._pop(event["n"])
            if event["billed"]:
                self._lose(entry)
            else:
                self.failed_count += 1
        elif kind == "closed":
            for number in [n for n, e in self._open.items() if e.job == event["job"]]:
                entry = self._pop(number)
                if not event["found"]:
                    self._lose(entry)
        elif kind != "journal" or event["schema"] != SCHEMA:
            raise ValueError(f"unknown event {event}")

    def _sent(self, requests: Iterable[Sequence[Any]], job: str | None) -> None:
        for number, request, _, most in requests:
            self._open[number] = _Open(request, most, job)
            self._pending += most
            self._numbers = number + 1

    def _pop(self, number: int) -> _Open:
        entry = self._open.pop(number)
        self._pending = self._pending - entry.most if self._open else 0.0
        return entry

    def _lose(self, entry: _Open) -> None:
        self.possible += entry.most
        self.lost_count += 1


def _turned_away(reply: Reply) -> bool:
    """Whether a prompt was refused before any model saw it: that is free."""
    return reply.finish in (SAFETY, OTHER) and reply.model_version is None


def _reply(value: dict[str, Any]) -> Reply:
    return Reply(**{**value, "usage": Usage(**value["usage"])})
