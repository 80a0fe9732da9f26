"""Serving a page to this machine alone, and there only to who knows the token in its address."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from spot.utils.errors import UserError

HOST = "127.0.0.1"


@contextmanager
def served(
    handler: type[BaseHTTPRequestHandler], known: Mapping[str, Any], port: int, key: str
) -> Iterator[str]:
    """Serve while the context lasts; yields the address. `port` 0 takes a free one.

    The handler gets `known` and its `token` as attributes. Raises UserError, which names `key`, when
    the port is taken.
    """
    token = secrets.token_urlsafe(24)
    try:
        server = ThreadingHTTPServer(
            (HOST, port), type("Handler", (handler,), {**known, "token": token})
        )
    except OSError as error:
        raise UserError(
            f"{key}={port} cannot be used ({error.strerror}): choose another."
        ) from None
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}/{token}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def path_behind(token: str, request: BaseHTTPRequestHandler) -> str | None:
    """What is asked for behind the token; None for who does not know it or calls us by another name."""
    names = {f"{name}:{request.server.server_port}" for name in (HOST, "localhost")}  # type: ignore[attr-defined]
    given = request.path.split("?")[0].split("/", 2)
    if len(given) != 3 or request.headers.get("Host") not in names:
        return None
    return given[2] if secrets.compare_digest(given[1].encode(), token.encode()) else None


def answer(
    request: BaseHTTPRequestHandler, status: int, body: bytes, headers: Mapping[str, str]
) -> None:
    """Send the whole answer."""
    request.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)
