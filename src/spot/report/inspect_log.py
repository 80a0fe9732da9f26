"""A run's scores as logs of Inspect (https://inspect.aisi.org.uk), which its viewer opens: a file for each benchmark.

The fields are those of `inspect_ai.log.EvalLog`, version 2. A score's `target` is empty: rows keep what was
answered and what it is worth, not the truth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spot.data.artifacts import hash_text
from spot.data.rows import Score
from spot.report import forgetting
from spot.report.load import FinishedRun
from spot.utils.files import write_aside

Record = dict[str, Any]
SCORER = "spot"
MODELS = {"base_scores": "base", "scores": "trained"}  # a product, and whose it is
STOPS = {"stop": "stop", "length": "max_tokens", "prompt_too_long": "model_length"}


def write(run: FinishedRun, out: Path) -> dict[Path, int]:
    """Write `<when>_<benchmark>_<base or trained>.json` into `out`; returns the samples of every file.

    Inspect's viewer lists files whose names begin with a time.
    """
    written, when = {}, str(run.record["finished"])
    for product, whose in MODELS.items():
        answered = product.replace("scores", "benchmark_responses")
        kept = forgetting.read(run.product(answered)) if answered in run.products else []
        prompts = {response.id: response.prompt for response in kept}
        model = run.config["model.name"] + (f" after {run.arm}" if whose == "trained" else "")
        for benchmark, scores in run.scores_of(product).items():
            file = out / f"{when.replace(':', '-')}_{benchmark}_{whose}.json"
            log = _log(when, benchmark, model, scores, prompts)
            write_aside(file, json.dumps(log, ensure_ascii=False) + "\n")
            written[file] = len(scores)
    return written


def _log(
    when: str, benchmark: str, model: str, scores: Sequence[Score], prompts: Mapping[str, str]
) -> Record:
    names = list(dict.fromkeys(score.question_id for score in scores))
    right = sum(score.correct for score in scores) / len(scores)
    accuracy = {"name": "accuracy", "value": right}
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": hash_text(f"{when} {benchmark} {model}")[:22],
            "created": when,
            "task": benchmark,
            "model": model,
            "dataset": {"name": benchmark, "samples": len(names), "sample_ids": names},
            "config": {"epochs": 1 + max(score.trial for score in scores)},
        },
        "plan": {},
        "results": {
            "total_samples": len(scores),
            "completed_samples": len(scores),
            "scores": [{"name": SCORER, "scorer": SCORER, "metrics": {"accuracy": accuracy}}],
        },
        "stats": {"started_at": when, "completed_at": when},
        "samples": [_sample(score, model, prompts.get(score.id, "")) for score in scores],
    }


def _sample(score: Score, model: str, prompt: str) -> Record:
    said = {"role": "assistant", "content": score.response}
    stop = STOPS[score.finish_reason]
    return {
        "id": score.question_id,
        "epoch": score.trial + 1,
        "input": prompt,
        "target": "",
        "messages": [{"role": "user", "content": prompt}, said],
        "output": {"model": model, "choices": [{"message": said, "stop_reason": stop}]},
        "scores": {
            SCORER: {
                "value": "C" if score.correct else "I",
                "answer": score.extracted,
                "explanation": score.reason or score.verdict,
                "metadata": {"verdict": score.verdict, "tokens": score.tokens, **score.details},
            }
        },
        "metadata": {"domain": score.domain, "seed": score.seed},
    }
