"""What all clients of servers share: addresses, keys, which errors are transient, how long to wait."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import json
import os
import random
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from spot.utils.errors import UserError

T = TypeVar("T")
LONGEST_BACKOFF = 60.0  # seconds; only the server itself may ask for more

BUSY = (429, 503, 529)  # statuses of a server that has too much to do; 529 is of some providers
MOST_TOKENS = 10**9  # more than any request has

_LONGEST_REASON = 300  # characters of a server's words
_TOO_LONG = re.compile(
    r"context.?(length|size|window)|maximum (number of tokens|model length)|prompt is too long",
    re.I,
)
# Of the response that was asked for; "even without any output tokens" is said of a prompt.
_RESPONSE = re.compile(
    r"max_(completion_|new_)?tokens|\bcompletion\b|requested \d+ output tokens", re.I
)
_TOO_MUCH = re.compile(r"too (large|long|many|high)|at most|exceed", re.I)
# An environment variable as people name them. Keys look otherwise, so that a key given by mistake
# where its name belongs is refused, and is not repeated in the message.
_NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
_LONGEST_NAME = 64


def check_url(option: str, url: str) -> None:
    """Refuse an address that is none, or that carries a password, without repeating it."""
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query:
        raise UserError(
            f"{option} must not carry a key or a password: set an environment variable."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or not _has_port(parts):
        raise UserError(f"{option}={url} is not an address: write it as http://localhost:8000/v1.")


def _has_port(parts: SplitResult) -> bool:
    """Whether the port is a number that may be one; none at all is the scheme's."""
    try:
        return parts.port != 0
    except ValueError:
        return False


@dataclass(frozen=True)
class Key:
    """A key and the variable it was read from. Printing it shows the variable only."""

    name: str
    value: str = field(repr=False)

    def hide(self, text: str) -> str:
        """A server's words without the key, which some repeat."""
        return text.replace(self.value, "***") if self.value else text


def check_key_name(option: str, name: str) -> None:
    """Refuse what is no environment variable's name, without repeating it: it may be the key."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise UserError(
            f"{option} must name an environment variable, as OPENAI_API_KEY: "
            "put the key itself there, never into the configuration or the command."
        )


def read_key(*names: str, option: str, owner: str) -> Key:
    """The key in the first of these environment variables that is set. Raises UserError.

    option: where the user names them; owner: what needs the key, for messages.
    """
    for name in names:
        check_key_name(option, name)
        value = os.environ.get(name, "").strip()
        if not value:
            continue
        # an HTTP library would quote a header it cannot send
        if not all("!" <= character <= "~" for character in value):
            raise UserError(f"{name} holds more than a key: copy the key anew.")
        return Key(name, value)
    raise UserError(f"{owner} needs a key: set {' or '.join(names)} in the environment.")


class TransientError(Exception):
    """Worth asking again: no connection, a timeout, an unreadable body, a status that `is_transient`.

    after: seconds that the server asks to wait (Retry-After), if it does; billed: whether the server
    may have done the work (a timeout, a dropped connection) and so may charge for it; busy: whether it
    has too much to do (429, 503, 529, no reply in time) and should be asked less at a time.
    """

    def __init__(
        self, reason: str, after: float | None = None, billed: bool = False, busy: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason, self.after, self.billed, self.busy = reason, after, billed, busy


class UnreadableError(ValueError):
    """A body that is not what the protocol promises."""


def parse_json(body: bytes | str) -> Any:
    """What a reply's body says. Raises UnreadableError, also for numbers and depths beyond Python's."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise UnreadableError("no JSON") from None


def json_object(value: Any, what: str) -> dict[str, Any]:
    """The value itself; what: is missing where it is no JSON object, for UnreadableError to name."""
    if not isinstance(value, dict):
        raise UnreadableError(what)
    return value


def token_count(value: Any) -> int | None:
    """A number of tokens, None where there is none. Raises UnreadableError for what cannot be one."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UnreadableError("a count")
    if not 0 <= value <= MOST_TOKENS or value != int(value):
        raise UnreadableError("a count")
    return int(value)


async def guarded(
    call: Awaitable[T], timeout: float, explain: Callable[[Exception], Exception | T]
) -> T:
    """The call's result within `timeout` seconds, or what `explain` makes of an error of the server's.

    Raises TransientError for a request that got no readable answer. What is raised does not carry the
    original error along: that one holds the request, and so the key.
    """
    try:
        async with asyncio.timeout(timeout):
            return await call
    except Exception as error:
        outcome = _connection_error(error, timeout) or explain(error)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _connection_error(error: Exception, timeout: float) -> TransientError | None:
    """The error of a request that got no readable answer; None for any other."""
    import aiohttp  # late: the configuration needs this module, too
    import httpx2

    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, aiohttp.ConnectionTimeoutError):
            return TransientError("no connection in time")
        if isinstance(cause, aiohttp.ClientSSLError):  # its number is one of OpenSSL's
            return TransientError(f"no connection: {one_line(str(cause))}")
        if isinstance(cause, aiohttp.ClientConnectorError):
            number = cause.os_error.errno or 0
            reason = os.strerror(number) if number > 0 else str(cause.os_error)
            return TransientError(f"no connection: {reason}")
    for cause in chain:
        if isinstance(cause, TimeoutError):
            return TransientError(f"no reply within {timeout:g} s", billed=True, busy=True)
        if isinstance(cause, aiohttp.ClientError | ConnectionError):
            return TransientError("dropped connection", billed=True)
        if isinstance(cause, UnreadableError):
            return TransientError(f"unreadable body: {one_line(str(cause))}", billed=True)
        # of a client's package, which reads some bodies itself
        if isinstance(cause, httpx2.DecodingError | ValueError | RecursionError):
            return TransientError("unreadable body", billed=True)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def status_error(status: int, words: str, after: float | None = None) -> TransientError | None:
    """The error of a status that is transient, None for another one. words: the server's, without keys.

    A gateway gives up on a server that may finish the work, and charge for it.
    """
    if not is_transient(status):
        return None
    billed = status in (408, 502, 504) or status >= 520
    reason = f"status {status}: {one_line(words)}".rstrip(": ")
    return TransientError(reason, after, billed, busy=status in BUSY)


def is_transient(status: int) -> bool:
    """Whether an error with this HTTP status may be over when the request is sent again.

    501 is none: the server does not know what it is asked for (RFC 9110, 15.6.2).
    """
    return status in (408, 425, 429) or (status >= 500 and status != 501)


def says_too_long(status: int, words: str) -> bool:
    """Whether a refusal says that the prompt is too long for the model, and not with its response."""
    if status == 413:
        return True
    return status in (400, 422) and bool(_TOO_LONG.search(words)) and not _RESPONSE.search(words)


def says_asked_too_much(status: int, words: str) -> bool:
    """Whether a refusal says that the response may not be as long as was asked for."""
    if status not in (400, 422) or not _RESPONSE.search(words):
        return False
    return bool(_TOO_LONG.search(words) or _TOO_MUCH.search(words))


def one_line(words: str) -> str:
    """A server's words, short enough for a message."""
    from spot.utils.terminal import clean  # late: it imports rich

    return " ".join(clean(words, lines=True).split())[:_LONGEST_REASON]


def retry_after(headers: Mapping[str, str], now: datetime.datetime | None = None) -> float | None:
    """Seconds that a server asks to wait: Retry-After as a number or as a date (RFC 9110, 10.2.3)."""
    value = headers.get("Retry-After", headers.get("retry-after", "")).strip()
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return max(0.0, (date - (now or datetime.datetime.now(datetime.UTC))).total_seconds())


def backoff(failures: int, after: float | None, draw: random.Random) -> float:
    """Seconds to wait after so many failures in a row: 1, 2, 4 … up to 60, less up to a half by chance.

    Never less than `after`, which the server asked for, plus up to a tenth: those who were sent away
    together must not come back together.
    """
    longest = min(LONGEST_BACKOFF, 2.0 ** (failures - 1))
    own = longest * draw.uniform(0.5, 1.0)
    return own if after is None else max(own, after * draw.uniform(1.0, 1.1))
