"""Whether our IFEval scores are those of lm-evaluation-harness, run as its users run it.

    python -m performance.ifeval_agreement --python <environment with lm-eval[api,ifeval]>/bin/python

A local server that speaks the chat completions API answers every prompt of tests/evaluation/agreement.py
with the response written for it. The other environment's `lm_eval run` asks that server and scores what
it gets; we score the same responses. The table goes into docs/evaluation-elsewhere.md. Without
punkt_tab (NLTK_DATA) neither side splits sentences as it should: the script refuses to run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

from performance.common import markdown
from spot.grading import ifeval, sentences
from spot.grading.family import Answer, Grade
from spot.utils.errors import UserError
from tests.evaluation.agreement import answered

PAGE = Path(__file__).parents[1] / "docs" / "evaluation-elsewhere.md"
MARK = "ifeval_agreement"
PACKAGES = ("lm_eval", "langdetect", "nltk")
LEVELS = ("strict", "loose")


@contextlib.contextmanager
def serving(replies: Mapping[str, str]) -> Iterator[str]:
    """A server that answers each prompt with its response; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            message = {"role": "assistant", "content": replies[asked["messages"][-1]["content"]]}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = json.dumps({"model": asked["model"], "choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def theirs(python: Path, rows: Sequence[tuple[dict[str, Any], str]]) -> list[dict[str, Any]]:
    """What the other environment's lm_eval logs of each row, in order."""
    code = "import lm_eval.tasks; print(lm_eval.tasks.__path__[0])"
    tasks = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory() as name, serving({r["prompt"]: a for r, a in rows}) as url:
        folder = Path(name)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row, _ in rows))
        (folder / "task.yaml").write_text(
            f"include: {tasks.stdout.strip()}/ifeval/ifeval.yaml\n"
            "task: ifeval_by_hand\n"
            "dataset_path: json\n"
            f"dataset_kwargs: {{data_files: {{train: {folder}/rows.jsonl}}}}\n"
        )
        command = f"""-m lm_eval run --model local-chat-completions
            --model_args model=by-hand base_url={url}/v1/chat/completions num_concurrent=8
            --tasks ifeval_by_hand --include_path {folder} --apply_chat_template
            --gen_kwargs temperature=0.6 top_p=0.95 max_gen_toks=4096
            --log_samples --output_path {folder}/out"""
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": f"{folder}/hub"}
        subprocess.run([python, *command.split()], env=environment, check=True, cwd=folder)
        (log,) = (folder / "out").rglob("samples_*.jsonl")
        samples = [json.loads(line) for line in log.read_text().splitlines()]
    samples.sort(key=lambda sample: sample["doc"]["key"])
    if [s["filtered_resps"][0] for s in samples] != [response for _, response in rows]:
        raise ValueError("lm_eval did not score the responses that it was given")
    return samples


def ours(rows: Sequence[tuple[dict[str, Any], str]]) -> list[Grade]:
    """What we make of the same responses. Raises UserError without the sentence model."""
    grades = ifeval.grade([Answer(ifeval.read(row, ""), response) for row, response in rows])
    if any(grade.details.get("sentences") == sentences.UNTRAINED for grade in grades):
        raise UserError("there is no punkt_tab: set NLTK_DATA.")
    return grades


def compare(samples: Sequence[Mapping[str, Any]], grades: Sequence[Grade]) -> list[dict[str, Any]]:
    """One line for the prompts and one for each instruction: how many verdicts agree."""
    verdicts: dict[tuple[str, str], list[tuple[bool, bool]]] = {}
    for sample, grade in zip(samples, grades, strict=True):
        for level in LEVELS:
            verdicts.setdefault(("whole prompts", level), []).append(
                (sample[f"prompt_level_{level}_acc"], grade.details[f"prompt_{level}"])
            )
            for name, *pair in zip(
                sample["doc"]["instruction_id_list"],
                sample[f"inst_level_{level}_acc"],
                grade.details[f"instruction_{level}"],
                strict=True,
            ):
                verdicts.setdefault((name, level), []).append((pair[0], pair[1]))
    return [
        {
            "instruction": name,
            "responses": len(verdicts[name, "strict"]),
            "followed, strict": sum(mine for _, mine in verdicts[name, "strict"]),
            "followed, loose": sum(mine for _, mine in verdicts[name, "loose"]),
            "agree, strict": sum(a == b for a, b in verdicts[name, "strict"]),
            "agree, loose": sum(a == b for a, b in verdicts[name, "loose"]),
        }
        for name in dict.fromkeys(name for name, _ in verdicts)
    ]


def conditions(python: Path) -> str:
    """Date and versions of both sides."""
    code = (
        "import platform; from importlib.metadata import version; "
        f"print(platform.python_version(), *map(version, {PACKAGES}))"
    )
    other = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    own = (platform.python_version(), *map(version, PACKAGES))
    both = zip(("python", *PACKAGES), own, other.stdout.split(), strict=True)
    return f"{date.today().isoformat()}: " + ", ".join(
        f"{name} {mine} here and {theirs} there" for name, mine, theirs in both
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--python", type=Path, required=True, help="of the other environment")
    python = parser.parse_args().python.absolute()
    rows = answered()
    table = compare(theirs(python, rows), ours(rows))
    command = "python -m performance.ifeval_agreement --python <lm-eval's>/bin/python"
    text = f"`{command}`, {conditions(python)}.\n\n{markdown(table)}"
    print(text)
    marks = rf"(<!-- {MARK} -->\n).*?(<!-- /{MARK} -->)"
    page = re.sub(marks, lambda m: f"{m[1]}{text}\n{m[2]}", PAGE.read_text(), flags=re.DOTALL)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
