"""The pretraining corpus of the laptop world's student: answers with systematic slips.

Steps that need a carry or a borrow sometimes lose it, and steps that nearly do sometimes get one (class
A). In a bracket after a minus the second sign nearly never turns round (class B). What follows builds
on the slip, as a real model's errors do.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from spot.data.laptop_world import (
    LARGEST,
    Chain,
    Step,
    bare_text,
    constrained_text,
    draw_chain,
    miscarried,
    signed,
    story_text,
)

ENDING = r"Therefore, the final answer is: $\boxed{%d}$."  # the form the Oracle's prompts ask for


@dataclass(frozen=True)
class Slips:
    """How often the corpus errs where it can."""

    carry: float = 0.32  # A: per step with a carry or borrow at stake
    bracket: float = 0.975  # B: per bracket after a minus


STORIES, INSTRUCTIONS = 0.25, 0.25  # shares of the corpus; the rest are bare sums


def rows(seed: int, slips: Slips = Slips()) -> Iterator[tuple[str, str]]:
    """(question, response) without end, the same for the same seed."""
    rng = random.Random(f"pretraining/{seed}")
    while True:
        chain = draw_chain(rng, "pretraining")
        steps = slipping_work(rng, chain, slips)
        draw = rng.random()
        if draw < STORIES:
            yield story_text(rng, chain), response_text(steps)
        elif draw < STORIES + INSTRUCTIONS:
            question, constraints = constrained_text(rng, chain, most=2)
            yield question, response_text(steps, constraints)
        else:
            yield bare_text(rng, chain), response_text(steps)


def slipping_work(rng: random.Random, chain: Chain, slips: Slips) -> list[Step]:
    """The student's steps: each result is right but for a carry, given what it wrote before."""
    while True:
        (_, left), *rest = signed(chain, drop_brackets=rng.random() < slips.bracket)
        steps = []
        for sign, right in rest:
            result = left + right if sign == "+" else left - right
            if rng.random() < slips.carry:
                result += miscarried(left, sign, right)
            steps.append(Step(left, sign, right, result))
            left = result
        if all(0 <= step.result <= LARGEST for step in steps):
            return steps


def response_text(steps: Sequence[Step], constraints: Collection[str] = ()) -> str:
    """A response in the student's own style, with the constraints obeyed."""
    final = steps[-1].result
    if "number" in constraints:
        return str(final)
    lines = [in_words(step) if "words" in constraints else str(step) for step in steps]
    if "numbered" in constraints:
        lines = [f"{index}) {line}" for index, line in enumerate(lines, 1)]
    lines = [line + (" *" if "stars" in constraints else ".") for line in lines]
    lines.append(ENDING % final)
    if {"plain", "capitals"} & set(constraints):
        lines[-1] = f"Therefore, the final answer is: {final}."
    if "sure" in constraints:
        lines.insert(0, "Sure.")
    if "done" in constraints:
        lines.append("Done.")
    text = ("\n" if "lines" in constraints else " ").join(lines)
    return text.upper() if "capitals" in constraints else text


def in_words(step: Step) -> str:
    """`From 85 take 12 to get 73`."""
    if step.sign == "+":
        return f"To {step.left} add {step.right} to get {step.result}"
    return f"From {step.left} take {step.right} to get {step.result}"
