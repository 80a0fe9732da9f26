"""A hub on loopback, which the real client reads and writes: repositories, Git LFS and commits, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "a" * 40  # of what is there at the start
DENIED = "Invalid credentials in Authorization header"  # what a hub says to an expired token
TOKEN = "hf_aTokenThatIsOfNoUseElsewhere"
ROUTE = re.compile(
    r"/(?:api/)?(?:(?P<kind>models|datasets)/)?(?P<id>[^/]+/[^/]+?)"
    r"(?:\.git/info/lfs/objects/(?P<lfs>batch))?"
    r"(?:/(?P<what>resolve|tree|revision|paths-info|preupload|commit|settings)(?:/(?P<revision>[^/]+))?(?:/(?P<file>.+))?)?"
)


@dataclass
class Repository:
    """The files of its newest commit; `broken`, `gated` and `denied` ones answer accordingly."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    commit: str = COMMIT
    state: str = "good"


@dataclass
class Hub:
    """What is there, what arrived, and what is refused: `refuses(method, path)` → status, 0: hung up."""

    repositories: dict[str, Repository] = field(default_factory=dict)  # by `models/<id>`
    objects: dict[str, bytes] = field(default_factory=dict)  # of LFS, by SHA-256
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    refuses: Callable[[str, str], int | None] = lambda method, path: None
    endpoint: str = ""

    def written(self, *, lfs: bool = False) -> list[str]:
        """The paths of requests that change something; lfs: of contents alone."""
        starts = "/lfs/" if lfs else "/"
        return [path for method, path, _ in self.requests if method in ("POST", "PUT") and path.startswith(starts)]  # fmt: skip

    def start(self) -> Callable[[], None]:
        """Serve from now on; what it returns ends that."""
        handler = type("Bound", (_Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.shutdown


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        body = self._body()
        self.hub.requests.append((self.command, path, body))
        status = self.hub.refuses(self.command, path)
        if status == 0:
            self.close_connection = True
            self.connection.close()
        elif status is not None:
            said = {401: DENIED, 403: "You do not have write access", 409: "Conflict"}.get(status, "Oops")  # fmt: skip
            self._answer(status, {"error": said}, {"X-Error-Message": said})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path.startswith("/lfs/"):
            self.hub.objects[hashlib.sha256(body).hexdigest()] = body
            self._answer(200, b"")
        elif (found := ROUTE.fullmatch(path)) is None:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            self._of_a_repository(found.groupdict(), body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        key = f"{asked.get('type', 'model')}s/{name}"
        if key in self.hub.repositories:
            return self._answer(409, {"error": "You already created this repo", "url": f"{self.hub.endpoint}/{name}"})  # fmt: skip
        private = asked.get("visibility") == "private"
        self.hub.repositories[key] = Repository(private=private, commit="0" * 40)
        return self._answer(200, {"url": f"{self.hub.endpoint}/{name}", "name": name})

    def _of_a_repository(self, asked: dict[str, str], body: bytes) -> None:
        name = f"{asked['kind'] or 'models'}/{asked['id']}"
        repo = self.hub.repositories.get(name)
        told = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None or (repo.private and not told):
            self._answer(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif repo.state == "denied":
            self._answer(401, b"", {"X-Error-Message": DENIED})
        elif repo.state == "broken":
            self._answer(503, b"")
        elif asked["revision"] not in (None, "main", repo.commit):
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif asked["lfs"] or asked["what"] in ("preupload", "commit", "settings"):
            self._write(repo, asked, json.loads(body) if asked["what"] != "commit" else body)
        elif asked["what"] in (None, "revision"):
            info = {"id": asked["id"], "sha": repo.commit, "siblings": [], "private": repo.private}
            self._answer(200, info | {"gated": "auto" if repo.state == "gated" else False})
        elif repo.state == "gated":
            self._answer(401, b"", {"X-Error-Code": "GatedRepo"})
        elif asked["what"] in ("tree", "paths-info"):
            self._answer(200, _tree(repo.files, asked["file"] or ""))
        elif asked["what"] == "resolve" and asked["file"] in repo.files:
            tag = hashlib.sha256(repo.files[asked["file"]]).hexdigest()
            headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
            self._answer(200, repo.files[asked["file"]], headers)
        else:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})

    def _write(self, repo: Repository, asked: dict[str, str], body: Any) -> None:
        if asked["what"] == "settings":
            repo.private = body["visibility"] == "private" if "visibility" in body else body["private"]  # fmt: skip
            self._answer(200, {})
        elif asked["what"] == "preupload":
            self._answer(200, {"files": [self._mode(repo, file["path"]) for file in body["files"]]})
        elif asked["lfs"]:
            objects = [self._object(each["oid"], each["size"]) for each in body["objects"]]
            self._answer(200, {"transfer": "basic", "objects": objects})
        else:
            for line in map(json.loads, body.splitlines()):
                self._commit(repo, line["key"], line["value"])
            repo.commit = hashlib.sha1(body).hexdigest()
            url = f"{self.hub.endpoint}/{asked['id']}/commit/{repo.commit}"
            self._answer(200, {"success": True, "commitOid": repo.commit, "commitUrl": url})

    def _mode(self, repo: Repository, path: str) -> dict[str, Any]:
        large, content, oid = path.endswith((".safetensors", ".parquet", "tokenizer.json")), repo.files.get(path), None  # fmt: skip
        if content is not None:
            git = b"blob %d\0%b" % (len(content), content)
            oid = hashlib.sha256(content).hexdigest() if large else hashlib.sha1(git).hexdigest()
        return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}  # fmt: skip

    def _object(self, oid: str, size: int) -> dict[str, Any]:
        known = oid in self.hub.objects
        upload = {"upload": {"href": f"{self.hub.endpoint}/lfs/{oid}"}}
        return {"oid": oid, "size": size} | ({} if known else {"actions": upload})

    def _commit(self, repo: Repository, key: str, value: dict[str, Any]) -> None:
        if key == "file":
            repo.files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            repo.files[value["path"]] = self.hub.objects[value["oid"]]
        elif key == "deletedFile":
            del repo.files[value["path"]]

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers = {"Content-Type": "application/json"} | (headers or {})
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        if os.environ.get("HUB_LOG"):
            print(*args, file=sys.stderr)


def _tree(files: dict[str, bytes], under: str) -> list[dict[str, Any]]:
    listed = [
        {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
        for name, content in files.items()
        if name.startswith(under)
    ]
    above = {name.partition("/")[0] for name in files if "/" in name} if not under else set()
    return [{"type": "directory", "path": name, "oid": "1" * 40, "size": 0} for name in sorted(above)] + listed  # fmt: skip
