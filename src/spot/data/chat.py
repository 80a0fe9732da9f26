"""How text becomes token ids: the only place, so that generation, change ratios and training agree.

A response is tokenised once, as a whole. Prefix sharing then works on token ids; tokenising pieces
would give other ids at the seam.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

from spot.utils.errors import UserError, first_line
from spot.utils.progress import say_once

SAID = "3f9c2b7e"  # the content of a turn that is looked for in what a template writes


class Message(TypedDict):
    """One turn of a chat; `role` is system, user or assistant."""

    role: str
    content: str


def user(text: str) -> tuple[Message, ...]:
    """A chat of one question."""
    return (Message(role="user", content=text),)


def asked(question: str, messages: Sequence[Message] = ()) -> tuple[Message, ...]:
    """The chat that a row begins with: its turns, or where it has none the question alone."""
    return tuple(messages) or user(question)


def transcript(messages: Sequence[Message]) -> str:
    """A chat as a text to read; of a single question the question itself."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in messages)


def posed(
    messages: Sequence[Message], pose: Callable[[str], str] = str
) -> tuple[str, list[Message]]:
    """A row's text and `messages` where its last turn is put to the model by `pose`."""
    turns = [*messages[:-1], *user(pose(messages[-1]["content"]))]
    return transcript(turns), turns if len(turns) > 1 else []


def accepted(tokenizer: Any, messages: Sequence[Message]) -> tuple[Message, ...]:
    """The turns as the chat template takes them.

    Where it knows no system turn (Gemma's), that turn's text comes before the first question.
    """
    template = str(getattr(tokenizer, "chat_template", None) or "")
    if messages[0]["role"] != "system" or _takes_system(tokenizer, template):
        return tuple(messages)
    say_once("The chat template knows no system turn: its text is put before the first question.")
    system, first, *rest = messages
    return *user(f"{system['content']}\n\n{first['content']}"), *rest


@lru_cache(maxsize=8)
def _takes_system(tokenizer: Any, template: str) -> bool:
    with suppress(UserError):
        return SAID in write(tokenizer, [Message(role="system", content=SAID), *user("1 + 1")])
    return False


def chat_ids(tokenizer: Any, messages: Sequence[Message], thinking: bool = False) -> list[int]:
    """Token ids of the chat up to where the assistant begins to speak.

    With `thinking=False` a template that knows `enable_thinking` (Qwen3) inserts the empty think
    block here: it belongs to the prompt and is never scored as response. Raises UserError where the
    template leaves out a turn; what an earlier response reasoned it may.
    """
    turns = accepted(tokenizer, messages)
    text = write(tokenizer, turns, add_generation_prompt=True, enable_thinking=thinking)
    if len(turns) > 1:
        for turn in turns:
            if final_part(turn["content"]).strip() not in text:
                raise UserError(
                    f"The chat template {_of(tokenizer)}leaves out a turn of a chat ({turn['role']}): use a "
                    "model whose template writes all of them."
                )
    return token_ids(tokenizer, text)


def write(tokenizer: Any, messages: Sequence[Message], **options: Any) -> str:
    """What the chat template writes for a chat. Raises UserError where it cannot."""
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
    except Exception as error:  # a template may do anything
        raise UserError(
            f"The chat template {_of(tokenizer)}does not work ({first_line(error)}): copy the model's "
            "own again, chat_template.jinja or tokenizer_config.json."
        ) from error


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text, nothing added. Raises UserError where the tokenizer gives up."""
    try:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust, and no Exception
            raise
        raise UserError(
            f"The tokenizer {_of(tokenizer)}breaks at the text {text[:40]!r} ({first_line(error)}): copy "
            "the model's tokenizer.json again."
        ) from error


def check(tokenizer: Any) -> None:
    """Raise UserError where the tokenizer's chat template cannot ask a question or ends no turn."""
    if not tokenizer.chat_template:
        raise UserError(
            f"The tokenizer {_of(tokenizer)}has no chat template: copy the model's chat_template.jinja "
            "there, or use a model that was trained to chat."
        )
    text, broken = "", None
    try:
        text = write(tokenizer, user(SAID), add_generation_prompt=True, enable_thinking=False)
    except UserError as error:
        broken = error
    if SAID in text:
        token_ids(tokenizer, text)
        stop_ids(tokenizer)
        return
    if _wants_system(tokenizer):
        raise UserError(
            f"The chat template {_of(tokenizer)}wants a system turn, and questions come without one: "
            "let chat_template.jinja write its own where there is none."
        )
    what = "leaves out the question" if text.strip() else "writes nothing for a question"
    raise broken or UserError(
        f"The chat template {_of(tokenizer)}{what}: copy the model's own again."
    )


def _wants_system(tokenizer: Any) -> bool:
    """Whether a system turn makes the template write the question."""
    try:
        return SAID in write(tokenizer, [Message(role="system", content="Answer."), *user(SAID)])
    except UserError:
        return False


def _of(tokenizer: Any) -> str:
    """`in <folder> `, where it was loaded from one."""
    name = getattr(tokenizer, "name_or_path", "")
    return f"in {name} " if name else ""


def prompt_ids(tokenizer: Any, question: str, thinking: bool = False) -> list[int]:
    """Token ids of the prompt that asks one question."""
    return chat_ids(tokenizer, user(question), thinking)


def response_ids(tokenizer: Any, response: str) -> list[int]:
    """Token ids of a response with exactly one token after it that ends the turn."""
    return [*token_ids(tokenizer, response), stop_ids(tokenizer)[0]]


def stop_ids(tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end a response: first what the chat template writes behind a turn, which is what is
    trained, then the tokenizer's end of sequence and what the model's generation_config.json names.

    Raises UserError where nothing ends a turn.
    """
    template = str(getattr(tokenizer, "chat_template", None) or "")
    return _stop_ids(tokenizer, template, tokenizer.eos_token_id)


@lru_cache(maxsize=8)
def _stop_ids(tokenizer: Any, template: str, eos: int | None) -> tuple[int, ...]:
    declared = _declared(tokenizer)
    end = _end_of_turn(tokenizer, [eos, *declared]) if template else eos
    return tuple(i for i in dict.fromkeys([end, eos, *declared]) if i is not None)


def _end_of_turn(tokenizer: Any, known: Sequence[int | None]) -> int:
    """The first special token behind the content of an assistant's turn.

    A template that writes nothing there may end a turn by the next one's beginning (GLM), if that is
    `known` to end a response; else the end of sequence does. Raises UserError.
    """
    asked = [*user("1 + 1"), Message(role="assistant", content=SAID)]
    whole, prompt = write(tokenizer, asked), write(tokenizer, asked[:1], add_generation_prompt=True)
    behind = whole.rpartition(SAID)[2] if SAID in whole else ""
    found = _specials(tokenizer, behind)
    if whole == write(tokenizer, asked, add_generation_prompt=True) and prompt.endswith(behind):
        # it begins another turn in any case, with a last token that ends nothing
        found = [i for i in found if i in known] or found[:-1]
    elif not found and behind.strip():
        raise UserError(
            f"The chat template {_of(tokenizer)}ends a turn with {behind.strip()[:40]!r}, which is not a "
            "token of the tokenizer: use the template and the tokenizer of one model."
        )
    if not found:
        with suppress(UserError):  # written for a single turn
            behind = write(tokenizer, [*asked, *user("2 + 2")]).rpartition(SAID)[2]
            found = [i for i in _specials(tokenizer, behind)[:1] if i in known]
    end = found[0] if found else known[0]
    if end is None:
        raise UserError(
            f"Nothing ends a turn: the chat template {_of(tokenizer)}writes no special token behind it "
            "and the tokenizer has no eos_token; set one in tokenizer_config.json."
        )
    return end


def _specials(tokenizer: Any, text: str) -> list[int]:
    """Tokens that are more than text; who adds `<|im_end|>` to a base model may not call it special."""
    added = tokenizer.added_tokens_decoder
    special = {i for i in added if added[i].content.strip()} - {tokenizer.unk_token_id}
    return [i for i in token_ids(tokenizer, text) if i in special]


def _declared(tokenizer: Any) -> list[int]:
    """The tokens that the generation_config.json beside the tokenizer says end a response."""
    file = Path(getattr(tokenizer, "name_or_path", "") or "/nowhere") / "generation_config.json"
    try:
        named = json.loads(file.read_text(encoding="utf-8"))["eos_token_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # it is not there, or names none
    listed = named if isinstance(named, list) else [named]
    return [i for i in listed if type(i) is int and 0 <= i < len(tokenizer)]


def final_part(response: str) -> str:
    """What a response says after its reasoning block: what is graded.

    The template may have opened the block in the prompt, so a closing tag alone ends one. A block
    that is never closed leaves nothing.
    """
    _, closed, after = response.rpartition("</think>")
    if closed:
        return after
    return "" if "<think>" in response else response
