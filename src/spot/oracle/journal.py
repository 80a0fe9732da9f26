"""What was asked of a paid Oracle and what came back: one JSON object a line, appended and flushed.

A request is written down with its greatest possible cost before it is sent, and again when it is
answered or has failed. So after a kill at any moment every answer that was written is used again, and
what was in flight is known: recorded ≤ bill ≤ recorded + possible. Lines are flushed to the system:
they outlive the process, not a power cut.

A line that cannot be read is counted and named, and what it may stand for is held: the most of its
request or, where that is not known either, of any request.

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
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spot.oracle.types import OTHER, SAFETY, Reply, Usage
from spot.utils import files, http
from spot.utils.errors import UserError
from spot.utils.progress import say

SCHEMA = 1
_SHORTEST = 40  # bytes that a line has for a request, at least
_ENDS = re.compile(rb'"event": ?"(answered|failed|closed|journal)"')


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
    does not say what was used, or says what cannot be.
    """

    recorded: float
    possible: float
    answered: int
    failed: int
    lost: int  # requests of unknown end: in flight at a kill, timed out, connection dropped
    doubted: int = 0  # of the answered, those whose usage is not known
    damaged: int = 0  # lines that cannot be read


@dataclass(frozen=True)
class _Open:
    """A request on its way."""

    request: str  # digest
    most: float
    job: str | None = None


class Journal:
    """The journal of one product. Use it as a context manager: it locks its file.

    Raises UserError when another process holds the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recorded = 0.0
        self.possible = 0.0
        self.answered_count = self.failed_count = self.lost_count = self.doubted_count = 0
        self.damaged: list[int] = []  # lines
        self.version: str | None = None  # the first model version that answered
        self._open: dict[int, _Open] = {}
        # digest → where its line is, for texts stay on disk, and its cost, None where that is not known
        self._answers: dict[str, tuple[int, int, float | None]] = {}
        self._pending = 0.0
        self._numbers = 0
        self._greatest = 0.0  # of what any request may cost
        self._unknown = 0  # requests that damaged lines may stand for
        self._unread = 0  # bytes of damaged lines
        self._missing = 0  # numbers
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
            self.doubted_count,
            len(self.damaged),
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
        start, length, cost = where
        line = json.loads(os.pread(self._file.fileno(), length, start))
        reply = _reply(line["reply"])
        return Paid(reply if cost is not None else replace(reply, usage=Usage()), cost or 0.0)

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
        """Note the reply to a request. A cost that cannot be is not believed: its most is held."""
        entry = self._open[number]
        self._append(
            {"event": "answered", "n": number, "reply": dataclasses.asdict(reply), "cost": cost}
        )
        return Paid(reply, cost if _believed(reply, cost, entry.most) else 0.0)

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
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    self._file.truncate(self._end)
                    break
                try:
                    self._take(http.parse_json(line), self._end, len(line))
                except (ValueError, LookupError, TypeError, AttributeError):
                    self.damaged.append(number)
                    self._unread += len(line)
                    # the end of a request whose beginning is here: that stays open, and so held
                    if _ENDS.search(line) is None:
                        self._unknown += max(1, line.count(b"[") - 1)  # the requests of a job
                self._end += len(line)
        for number in [n for n, entry in self._open.items() if entry.job is None]:
            self._lose(self._pop(number))  # it was in flight when that process ended
        # by what their lines look like, or by the numbers that are missing
        unknown = max(self._unknown, min(self._missing, self._unread // _SHORTEST))
        self.possible += unknown * self._greatest
        if self._end == 0:
            self._append({"event": "journal", "schema": SCHEMA})
        if self.damaged:
            more = f" and {len(self.damaged) - 1} more" if len(self.damaged) > 1 else ""
            say(
                f"oracle: line {self.damaged[0]}{more} of {self.path} cannot be read: what it may have "
                "cost is counted as possible."
            )

    def _take(self, event: dict[str, Any], start: int, length: int) -> None:
        """Let an event, read or just written, change what is known, or raise and change nothing."""
        kind = event["event"]
        if kind == "asked":
            self._sent([(event["n"], event["request"], event["id"], event["most"])], None)
        elif kind == "submitted":
            self._sent(event["requests"], event["job"])
        elif kind == "answered":
            reply, cost = _reply(event["reply"]), float(event["cost"])
            entry = self._pop(event["n"])
            believed = _believed(reply, cost, entry.most)
            self._answers[entry.request] = (start, length, cost if believed else None)
            self.answered_count += 1
            self.version = self.version or reply.model_version
            if believed:
                self.recorded += cost
            else:
                self.possible += entry.most
                self.doubted_count += 1
        elif kind == "failed":
            billed = _flag(event["billed"])
            entry = self._pop(event["n"])
            if billed:
                self._lose(entry)
            else:
                self.failed_count += 1
        elif kind == "closed":
            found = _flag(event["found"])
            for number in [n for n, e in self._open.items() if e.job == event["job"]]:
                entry = self._pop(number)
                if not found:
                    self._lose(entry)
        elif kind != "journal":
            raise ValueError(f"unknown event {kind}")
        elif event["schema"] != SCHEMA:
            raise UserError(
                f"{self.path} was written by another version of spot: go on with that one, or move the "
                "file away to begin anew."
            )

    def _sent(self, requests: Iterable[Sequence[Any]], job: str | None) -> None:
        sent = [
            (_number(n), _Open(_text(digest), _usd(most), job)) for n, digest, _, most in requests
        ]
        if any(number in self._open for number, _ in sent):
            raise ValueError("a number that is taken")
        for number, entry in sent:
            self._open[number] = entry
            self._pending += entry.most
            self._greatest = max(self._greatest, entry.most)
            self._missing += max(0, number - self._numbers)
            self._numbers = max(self._numbers, number + 1)

    def _pop(self, number: int) -> _Open:
        entry = self._open.pop(number)
        self._pending = self._pending - entry.most if self._open else 0.0
        return entry

    def _lose(self, entry: _Open) -> None:
        self.possible += entry.most
        self.lost_count += 1


def _believed(reply: Reply, cost: float, most: float) -> bool:
    """Whether a reply may have cost that much, by what it says of its usage."""
    told = reply.free or reply.usage != Usage()
    return told and 0 <= cost <= most * (1 + 1e-9)


def _reply(value: dict[str, Any]) -> Reply:
    """A reply as it was written. Raises ValueError or TypeError for what is none."""
    before = value["finish"] in (SAFETY, OTHER) and value["model_version"] is None
    reply = Reply(**{"free": before, **value, "usage": Usage(**value["usage"])})
    _text(reply.text), _text(reply.reason), _text(reply.finish)
    if reply.model_version is not None:
        _text(reply.model_version)
    if not all(type(tokens) is int for tokens in dataclasses.astuple(reply.usage)):
        raise ValueError("usage")
    return reply


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a number")
    return value


def _usd(value: Any) -> float:
    if isinstance(value, bool) or not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is not a cost")
    return float(value)
