"""The client of servers that speak OpenAI's protocol: a call is one request, and errors have names.

https://platform.openai.com/docs/api-reference/chat, with what vLLM adds: token ids of prompt and
response (`return_token_ids`), a model's `max_model_len`, and `/tokenize`. The package's own retries are
off: they know neither the journal nor the other servers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import openai

from spot.utils import http
from spot.utils.http import UnreadableError
from spot.utils.machine import allow_open_files

CONNECT_SECONDS = 10.0  # for a connection
PROBE_SECONDS = 30.0  # for what costs a server nothing; a busy one answers late
# uvicorn ends idle connections after 5 s: one that we keep longer may end while we send on it
IDLE_SECONDS = 3.0
FOR_OPENAI_ALONE = ("OpenAI-Organization", "OpenAI-Project")
NO_KEY = http.Key("no variable", "")


class StatusError(Exception):
    """A refusal that no waiting fixes: its status, the server's words and its code for the error."""

    def __init__(self, status: int, words: str, code: str) -> None:
        super().__init__(f"status {status}: {words}".rstrip(": "))
        self.status, self.words, self.code = status, words, code


@dataclass(frozen=True)
class ChatReply:
    """What a server says of one response; None where it says nothing."""

    model: str | None  # that answered
    content: str
    finish: str | None  # in the server's words; None without any choice
    reasoning: str | None  # what it split off before the content
    refusal: str | None
    stop: int | str | None  # the token or the words that ended it, if it was not the usual token
    token_ids: list[int] | None  # with the token that ended it
    prompt_ids: list[int] | None
    prompt_tokens: int | None
    tokens: int | None  # of the response, with what it thought
    cached_tokens: int | None  # of the prompt
    thought_tokens: int | None  # of the response


class OpenAIServer:
    """A server at `base_url`, which ends in /v1 as a rule.

    timeout: seconds for one response. proxies: whether to use those that the environment names.
    """

    def __init__(
        self, base_url: str, key: http.Key, timeout: float, *, proxies: bool = False
    ) -> None:
        allow_open_files()
        self.url, self.key, self.timeout = base_url.rstrip("/"), key, timeout
        self._client = openai.AsyncOpenAI(
            api_key=key.value or "none",  # the package insists on one
            base_url=self.url,
            max_retries=0,
            # the package takes them from the environment, for every server alike
            default_headers={name: openai.Omit() for name in FOR_OPENAI_ALONE},  # type: ignore[misc]
            # the default transport takes 4 ms of this machine's time for a request among 200, this 1.6
            http_client=openai.DefaultAioHttpClient(
                timeout=httpx2.Timeout(timeout, connect=CONNECT_SECONDS),
                limits=httpx2.Limits(max_connections=0, keepalive_expiry=IDLE_SECONDS),
                follow_redirects=False,
                trust_env=proxies,
            ),
        )

    async def close(self) -> None:
        await self._client.close()

    async def complete(self, body: Mapping[str, Any]) -> ChatReply:
        """The response to a chat. Raises TransientError, StatusError."""

        async def chat() -> ChatReply:
            return read_chat(await self._json("/chat/completions", body))

        return await http.guarded(chat(), self.timeout, self._explain)

    async def models(self) -> dict[str, int | None] | None:
        """The models it serves and the context of each, None where it gives no number.

        None instead of all that for an address that lists no models. Raises TransientError, StatusError.
        """
        body = await http.guarded(self._json("/models"), PROBE_SECONDS, self._explain)
        cards = body.get("data") if isinstance(body, dict) else None
        if not isinstance(cards, list) or not all(isinstance(card, dict) for card in cards):
            return None
        return {str(card.get("id")): _length(card.get("max_model_len")) for card in cards}

    async def tokenize(
        self, model: str, messages: Sequence[Any], template: Mapping[str, Any]
    ) -> list[int] | None:
        """The token ids of a prompt, or None from a server that cannot tell. Raises TransientError.

        template: variables of the chat template.
        """
        asked = {
            "model": model,
            "messages": messages,
            "add_generation_prompt": True,
            "chat_template_kwargs": template,
        }
        url = f"{self.url.removesuffix('/v1')}/tokenize"
        try:
            body = await http.guarded(self._json(url, asked), PROBE_SECONDS, self._explain)
        except StatusError:
            return None
        # other servers have a /tokenize, too, which knows no chats and does not count
        ids = body.get("tokens") if isinstance(body, dict) else None
        return ids if isinstance(ids, list) and body.get("count") == len(ids) else None

    async def _json(self, url: str, body: Mapping[str, Any] | None = None) -> Any:
        """What a good reply holds. url: whole, or behind the server's own."""
        if body is None:
            response = await self._client.get(url, cast_to=httpx2.Response)
        else:
            response = await self._client.post(url, cast_to=httpx2.Response, body=body)
        return json.loads(response.content)

    def _explain(self, error: Exception) -> Exception:
        if not isinstance(error, openai.APIStatusError):
            return error
        words, code = http.one_line(self.key.hide(_words(error.response.content))), str(error.code)
        after = http.retry_after(error.response.headers)
        if code != "insufficient_quota":  # a 429 that no waiting fixes
            transient = http.status_error(error.status_code, words, after)
            if transient is not None:
                return transient
        return StatusError(error.status_code, words, code)


def read_chat(body: Any) -> ChatReply:
    """The first choice in a chat completion's body. Raises UnreadableError for anything else."""
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
        raise UnreadableError("no chat completion")
    choices = body["choices"]
    choice = choices[0] if choices else {}
    if not isinstance(choice, dict):
        raise UnreadableError("no message")
    message = _field(choice, "message", dict) or {}  # null where nothing was written
    usage = _field(body, "usage", dict) or {}
    prompt_details = _field(usage, "prompt_tokens_details", dict) or {}
    details = _field(usage, "completion_tokens_details", dict) or {}
    return ChatReply(
        model=_field(body, "model", str),
        content=_content(message),
        finish=str(choice.get("finish_reason")) if choices else None,
        reasoning=_field(message, "reasoning", str) or _field(message, "reasoning_content", str),
        refusal=_field(message, "refusal", str),
        stop=_field(choice, "stop_reason", (int, str)),
        token_ids=_ids(choice, "token_ids"),
        prompt_ids=_ids(body, "prompt_token_ids"),
        prompt_tokens=_field(usage, "prompt_tokens", int),
        tokens=_field(usage, "completion_tokens", int),
        cached_tokens=_field(prompt_details, "cached_tokens", int),
        thought_tokens=_field(details, "reasoning_tokens", int),
    )


def _content(message: Mapping[str, Any]) -> str:
    """The text of a message, which some servers write in parts, those of their reasoning apart."""
    parts = _field(message, "content", (str, list)) or ""
    if isinstance(parts, str):
        return parts
    return "".join(_field(part, "text", str) or "" for part in parts if isinstance(part, dict))


def _field(body: Mapping[str, Any], name: str, kind: type[Any] | tuple[type[Any], ...]) -> Any:
    """A field of a reply, None if it is missing. Raises UnreadableError for one of another type."""
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        raise UnreadableError(name)
    return value


def _ids(body: Mapping[str, Any], name: str) -> list[int] | None:
    """The same for token ids."""
    ids: list[int] | None = _field(body, name, list)
    if ids is not None and not all(isinstance(token, int) for token in ids):
        raise UnreadableError(name)
    return ids


def _length(value: object) -> int | None:
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
