"""What a paid Oracle's server may refuse, as its user can fix it, and the key that it wants."""

from __future__ import annotations

from functools import partial

from spot.oracle.types import OTHER, Reply, Usage
from spot.utils import http
from spot.utils.errors import UserError

# keys are read from the environment only, and kept out of everything that is written
KEY_NAMES = ("GOOGLE_API_KEY", "GEMINI_API_KEY")  # of Gemini, in the order in which it takes them
read_key = partial(http.read_key, option="oracle.key_name", owner="The Oracle")


def refusal(status: int, words: str, *, model: str, key: http.Key) -> UserError:
    """What the user has to fix after a status that is not transient. words: the server's."""
    words = http.one_line(key.hide(words))
    if status == 401:
        return UserError(f"The Oracle's server does not accept the key in {key.name}: set another.")
    if status == 402:
        return UserError(f"The account of the key in {key.name} has no credit ({words}): add some.")
    if status == 403:
        return UserError(
            f"The key in {key.name} may not use oracle.model={model} ({words}): set another."
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
        return Reply("", OTHER, Usage(), None, "too_long", free=True)
    return None
