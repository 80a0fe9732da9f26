"""The two protocols as servers speak them: what a request says, what a reply and a refusal look like."""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from spot.oracle.types import Usage
from tests.oracle import world

# How a reply may end instead of with a whole text, and what it may lack or claim.
ENDS = "safety blocked no_candidates max_tokens cut recitation no_usage drift".split()


@dataclass(frozen=True)
class Work:
    """What was generated for one request, whoever gets to see it."""

    text: str
    end: str  # stop | length | one of ENDS
    usage: Usage
    version: str


@dataclass(frozen=True)
class Protocol:
    """Pure functions between bodies and what they mean."""

    read: Callable[[Mapping[str, str], Any], tuple[str, str]]  # path, body -> prompt, model
    key: Callable[[Mapping[str, str]], str]
    reply: Callable[[Work], dict[str, Any]]
    refuse: Callable[
        [str, float, str, str], web.Response
    ]  # fault, seconds to wait, the key that was sent, words instead of its own


def tokens(text: str) -> int:
    """A count of tokens for the bill: about four characters each."""
    return math.ceil(len(text) / 4)


def work(prompt: str, fault: str, version: str, thoughts: int, cached: int) -> Work:
    """What a model generates for a prompt when `fault` happens to it."""
    text = world.written(prompt, fault)
    end = fault if fault in ENDS else "stop"
    if fault == "cut":
        text = text[: len(text) // 2]
    if fault in ("safety", "blocked", "no_candidates", "max_tokens", "recitation"):
        text = ""
    if fault in ("blocked", "no_candidates"):  # refused before anything is thought
        thoughts = 0
    inputs = tokens(prompt)
    return Work(
        text, end, Usage(inputs, min(cached, inputs), tokens(text) + thoughts, thoughts), version
    )


def work_row(
    do: Callable[[str, str, str], Work], prompt: str, model: str, fault: str
) -> tuple[dict[str, Any], Work | None]:
    """A row of a batch job: refusals and broken lines are errors of the row there."""
    if fault[:3].isdigit():
        return {"code": int(fault[:3]), "message": f"Status {fault[:3]}, says the server."}, None
    if fault in ("drop", "reset", "hang", "torn", "html"):
        return {"code": 13, "message": "Internal error."}, None
    return {}, do(prompt, model, fault)


# Gemini

_GEMINI_FINISH = {
    "safety": "SAFETY",
    "recitation": "RECITATION",
    "max_tokens": "MAX_TOKENS",
    "cut": "MAX_TOKENS",
}


def read_gemini(path: Mapping[str, str], body: Any) -> tuple[str, str]:
    parts = [part["text"] for content in body["contents"] for part in content["parts"]]
    return "".join(parts), path["model"]


def gemini_reply(done: Work) -> dict[str, Any]:
    usage = {
        "promptTokenCount": done.usage.input,
        "cachedContentTokenCount": done.usage.cached,
        "candidatesTokenCount": done.usage.output - done.usage.thoughts,
        "thoughtsTokenCount": done.usage.thoughts,
        "totalTokenCount": done.usage.input + done.usage.output,
        "aFieldOfTomorrow": 1,
    }
    reply: dict[str, Any] = {"modelVersion": done.version, "responseId": "r"}
    if done.end != "no_usage":
        reply["usageMetadata"] = usage
    if done.end == "blocked":
        return reply | {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}
    if done.end == "no_candidates":
        return reply
    candidate: dict[str, Any] = {"finishReason": _GEMINI_FINISH.get(done.end, "STOP"), "index": 0}
    if done.text:
        half = len(done.text) // 2  # a text may come in parts, thoughts among them
        parts = [{"text": "Let me see.", "thought": True}, {"text": done.text[:half]}]
        parts.append({"text": done.text[half:], "thoughtSignature": "AAAA"})
        candidate["content"] = {"role": "model", "parts": parts}
    else:
        candidate["content"] = {"role": "model"}
    return reply | {"candidates": [candidate]}


_GEMINI_STATUS = {
    400: "INVALID_ARGUMENT",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def refuse_gemini(fault: str, seconds: float, key: str, words: str) -> web.Response:
    code = int(fault[:3])
    message, details = f"Status {code}, says the server.", []
    if fault == "401":  # Gemini calls a bad key an invalid argument
        code, message = 400, f"API key not valid: {key}. Please pass a valid API key."
        details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo"}]
        details[0]["reason"] = "API_KEY_INVALID"
    if fault == "400_long":
        message = (
            "The input token count (2000000) exceeds the maximum number of tokens allowed (9)."
        )
    if fault == "429_delay":
        details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo"}]
        details[0]["retryDelay"] = f"{seconds}s"
    if fault == "429_quota":
        quota: Any = {"@type": "type.googleapis.com/google.rpc.QuotaFailure"}
        quota["violations"] = [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]
        details = [quota]
    status = _GEMINI_STATUS.get(code, "UNKNOWN")
    error = {"code": code, "message": words or message, "status": status, "details": details}
    return web.json_response({"error": error}, status=code, headers=wait(fault, seconds))


# OpenAI

_OPENAI_FINISH = {"safety": "content_filter", "max_tokens": "length", "cut": "length"}


def read_openai(path: Mapping[str, str], body: Any) -> tuple[str, str]:
    return "".join(message["content"] for message in body["messages"]), body["model"]


def openai_reply(done: Work) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": done.text or None}
    if done.end == "blocked":
        message["refusal"] = "I cannot help with that."
    finish = _OPENAI_FINISH.get(done.end, "abort" if done.end == "recitation" else "stop")
    reply: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": done.version,
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
    }
    if done.end == "no_candidates":
        reply["choices"] = []
    if done.end != "no_usage":
        reply["usage"] = {
            "prompt_tokens": done.usage.input,
            "completion_tokens": done.usage.output,
            "total_tokens": done.usage.input + done.usage.output,
            "prompt_tokens_details": {"cached_tokens": done.usage.cached},
            "completion_tokens_details": {"reasoning_tokens": done.usage.thoughts},
        }
    return reply


def refuse_openai(fault: str, seconds: float, key: str, words: str) -> web.Response:
    code = int(fault[:3])
    error: dict[str, Any] = {"message": words or f"Status {code}, says the server."}
    if fault == "401":
        error |= {"message": f"Incorrect API key provided: {key}.", "code": "invalid_api_key"}
    if fault == "400_long":
        error |= {"message": "This model's maximum context length is 9 tokens."}
        error |= {"code": "context_length_exceeded"}
    if fault == "429_quota":
        error |= {"message": "You exceeded your quota.", "code": "insufficient_quota"}
    return web.json_response({"error": error}, status=code, headers=wait(fault, seconds))


def wait(fault: str, seconds: float) -> dict[str, str]:
    """Retry-After in either of its two forms."""
    if fault == "429_after":
        return {"Retry-After": f"{seconds:g}"}
    if fault == "429_date":  # whole seconds, so at least one of them is left
        return {"Retry-After": email.utils.formatdate(time.time() + seconds + 1, usegmt=True)}
    return {}


GEMINI = Protocol(
    read_gemini, lambda headers: headers.get("x-goog-api-key", ""), gemini_reply, refuse_gemini
)
OPENAI = Protocol(
    read_openai,
    lambda headers: headers.get("Authorization", "").removeprefix("Bearer "),
    openai_reply,
    refuse_openai,
)
