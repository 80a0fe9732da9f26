"""Any server that speaks OpenAI's protocol: hosted ones, vLLM, SGLang, llama.cpp.

https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import openai

from spot.oracle import api_errors
from spot.oracle.secrets import NO_KEY, read_key
from spot.oracle.types import EMPTY, MAX_TOKENS, OTHER, SAFETY, STOP, Reply, Usage
from spot.utils import http
from spot.utils.errors import UserError

HOSTED = "https://api.openai.com/v1"
_FINISH = {"stop": STOP, "length": MAX_TOKENS, "content_filter": SAFETY}
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
        self.model, self.timeout = model, timeout
        self._key = read_key(key_name) if key_name else NO_KEY
        settings = {"temperature": temperature, _limit_field(base_url): max_tokens}
        self._body = {key: value for key, value in settings.items() if value is not None}
        self._body |= extra or {}
        self._client = openai.AsyncOpenAI(
            api_key=self._key.value or "none",
            base_url=base_url,
            max_retries=0,
            timeout=timeout,
            # the default transport takes 4 ms of this machine's time for a request among 200, this 1.6
            http_client=openai.DefaultAioHttpClient(),
        )

    async def ask(self, prompt: str) -> Reply:
        """One request. Raises TransientError, UserError."""
        return await api_errors.guarded(self._ask(prompt), self.timeout, self._explain)

    async def close(self) -> None:
        await self._client.close()

    async def _ask(self, prompt: str) -> Reply:
        raw = await self._client.chat.completions.with_raw_response.create(
            model=self.model,
            messages=[{"role": "user", "content": prompt}],
            extra_body=self._body,
        )
        return read_completion(json.loads(raw.content))

    def _explain(self, error: Exception) -> Exception | Reply:
        if not isinstance(error, openai.APIStatusError):
            return error
        body = error.body if isinstance(error.body, dict) else {}
        code, words = str(error.code), self._key.hide(str(body.get("message", error.message)))
        if code in _REFUSED:
            return Reply("", SAFETY, Usage(), None, code)
        if refusal := api_errors.row_refusal(error.status_code, f"{code} {words}"):
            return refusal
        if code == "insufficient_quota":  # a 429 that no waiting mends
            return UserError(f"The account of the key in {self._key.name} has no credit: add some.")
        return api_errors.status_failure(
            error.status_code,
            words,
            model=self.model,
            key=self._key.name,
            after=http.retry_after(error.response.headers),
        )


def read_completion(body: Any) -> Reply:
    """The reply in a chat completion's body. Raises UnreadableError for anything else."""
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
        raise api_errors.UnreadableError("no chat completion")
    usage, version = _usage(body.get("usage") or {}), body.get("model")
    if not body["choices"]:
        return Reply("", EMPTY, usage, version, "no choices")
    choice = body["choices"][0]
    message = choice.get("message") or {}
    text, finish = message.get("content") or "", str(choice.get("finish_reason"))
    if message.get("refusal"):
        return Reply(text, SAFETY, usage, version, "refusal")
    outcome = _FINISH.get(finish, OTHER)
    if outcome == STOP and not text.strip():
        return Reply(text, EMPTY, usage, version, "no text")
    return Reply(text, outcome, usage, version, "" if outcome == STOP else finish)


def _usage(usage: Mapping[str, Any]) -> Usage:
    details = usage.get("prompt_tokens_details") or {}
    thoughts = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    return Usage(
        input=api_errors.count(usage.get("prompt_tokens")),
        cached=api_errors.count(details.get("cached_tokens")),
        output=api_errors.count(usage.get("completion_tokens")),
        thoughts=api_errors.count(thoughts),
    )


def _limit_field(base_url: str) -> str:
    """OpenAI's newer models refuse the old name, older servers do not know the new one."""
    host = urlsplit(base_url).hostname or ""
    hosted = host.endswith((".openai.com", ".openai.azure.com"))
    return "max_completion_tokens" if hosted else "max_tokens"
