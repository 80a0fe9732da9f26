"""Google's Gemini, one request at a time or by batch jobs at half the price.

https://ai.google.dev/api/generate-content and https://ai.google.dev/gemini-api/docs/batch-api
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from google import genai
from google.genai import errors, types

from spot.oracle import api_errors
from spot.oracle.types import EMPTY, SAFETY, Job, Outcome, Reply, Usage, ended
from spot.utils import http
from spot.utils.errors import UserError, one_of
from spot.utils.http import TransientError, UnreadableError

_object = partial(http.json_object, what="no GenerateContentResponse")
HOSTED = "https://generativelanguage.googleapis.com/"
THINKING_LEVELS = ("minimal", "low", "medium", "high")

_JOB_STATES = {
    "JOB_STATE_SUCCEEDED": "done",
    "JOB_STATE_PARTIALLY_SUCCEEDED": "done",
    "JOB_STATE_EXPIRED": "expired",
    "JOB_STATE_FAILED": "failed",
    "JOB_STATE_CANCELLED": "failed",
}


class GeminiClient:
    """One Gemini model: `types.Client` and `types.BatchClient`.

    max_tokens: of the answer, with what the model thinks. thinking: a budget in tokens for Gemini 2.5, a
    level for Gemini 3; None leaves it to the model.
    """

    def __init__(
        self,
        model: str,
        base_url: str = HOSTED,
        key_names: Sequence[str] = api_errors.KEY_NAMES,
        temperature: float | None = None,
        max_tokens: int | None = None,
        thinking: int | str | None = None,
        timeout: float = 600.0,
    ) -> None:
        http.check_url("oracle.base_url", base_url)
        self.model, self.timeout = model, timeout
        self._key = api_errors.read_key(*key_names)
        self._config = types.GenerateContentConfig(
            temperature=temperature,
            max_output_tokens=max_tokens,
            thinking_config=_thinking(thinking),
            automatic_continuation=False,  # would ask, and pay, again
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            should_return_http_response=True,  # fields yet unknown to the package are no error
        )
        # the environment may ask the package for other servers and ways to log in: not here
        self._client = genai.Client(
            api_key=self._key.value,
            vertexai=False,
            http_options=types.HttpOptions(
                base_url=base_url,
                timeout=int(timeout * 1000),
                # without this, the package asks again by itself after a dropped connection
                retry_options=types.HttpRetryOptions(attempts=1),
            ),
        )

    async def ask(self, prompt: str) -> Reply:
        """One request. Raises TransientError, UserError."""
        return await http.guarded(self._ask(prompt), self.timeout, self._explain_row)

    async def close(self) -> None:
        await self._client.aio.aclose()
        self._client.close()

    async def submit(self, prompts: Sequence[tuple[str, str]], name: str) -> Job:
        """A batch job of (key, prompt) pairs, under our name. Raises TransientError, UserError."""
        try:
            file = await http.guarded(self._upload(prompts, name), self.timeout, self._explain)
        except TransientError as error:  # there is no job yet that could cost anything
            raise TransientError(error.reason, error.after) from None
        return await http.guarded(self._create(file, name), self.timeout, self._explain)

    async def find(self, name: str) -> Job | None:
        """The newest job under our name, if there is one."""
        return await http.guarded(self._find(name), self.timeout, self._explain)

    async def poll(self, job: Job) -> Job:
        """The job as it stands now."""
        return await http.guarded(self._poll(job), self.timeout, self._explain)

    async def results(self, job: Job) -> dict[str, Outcome]:
        """What a finished job did, by key: a reply, or the server's reason why there is none."""
        return await http.guarded(self._results(job), self.timeout, self._explain)

    async def _ask(self, prompt: str) -> Reply:
        answer = await self._client.aio.models.generate_content(
            model=self.model, contents=prompt, config=self._config
        )
        response = answer.sdk_http_response
        body = http.parse_json((response and response.body) or "")
        return read_response(body, self._config.max_output_tokens)

    async def _upload(self, prompts: Sequence[tuple[str, str]], name: str) -> str:
        generation = self._config.model_dump(
            mode="json",
            by_alias=True,
            exclude_none=True,
            include={"temperature", "max_output_tokens", "thinking_config"},
        )
        lines = b"".join(_line(key, prompt, generation) for key, prompt in prompts)
        file = await self._client.aio.files.upload(
            file=io.BytesIO(lines),
            config=types.UploadFileConfig(display_name=name, mime_type="application/jsonl"),
        )
        return str(file.name)

    async def _create(self, file: str, name: str) -> Job:
        config = types.CreateBatchJobConfig(display_name=name)
        return _job(
            await self._client.aio.batches.create(model=self.model, src=file, config=config)
        )

    async def _find(self, name: str) -> Job | None:
        pages = await self._client.aio.batches.list(config=types.ListBatchJobsConfig(page_size=100))
        ours = [job async for job in pages if job.display_name == name]
        return _job(max(ours, key=lambda job: str(job.create_time))) if ours else None

    async def _poll(self, job: Job) -> Job:
        return _job(await self._get(job))

    async def _get(self, job: Job) -> types.BatchJob:
        return await self._client.aio.batches.get(name=job.name)

    async def _results(self, job: Job) -> dict[str, Outcome]:
        output = (await self._get(job)).dest
        if output is None or output.file_name is None:
            return {}
        lines = await self._client.aio.files.download(file=output.file_name)
        found = dict(read_results(lines, self._config.max_output_tokens))
        if found.keys() == {""}:  # not one line can be read: this is no such file
            raise UnreadableError("no results")
        return found

    def _explain_row(self, error: Exception) -> Exception | Reply:
        if isinstance(error, errors.APIError):
            refusal = api_errors.row_refusal(error.code, str(error.message))
            if refusal is not None:
                return refusal
        return self._explain(error)

    def _explain(self, error: Exception) -> Exception:
        if isinstance(
            error, LookupError | TypeError | AttributeError
        ):  # the package's, as it reads
            return TransientError(f"unreadable body: {http.one_line(str(error))}", billed=True)
        if not isinstance(error, errors.APIError):
            return error
        details = _details(error)
        if any(detail.get("reason") == "API_KEY_INVALID" for detail in details):
            return api_errors.refusal(401, "", model=self.model, key=self._key)
        quotas = str([detail.get("violations") for detail in details])
        if error.code == 429 and "PerDay" in quotas:
            return UserError(
                f"Today's quota of oracle.model={self.model} is used up: run the same command tomorrow."
            )
        after = http.retry_after(getattr(error.response, "headers", None) or {})
        after = _retry_delay(details) if after is None else after
        words = self._key.hide(str(error.message))
        return http.status_error(error.code, words, after) or api_errors.refusal(
            error.code, words, model=self.model, key=self._key
        )


def read_response(body: Any, most: int | None) -> Reply:
    """The reply in the body of a GenerateContentResponse. Raises UnreadableError for anything else.

    most: the tokens that were allowed.
    """
    body = _object(body)
    if not body.keys() & {"candidates", "promptFeedback", "modelVersion"}:
        raise UnreadableError("no GenerateContentResponse")
    usage, version = _usage(body.get("usageMetadata")), body.get("modelVersion")
    if version is not None and not isinstance(version, str):
        raise UnreadableError("modelVersion")
    candidates = body.get("candidates") or []
    if not isinstance(candidates, list):
        raise UnreadableError("candidates")
    if not candidates or candidates[0] is None:
        blocked = _object(body.get("promptFeedback") or {}).get("blockReason")
        reason = str(blocked or "no candidates")
        return Reply("", SAFETY if blocked else EMPTY, usage, version, reason)
    candidate = _object(candidates[0])
    parts = _object(candidate.get("content") or {}).get("parts") or []
    if not isinstance(parts, list):
        raise UnreadableError("parts")
    text = "".join(_text(_object(part or {})) for part in parts)
    return ended(text, str(candidate.get("finishReason") or ""), usage, version, most)


def _text(part: dict[str, Any]) -> str:
    """What a part says; a thought, or what is no text, says nothing."""
    text = part.get("text")
    if part.get("thought") or text is None:
        return ""
    if not isinstance(text, str):
        raise UnreadableError("text")
    return text


def read_results(lines: bytes, most: int | None) -> Iterator[tuple[str, Outcome]]:
    """Keys and what became of them, out of a batch job's file; an empty key for what has none."""
    for line in lines.splitlines():
        try:
            row = _object(http.parse_json(line))
            if not isinstance(row.get("key"), str):
                raise UnreadableError("no key")
            yield row["key"], _result(row, most)
        except UnreadableError as error:
            yield "", TransientError(f"unreadable line: {error}", billed=True)


def _result(row: dict[str, Any], most: int | None) -> Outcome:
    if "response" not in row:
        error = row.get("error") or row.get("status") or {}
        said = error if isinstance(error, dict) else {"code": error, "message": error}
        return f"status {said.get('code')}: {said.get('message')}"
    try:
        return read_response(row["response"], most)
    except UnreadableError as error:
        return TransientError(f"unreadable body: {error}", billed=True)


def _usage(usage: Any) -> Usage:
    """The tokens of a reply; none where one of them is not a number or they do not add up."""
    try:
        usage = _object(usage)
        names = ("prompt", "cachedContent", "candidates", "thoughts", "toolUsePrompt", "total")
        counts = [http.token_count(usage.get(f"{name}TokenCount")) or 0 for name in names]
    except UnreadableError:
        return Usage()
    prompt, cached, said, thoughts, tools, total = counts
    if not prompt or cached > prompt or total != prompt + said + thoughts + tools:
        return Usage()
    return Usage(prompt + tools, cached, said + thoughts, thoughts)  # billed alike


def _line(key: str, prompt: str, generation: dict[str, Any]) -> bytes:
    """One request of a batch job's file."""
    request = {
        "contents": [{"role": "user", "parts": [{"text": prompt}]}],
        "generationConfig": generation,
    }
    return json.dumps({"key": key, "request": request}).encode() + b"\n"


def _job(job: types.BatchJob) -> Job:
    if job.name is None or job.state is None:
        raise UnreadableError("no job")
    return Job(job.name, _JOB_STATES.get(job.state.value, "running"))


def _details(error: errors.APIError) -> list[dict[str, Any]]:
    """The machine-readable part of an error (google.rpc.Status)."""
    body = error.details.get("error") if isinstance(error.details, dict) else None
    details = body.get("details") if isinstance(body, dict) else None
    found = details if isinstance(details, list) else []
    return [detail for detail in found if isinstance(detail, dict)]


def _retry_delay(details: list[dict[str, Any]]) -> float | None:
    """Seconds of google.rpc.RetryInfo, which stands in the body where Retry-After is not sent."""
    for detail in details:
        if delay := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]*)?)s", str(detail.get("retryDelay"))):
            return float(delay[1])
    return None


def _thinking(budget_or_level: int | str | None) -> types.ThinkingConfig | None:
    match budget_or_level:
        case None:
            return None
        case int(budget):
            return types.ThinkingConfig(thinking_budget=budget)
        case str(level):
            one_of("oracle.thinking_level", level, THINKING_LEVELS)
            return types.ThinkingConfig(thinking_level=types.ThinkingLevel(level.upper()))
