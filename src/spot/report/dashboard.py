"""A page on this machine that refreshes itself while a sweep runs; it only reads what runs leave.

The page is one file without anything from elsewhere. Served, it fetches `data.json` every few seconds
and redraws what changed; written with `once=<file>`, it stays as it was. Only this machine can reach
it, and there only who knows the token in its address; names and log lines are sent as JSON and shown
as text.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import Any

from spot.cli import display
from spot.pipeline import run_status, traces
from spot.pipeline.run_status import METRICS, KnownRun, Sweep
from spot.pipeline.traces import Made, Mean
from spot.report.metrics import BATCH_CHOSEN, BATCH_REJECTED, CHOSEN, LOSS, PROBE, REJECTED
from spot.utils import local_page
from spot.utils.errors import UserError
from spot.utils.files import write_aside

EVERY = 3  # seconds between two looks of a page
FRESH = 1.0  # seconds for which all pages are shown the same
MOST_SWEEPS, MOST_RUNS, MOST_CURVES = 6, 24, 12  # of an outputs folder, the newest
MOST_POINTS = 200  # of a curve
PAGE = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'"
CHARTS: tuple[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], ...] = (
    # title, and for each line its name and the columns it may be in, the best first
    ("loss", (("", (LOSS,)),)),
    (
        "rewards",
        (
            ("r⁺", (CHOSEN, BATCH_CHOSEN)),
            ("r⁻", (REJECTED, BATCH_REJECTED)),
        ),
    ),
)


# ---- what there is to see ----------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, Any]:
    """What the page shows of a sweep, a run, or everything below an outputs folder. JSON values."""
    groups = [_group(name, runs, alive) for name, runs, alive in _groups(folder)]
    return {"title": folder.resolve().name, "folder": str(folder), "now": time.time()} | {
        "groups": groups
    }


def _groups(folder: Path) -> list[tuple[str, Sweep, bool]]:
    """Name and jobs of each part of the page; loose runs are a part of their own."""
    if run_status.is_sweep(folder):
        one = run_status.look_at_sweep(folder)
        return [(one.study or folder.resolve().name, one, one.alive)]
    if run_status.is_run(folder):
        return [("run", Sweep(folder, (run_status.look(folder),)), False)]
    found = run_status.find(folder)
    sweeps = [one for one in found if isinstance(one, Sweep)][:MOST_SWEEPS]
    runs = tuple(one for one in found if isinstance(one, KnownRun))[:MOST_RUNS]
    parts = [(one.folder.name, one, one.alive) for one in sweeps]
    return [*parts, ("single runs", Sweep(folder / "runs", runs), False)] if runs else parts


def _group(name: str, sweep: Sweep, alive: bool) -> dict[str, Any]:
    from spot.report import style  # here and below: with NumPy and SciPy, which no mistake needs

    made = run_status.made_of(sweep.jobs)
    colours = style.colours([arm.partition(" ")[0] for arm in sweep.arms])
    arms = [
        {
            "label": style.label(arm),
            "colour": f"--c{colours[arm.partition(' ')[0]][1:]}",
            "jobs": [_job(job, made.get(job.folder, ())) for job in jobs],
        }
        for arm, jobs in sweep.arms.items()
    ]
    running = [
        (arm, job) for arm, jobs in sweep.arms.items() for job in jobs if job.state == "running"
    ]
    return {
        "key": str(sweep.folder),
        "name": name,
        "state": sweep.state,
        "counts": {state: sweep.counts[state] for state in display.COLOURS if sweep.counts[state]},
        "seeds": sorted({job.seed for job in sweep.jobs if job.seed is not None}),
        "arms": arms,
        "curves": [
            {
                "job": job.folder.name,
                "label": f"{style.label(arm)}, seed {job.seed}",
                "colour": f"--c{colours[arm.partition(' ')[0]][1:]}",
                "charts": charts,
            }
            for arm, job in running[:MOST_CURVES]
            if (charts := curves(run_status.checkpoint(job, made.get(job.folder, ()))))
        ],
        "scores": _scores(sweep),
        "failures": [
            {
                "job": job.folder.name,
                "arm": style.label(arm),
                "exit": job.exit,
                "said": job.said,
            }
            for arm, jobs in sweep.arms.items()
            for job in jobs
            if job.state == "failed"
        ],
    }


def _job(job: KnownRun, made: Sequence[Made]) -> dict[str, Any]:
    doing = run_status.doing(job, made) if job.state in ("running", "interrupted") else None
    share = doing.done / doing.total if doing and doing.done and doing.total else None
    return {
        "job": job.folder.name,
        "seed": job.seed,
        "state": job.state,
        "text": display.progress(doing) if doing else "",
        "share": share,
        "tip": " ".join(job.overrides),
        "line": traces.last_line(job.folder) if job.state == "running" else "",
    }


def _scores(sweep: Sweep) -> list[dict[str, Any]]:
    """Each arm's means over its finished seeds."""
    from spot.report import style

    rows = []
    for arm, jobs in sweep.arms.items():
        done = [job.scores for job in jobs if job.scores]
        if done:
            cells = [display.score(_over_seeds([one[d] for one in done if d in one])) for d in display.SCORES]  # fmt: skip
            rows.append({"label": style.label(arm), "seeds": len(done), "cells": cells})
    return rows


def _over_seeds(means: Sequence[Mean]) -> Mean | None:
    if not means:
        return None
    gains = [mean.gain for mean in means if mean.gain is not None]
    value = fmean(mean.value for mean in means)
    return Mean(value, fmean(gains) if len(gains) == len(means) else None)


def curves(folder: Path | None) -> list[dict[str, Any]]:
    """Loss, rewards and ability probe over steps from a training's metrics.csv; empty before it."""
    rows = traces.read_table(folder / METRICS) if folder else []
    columns = list(rows[0]) if rows else []
    probes = [(name.removeprefix(PROBE), (name,)) for name in columns if name.startswith(PROBE)]  # fmt: skip
    charts = []
    for title, lines in (*CHARTS, ("probe", tuple(probes))):
        drawn = [{"name": name, "points": points} for name, of in lines if (points := _points(rows, of))]  # fmt: skip
        if drawn:
            charts.append({"title": title, "lines": drawn})
    return charts


def _points(rows: Sequence[dict[str, str]], columns: Sequence[str]) -> list[tuple[int, float]]:
    """Steps and values of the first column that has any, thinned out; the last one stays."""
    for column in columns:
        points = []
        for row in rows:
            with suppress(ValueError):  # a row that a crash left behind
                if row.get(column):
                    points.append((int(row["step"]), float(row[column])))
        finite = [point for point in points if abs(point[1]) < float("inf")]
        if finite:
            stride = -(-len(finite) // MOST_POINTS)
            return [*finite[:-1:stride], finite[-1]]
    return []


# ---- the page ----------------------------------------------------------------------------------


def page(seen: dict[str, Any], every: int = 0) -> str:
    """The page as one HTML file. every: seconds between two looks for news, 0: never."""
    from spot.report import style

    folder = resources.files("spot.report") / "templates" / "dashboard"
    parts = {name: (folder / f"page.{name}").read_text("utf-8") for name in ("html", "css", "js")}
    light, dark = (style.css_variables(dark) for dark in (False, True))
    css = parts["css"].replace("/*light*/", light).replace("/*dark*/", dark)
    policy = f"{PAGE}; script-src {_hash(parts['js'])}; style-src {_hash(css)}; connect-src "
    filled = {
        "policy": policy + ("'self'" if every else "'none'"),
        "css": css,
        "js": parts["js"],
        "data": json.dumps(seen | {"every": every}).replace("<", "\\u003c"),
    }
    html = parts["html"]
    for name, text in filled.items():  # the data last: nothing in it is a place to be filled
        html = html.replace(f"{{{{ {name} }}}}", text)
    return html


def _hash(text: str) -> str:
    """What allows this very script or style, and no other, in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# ---- the server --------------------------------------------------------------------------------


@dataclass
class Looker:
    """Looks at a folder for all pages together, used by several threads."""

    folder: Path
    _at: float = float("-inf")
    _seen: dict[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self) -> dict[str, Any]:
        with self._lock:
            if time.monotonic() - self._at > FRESH:
                self._seen = snapshot(self.folder)
                self._at = time.monotonic()
            return self._seen


@contextmanager
def served(folder: Path, port: int = 0) -> Iterator[str]:
    """Serve the page while the context lasts; yields its address. `port` 0 takes a free one.

    Raises UserError when the port is taken.
    """
    with local_page.served(_Handler, {"looker": Looker(folder)}, port, "port") as address:
        yield address


class _Handler(BaseHTTPRequestHandler):
    """Answers with the page or its data; there is nothing else, and nothing can be sent."""

    looker: Looker
    token: str
    timeout = 60  # seconds that a silent connection keeps its thread

    def do_GET(self) -> None:
        """The page, or what is new."""
        path = local_page.path_behind(self.token, self)
        try:
            if path == "":
                self._send(200, page(self.looker.look(), EVERY), "text/html")
            elif path == "data.json":
                self._send(200, json.dumps(self.looker.look()), "application/json")
            else:
                self._send(404, "there is nothing here", "text/plain")
        except (BrokenPipeError, ConnectionResetError):  # the reader went away
            pass
        except OSError as error:  # shown on the page: the folder may come back
            self._send(500, f"{error.strerror}: {error.filename}", "text/plain")

    def _send(self, status: int, text: str, kind: str) -> None:
        headers = {
            "Content-Security-Policy": "frame-ancestors 'none'",
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",  # the address holds the token
            "Cache-Control": "no-store",
            "Content-Type": f"{kind}; charset=utf-8",
        }
        local_page.answer(self, status, text.encode(errors="replace"), headers)

    def log_message(self, *_: object) -> None:
        """Nothing: requests hold the token."""


def command(arguments: Sequence[str]) -> None:
    """`spot dashboard [<folder of a sweep, a run, or all outputs>] [port=0] [once=<file.html>]`."""
    names = run_status.folders(arguments)
    given = run_status.options(
        [a for a in arguments if a not in names], "dashboard", ("port", "once")
    )
    if len(names) > 1 or any(name.startswith("-") for name in names):
        raise UserError(
            "name one folder: spot dashboard [<sweep, run or outputs>] [port=…] [once=…]."
        )
    folder = Path(names[0] if names else "outputs")
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: name that of a sweep, a run, or all outputs.")
    port = given.get("port", "0")
    if not (port.isdecimal() and int(port) < 1 << 16):
        raise UserError(f"port={port} is no port: give a number below 65536, or 0 for a free one.")
    if "once" in given:
        out = Path(given["once"])
        if not out.name or out.is_dir():
            raise UserError(f"once={out} is no file: name one, once=dashboard.html.")
        out.parent.mkdir(parents=True, exist_ok=True)
        write_aside(out, page(snapshot(folder)))
        print(f"dashboard: {out}")
        return
    with served(folder, int(port)) as address, suppress(KeyboardInterrupt):
        print(f"dashboard: {address} (Ctrl-C ends it)", flush=True)
        threading.Event().wait()
