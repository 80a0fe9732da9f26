"""Behaves like `vllm serve` where `spot.generation.vllm` looks: health, models, an engine, a crash.

    python vllm_stand_in.py serve <folder> --port 1234 --served-model-name student [--act <what>]

- `fail`: writes an engine's error among other lines, and ends
- `never`: listens, and is never healthy
- `once`: healthy at its first start, ends at once at every other
- `clash`: ends at once at the first two starts of all, as if its port were taken

It says 7 to everything. GET /crash ends it, GET /kill kills it and leaves its engine behind, GET
/state tells what it was given.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("serve")
parser.add_argument("folder", type=Path)
parser.add_argument("--port", type=int)
parser.add_argument("--served-model-name")
parser.add_argument("--max-model-len", type=int)
parser.add_argument("--act", default="well")
parser.add_argument("--marks", type=Path, help="a folder in which it leaves a file at each start")
options, _ = parser.parse_known_args()
engine = subprocess.Popen(["sleep", "600"])


class Handler(BaseHTTPRequestHandler):
    def knows_the_key(self) -> bool:
        """As vLLM: what is below /v1 needs the key, where there is one."""
        key = os.environ.get("VLLM_API_KEY")
        given = self.headers.get("Authorization")
        if not key or not self.path.startswith("/v1") or given == f"Bearer {key}":
            return True
        self.send_response(401)
        self.end_headers()
        return False

    def do_GET(self) -> None:
        if not self.knows_the_key():
            return
        if self.path == "/kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.path == "/crash":
            print("EngineDeadError: EngineCore encountered an issue", flush=True)
            os._exit(1)
        answers = {
            "/health": (503 if options.act == "never" else 200, {}),
            "/v1/models": (
                200,
                {"data": [{"id": options.served_model_name, "max_model_len": 512}]},
            ),
            "/state": (
                200,
                {"pid": os.getpid(), "engine": engine.pid, "argv": sys.argv, **os.environ},
            ),
        }
        status, body = answers.get(self.path, (404, {}))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_POST(self) -> None:
        """The same answer to every chat, and 404 for what else is asked."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.knows_the_key():
            return
        self.send_response(200 if self.path == "/v1/chat/completions" else 404)
        self.end_headers()
        choice = {"message": {"content": "It is \\boxed{7}."}, "finish_reason": "stop"}
        self.wfile.write(json.dumps({"model": asked["model"], "choices": [choice]}).encode())

    def log_message(self, *_: object) -> None: ...


if options.act == "fail":
    print("INFO starting")
    print("(EngineCore pid=7) ERROR 11-21 [core.py:7] ValueError: the model is made of cheese")
    for number in range(30):
        print(f'  File "engine.py", line {number}, in run')
    sys.exit("RuntimeError: Engine core initialization failed.")
if options.marks:
    (options.marks / f"start-{os.getpid()}").touch()
    if options.act == "once" and len(list(options.marks.iterdir())) > 1:
        sys.exit("OSError: the disk is gone")
    if options.act == "clash" and len(list(options.marks.iterdir())) <= 2:
        sys.exit(f"OSError: [Errno 98] bind on address ('127.0.0.1', {options.port}): in use")
server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
signal.signal(signal.SIGINT, lambda *_: threading.Thread(target=server.shutdown).start())
print("listening", flush=True)
server.serve_forever()
if options.marks:
    (options.marks / f"end-{os.getpid()}").touch()
