"""Checks that a server has the right model and reads our prompts as the tokens that training sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from spot.config import GeneratorConfig
from spot.data.answers import whole_characters
from spot.data.chat import Message, accepted, chat_ids, stop_ids
from spot.generation.types import LENGTH, PROMPT_TOO_LONG, STOP, Completion, Request
from spot.utils import finish, http
from spot.utils.errors import UserError
from spot.utils.http import TransientError
from spot.utils.openai_client import ChatReply, OpenAIServer, StatusError

SAMPLES = 3  # prompts whose tokens are compared before a server is asked


class DeniedError(TransientError):
    """401, 403 or 404: a mistake of the user's (`message`), unless the server has let us in before.

    Whatever stands before a server answers so while the server is being replaced.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason)
        self.message = message


class Client(Protocol):
    """What is known of the generator whose servers are checked."""

    config: GeneratorConfig
    group: str
    key: http.Key
    tokenizer: Any
    thinking: bool
    name: str | None
    context_length: int


class PromptCheck:
    """What is said to the servers of one run of a generator, and what they have to agree on."""

    def __init__(self, generator: Client, requests: Sequence[Request]) -> None:
        self.config, self.group, self.key = generator.config, generator.group, generator.key
        self.tokenizer, self.thinking = generator.tokenizer, generator.thinking
        self.name, self.context = generator.name, generator.context_length
        self.samples = _different(requests)
        self.model = self.config.model or ""
        self.served: tuple[str, str, int | None] | None = None  # who served what first

    async def greet(self, server: OpenAIServer) -> None:
        """Agree on the model, its context and the tokens of prompts. Raises TransientError, UserError."""
        try:
            models = await server.models()
        except StatusError as error:
            raise self._refusal(server.url, error, "for its list of models") from None
        if models is None:
            raise UserError(
                f"{server.url}/models is not a list of models: the address ends in /v1, as a rule."
            )
        self._agree(server.url, models)
        template = self._body({}).get("chat_template_kwargs") or {}
        for request in self.samples:
            ids = await server.tokenize(self.model, self._turns(request), template)
            if ids is None:
                return
            _check_prompt(server.url, self._ids(request), len(ids), ids)

    async def ask(self, server: OpenAIServer, request: Request) -> Completion:
        """The completion of one request, asked once. Raises TransientError, UserError."""
        ids = self._ids(request)
        most = min(request.sampling.max_new_tokens, self.context - len(ids))
        reply = await self._reply(server, request, most)
        name = self.name or self.model
        if reply is None:
            return Completion(request.key, "", (), PROMPT_TOO_LONG, len(ids), 0, name)
        if reply.tokens is not None and reply.tokens > most:  # that cannot be
            reply = replace(reply, tokens=None)
        how = self._ended(reply, most)
        if reply.model not in (None, self.model):
            raise UserError(
                f"{server.url} answered as the model {reply.model}, not as {self.model}: "
                "name the model that is meant."
            )
        _check_prompt(server.url, ids, reply.prompt_tokens, reply.prompt_ids)
        made = _written_ids(reply, how, stop_ids(self.tokenizer))
        return Completion(
            request.key,
            # else it could not be stored
            whole_characters(_text(reply, how, made, self.tokenizer)),
            tuple(made or ()),
            how,
            len(ids),
            _count(reply, how, made, self.tokenizer),
            name,
        )

    def _ended(self, reply: ChatReply, most: int) -> str:
        """`stop` or `length`: whatever else ends a response (a filter, a noticed loop) cuts it off.

        Raises TransientError for one that the server gave up, or that is not there.
        """
        empty = not (reply.content or reply.reasoning or reply.token_ids)
        if reply.finish is None or (reply.finish == "" and empty):
            raise TransientError("a reply without a response")
        tokens = _count(reply, LENGTH, reply.token_ids, self.tokenizer)
        found = finish.meaning(reply.finish, tokens, most)
        if found == finish.BROKEN:
            raise TransientError(f"a response that ended by {reply.finish}")
        return STOP if found == finish.STOP else LENGTH

    async def _reply(self, server: OpenAIServer, request: Request, most: int) -> ChatReply | None:
        """What the server says; None if the prompt leaves no room for a response."""
        if most <= 0:
            return None
        sampling = request.sampling
        fields = {
            "messages": self._turns(request),
            "max_tokens": most,
            "seed": request.seed,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
        }
        try:
            return await server.complete(self._body(fields))
        except StatusError as error:
            if http.says_too_long(error.status, error.words):
                return None
            raise self._refusal(server.url, error, f"for {request.key}") from None

    def _refusal(self, url: str, error: StatusError, what: str) -> Exception:
        """What the user has to fix."""
        if error.status in (401, 403):
            fix = f"set another key in {self.key.name}" if self.key.value else "name its key"
            return DeniedError(
                str(error),
                f"{url} refuses access ({error}): {fix} ({self.group}.key is the environment variable "
                "that holds it).",
            )
        if error.status == 404:
            return DeniedError(
                str(error),
                f"{url} was asked {what} and knows nothing of it ({error}): the address must end as "
                "the server's does, as a rule in /v1.",
            )
        if http.says_asked_too_much(error.status, error.words):
            return UserError(
                f"{url} refuses so long a response {what} ({error}): lower "
                f"{self.group}.max_new_tokens, or model.context_length to what the server has."
            )
        return UserError(
            f"{url} refuses the request {what} ({error}): change the {self.group}'s options."
        )

    def _turns(self, request: Request) -> Sequence[Message]:
        return accepted(self.tokenizer, request.messages)

    def _ids(self, request: Request) -> list[int]:
        return chat_ids(self.tokenizer, request.messages, thinking=self.thinking)

    def _body(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A request's body. Limits that are off are said: a server's own defaults may be others.

        vLLM takes what is not said from the model's generation_config.json, llama.cpp has top-k 40.
        """
        body = {
            "model": self.model,
            **fields,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "return_token_ids": True,
            "stop_token_ids": stop_ids(self.tokenizer),
            "chat_template_kwargs": {"enable_thinking": self.thinking},
            **self.config.extra,
        }
        return {key: value for key, value in body.items() if value is not None}

    def _agree(self, url: str, models: Mapping[str, int | None]) -> None:
        """All servers serve one model with one context length."""
        there = ", ".join(models) or "no model"
        wanted = self.config.model or (next(iter(models)) if len(models) == 1 else "")
        if wanted not in models:
            instead = f", not {wanted}" if wanted else ""
            raise UserError(
                f"{url} serves {there}{instead}: set {self.group}.model to what it serves."
            )
        context = models[wanted]
        first, model, length = self.served = self.served or (url, wanted, context)
        if (wanted, context) != (model, length):
            raise UserError(
                f"{url} serves {wanted} ({context} tokens of context), {first} serves {model} "
                f"({length}): start all servers with the same model and length."
            )
        self.model, self.context = wanted, min(self.context, context or self.context)


def _different(requests: Sequence[Request]) -> list[Request]:
    """The first few whose prompts differ."""
    found: dict[str, Request] = {}
    for request in requests:
        found.setdefault(repr(request.messages), request)
        if len(found) == SAMPLES:
            break
    return list(found.values())


def _check_prompt(
    url: str, ours: Sequence[int], count: int | None, theirs: Sequence[int] | None
) -> None:
    """Refuse a server that reads a prompt as other tokens than ours; None is what it does not tell."""
    if count in (None, len(ours)) and (theirs is None or list(theirs) == ours):
        return
    where = ""
    if theirs is not None and len(theirs) == len(ours):
        place = next(
            i for i, pair in enumerate(zip(ours, theirs, strict=True)) if len(set(pair)) > 1
        )
        where = f" that differ from token {place} on"
    raise UserError(
        f"{url} reads a prompt as {len(theirs) if theirs is not None else count} tokens, here it has "
        f"{len(ours)}{where}: serve the same tokenizer and chat template, or change model.thinking."
    )


def _written_ids(reply: ChatReply, how: str, ends: Sequence[int]) -> list[int] | None:
    """What was generated, without the token that ended it."""
    ids = reply.token_ids
    if ids and how == STOP and ids[-1] in (*ends, reply.stop):
        return ids[:-1]
    return ids


def _count(reply: ChatReply, how: str, made: list[int] | None, tokenizer: Any) -> int:
    """Tokens of a response, without the one that ended it."""
    if made is not None:
        return len(made)
    if reply.tokens is None:
        written = whole_characters((reply.reasoning or "") + reply.content)
        return len(tokenizer(written, add_special_tokens=False)["input_ids"])
    return max(0, reply.tokens - (how == STOP))


def _text(reply: ChatReply, how: str, made: list[int] | None, tokenizer: Any) -> str:
    """The whole response, with the reasoning that some servers split off.

    Token ids tell best what was written. The rest is put together again: a block that was cut off
    within stays open, as the model left it.
    """
    if not reply.reasoning:
        return reply.content
    if made:
        written = str(tokenizer.decode(made, skip_special_tokens=False))
        if not reply.content or "</think>" in written:
            return written
    if how != STOP and not reply.content:
        return f"<think>{reply.reasoning}"
    return f"<think>{reply.reasoning}</think>{reply.content}"
