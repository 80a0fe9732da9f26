"""An Oracle's client of any server that speaks OpenAI's protocol: hosted ones, vLLM, SGLang, llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from spot.oracle import api_errors
from spot.oracle.types import EMPTY, SAFETY, Reply, Usage, ended
from spot.utils import http
from spot.utils.errors import UserError
from spot.utils.openai_client import ChatReply, OpenAIServer, StatusError

HOSTED = "https://api.openai.com/v1"
NO_KEY = http.Key("no variable (set oracle.key_name)", "")
_REFUSED = ("content_filter", "content_policy_violation", "invalid_prompt")  # codes of an error


class OpenAIClient:
    """One model of one server, by chat completions.

    key_name: the environment variable with the key; None for a server that wants none.
    max_tokens: of the answer, with what the model thinks. extra: more fields of the request's body, as
    `{"top_k": 20}`, or `reasoning_effort` where the model has it.
    """

    def __init__(
        self,
        model: str,
        base_url: str = HOSTED,
        key_name: str | None = "OPENAI_API_KEY",
        temperature: float | None = None,
        max_tokens: int | None = None,
        extra: Mapping[str, Any] | None = None,
        timeout: float = 600.0,
    ) -> None:
        http.check_url("oracle.base_url", base_url)
        self.model = model
        self._key = api_errors.read_key(key_name) if key_name else NO_KEY
        settings = {"temperature": temperature, _limit_field(base_url): max_tokens}
        self._body = {key: value for key, value in settings.items() if value is not None}
        self._body |= extra or {}
        self._most = max_tokens
        self._server = OpenAIServer(base_url, self._key, timeout, proxies=True)

    async def ask(self, prompt: str) -> Reply:
        """One request. Raises TransientError, UserError."""
        messages = [{"role": "user", "content": prompt}]
        body = {"model": self.model, "messages": messages, **self._body}
        try:
            return _reply(await self._server.complete(body), self._most)
        except StatusError as error:
            outcome = self._explain(error)
        if isinstance(outcome, Reply):
            return outcome
        raise outcome

    async def close(self) -> None:
        await self._server.close()

    def _explain(self, error: StatusError) -> Exception | Reply:
        if error.code in _REFUSED:
            return Reply("", SAFETY, Usage(), None, error.code, free=True)
        if refusal := api_errors.row_refusal(error.status, f"{error.code} {error.words}"):
            return refusal
        if error.code == "insufficient_quota":
            name = self._key.name
            return UserError(f"The account of the key in {name} has no credit: add some.")
        return api_errors.refusal(error.status, error.words, model=self.model, key=self._key)


def _reply(chat: ChatReply, most: int | None) -> Reply:
    usage = Usage(
        input=chat.prompt_tokens or 0,
        cached=chat.cached_tokens or 0,
        output=chat.tokens or 0,
        thoughts=chat.thought_tokens or 0,
    )
    if chat.finish is None:
        return Reply("", EMPTY, usage, chat.model, "no choices")
    if chat.refusal:
        return Reply(chat.content, SAFETY, usage, chat.model, "refusal")
    return ended(chat.content, chat.finish, usage, chat.model, most)


def _limit_field(base_url: str) -> str:
    """OpenAI's newer models refuse the old name, older servers do not know the new one."""
    host = urlsplit(base_url).hostname or ""
    hosted = host.endswith((".openai.com", ".openai.azure.com"))
    return "max_completion_tokens" if hosted else "max_tokens"
