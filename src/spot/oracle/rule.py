"""The laptop world's Oracle: it knows the arithmetic and reads what the student wrote.

It is no perfect editor, as no real one is: it fixes minimally, or keeps the right steps and goes on in
its own words, or rewrites everything. Which of the three it does is drawn from the attempt's id, and so
is whether it gets the problem right where it is not told the answer and has to solve it first.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from spot.data.laptop_corpus import ENDING
from spot.data.laptop_world import Chain, Step, parse_chain, signed, work
from spot.oracle.types import Task

_STEP = re.compile(r"(\d+) ([+-]) (\d+) = (\d+)")
SLIP = 10  # what a carry too many adds
_BOX = re.compile(r"\\boxed\{[^{}]*\}")


@dataclass(frozen=True)
class RuleEditor:
    """Shares of the smallest fixes and of continuations; what is left is rewritten wholly.

    solves: the share of problems it works out rightly. In the others it slips once and believes what
    follows, so its correction ends in another answer than the true one, as a real Oracle's does.
    """

    seed: int = 0
    minimal: float = 0.5
    continuation: float = 0.3
    solves: float = 1.0

    def correct(self, task: Task) -> str | None:
        """The attempt corrected, or its own answer (mode `direct`); None where it reads no question."""
        chain = parse_chain(task.question)
        if chain is None:
            return None
        right = self._worked(task, chain)
        if task.mode == "direct":
            return collected(chain, right[-1].result - work(chain)[-1].result)
        draw = random.Random(f"{self.seed}/{task.id}").random()
        corrected = None
        if draw < self.minimal:
            corrected = smallest_fix(task.response, right)
        elif draw < self.minimal + self.continuation:
            corrected = continuation(task.response, right)
        return corrected or rewrite(right)

    def _worked(self, task: Task, chain: Chain) -> list[Step]:
        """The steps it believes in."""
        rng = random.Random(f"{self.seed}/solves/{task.id}")
        steps = work(chain)
        if rng.random() < self.solves:
            return steps
        return slipped(steps, rng.randrange(len(steps)))


def slipped(steps: list[Step], at: int) -> list[Step]:
    """The same work with a carry too many in one step, and what follows built on it."""
    later = [Step(s.left + SLIP, s.sign, s.right, s.result + SLIP) for s in steps[at + 1 :]]
    return [*steps[:at], steps[at]._replace(result=steps[at].result + SLIP), *later]


def first_wrong(response: str, right: list[Step]) -> int:
    """The index of the first step of `response` that is not as it must be (their number if none is)."""
    count = 0
    for (_, step), expected in zip(written_steps(response), right, strict=False):
        if step != expected:
            break
        count += 1
    return count


def written_steps(response: str) -> list[tuple[tuple[int, int], Step]]:
    """The steps a response writes, each with the span of its characters."""
    return [
        (match.span(), Step(int(match[1]), match[2], int(match[3]), int(match[4])))
        for match in _STEP.finditer(response)
    ]


def smallest_fix(response: str, right: list[Step]) -> str | None:
    """The student's text with its wrong steps and the answer replaced, or None when it has no box."""
    steps = written_steps(response)
    boxes = list(_BOX.finditer(response))
    if not steps or not boxes or boxes[-1].start() < steps[-1][0][1]:
        return None
    pieces, at = [], 0
    for index, ((start, end), _) in enumerate(steps):
        pieces.append(response[at:start])
        pieces.append(str(right[index]) if index < len(right) else "")
        at = end
        if index >= len(right):  # a step too many goes, with what closes it
            at += len(response[end:]) - len(response[end:].lstrip(". "))
    for step in right[len(steps) :]:  # a step too few
        pieces.append(f". {step}")
    pieces.append(response[at : boxes[-1].start()])
    return "".join([*pieces, rf"\boxed{{{right[-1].result}}}", response[boxes[-1].end() :]])


def continuation(response: str, right: list[Step]) -> str | None:
    """The student's right steps as they stand, then the Oracle's words."""
    kept = first_wrong(response, right)
    if kept == 0:
        return None
    end = written_steps(response)[kept - 1][0][1]
    return f"{response[:end]}. {own_words(right[kept:], right[-1].result, begin=False)}"


def own_words(steps: list[Step], final: int, *, begin: bool = True) -> str:
    """Steps and answer as the Oracle tells them: longer than the student would."""
    lines = [f"We begin with the number {steps[0].left}."] if begin else []
    for left, sign, right, result in steps:
        way = f"add {right} to" if sign == "+" else f"take away {right} from"
        lines.append(f"We now {way} the number {left}, and the number is then {result}.")
    return " ".join([*lines, ENDING % final])


def rewrite(right: list[Step]) -> str:
    """The whole answer in the Oracle's words."""
    return own_words(right, right[-1].result)


def collected(chain: Chain, slip: int = 0) -> str:
    """The Oracle's own way: sums and differences apart. slip: what it adds to the first by mistake."""
    gained = [value for sign, value in signed(chain) if sign == "+"]
    lost = [value for sign, value in signed(chain) if sign == "-"]
    parts = [f"Added: {' and '.join(map(str, gained))}, together {sum(gained) + slip}."]
    left = sum(gained) + slip - sum(lost)
    if lost:
        parts.append(f"Taken: {' and '.join(map(str, lost))}, together {sum(lost)}.")
        parts.append(f"The first without the second leaves {left}.")
    return " ".join([*parts, ENDING % left])
