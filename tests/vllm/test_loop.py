"""The whole loop through the command line with vLLM as its generator, and what it made served again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.processes import free_port

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.vllm
SMALL = [
    "data.questions=400",
    "data.held_out=10",
    "data.pairs=40",
    "benchmarks=quick",
    "loss.epochs=1",
    "probe.ability_every=0",
    "generator.dtype=float32",
    "generator.arguments=[--enforce-eager]",
]


# on a CPU vLLM 0.32 dies of a seeded request whose prompt is read in parts
WHOLE = ["--no-enable-chunked-prefill"]


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err[-3000:]
    return out


def servers(executable: str) -> list[psutil.Process]:
    """The servers of this vLLM that a test may have left."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if executable in words and "serve" in words:
            found.append(process)
    return found


def rows(product: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (product / "rows.jsonl").read_text().splitlines()]


def test_the_loop_killed_and_resumed_and_its_checkpoint_served(
    executable: str, tmp_path: Path
) -> None:
    loop = [str(ROOT / "train.py"), "generator=vllm", f"generator.executable={executable}", *SMALL]
    first = started(tmp_path, *loop)
    partial: list[Path] = []
    while not (partial and partial[0].stat().st_size):
        assert first.poll() is None, first.communicate()[1][-3000:]
        time.sleep(0.05)
        partial = list(tmp_path.glob("outputs/products/respond/*/rows.partial.jsonl"))
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    kept = partial[0].read_text().splitlines() if partial[0].exists() else []
    until = time.monotonic() + 20
    while servers(executable) and time.monotonic() < until:
        time.sleep(0.2)
    assert not servers(executable), "a killed run leaves no server"

    out = finished(started(tmp_path, *loop))
    assert "report: " in out
    responses = {row["id"]: row for row in rows(partial[0].parent)}
    assert len(responses) == 400
    whole = [json.loads(line) for line in kept if line.endswith("}")]
    assert whole
    assert all(responses[row["id"]] == row for row in whole), "what was there stays"
    assert {row["model"] for row in responses.values()} == {"tiny"}
    details = json.loads((partial[0].parent / "manifest.json").read_text())["details"]
    assert details["response_tokens"]["total"] == sum(row["tokens"] for row in responses.values())
    assert details["tokens_per_second"] > 0
    assert not servers(executable)

    (model,) = tmp_path.glob("outputs/products/train/*/model")
    measured = finished(
        started(
            tmp_path,
            "-m",
            "spot.cli.main",
            "evaluate",
            "benchmarks=quick",
            f"model.path={model}",
            "generator=vllm",
            f"generator.executable={executable}",
            *SMALL[-2:],
        )
    )
    assert "sums" in measured
    assert not servers(executable)


def test_servers_that_run_already_are_asked(executable: str, student: Path, tmp_path: Path) -> None:
    """`generator=openai`, with the attempts of a whole elicitation and a wrong name refused."""
    port = free_port()
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    command = [
        executable,
        "serve",
        str(student),
        "--port",
        str(port),
        "--served-model-name",
        "policy",
    ]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager", *WHOLE],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    elicit = ["-m", "spot.cli.main", "elicit", "data.questions=100", "generator=openai"]
    elicit += [f"generator.base_urls=[http://127.0.0.1:{port}/v1]", "generator.patience=240"]
    try:
        finished(started(tmp_path, *elicit))
        refused = started(tmp_path, *elicit, "generator.model=other")
        _, words = refused.communicate(timeout=200)
        assert refused.returncode == 2
        assert "policy" in words.splitlines()[-1]
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    attempts = rows(*tmp_path.glob("outputs/products/elicit/*"))
    assert len(attempts) == 100
    assert {row["model"] for row in attempts} == {"policy"}
    assert {row["verdict"] for row in attempts} >= {"correct", "wrong"}
