"""Gemini's batch jobs and the files they read and write, as the local server keeps them."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.fake_server import UNREADABLE, broken, changed
from tests.oracle.protocols import GEMINI, work_row

if TYPE_CHECKING:
    from tests.oracle.server import State

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Job:
    name: str
    display_name: str
    model: str
    source: str
    end: str  # SUCCEEDED | PARTIALLY_SUCCEEDED | EXPIRED | FAILED | CANCELLED
    created: float
    due: float
    output: str | None = None  # the file with what was done, once it is over


class Batches:
    """Jobs by name, files by name. A job's rows are done, and billed, when its time is over."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.jobs: dict[str, Job] = {}
        self.files: dict[str, bytes] = {}

    def add_routes(self, app: web.Application) -> None:
        v = "/{v:v1|v1beta}"
        add = app.router.add_route
        add("POST", f"/upload{v}/files", self.guarded("upload", self.start_upload))
        add("POST", f"/upload{v}/files/{{file}}", self.upload)
        add("GET", v + "/files/{file:[^:]+}:download", self.guarded("download", self.download))
        create = v + "/models/{model:[^:]+}:batchGenerateContent"
        add("POST", create, self.guarded("create", self.create))
        add("GET", f"{v}/batches", self.guarded("list", self.list))
        add("GET", f"{v}/batches/{{job}}", self.guarded("get", self.get))

    def guarded(self, call: str, handler: Handler) -> Handler:
        """The handler, for those who have the key, with what the plan lets go wrong at this call."""

        async def handle(request: web.Request) -> web.StreamResponse:
            key, plan = GEMINI.key(request.headers), self.state.plan
            if not key or plan.key not in (None, key):
                return GEMINI.refuse("401", 0, key, "")
            faults = plan.batch_calls.get(call, [])
            fault = faults.pop(0) if faults else "ok"
            if fault in UNREADABLE:
                return await broken(request, b'{"name": "batches/b0"}', fault)
            if fault in plan.changes:
                return web.json_response(plan.changes[fault][""])
            if fault not in ("ok", "lost"):
                return GEMINI.refuse(fault, plan.retry_after, "", plan.words)
            response = await handler(request)
            if fault == "lost" and request.transport is not None:
                request.transport.abort()
            return response

        return handle

    async def start_upload(self, request: web.Request) -> web.Response:
        name = f"files/f{len(self.files)}"
        self.files[name] = b""
        return web.json_response(
            {}, headers={"X-Goog-Upload-URL": f"{request.url.origin()}/upload/v1/{name}"}
        )

    async def upload(self, request: web.Request) -> web.Response:
        name = f"files/{request.match_info['file']}"
        self.files[name] += await request.read()
        if "finalize" not in request.headers["X-Goog-Upload-Command"]:
            return web.json_response({}, headers={"X-Goog-Upload-Status": "active"})
        size = str(len(self.files[name]))
        file = {"name": name, "sizeBytes": size, "state": "ACTIVE"}
        return web.json_response({"file": file}, headers={"X-Goog-Upload-Status": "final"})

    async def download(self, request: web.Request) -> web.Response:
        return web.Response(body=self.files[f"files/{request.match_info['file']}"])

    async def create(self, request: web.Request) -> web.Response:
        batch, plan = (await request.json())["batch"], self.state.plan
        number = len(self.jobs)
        end = plan.batch_ends[number] if number < len(plan.batch_ends) else "SUCCEEDED"
        now = time.time()
        job = Job(
            name=f"batches/b{number}",
            display_name=batch["displayName"],
            model=request.match_info["model"],
            source=batch["inputConfig"]["fileName"],
            end=end,
            created=now,
            due=now + plan.batch_seconds,
        )
        self.jobs[job.name] = job
        self.state.ledger.jobs += 1
        return web.json_response(self.shown(job))

    async def get(self, request: web.Request) -> web.Response:
        job = self.jobs.get(f"batches/{request.match_info['job']}")
        if job is None:
            return GEMINI.refuse("404", 0, "", "")
        return web.json_response(self.shown(job))

    async def list(self, request: web.Request) -> web.Response:
        """The newest first, by pages."""
        size = int(request.query.get("pageSize", "2"))
        start = int(request.query.get("pageToken", "0"))
        newest = list(self.jobs.values())[::-1]
        page: dict[str, Any] = {
            "operations": [self.shown(job) for job in newest[start : start + size]]
        }
        if start + size < len(newest):
            page["nextPageToken"] = str(start + size)
        return web.json_response(page)

    def shown(self, job: Job) -> dict[str, Any]:
        """A job as the API shows it; does its rows when their time has come."""
        over = time.time() >= job.due
        if over and job.output is None and job.end != "FAILED":
            job.output = self.finish(job)
        state = job.end if over else "RUNNING"
        prefix = "JOB" if state == "PARTIALLY_SUCCEEDED" else "BATCH"
        metadata: dict[str, Any] = {
            "model": f"models/{job.model}",
            "displayName": job.display_name,
            "state": f"{prefix}_STATE_{state}",
            "createTime": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(job.created))
            + f"{job.created % 1:.6f}Z"[1:],
        }
        if job.output is not None:
            metadata["output"] = {"responsesFile": job.output}
        return {"name": job.name, "metadata": metadata, "done": over}

    def finish(self, job: Job) -> str:
        """Do the rows, or the first of them where the job does not succeed, and write the file."""
        rows = [json.loads(line) for line in self.files[job.source].splitlines()]
        if job.end != "SUCCEEDED":
            rows = rows[: int(len(rows) * self.state.plan.batch_share)]
        name = f"files/batch-{len(self.files)}"
        self.files[name] = b"".join(self.row(row, job.model) for row in rows)
        return name

    def row(self, row: dict[str, Any], model: str) -> bytes:
        self.state.ledger.body = row["request"]
        prompt, _ = GEMINI.read({"model": model}, row["request"])
        _, fault = self.state.visit(prompt)
        error, done = work_row(self.state.work, prompt, model, fault)
        if done is None:
            return json.dumps({"key": row["key"], "error": error}).encode() + b"\n"
        self.state.ledger.charge(done, "batch")
        reply = changed(GEMINI.reply(done), self.state.plan.changes.get(fault, {}))
        key = {} if fault == "no key" else {"key": row["key"]}
        line = json.dumps({**key, "response": reply}).encode()
        return (line[:-9] if fault == "torn row" else line) + b"\n"
