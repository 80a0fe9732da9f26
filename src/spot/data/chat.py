"""How text becomes token ids: the only place, so that generation, change ratios and training agree.

A response is tokenised once, as a whole. Prefix sharing then works on token ids; tokenising pieces
would give other ids at the seam.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict


class Message(TypedDict):
    """One turn of a chat; `role` is system, user or assistant."""

    role: str
    content: str


def user(text: str) -> tuple[Message, ...]:
    """A chat of one question."""
    return (Message(role="user", content=text),)


def chat_ids(tokenizer: Any, messages: Sequence[Message], thinking: bool = False) -> list[int]:
    """Token ids of the chat up to where the assistant begins to speak.

    With `thinking=False` a template that knows `enable_thinking` (Qwen3) inserts the empty think
    block here: it belongs to the prompt and is never scored as response.
    """
    text = tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def prompt_ids(tokenizer: Any, question: str, thinking: bool = False) -> list[int]:
    """Token ids of the prompt that asks one question."""
    return chat_ids(tokenizer, user(question), thinking)


def response_ids(tokenizer: Any, response: str) -> list[int]:
    """Token ids of a response with exactly one end-of-sequence token after it."""
    return [*tokenizer(response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def final_part(response: str) -> str:
    """What a response says after its reasoning block: what is graded.

    The template may have opened the block in the prompt, so a closing tag alone ends one. A block
    that is never closed leaves nothing.
    """
    _, closed, after = response.rpartition("</think>")
    if closed:
        return after
    return "" if "<think>" in response else response
