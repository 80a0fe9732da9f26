"""The dashboard: in a browser while a sweep runs, as a file, and against who should not reach it."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from spot.data import artifacts
from spot.pipeline import heartbeat, run_status
from spot.report import dashboard
from spot.utils.errors import UserError
from tests.oracle.chromium import Tab, chromium, executable

SECONDS = 200.0
HOSTILE = "<img src=x onerror='window.hacked=1'></script><script>window.hacked=2</script>{{ data }}"
METRICS = "step,loss,rewards/chosen,held_out/rewards/chosen,held_out/rewards/rejected,probe/instructions\n"


@pytest.fixture
def tab(tmp_path: Path, needs: Callable[[object, str], None]) -> Iterator[Tab]:
    needs(executable(), "Chromium")
    (tmp_path / "browser").mkdir()
    with chromium(tmp_path / "browser") as tab:
        yield tab


def count(selector: str) -> str:
    return f"document.querySelectorAll({json.dumps(selector)}).length"


# ---- in a browser ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_follows_a_sweep_by_itself(
    tmp_path: Path, fake_pipeline: dict[str, str], tab: Tab
) -> None:
    sweep = tmp_path / "s"
    line = ["-m", "arm=dpo", "seed=400,13", f"hydra.sweep.dir={sweep}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "spot.cli.main", "run", *line],
        cwd=tmp_path,
        env=fake_pipeline,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + SECONDS
        while not (sweep / "jobs.json").exists():
            assert time.monotonic() < end
            time.sleep(0.1)
        with dashboard.served(sweep) as address:
            tab.load("Page.navigate", url=address)
            assert tab.value(count(".job")) == 2
            assert tab.value("document.querySelector('.grid th.arm').textContent") == "DPO"
            tab.value("document.body.style.minHeight = '5000px'; scrollTo(0, 700); window.mine = 1")
            tab.wait(f"{count('.job.running')} > 0")
            tab.wait(f"{count('.job.finished')} > 0")
            tab.wait(f"{count('.failure')} > 0")
            tab.wait(f"{count('.job.finished')} == 1 && {count('.job.failed')} == 1")
            said = tab.value("document.querySelector('.failure').textContent")
            assert said == "job 1, DPO, exit code 1: ValueError: thirteen is unlucky"
            assert tab.value("[window.mine, scrollY]") == [1, 700]  # nothing was loaded anew
        tab.wait("document.getElementById('status').className == 'lost'")
    finally:
        process.terminate()
        process.wait(SECONDS)
    # the browser itself notes the requests that found the dashboard ended
    assert [text for text in tab.complaints if "ERR_CONNECTION" not in text] == []


def training(output: Path, watch: Callable[[Path, Path], None]) -> None:
    """Call `watch(run, product)` while this process holds a run and the training of it."""
    run = output / "runs" / "2026-01-01" / "a"
    target = artifacts.product(output / "products", "train", {})
    about = {
        "arm": "spot_bco", "seed": 3, "overrides": [f"data.path={HOSTILE}"],
        "products": str(output / "products"),
    }  # fmt: skip

    def train(folder: Path) -> None:
        heartbeat.noting(run)("Training steps", 1, 50)
        watch(run, folder)

    with heartbeat.kept(run, about):
        artifacts.compute_files(target, train)


@pytest.mark.slow
@pytest.mark.browser
def test_curves_grow_and_hostile_text_stays_text(tmp_path: Path, tab: Tab) -> None:
    def watch(run: Path, product: Path) -> None:
        (run / "job.log").write_text(f"{HOSTILE}\n")
        metrics = product / "metrics.csv"
        metrics.write_text(f"{METRICS}0,,,0,0,90\n1,0.7,0.1,0.2,-0.1,\n2,0.6,0.1,0.3,-0.2,80\n3,0.")
        with dashboard.served(tmp_path) as address:
            tab.load("Page.navigate", url=address)
            tab.wait(f"{count('svg')} == 3")
            assert tab.value(count("polyline")) == 4  # loss, both rewards, probe
            assert "rewards: r⁺ 0.3, r⁻ -0.2" in tab.value("document.body.textContent")
            assert tab.value("document.querySelector('.job .state').textContent") == "train 2 of 50"
            assert tab.value("document.querySelector('.job small').textContent") == HOSTILE
            with metrics.open("a") as file:
                file.write("5,0.1,0.9,-0.3,\n")
            tab.wait("document.querySelector('.job .state').textContent == 'train 3 of 50'")
            tab.wait("document.body.textContent.includes('loss: 0.5')")

    training(tmp_path, watch)
    assert tab.value("window.hacked") is None
    assert tab.complaints == []


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_file_needs_no_server(tmp_path: Path, tab: Tab, scheme: str) -> None:
    out = tmp_path / "page.html"
    training(tmp_path, lambda run, product: dashboard.command([str(tmp_path), f"once={out}"]))
    tab.call(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    tab.load("Page.navigate", url=out.as_uri())
    assert tab.value(count(".job.running")) == 1
    assert tab.value("window.hacked") is None
    style = "getComputedStyle(document.body)"
    ink, paper = (
        tab.value(f"{style}.{name}.match(/\\d+/)[0]") for name in ("color", "backgroundColor")
    )
    assert (int(ink) < int(paper)) == (scheme == "light")
    assert tab.complaints == []


# ---- what it shows -----------------------------------------------------------------------------


def test_finished_scores_are_means_over_seeds(tmp_path: Path) -> None:
    for seed, (accuracy, gain) in enumerate([(50, 4), (60, 8)]):
        run = tmp_path / "s" / str(seed)
        run.mkdir(parents=True)
        record = {
            "status": "complete",
            "arm": "spot_bco",
            "seed": seed,
            "overrides": [f"seed={seed}"],
        }
        (run / "run.json").write_text(json.dumps(record))
        (run / "scores.csv").write_text(
            "arm,benchmark,domain,accuracy,difference\n"
            f"base,a,in_domain,46,\nspot_bco,a,in_domain,{accuracy},{gain}\n"
        )
    (group,) = dashboard.snapshot(tmp_path / "s")["groups"]
    assert group["scores"] == [
        {"label": "SPoT-BCO", "seeds": 2, "cells": ["55.0 (+6.0)", "", "", "55.0 (+6.0)"]}
    ]


def test_long_curves_are_thinned_to_their_last_point(tmp_path: Path) -> None:
    rows = "".join(f"{step},{step / 10},,,,\n" for step in range(1, 1002))
    (tmp_path / "metrics.csv").write_text(METRICS + rows + "1002,nan,,,,\n1003,inf,,,,\n")
    (chart,) = dashboard.curves(tmp_path)
    points = chart["lines"][0]["points"]
    assert len(points) <= dashboard.MOST_POINTS + 1
    assert points[0] == (1, 0.1)
    assert points[-1] == (1001, 100.1)


# ---- who reaches it ----------------------------------------------------------------------------


def get(address: str, path: str = "", **headers: str) -> tuple[int, str]:
    parts = urlsplit(address)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    connection.request("GET", parts.path + path, headers=headers)
    reply = connection.getresponse()
    assert reply.headers.get("Access-Control-Allow-Origin") is None
    assert reply.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    return reply.status, reply.read().decode()


def test_only_who_has_the_address_gets_anything(tmp_path: Path) -> None:
    with dashboard.served(tmp_path) as address:
        parts = urlsplit(address)
        assert parts.hostname == "127.0.0.1"
        assert get(address)[0] == 200
        assert json.loads(get(address, "data.json")[1])["groups"] == []
        assert get(address, Host=f"evil.example:{parts.port}")[0] == 404
        assert get(f"http://127.0.0.1:{parts.port}/guess/")[0] == 404
        assert get(f"http://127.0.0.1:{parts.port}/", "data.json")[0] == 404
        assert get(address, "../../etc/passwd")[0] == 404


def test_many_viewers_share_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    snapshot = dashboard.snapshot
    monkeypatch.setattr(dashboard, "snapshot", lambda folder: looks.append(1) or snapshot(folder))
    monkeypatch.setattr(dashboard, "FRESH", 60.0)
    with dashboard.served(tmp_path) as address:
        threads = [threading.Thread(target=get, args=(address, "data.json")) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
    assert len(looks) == 1


def test_ctrl_c_ends_it_quietly_and_a_viewer_who_leaves_is_no_error(tmp_path: Path) -> None:
    code = "import sys; from spot.report import dashboard; dashboard.command(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().split()[1]
    parts = urlsplit(address)
    with socket.create_connection(("127.0.0.1", parts.port or 0)) as gone:
        gone.sendall(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
    assert get(address)[0] == 200
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (0, "")


def test_mistakes_are_said_in_a_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port={port} cannot be used"):
            dashboard.command([str(tmp_path), f"port={port}"])
    for wrong, words in [
        (["nowhere"], "nowhere is no folder"),
        ([str(tmp_path), "port=x"], "port=x is no port"),
        ([str(tmp_path), f"once={tmp_path}"], "is no file"),
        ([str(tmp_path), "twice=1"], "twice is unknown to spot dashboard"),
        ([str(tmp_path), "--port"], "name one folder"),
    ]:
        with pytest.raises(UserError, match=words):
            dashboard.command(wrong)


@pytest.mark.parametrize("line", [["dashboard", "nowhere"], ["workspace", "entity"]])
def test_a_mistake_is_found_before_anything_heavy_is_imported(line: list[str]) -> None:
    code = (
        "import sys\nfrom spot import cli\n"
        f"try:\n    cli.main({line})\nexcept SystemExit as end:\n"
        "    print(end.code, {'numpy', 'scipy', 'torch', 'wandb'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 set()\n"


def test_looking_changes_nothing(tmp_path: Path) -> None:
    def files() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in tmp_path.rglob("*")}

    def watch(run: Path, product: Path) -> None:
        before = files()
        dashboard.snapshot(tmp_path)
        run_status.find(tmp_path)
        assert files() == before

    training(tmp_path, watch)
