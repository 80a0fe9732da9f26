"""What is fetched of a model that a hub has, from a hub on this machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "c" * 40
READ = [
    "config.json",
    "generation_config.json",
    "merges.txt",
    "tokenizer.json",
    "chat_template.jinja",
]
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
UNREAD = ["original/consolidated.00.pth", "original/params.json", "consolidated.safetensors"]
UNREAD += ["tf_model.h5", "flax_model.msgpack", "model.gguf", "onnx/model.onnx", "optimizer.pt"]
PICKLED = ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"]
MODELS = {
    "safe": [*READ, *SHARDS, *UNREAD, *PICKLED[:1]],
    "pickled": [*READ, *PICKLED, "training_args.bin", *UNREAD[:2]],
}
CHILD = """
import sys
from spot.pipeline import policy
print(policy.download(sys.argv[1], None))
"""


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        found = re.search(r"owner/(\w+)", path)
        assert found
        files = MODELS[found[1]]
        if "/resolve/" in path:
            name = path.partition(f"{COMMIT}/")[2]
            content, kind = name.encode(), "application/octet-stream"
            assert name in files
        else:
            listed = [{"type": "file", "path": f, "size": len(f), "oid": "0" * 40} for f in files]
            siblings = [{"rfilename": f} for f in files]
            info = {"id": f"owner/{found[1]}", "sha": COMMIT, "siblings": siblings}
            content, kind = (
                json.dumps(listed if "/tree/" in path else info).encode(),
                "application/json",
            )
        self.send_response(200)
        headers = {
            "Content-Type": kind,
            "X-Repo-Commit": COMMIT,
            "Content-Length": str(len(content)),
        }
        for key, value in {**headers, "ETag": f'"{path.replace("/", "-")}"'}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def download(name: str, endpoint: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_ENDPOINT": endpoint}
    environment["HF_HUB_OFFLINE"] = "0"
    command = [sys.executable, "-c", CHILD, f"owner/{name}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_only_what_is_read_is_fetched(endpoint: str, tmp_path: Path) -> None:
    done = download("safe", endpoint, tmp_path)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.name == COMMIT
    found = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert found == {*READ, *SHARDS}
    assert (folder / "config.json").read_text() == "config.json"


def test_pickled_weights_are_not_fetched(endpoint: str, tmp_path: Path) -> None:
    done = download("pickled", endpoint, tmp_path)
    assert "owner/pickled has no safetensors on the hub" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.rglob("*.bin"))
