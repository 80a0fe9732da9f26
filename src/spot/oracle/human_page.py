"""A page on this machine on which a person corrects attempts in a browser, watching the change ratio.

It edits the sheet of `human_sheet`: each edit is in the file before the page says that it is saved.
Only this machine can reach it, and there only who knows the token in its address; what models wrote is
sent as JSON and shown as text.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from importlib import resources
from pathlib import Path
from typing import Any

from spot.data.edits import change_ratio
from spot.data.rows import CORRECT
from spot.data.word_diff import marked
from spot.grading.registry import Verifier
from spot.oracle import human_sheet
from spot.oracle.postprocess import words
from spot.oracle.types import Task
from spot.utils import local_page
from spot.utils.errors import UserError
from spot.utils.progress import say
from spot.utils.terminal import count

LONGEST_BODY = 8 << 20  # bytes
TITLE = 60  # characters of a question in the list
FILES = {
    "": ("index.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "Cache-Control": "no-store",
}


@dataclass
class Corrections:
    """The tasks, the sheet they are in, and what the page may ask of them. Used by several threads."""

    sheet: Path
    tasks: Sequence[Task]
    verifier: Verifier
    tokens: Callable[[str], Sequence[int]] = words
    answer_format: str = "boxed"
    finished: threading.Event = field(default_factory=threading.Event)
    _verified: dict[tuple[str, str], bool] = field(default_factory=dict)  # of (id, correction)
    _done: dict[str, str] = field(default_factory=dict)
    _serials: dict[tuple[str, int], int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _cutting: threading.Lock = field(default_factory=threading.Lock)  # tokenizers know one thread

    def __post_init__(self) -> None:
        self._done = human_sheet.prepare(self.sheet, self.tasks)

    def overview(self) -> list[dict[str, Any]]:
        """For the list at the side."""
        with self._lock:
            return [
                {
                    "id": t.id,
                    "title": " ".join(t.question.split())[:TITLE],
                    **self._state(t),
                }
                for t in self.tasks
            ]

    def counts(self) -> str:
        """`7 of 9 attempts are corrected; 1 correction does not end in the true answer …`."""
        states = self.overview()
        done, wrong = (sum(each[key] for each in states) for key in ("done", "wrong"))
        says = f"{done} of {len(self.tasks)} attempts are corrected"
        if wrong:
            says += (
                f"; {wrong} {'correction does' if wrong == 1 else 'corrections do'} not end in the true "
                "answer and will be left out"
            )
        return says

    def show(self, index: int) -> dict[str, Any]:
        """One task and its correction so far."""
        task = self.tasks[index]
        with self._lock:
            done = self._done.get(task.id, "")
        return {
            "question": task.question,
            "answer": task.answer,
            "response": task.response,
            "correction": done,
        }

    def save(self, index: int, text: str, session: str = "", serial: int = 0) -> dict[str, Any]:
        """Put a correction into the sheet; the attempt unchanged, or nothing, takes it out again.

        Of one session's edits an older one never replaces a newer. The file is read again before, so that
        what was changed in it meanwhile stays.
        """
        task = self.tasks[index]
        text = human_sheet.like_the_attempt(text, task.response)
        empty = not text.strip() or text == human_sheet.like_the_attempt(
            task.response, task.response
        )
        with self._lock:
            if serial >= self._serials.get((session, index), serial):
                done = (
                    human_sheet.read(self.sheet, self.tasks) if self.sheet.exists() else self._done
                )
                kept = {key: value for key, value in done.items() if key != task.id}
                self._done = kept if empty else kept | {task.id: text}
                human_sheet.write(self.sheet, self.tasks, self._done)
                self._serials[session, index] = serial
            return self._state(task)

    def look(self, index: int, text: str) -> dict[str, Any]:
        """Change ratio (eq. 1), final answer and its verdict, and both texts in pieces (text, edited)."""
        task = self.tasks[index]
        text = human_sheet.like_the_attempt(text, task.response)
        with self._cutting:
            rejected, chosen = self.tokens(task.response), self.tokens(text)
        verdict, extracted = self.verifier.verdict(text, task.answer, "stop", self.answer_format)
        before, after = marked(task.response, text)
        ratio = change_ratio(rejected, chosen) if chosen else None
        return {
            "ratio": ratio, "verdict": verdict, "extracted": extracted, "before": before, "after": after
        }  # fmt: skip

    def _state(self, task: Task) -> dict[str, bool]:
        """done: its correction ends in the true answer; wrong: it has one that does not."""
        if (text := self._done.get(task.id)) is None:
            return {"done": False, "wrong": False}
        if (task.id, text) not in self._verified:
            verdict, _ = self.verifier.verdict(text, task.answer, "stop", self.answer_format)
            self._verified[task.id, text] = verdict == CORRECT
        right = self._verified[task.id, text]
        return {"done": right, "wrong": not right}

    def result(self) -> dict[str, str]:
        """The corrections by id."""
        with self._lock:
            return dict(self._done)


@contextmanager
def page(corrections: Corrections, port: int = 0) -> Iterator[str]:
    """Serve the page while the context lasts; yields its address. `port` 0 takes a free one.

    Raises UserError when the port is taken.
    """
    known = {"corrections": corrections}
    with local_page.served(_Handler, known, port, "oracle.port") as address:
        yield address


def correct(
    corrections: Corrections, port: int = 0, tell: Callable[[str], None] = say
) -> dict[str, str]:
    """Serve the page until its Finish button is pressed; the corrections by id.

    Ctrl-C ends it early and loses nothing: the same call goes on from there.
    """
    with page(corrections, port) as address:
        tell(
            f"correct {count(len(corrections.tasks), 'attempt')} at {address} (kept in {corrections.sheet})"
        )
        corrections.finished.wait()
    tell(corrections.counts())
    return corrections.result()


class _Handler(BaseHTTPRequestHandler):
    """Turns requests into calls of `corrections`."""

    corrections: Corrections
    token: str
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a silent connection keeps its thread

    def do_GET(self) -> None:
        """The page's files, the list, or one task."""
        path = local_page.path_behind(self.token, self)
        if path in FILES:
            name, kind = FILES[path]
            body = (resources.files("spot.oracle") / "page" / name).read_bytes()
            self._send(200, body, f"{kind}; charset=utf-8")
        elif path == "tasks":
            self._json(200, self.corrections.overview())
        elif path is not None and (index := self._index(path.removeprefix("task/"))) is not None:
            self._json(200, self.corrections.show(index))
        else:
            self._json(404, {"error": "there is nothing here"})

    def do_POST(self) -> None:
        """Save, look or finish."""
        path = local_page.path_behind(self.token, self)
        length = self.headers.get("Content-Length", "")
        # A page elsewhere cannot send this type without asking first, which is never allowed.
        is_json = self.headers.get_content_type() == "application/json"
        if path not in ("save", "look", "finish") or not is_json:
            self.close_connection = True
            self._json(404, {"error": "there is nothing here"})
        elif not length.isdecimal() or int(length) > LONGEST_BODY:
            self.close_connection = True
            self._json(413, {"error": "this is too long"})
        else:
            self._answer(path, self.rfile.read(int(length)))

    def _answer(self, path: str, body: bytes) -> None:
        try:
            asked = json.loads(body)
            if path == "finish":
                self._json(200, {})
                self.corrections.finished.set()
                return
            text, index = asked["text"], self._index(str(asked["index"]))
            if index is None or not isinstance(text, str):
                raise ValueError("no such attempt")
            text = text.encode(errors="replace").decode()  # half of a pair of surrogates
            if path == "save":
                answer = self.corrections.save(
                    index, text, str(asked["session"]), int(asked["serial"])
                )
            else:
                answer = self.corrections.look(index, text)
        except (ValueError, KeyError, TypeError) as error:
            self._json(400, {"error": f"this was not understood ({error})"})
        except (UserError, OSError) as error:  # shown on the page: the person there can fix it
            self._json(500, {"error": str(error)})
        else:
            self._json(200, answer)

    def _index(self, text: str) -> int | None:
        known = re.fullmatch(r"\d{1,9}", text) and int(text) < len(self.corrections.tasks)
        return int(text) if known else None

    def _json(self, status: int, value: Mapping[str, Any] | list[Any]) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        local_page.answer(self, status, body, {**HEADERS, "Content-Type": kind})

    def log_message(self, *_: object) -> None:
        """Nothing: requests hold the token."""
