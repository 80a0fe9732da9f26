"""One server that speaks OpenAI's protocol: one call is one request, and failures have names.

https://platform.openai.com/docs/api-reference/chat, with what vLLM adds: token ids of prompt and
response (`return_token_ids`), a model's `max_model_len`, and `/tokenize`.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from spot.data.chat import Message
from spot.generation.types import LENGTH, STOP
from spot.utils import http
from spot.utils.errors import UserError

CONNECT_SECONDS = 10.0  # for a connection
PROBE_SECONDS = 30.0  # for what costs a server nothing; a busy one answers late
# uvicorn ends idle connections after 5 s: one that we keep longer may end while we send on it
IDLE_SECONDS = 3.0
# a machine that is gone is noticed after 60 + 6 x 10 s; the system's own default is two hours
KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}
_UNFINISHED = (None, "abort", "error")  # the server gave the response up: worth asking again


class PassingError(Exception):
    """Worth asking again: no connection, a time-out, an unreadable reply, a status that is transient.

    after: seconds that the server asks to wait, if it does.
    """

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.after = reason, after


class DeniedError(UserError):
    """401, 403 or 404: a mistake of the user's, unless the server has let us in before.

    Whatever stands before a server answers so while the server is being replaced.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class RefusedError(Exception):
    """A status that no waiting mends, in the server's words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


@dataclass(frozen=True)
class Reply:
    """What a server says of one response; None where it says nothing."""

    model: str | None  # that answered
    content: str
    reasoning: str | None  # what it split off before the content
    finish: str  # STOP or LENGTH
    stop: int | str | None  # the token or the words that ended it, if it was not the usual token
    token_ids: list[int] | None  # with the token that ended it
    tokens: int | None  # their number
    prompt_ids: list[int] | None
    prompt_tokens: int | None


class Endpoint:
    """A server at `base_url`, which ends in /v1 as a rule; `group` is of its options, for messages."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        key: http.Key,
        timeout: float,
        group: str = "generator",
    ) -> None:
        self.url = base_url.rstrip("/")
        self._session, self._key, self._group = session, key, group
        self._headers = {"Content-Type": "application/json"}
        if key.value:
            self._headers["Authorization"] = f"Bearer {key.value}"
        self._asking, self._probing = _limit(timeout), _limit(PROBE_SECONDS)

    async def models(self) -> dict[str, int | None]:
        """The models it serves and the context of each, None where it gives no number.

        Raises PassingError, UserError.
        """
        try:
            content = await self._exchange("GET", f"{self.url}/models", None, self._probing)
        except RefusedError as error:
            raise self._refusal(error, "for its list of models") from None
        body = _read(content)
        cards = body.get("data")
        if not isinstance(cards, list) or not all(isinstance(card, dict) for card in cards):
            raise UserError(
                f"{self.url}/models is no list of models: the address ends in /v1, as a rule."
            )
        return {str(card.get("id")): _number(card.get("max_model_len")) for card in cards}

    async def probe(self) -> None:
        """Return if it tells its models. Raises PassingError."""
        try:
            await self._exchange("GET", f"{self.url}/models", None, self._probing)
        except RefusedError as error:
            raise PassingError(f"status {error.status}: {error.words}".rstrip(": ")) from None

    async def tokenize(
        self, model: str, messages: Sequence[Message], template: Mapping[str, Any]
    ) -> list[int] | None:
        """The token ids of a prompt, or None from a server that cannot tell. Raises PassingError.

        template: variables of the chat template.
        """
        asked = {
            "model": model,
            "messages": messages,
            "add_generation_prompt": True,
            "chat_template_kwargs": template,
        }
        try:
            content = await self._exchange(
                "POST", f"{self.url.removesuffix('/v1')}/tokenize", asked, self._probing
            )
            body = _read(content)
        except RefusedError:
            return None
        # other servers have a /tokenize, too, which knows no chats and does not count
        told = body.get("tokens")
        return told if isinstance(told, list) and body.get("count") == len(told) else None

    async def complete(self, body: Mapping[str, Any], name: str) -> Reply | None:
        """The response to a chat, None if the prompt is too long for the server.

        name: of the request, for messages. Raises PassingError, UserError.
        """
        url = f"{self.url}/chat/completions"
        try:
            return read_reply(await self._exchange("POST", url, body, self._asking))
        except RefusedError as error:
            if http.says_too_long(error.status, error.words):
                return None
            raise self._refusal(error, f"for {name}") from None

    async def _exchange(
        self, method: str, url: str, body: Mapping[str, Any] | None, limit: aiohttp.ClientTimeout
    ) -> bytes:
        """The body of a reply with status 200."""
        data = None if body is None else json.dumps(body).encode()
        try:
            async with self._session.request(
                method, url, data=data, headers=self._headers, timeout=limit, allow_redirects=False
            ) as response:
                content = await response.read()
        except aiohttp.ConnectionTimeoutError:
            raise PassingError(f"no connection within {CONNECT_SECONDS:g} s") from None
        except TimeoutError:
            raise PassingError(f"no reply within {limit.total:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise PassingError(_cause(error)) from None
        if response.status == 200:
            return content
        words = http.one_line(self._key.hide(_words(content)))
        if http.is_transient(response.status):
            after = http.retry_after(response.headers)
            raise PassingError(f"status {response.status}: {words}".rstrip(": "), after)
        raise RefusedError(response.status, words)

    def _refusal(self, error: RefusedError, what: str) -> UserError:
        """What the user has to mend."""
        said = f"status {error.status}: {error.words}".rstrip(": ")
        if error.status in (401, 403):
            mend = f"set another key in {self._key.name}" if self._key.value else "name its key"
            return DeniedError(
                f"{self.url} lets nobody in ({said}): {mend} ({self._group}.key is the "
                "environment variable that holds it).",
                said,
            )
        if error.status == 404:
            return DeniedError(
                f"{self.url} was asked {what} and knows nothing of it ({said}): "
                "the address must end as the server's does, as a rule in /v1.",
                said,
            )
        if http.says_asked_too_much(error.status, error.words):
            return UserError(
                f"{self.url} refuses so long a response {what} ({said}): lower "
                f"{self._group}.max_new_tokens, or model.context_length to what the server has."
            )
        return UserError(
            f"{self.url} refuses the request {what} ({said}): change the {self._group}'s options."
        )


def read_reply(content: bytes) -> Reply:
    """The first choice of a chat completion. Raises PassingError for a body that cannot be read."""
    body = _read(content)
    choices = body.get("choices")
    if not choices or not isinstance(choices, list) or not isinstance(choices[0], dict):
        raise PassingError("a reply without a choice")
    choice, usage = choices[0], _field(body, "usage", dict) or {}
    if (finish := choice.get("finish_reason")) in _UNFINISHED:
        raise PassingError(f"a response that ended by {finish}")
    message = _field(choice, "message", dict)
    if message is None:
        raise PassingError("a reply without a message")
    return Reply(
        model=_field(body, "model", str),
        content=_field(message, "content", str) or "",
        reasoning=_field(message, "reasoning", str) or _field(message, "reasoning_content", str),
        # whatever else ends a response (a filter, a loop that was noticed) cuts it off
        finish=STOP if finish == "stop" else LENGTH,
        stop=_field(choice, "stop_reason", (int, str)),
        token_ids=_ids(choice, "token_ids"),
        tokens=_field(usage, "completion_tokens", int),
        prompt_ids=_ids(body, "prompt_token_ids"),
        prompt_tokens=_field(usage, "prompt_tokens", int),
    )


def connector() -> aiohttp.TCPConnector:
    """Connections for any number of requests at a time."""
    return aiohttp.TCPConnector(
        limit=0, keepalive_timeout=IDLE_SECONDS, socket_factory=_watched_socket
    )


def _watched_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket whose connection ends when the other machine is gone."""
    family, kind, protocol, *_ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # not every system has all three
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return sock


def _limit(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)


def _read(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except ValueError:
        raise PassingError("a reply that is cut or no JSON") from None
    if not isinstance(body, dict):
        raise PassingError("a reply that is no JSON object")
    return body


def _field(body: Mapping[str, Any], name: str, kind: type[Any] | tuple[type[Any], ...]) -> Any:
    """A field of a reply, None if it is missing. Raises PassingError for one of another type."""
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        raise PassingError(f"a reply whose {name} cannot be read")
    return value


def _ids(body: Mapping[str, Any], name: str) -> list[int] | None:
    """The same for token ids."""
    ids = _field(body, name, list)
    if ids is not None and not all(isinstance(token, int) for token in ids):
        raise PassingError(f"a reply whose {name} cannot be read")
    return ids


def _number(value: object) -> int | None:
    """A number of tokens, None for anything else."""
    return value if isinstance(value, int) and value > 0 else None


def _words(content: bytes) -> str:
    """What an error's body says: OpenAI's form, vLLM's, FastAPI's, or any text."""
    try:
        body = json.loads(content)
    except ValueError:
        text = content.decode(errors="replace")
        return "an HTML page" if text.lstrip().startswith("<") else text
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return str(error)


def _cause(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientSSLError):
        return f"no connection: {error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0
        return f"no connection: {os.strerror(number) if number > 0 else error.os_error}"
    return f"dropped connection: {error or type(error).__name__}"
