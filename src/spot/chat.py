"""How text becomes token ids: the only place, so that generation, proximity and training agree.

A response is tokenised once, as a whole. Prefix sharing then works on token ids; tokenising pieces
would give other ids at the seam.
"""

from __future__ import annotations

from typing import Any


def prompt_ids(tokenizer: Any, question: str, thinking: bool = False) -> list[int]:
    """Token ids of the chat prompt up to where the assistant begins to speak.

    With `thinking=False` a template that knows `enable_thinking` (Qwen3) inserts the empty think
    block here: it belongs to the prompt and is never scored as response.
    """
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=thinking,
    )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def response_ids(tokenizer: Any, response: str) -> list[int]:
    """Token ids of a response with exactly one end-of-sequence token after it."""
    return [*tokenizer(response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
