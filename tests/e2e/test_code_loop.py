"""SPoT's loop on programs: attempts, corrections that pass the tests, training, and the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spot.data import code_tasks
from spot.grading.code import truth_of
from tests.support.command_line import spot


def program(body: str) -> str:
    return f"```python\n{body}\n```"


@pytest.mark.slow
@pytest.mark.usefixtures("contained")
def test_the_loop_runs_on_code(tmp_path: Path) -> None:
    """A third of the attempts are right; of the corrections some fail a test and are refused."""
    rows = []
    for number, task in enumerate(code_tasks.questions(60, 0, "train")):
        name = task.meta["entry_point"]
        right, wrong = task.answer, f"def {name}(*values):\n    return 'nothing of use'"
        rows.append(
            {
                "id": task.id,
                "question": task.text,
                "answer": truth_of(task),
                "response": program(right if number % 3 == 0 else wrong),
                "solution": program(wrong if number % 10 == 1 else right),
            }
        )
    file = tmp_path / "attempts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = ["data=jsonl", f"data.path={file}", "data.answer_format=code", "data.gamma=1"]
    overrides += ["data.fields.id=id", "data.fields.response=response"]
    overrides += ["data.fields.solution=solution", "data.held_out=8", "loss.epochs=1"]
    done = spot(tmp_path, *overrides, "model.pretrain.steps=5", "generator.max_new_tokens=32")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "report: " in done.stdout
    manifests = [
        json.loads(m.read_text()) for m in tmp_path.glob("outputs/products/*/*/manifest.json")
    ]
    counts = {m["stage"]: m["counts"] for m in manifests if m["stage"] in ("elicit", "evaluate")}
    assert counts["elicit"] == {"correct": 20, "wrong": 40}
    assert sum(counts["evaluate"].values()) == 8
    corrected = [m["counts"] for m in manifests if m["stage"] == "rectify"]
    refused = sum(row.get("wrong", 0) + row.get("unchanged", 0) for row in corrected)
    assert sum(row["ok"] for row in corrected) + refused == 40
    assert refused == sum(number % 10 == 1 and number % 3 != 0 for number in range(60))
