"""What HTTP Oracles have in common: which failures are worth another request, and what they say.

The packages' own retries are off: they know neither the journal nor the cap, and would ask, and pay,
behind our back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import aiohttp

from spot.oracle.types import OTHER, Reply, Usage
from spot.utils import http
from spot.utils.errors import UserError
from spot.utils.http import TransientError

T = TypeVar("T")

# Of a gateway: the server behind it may finish the work, and charge for it.
_GAVE_UP = (408, 502, 504)


class UnreadableError(ValueError):
    """A body that is not what the protocol promises."""


async def guarded(
    call: Awaitable[T], timeout: float, explain: Callable[[Exception], Exception | T]
) -> T:
    """The call's result within `timeout` seconds, or what `explain` makes of its failure.

    What is raised does not carry the original failure along: that one holds the request, and so the key.
    """
    try:
        async with asyncio.timeout(timeout):
            return await call
    except Exception as error:
        outcome = connection_failure(error) or explain(error)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def connection_failure(error: Exception) -> TransientError | None:
    """The failure of a request that got no readable answer; None for any other."""
    chain = list(_causes(error))
    if any(isinstance(cause, aiohttp.ClientConnectorError) for cause in chain):
        return TransientError("no connection")
    for cause in chain:
        if isinstance(cause, TimeoutError):
            return TransientError("timeout", billed=True)
        if isinstance(cause, aiohttp.ClientError | ConnectionError):
            return TransientError("dropped connection", billed=True)
        if isinstance(cause, json.JSONDecodeError | UnicodeDecodeError | UnreadableError):
            return TransientError("unreadable body", billed=True)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def status_failure(
    status: int, words: str, *, model: str, key: str, after: float | None = None
) -> Exception:
    """What an HTTP status means: ask again, or what the user has to mend.

    words: the server's, without the key; key: the variable it was read from; after: seconds to wait.
    """
    words = http.one_line(words)
    if http.is_transient(status):
        return TransientError(f"status {status}", after, status in _GAVE_UP or status >= 520)
    if status == 401:
        return UserError(f"The Oracle's server does not accept the key in {key}: set another.")
    if status == 402:
        return UserError(f"The account of the key in {key} has no credit ({words}): add some.")
    if status == 403:
        return UserError(
            f"The key in {key} may not use oracle.model={model} ({words}): set another."
        )
    if status == 404:
        return UserError(f"The server does not know oracle.model={model} ({words}): name another.")
    return UserError(
        f"The Oracle's server refuses the request with status {status} ({words}): "
        "change the oracle's options."
    )


def row_refusal(status: int, words: str) -> Reply | None:
    """A reply that says that this prompt is too long for the model; None if that is not the matter."""
    if http.says_too_long(status, words):
        return Reply("", OTHER, Usage(), None, "too_long")
    return None


def count(value: object) -> int:
    """A number of tokens, 0 where the server gives none."""
    return value if isinstance(value, int) else 0
