"""How often a model is right on each kind of everyday question, and what the tutor makes of its mistakes.

`make smollm2`, then `python -m performance.everyday` (--each: questions a kind): samples at T = 0.7, prints
the shares and writes a hundred random corrections, or all where there are fewer, to
experiments/everyday/corrections.md, to be read by people.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from performance.common import HERE, markdown
from spot.cli.smollm2 import FOLDER
from spot.data import chat, everyday
from spot.data.rows import CORRECT, WRONG, Question
from spot.generation.transformers import TransformersGenerator
from spot.generation.types import Request, Sampling
from spot.grading import everyday as grading
from spot.grading.family import Answer
from spot.oracle import tutor
from spot.oracle.types import Task

SAMPLING = Sampling(temperature=0.7, top_p=1.0, top_k=0, max_new_tokens=160)
SHOWN = 100
PLACE = HERE.parent / "experiments" / "everyday" / "corrections.md"
HEAD = """# A hundred corrections

What `oracle=tutor` made of wrong answers of SmolLM2-135M-Instruct (`python -m performance.everyday {arguments}`):
{corrected} of {wrong} wrong answers were corrected and the others refused; these are {shown} of them, at random.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--each", type=int, default=24, help="questions a kind")
    parser.add_argument("--seed", type=int, default=0, help="of questions, responses and the draw")
    parser.add_argument("--write", action="store_true", help="the corrections")
    given = parser.parse_args()
    answers = sampled(given.model, questions(given.each, given.seed))
    rows = shares(answers)
    print(markdown(rows))
    fixed, wrong = corrections([a for a in answers if a.question.meta["trained"]])
    random.Random(given.seed).shuffle(fixed)
    print(f"{len(fixed)} of {wrong} wrong answers to trained kinds are corrected")
    if given.write:
        arguments = f"--each {given.each} --seed {given.seed}"
        counts = {"corrected": len(fixed), "wrong": wrong, "shown": len(fixed[:SHOWN])}
        PLACE.parent.mkdir(exist_ok=True)
        pages = [HEAD.format(arguments=arguments, **counts), *map(page, fixed[:SHOWN])]
        PLACE.write_text("\n".join(pages), encoding="utf-8")


def questions(each: int, seed: int) -> list[Question]:
    """As many of every kind."""
    trained = sum(kind.trained for kind in everyday.kinds())
    found = everyday.questions(each * trained, seed)
    others = everyday.questions(each * (len(everyday.kinds()) - trained), seed, everyday.OTHER_FORM)
    for question in found + others:
        question.meta["trained"] = question in found
    return found + others


def sampled(folder: Path, asked: list[Question]) -> list[Answer]:
    """The model's answers, in bf16."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    generator = TransformersGenerator(model, AutoTokenizer.from_pretrained(folder), batch_size=64)
    by_key = {f"{question.id}#0": question for question in asked}
    requests = [Request(q.id, 0, chat.user(q.text), SAMPLING, n) for n, q in enumerate(asked)]
    found = {c.key: c for c in generator.generate(requests)}
    return [Answer(q, found[key].text, found[key].finish_reason) for key, q in by_key.items()]


def shares(answers: list[Answer]) -> list[dict[str, object]]:
    """Right, wrong, cut and unreadable answers of each kind."""
    grades = zip(answers, grading.grade(answers), strict=True)
    counts = Counter((answer.question.task, grade.verdict) for answer, grade in grades)
    rows: list[dict[str, object]] = []
    for kind in everyday.kinds():
        found = {verdict: n for (task, verdict), n in counts.items() if task == kind.name}
        asked = sum(found.values())
        right = found.get(CORRECT, 0)
        row = {"kind": kind.name, "trained": kind.trained, "asked": asked, "right": right}
        rows.append(row | {"right %": round(100 * right / asked), "wrong": found.get(WRONG, 0)})
    return rows


def corrections(answers: list[Answer]) -> tuple[list[tuple[Answer, str]], int]:
    """Wrong answers with their corrections, and how many were wrong."""
    graded = zip(answers, grading.grade(answers), strict=True)
    wrong = [answer for answer, grade in graded if grade.verdict == WRONG]
    made = [
        (a, tutor.correct(Task("", a.question.text, a.question.answer, a.response))) for a in wrong
    ]
    return [(answer, text) for answer, text in made if text], len(wrong)


def page(both: tuple[Answer, str]) -> str:
    """One correction for a reader."""
    answer, text = both
    quoted = [
        "\n".join(f"> {line}" for line in part.splitlines()) for part in (answer.response, text)
    ]
    return f"## {answer.question.text}\n\n{quoted[0]}\n\ncorrected:\n\n{quoted[1]}\n"


if __name__ == "__main__":
    main()
