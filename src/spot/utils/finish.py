"""How a response ended: what servers call it, and what that means.

A reason that is not in the table is named once, and the response is whole unless it has all the tokens
that were allowed.
"""

from __future__ import annotations

import re
from functools import cache

from spot.utils.progress import say

STOP = "stop"  # the model ended it
LENGTH = "length"  # cut off at a limit of tokens
FILTERED = "filtered"  # refused, or cut off by a filter
OTHER = "other"  # no answer: a call of a tool, a loop that was noticed
BROKEN = "broken"  # given up by the server: worth asking again

# As servers write it; capitals, all but letters, and a leading `FINISH_REASON_` make no difference.
FINISH_REASONS: dict[str, str] = {
    "stop": STOP,  # OpenAI, vLLM, SGLang, llama.cpp, Ollama, Groq, Mistral, DeepSeek; Gemini's STOP
    "eos": STOP,  # Together
    "eos_token": STOP,  # TGI, DJL
    "eos_found": STOP,  # LM Studio
    "eos_id": STOP,
    "end_id": STOP,  # TensorRT-LLM
    "end_of_text": STOP,  # AI21
    "end_of_sequence": STOP,
    "end_turn": STOP,  # Anthropic, Bedrock
    "end_of_turn": STOP,
    "end_of_sentence": STOP,
    "eot": STOP,
    "eot_id": STOP,
    "im_end": STOP,
    "</s>": STOP,
    "reason_stop": STOP,  # xAI
    "stop_sequence": STOP,  # Anthropic, TGI, Cohere
    "stop_sequences": STOP,
    "stop_token": STOP,  # ExLlama
    "stop_string": STOP,
    "stop_string_found": STOP,  # LM Studio
    "stop_str": STOP,
    "stop_word": STOP,
    "stop_words": STOP,  # TensorRT-LLM
    "word": STOP,  # llama.cpp's own protocol
    "natural_stop": STOP,
    "complete": STOP,  # Cohere
    "completed": STOP,
    "finish": STOP,  # Titan
    "finished": STOP,
    "done": STOP,
    "end": STOP,
    "success": STOP,
    "length": LENGTH,  # OpenAI and most others
    "max_tokens": LENGTH,  # Anthropic, Bedrock; Gemini's and Cohere's MAX_TOKENS
    "max_new_tokens": LENGTH,  # ExLlama
    "max_output_tokens": LENGTH,
    "max_completion_tokens": LENGTH,
    "max_tokens_reached": LENGTH,
    "max_predicted_tokens_reached": LENGTH,  # LM Studio
    "max_len": LENGTH,
    "reason_max_len": LENGTH,  # xAI
    "max_length": LENGTH,
    "reason_max_context": LENGTH,
    "model_length": LENGTH,  # Mistral
    "model_context_window_exceeded": LENGTH,  # Anthropic
    "context_length": LENGTH,
    "context_length_exceeded": LENGTH,
    "context_length_reached": LENGTH,  # LM Studio
    "context_window_exceeded": LENGTH,
    "limit": LENGTH,  # llama.cpp's own protocol
    "token_limit": LENGTH,
    "error_limit": LENGTH,  # Cohere
    "truncated": LENGTH,
    "incomplete": LENGTH,
    "continuation": LENGTH,  # Gemini: cut at the limit, with an offer to go on for more money
    "pause_turn": LENGTH,  # Anthropic
    "content_filter": FILTERED,  # OpenAI, Azure
    "content_filtered": FILTERED,  # Bedrock
    "guardrail_intervened": FILTERED,  # Bedrock
    "refusal": FILTERED,  # Anthropic
    "error_toxic": FILTERED,  # Cohere
    "sensitive": FILTERED,  # Zhipu
    "safety": FILTERED,  # Gemini, as those that follow
    "image_safety": FILTERED,
    "blocklist": FILTERED,
    "prohibited_content": FILTERED,
    "spii": FILTERED,
    "escalation": FILTERED,
    "model_armor": FILTERED,
    "recitation": OTHER,
    "language": OTHER,
    "other": OTHER,
    "unspecified": OTHER,
    "malformed_function_call": OTHER,
    "malformed_response": OTHER,
    "unexpected_tool_call": OTHER,
    "too_many_tool_calls": OTHER,
    "missing_thought_signature": OTHER,
    "tool_calls": OTHER,  # OpenAI: part of the text is in the call
    "tool_call": OTHER,
    "tool_use": OTHER,
    "function_call": OTHER,
    "repetition": OTHER,
    "abort": BROKEN,  # vLLM, SGLang
    "aborted": BROKEN,
    "cancel": BROKEN,
    "cancelled": BROKEN,  # TensorRT-LLM
    "canceled": BROKEN,
    "user_cancel": BROKEN,  # Cohere
    "user_stopped": BROKEN,  # LM Studio
    "model_unloaded": BROKEN,
    "error": BROKEN,  # Mistral, OpenRouter
    "failed": BROKEN,
    "timeout": BROKEN,
    "network_error": BROKEN,  # Zhipu
    "insufficient_system_resource": BROKEN,  # DeepSeek
    "load": BROKEN,  # Ollama: the model was loaded and not asked
    "unload": BROKEN,
}


def _plain(reason: str) -> str:
    return re.sub(r"[^a-z]", "", reason.lower()).removeprefix("finishreason")


_KNOWN = {_plain(reason): meaning for reason, meaning in FINISH_REASONS.items()}


def known(reason: object) -> str | None:
    """What a server's reason means, or None where the table does not have it."""
    return _KNOWN.get(_plain(reason)) if isinstance(reason, str) else None


def meaning(reason: str, tokens: int | None, most: int | None) -> str:
    """One of the five above for a server's `reason`; empty where it gives none.

    tokens, most: of the response, and those it was allowed; None where that is not known.
    """
    if found := known(reason):
        return found
    _name(reason)
    return LENGTH if tokens is not None and most is not None and tokens >= most else STOP


@cache
def _name(reason: str) -> None:
    """Say once that a reason is not known."""
    what = (
        f"the finish reason {reason[:60]!r}, which is not known" if reason else "no finish reason"
    )
    say(
        f"A server gives {what}: such a response counts as whole unless it has all the tokens that "
        "it was allowed."
    )
