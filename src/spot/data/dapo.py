"""DAPO-Math-17k (Yu et al. 2025, arXiv 2503.14476): its English problems, each once and bare.

Both public layouts are read. The original release (BytedTsinghua-SIA/DAPO-Math-17k: 1,791,700 rows,
each problem about a hundred times) has the problem inside of an instruction, as a list of messages in
`prompt`, and the answer in `reward_model.ground_truth`. The processed one
(open-r1/DAPO-Math-17k-Processed) has them bare in `prompt` and `solution`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from spot.config import FieldsConfig
from spot.data.answers import scalar_text
from spot.data.contamination import tokens
from spot.data.jsonl import NumberedRow, Problem, Source, read_questions, value_at
from spot.data.rows import Question
from spot.utils.errors import UserError

_BEFORE = re.compile(
    r"^\s*Solve the following math problem step by step\.[^\n]*?is the answer to the problem\.\s*"
)
_AFTER = re.compile(r'\s*Remember to put your answer on its own line after "Answer:"\.?\s*$')
# Letters beyond the Latin and Greek ones that English mathematics is written with.
_OTHER_SCRIPT = re.compile(
    "[\u0400-\u1cff\u2e80-\u2fdf\u3040-\ua4ff\ua960-\uabff\uac00-\ud7ff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


def read_problems(
    source: Source, *, task: str = "dapo", limit: int | None = None, on_bad_row: str = "error"
) -> tuple[list[Question], dict[str, int]]:
    """The first `limit` English problems, and how many rows were left out, by reason.

    Problems are the same when their tokens are (`contamination.tokens`). The first of the same is
    kept and the others count as `duplicate`; if their answers differ, all are left out as
    `conflicting_answer`. A problem with a letter of another script counts as `not_english`; other
    languages in Latin letters are not told apart.
    """
    rows, dropped = distinct(source.rows)
    if not rows:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items()))
        raise UserError(
            f"{source.name} holds no English problem ({reasons or 'it is empty'}): "
            "give rows of DAPO-Math-17k."
        )
    fields = FieldsConfig(question="prompt", answer="solution", id="id")
    kept = Source(source.name, rows, source.unit)
    questions, unusable = read_questions(
        kept, fields, task=task, limit=limit, on_bad_row=on_bad_row
    )
    return questions, dict(dropped + Counter(unusable))


def distinct(rows: Iterable[NumberedRow]) -> tuple[list[NumberedRow], Counter[str]]:
    """English rows as {id, prompt, solution}, each problem once, and the others by reason.

    Rows without a problem or an answer are passed on: it is for others to refuse them.
    """
    dropped: Counter[str] = Counter()
    kept: list[NumberedRow] = []
    keys: dict[str, str] = {}  # of a text as it is written, a hundred times perhaps
    copies: Counter[str] = Counter()
    answers: dict[str, set[str]] = {}
    for number, found in rows:
        row = found if isinstance(found, Problem) else plain(found, number)
        if isinstance(row, Problem) or not (row["prompt"] and row["solution"]):
            kept.append((number, row))
        elif _OTHER_SCRIPT.search(row["prompt"]):
            dropped["not_english"] += 1
        else:
            key = keys.setdefault(row["prompt"], "") or " ".join(tokens(row["prompt"]))
            keys[row["prompt"]] = key
            if not copies[key]:
                kept.append((number, row))
            copies[key] += 1
            answers.setdefault(key, set()).add(row["solution"])
    conflicting = {key for key, given in answers.items() if len(given) > 1}
    dropped["conflicting_answer"] = sum(copies[key] for key in conflicting)
    dropped["duplicate"] = sum(count - 1 for key, count in copies.items() if key not in conflicting)
    return [(n, row) for n, row in kept if keys.get(_prompt(row)) not in conflicting], +dropped


def _prompt(row: dict[str, Any] | Problem) -> str:
    return "" if isinstance(row, Problem) else row["prompt"]


def plain(row: dict[str, Any], number: int) -> dict[str, str]:
    """A row of either layout as its id, the bare problem and the answer; empty where it has none."""
    prompt = row.get("prompt")
    text = _prompt_text(row.get("source_prompt") if prompt is None else prompt)
    answer = row.get("solution")
    if answer is None:
        answer = value_at(row, "reward_model.ground_truth")
    index = value_at(row, "extra_info.index")
    return {
        "id": str(index) if isinstance(index, (str, int)) else f"row-{number:06d}",
        "prompt": bare(text),
        "solution": scalar_text(answer),
    }


def bare(text: str) -> str:
    """The problem without DAPO's instruction before and after it."""
    return _AFTER.sub("", _BEFORE.sub("", text)).strip()


def _prompt_text(prompt: Any) -> str:
    """The text of a prompt, or of the only message in it."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], dict):
        prompt = prompt[0].get("content")
    return prompt if isinstance(prompt, str) else ""
