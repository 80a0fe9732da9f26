"""GRPO with TRL on the questions that `spot export format=trl` wrote, rewarded by spot's own grader.

python grpo.py <model folder> <questions.jsonl> <out folder> [steps]
"""

from __future__ import annotations

import sys
from typing import Any

from datasets import load_dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from spot.data.rows import CORRECT
from spot.grading.registry import Verifier


def right(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """1 for a final answer that equals the truth, else 0; answers are in boxes."""
    verifier = Verifier()
    responses = [turns[0]["content"] for turns in completions]
    return [
        float(verifier.verdict(response, truth)[0] == CORRECT)
        for response, truth in zip(responses, answer, strict=True)
    ]


def main(model: str, questions: str, out: str, steps: str = "100", **options: Any) -> None:
    trainer = GRPOTrainer(
        model,
        reward_funcs=right,
        args=GRPOConfig(
            output_dir=out,
            max_steps=int(steps),
            save_strategy="no",
            chat_template_kwargs={"enable_thinking": False},  # as the run asked
            **options,
        ),
        train_dataset=load_dataset("json", data_files=questions, split="train"),
    )
    trainer.train()
    trainer.save_model(out)
    AutoTokenizer.from_pretrained(model).save_pretrained(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
