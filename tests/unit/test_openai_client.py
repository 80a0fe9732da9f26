"""What servers answer, and what they are sent, through the one client of OpenAI's protocol."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from spot.utils.http import UnreadableError
from spot.utils.openai_client import NO_KEY, OpenAIServer, read_chat


def reply(message: object) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"content": "5"}, "5"),
        ({"content": None}, ""),
        ({"content": [{"type": "text", "content": "1"}, {"text": None}, "2"]}, "12"),
        ({"content": {"role": "model", "parts": [{"text": "5"}]}}, "5"),
        (None, ""),
        ({"content": [{"type": "text", "text": "1"}, {"type": "text", "text": "2"}]}, "12"),
        ({"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "5"}]}, "5"),
    ],
)
def test_the_text_of_a_reply(message: object, content: str) -> None:
    assert read_chat(reply(message)).content == content


@pytest.mark.parametrize("message", ["5", {"content": 5}, {"content": [{"text": 5}]}])
def test_what_is_no_reply(message: object) -> None:
    with pytest.raises(UnreadableError):
        read_chat(reply(message))


@contextmanager
def listening(seen: dict[str, str]) -> Iterator[str]:
    """A server that lists one model and keeps the headers of the last request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.update({name.lower(): value for name, value in self.headers.items()})
            body = json.dumps({"data": [{"id": "m"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_learns_no_organisation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-ours")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-ours")
    seen: dict[str, str] = {}

    async def models(url: str) -> object:
        server = OpenAIServer(url, NO_KEY, 10.0)
        try:
            return await server.models()
        finally:
            await server.close()

    with listening(seen) as url:
        assert asyncio.run(models(url))
    assert seen["host"]
    assert not [name for name in seen if "organization" in name or "project" in name]
    assert "org-ours" not in str(seen)
