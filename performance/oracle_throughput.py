"""How near a paid Oracle's runner comes to what concurrency and latency allow.

    python -m performance.oracle_throughput

The real clients, the journal, the judge and the store in one process, a local server that takes a second
for each answer in another, on the same cores. Ideal is concurrency / latency; waves of requests at the
start and at the end are counted, the start of Python is not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from performance.common import write_results
from spot.config import OracleConfig
from tests.oracle import soak
from tests.oracle.server import ROOT, Plan, serving

LATENCY = 1.0  # seconds


def measure(protocol: str, concurrency: int, count: int) -> dict[str, Any]:
    """One row of the table."""
    with serving(Plan(latency=LATENCY)) as server, tempfile.TemporaryDirectory() as folder:
        config = OracleConfig(concurrency=concurrency)
        command = soak.command(protocol, server.root, Path(folder), count, config)
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        said = json.loads(done.stdout.splitlines()[-1])
        ledger = server.settled()
    if said["recorded"] != soak.bill(ledger["billed"]["single"]):
        raise ValueError(f"the bill is not what was recorded: {said}, {ledger['billed']}")
    rate, ideal = count / said["seconds"], concurrency / LATENCY
    return {
        "client": protocol,
        "concurrency": concurrency,
        "requests": count,
        "most in flight": ledger["most_in_flight"],
        "seconds": said["seconds"],
        "requests/s": rate,
        "ideal requests/s": ideal,
        "share of ideal": rate / ideal,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waves", type=int, default=25, help="requests = waves * concurrency")
    waves = parser.parse_args().waves
    rows = [
        measure(protocol, concurrency, waves * concurrency)
        for concurrency in (50, 200)
        for protocol in ("gemini", "openai")
    ]
    write_results("oracle_throughput", rows, "python -m performance.oracle_throughput")


if __name__ == "__main__":
    main()
