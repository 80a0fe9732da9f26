"""The paper's command from its first stage to its last, with what it needs pretended in the small.

Eight servers of the policy and the Oracle are processes on loopback, the model is Qwen3's architecture in
two layers, the ranks are two processors in bf16 under ZeRO-2, files that may be open are 1,024.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from spot.grading.connect4_game import generate
from tests.distributed import commands
from tests.oracle import world
from tests.oracle.server import Plan, serving

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(900)]
STUDENT = commands.ROOT / "src/spot/training/assets/tiny"
QUESTIONS = 1500  # more than a client may have in flight at 1,024 files
BENCHMARKS = ["aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench"]
IN_SMALL = [
    "hardware.accelerator=cpu", "hardware.devices=2", "hardware.attention=sdpa",
    "hardware.tokens_per_pack=2048", "hardware.threads=1", "generator.max_new_tokens=256",
    "model.context_length=512", "data.held_out=20", "data.pairs=64", "loss.batch_pairs=16",
    "loss.epochs=1", "oracle.max_cost=500",
]  # fmt: skip


def test_the_papers_command_from_questions_to_its_report(tmp_path: Path) -> None:
    write_model(tmp_path / "Qwen3-8B")
    write_benchmarks(tmp_path / "benchmarks")
    rows = [
        {"prompt": world.question(n), "solution": str(world.truth(n))} for n in range(QUESTIONS)
    ]
    write_rows(tmp_path / "dapo.jsonl", rows)
    executable = tmp_path / "vllm"
    executable.write_text(
        f"#!/bin/sh\ncd {shlex.quote(str(commands.ROOT))}\n"
        f'exec {shlex.quote(sys.executable)} -m tests.support.night_server "$@"\n'
    )
    executable.chmod(0o755)
    here = [
        f"model.path={tmp_path / 'Qwen3-8B'}",
        "data.path=dapo.jsonl",
        "benchmarks.folder=benchmarks",
    ]
    here += [f"generator.executable={executable}"]
    with serving(Plan()) as oracle:
        paper = [
            "model=qwen3_8b",
            "data=dapo",
            "oracle=gemini",
            "generator=vllm",
            "hardware=8xh800",
        ]
        command = [
            sys.executable,
            commands.TRAIN,
            *paper,
            *here,
            *IN_SMALL,
            f"oracle.base_url={oracle.root}",
            "oracle.max_cost=100",
        ]
        limited = ["bash", "-c", f"ulimit -n 1024; exec {shlex.join(command)}"]
        more = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7", "GEMINI_API_KEY": "a-key"}
        lines = commands.finish(tmp_path, limited, more, seconds=800)
    (run,) = commands.runs(tmp_path)
    assert run["status"] == "complete"
    assert (run["folder"] / "report.html").exists()
    made = {name: run["folder"] / at for name, at in run["products"].items()}
    counts = {
        name: json.loads((at / "manifest.json").read_text())["counts"] for name, at in made.items()
    }
    assert sum(counts["attempts"].values()) == QUESTIONS
    assert counts["pairs"]["rectified"] == 64
    rows = (made["scores"] / "rows.jsonl").read_text().splitlines()
    asked = {json.loads(row)["benchmark"] for row in rows}
    assert asked == {*BENCHMARKS, "gpqa_diamond", "connect4", "ifeval"}
    assert not any("failed" in line for line in lines), lines


def write_model(folder: Path) -> None:
    """Qwen3 with two layers, grouped heads and random weights in bf16, and the student's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=2,
        num_attention_heads=8, num_key_value_heads=2, head_dim=32, max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_benchmarks(folder: Path) -> None:
    """All nine, two or three rows each, as their public sets have them."""
    folder.mkdir()
    sums = [
        {"id": f"{n}", "problem": world.question(n), "answer": str(world.truth(n)), "Answer": str(world.truth(n)),
         "final_answer": [str(world.truth(n))], "solution": world.corrected(n)}
        for n in range(2000, 2003)
    ]  # fmt: skip
    for name in BENCHMARKS:
        write_rows(folder / f"{name}.jsonl", sums)
    choice = {"Question": "Which is even?", "Correct Answer": "2", "Incorrect Answer 1": "1",
              "Incorrect Answer 2": "3", "Incorrect Answer 3": "5"}  # fmt: skip
    write_rows(folder / "gpqa_diamond.jsonl", [choice | {"Record ID": n} for n in "ab"])
    write_rows(folder / "connect4.jsonl", list(generate(2, seed=0)))
    told = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    write_rows(folder / "ifeval.jsonl", [{"key": n, "prompt": f"Say {n} without commas.", **told} for n in (1, 2)])  # fmt: skip


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
