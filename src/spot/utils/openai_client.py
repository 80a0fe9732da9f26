"""The client of servers that speak OpenAI's protocol: a call is one request, and errors have names.

https://platform.openai.com/docs/api-reference/chat, with what vLLM adds: token ids of prompt and
response (`return_token_ids`), a model's `max_model_len`, and `/tokenize`. The package's own retries are
off: they know neither the journal nor the other servers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import openai

from spot.utils import http
from spot.utils.http import UnreadableError, json_object, token_count

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
    """What a server says of one response; None where it says nothing, or what cannot be."""

    model: str | None  # that answered
    content: str
    finish: str | None  # in the server's words, empty where it has none; None without any choice
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
        try:
            ids = _ids(body, "tokens") if isinstance(body, dict) else None
        except UnreadableError:
            return None
        return ids if ids is not None and body.get("count") == len(ids) else None

    async def _json(self, url: str, body: Mapping[str, Any] | None = None) -> Any:
        """What a good reply holds. url: whole, or behind the server's own."""
        if body is None:
            response = await self._client.get(url, cast_to=httpx2.Response)
        else:
            response = await self._client.post(url, cast_to=httpx2.Response, body=body)
        return http.parse_json(response.content)

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
    body = json_object(body, "no chat completion")
    choices = body.get("choices")
    if not isinstance(choices, list):  # some gateways send an error with status 200
        raise UnreadableError(_said(body["error"]) if "error" in body else "no chat completion")
    choice = json_object(choices[0] if choices else {}, "no choice")
    message = choice.get("message")  # null where nothing was written
    message = (
        {"content": choice.get("text")} if message is None else json_object(message, "no message")
    )
    said: dict[str, list[str]] = {"text": [], "reasoning": [], "refusal": []}
    for kind, text in _parts(message.get("content")):
        said[kind].append(text)
    apart = "".join(said["reasoning"]) or None
    return ChatReply(
        model=_field(body, "model", str),
        content="".join(said["text"]),
        finish=_finish(choice.get("finish_reason")) if choices else None,
        reasoning=_field(message, "reasoning", str)
        or _field(message, "reasoning_content", str)
        or apart,
        refusal=_field(message, "refusal", str) or "".join(said["refusal"]) or None,
        stop=_field(choice, "stop_reason", (int, str)),
        token_ids=_ids(choice, "token_ids"),
        prompt_ids=_ids(body, "prompt_token_ids"),
        **_usage(body.get("usage")),
    )


def _parts(content: Any) -> Iterator[tuple[str, str]]:
    """Texts of a message, with what each is: text, reasoning or refusal.

    Some servers write a message as one text, others in parts, which may have parts again. What is no
    text, as a picture, is left out. Raises UnreadableError for a text that is none.
    """
    if isinstance(content, str):
        yield "text", content
    elif isinstance(content, list):
        for part in content:
            yield from _parts(part)
    elif isinstance(content, dict):
        name = str(content.get("type") or "text")
        kind = "reasoning" if "reasoning" in name or "thinking" in name else ""
        kind = kind or ("refusal" if name == "refusal" else "")
        names = (name, "text", "content", "parts") if kind else ("text", "content", "parts")
        inner = next((content[n] for n in names if content.get(n) is not None), None)
        if isinstance(inner, dict):  # text with annotations
            inner = inner.get("value", inner)
        for below, text in _parts(inner):
            yield kind or below, text
    elif content is not None:
        raise UnreadableError("content")


def _finish(reason: Any) -> str:
    """Why a response ended, in the server's words; SGLang's own form is an object."""
    if isinstance(reason, dict):
        reason = reason.get("type")
    return "" if reason in (None, "null", "None") else str(reason)


def _usage(usage: Any) -> dict[str, int | None]:
    """The tokens of a reply, all None where one of them is not a number or they do not add up.

    `completion_tokens` should have the thoughts in it, and has not at xAI and at some gateways: there
    the total tells.
    """
    nothing = dict.fromkeys(("prompt_tokens", "tokens", "cached_tokens", "thought_tokens"))
    try:
        usage = json_object(usage, "usage")
        inside = json_object(usage.get("prompt_tokens_details") or {}, "usage")
        details = json_object(usage.get("completion_tokens_details") or {}, "usage")
        prompt, made, total = (
            token_count(usage.get(f"{name}_tokens")) for name in ("prompt", "completion", "total")
        )
        cached = token_count(inside.get("cached_tokens"))
        thoughts = token_count(details.get("reasoning_tokens"))
    except UnreadableError:
        return nothing
    if not prompt or made is None:
        return nothing
    if total == prompt + made + (thoughts or 0):
        made = total - prompt
    if total not in (None, prompt + made) or (cached or 0) > prompt or (thoughts or 0) > made:
        return nothing
    found = {"prompt_tokens": prompt, "tokens": made, "cached_tokens": cached}
    return found | {"thought_tokens": thoughts}


def _field(body: Mapping[str, Any], name: str, kind: type[Any] | tuple[type[Any], ...]) -> Any:
    """A field of a reply, None if it is missing. Raises UnreadableError for one of another type."""
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        raise UnreadableError(name)
    return value


def _ids(body: Mapping[str, Any], name: str) -> list[int] | None:
    """The same for token ids."""
    ids: list[int] | None = _field(body, name, list)
    if ids is not None and not all(type(token) is int and 0 <= token < 2**31 for token in ids):
        raise UnreadableError(name)
    return ids


def _length(value: object) -> int | None:
    """A number of tokens, None for anything else."""
    return value if type(value) is int and 0 < value <= http.MOST_TOKENS else None


def _words(content: bytes) -> str:
    """What an error's body says: OpenAI's form, vLLM's, FastAPI's, or any text."""
    try:
        body = http.parse_json(content)
    except UnreadableError:
        text = content.decode(errors="replace")
        return "an HTML page" if text.lstrip().startswith("<") else text
    return _said(body.get("error", body) if isinstance(body, dict) else body)


def _said(error: Any) -> str:
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return str(error)
