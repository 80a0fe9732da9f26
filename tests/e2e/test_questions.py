"""`data=dapo` from a local file, at the command line: what is dropped, counted, asked and resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.command_line import spot

PROBLEM = "A farmer has {} cows and buys {} more at the market. How many cows does the farmer have now, all in all?"


def row(problem: str, answer: str, index: str) -> dict[str, Any]:
    instruction = (
        "Solve the following math problem step by step. The last line of your response should be of "
        "the form Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
    )
    closing = '\n\nRemember to put your answer on its own line after "Answer:".'
    return {
        "prompt": [{"role": "user", "content": instruction + problem + closing}],
        "reward_model": {"ground_truth": answer},
        "extra_info": {"index": index},
    }


def test_dapo_is_read_cleaned_and_asked(tmp_path: Path) -> None:
    rows = [row(PROBLEM.format(n, n + 1), str(2 * n + 1), f"q{n}") for n in range(12)]
    rows += [
        rows[0],  # once more
        row("数学题：1+1 等于多少？", "2", "cn"),
        row("What is 7 times 8, if both are whole numbers?", "56", "a"),
        row("What is 7 times 8, if both are whole numbers?", "54", "b"),  # they disagree
    ]
    (tmp_path / "dapo.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "b").mkdir()
    asked = {"unique_id": "x", "problem": f"  {PROBLEM.format('$3$', 4).upper()}", "answer": "7"}
    (tmp_path / "b" / "math500.jsonl").write_text(json.dumps(asked) + "\n")
    overrides = ["data=dapo", "data.path=dapo.jsonl", "data.questions=10", "model=tiny"]
    overrides += ["oracle=self", "benchmarks=quick", "benchmarks.folder=b"]
    done = spot(tmp_path, "elicit", *overrides, "+benchmark@benchmarks.tasks.math500=math500")
    assert done.returncode == 0, done.stderr
    (product,) = (tmp_path / "outputs" / "products" / "elicit").iterdir()
    counts = json.loads((product / "manifest.json").read_text())["counts"]
    assert (counts["not_english"], counts["duplicate"], counts["conflicting_answer"]) == (1, 1, 2)
    assert (counts["contaminated"], counts["beyond_questions"]) == (1, 1)
    attempts = [json.loads(line) for line in (product / "rows.jsonl").read_text().splitlines()]
    assert len(attempts) + counts.get("prompt_too_long", 0) == 10
    assert sum(counts.values()) == len(rows)
    assert all("\\boxed{" in a["question"] and "Remember" not in a["question"] for a in attempts)
    assert not any(a["question_id"] == "q3" for a in attempts)


def test_without_a_hub_the_next_step_is_said(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "spot.cli.main", "elicit", "data=hub", "data.hub=owner/name"]
    command += ["model=tiny", "oracle=self", "benchmarks=quick", f"data.revision={'a' * 40}"]
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "PATH": "/usr/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert "cannot be reached" in done.stderr.splitlines()[-1]
    assert "data.path=<folder>" in done.stderr.splitlines()[-1]
