r"""How many answers to mathematical questions are graded in a second of one core.

    python -m performance.grading

Answers of our own making in the shapes of the public sets, half of them right but written otherwise than
the truth, half wrong; no two alike, so that nothing is remembered. `ordinary` mixes 7 integers, 2
fractions and one each of radicals, tuples, intervals and text. Unions and expressions with variables
are read and evaluated; `with expressions` has one in ten of those besides, as MATH-500 has. `at once` grades the
whole list, `one by one` an answer a call. Processor time is counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

from performance.common import markdown, write_results
from spot.grading import math_family
from spot.grading.family import Answer
from spot.grading.registry import Verifier

WORDS = ("even", "odd", "east", "west", "circle", "ellipse", "parabola", "Monday", "prime", "never")

# n → truth, the same in other writing, another answer
Shape = Callable[[int], tuple[str, str, str]]
SHAPES: dict[str, Shape] = {
    "integers": lambda n: (str(n), f"{n}.", str(n + 1)),
    "fractions": lambda n: (rf"\frac{{{n}}}{{{n + 7}}}", rf"\dfrac{{{2 * n}}}{{{2 * n + 14}}}", rf"\frac{{{n}}}{{{n + 8}}}"),
    "radicals": lambda n: (rf"{2 * n}\sqrt{{3}}", rf"{n}\sqrt{{12}}", rf"{n}\sqrt{{3}}"),
    "tuples": lambda n: (rf"\left( {n}, \frac{{\pi}}{{{n}}} \right)", rf"({n},\pi/{n})", rf"({n},\pi/{n + 1})"),
    "intervals": lambda n: (rf"\left[-\sqrt{{{n}}}, \frac{{{n}}}{{3}}\right)", rf"[-\sqrt{{{n}}},{n}/3)", rf"(-\sqrt{{{n}}},{n}/3)"),
    "text": lambda n: (rf"\text{{{WORDS[n % 10]}}}", rf"\textbf{{{WORDS[n % 10].upper()}}}", WORDS[(n + 1) % 10]),
    "unions": lambda n: (rf"(-\infty, {n}] \cup [{n + 3}, {n + 5})", rf"\left(-\infty,{n}\right]\cup[{n + 3},{n + 5})", rf"(-\infty,{n}]\cup[{n + 3},{n + 6})"),
    "expressions": lambda n: (rf"x^2 + {n + 2}x + {n + 1}", rf"(x+1)(x+{n + 1})", rf"x^2+{n}x-{n + 1}"),
}  # fmt: skip
ORDINARY = ["integers"] * 7 + ["fractions"] * 2 + ["radicals", "tuples", "intervals", "text"]
MIXES = {name: [name] for name in SHAPES} | {
    "ordinary": ORDINARY,
    "with expressions": [*ORDINARY * 9, *["expressions"] * 12, "unions"],
}


def answers(mix: Sequence[str], count: int) -> tuple[list[Answer], list[bool]]:
    """`count` responses and whether each is right; no two of them alike where the shape has so many."""
    responses, right = [], []
    for i in range(count):
        truth, same, other = SHAPES[mix[i % len(mix)]](i + 2)
        correct = i // len(mix) % 2 == 0
        row = {"problem": "Find it.", "answer": truth}
        question = math_family.read(math_family.MathFields(), row, str(i))
        text = (
            "Let us see. " * 100
            + rf"The final answer is: $\boxed{{{same if correct else other}}}$."
        )
        responses.append(Answer(question, text))
        right.append(correct)
    return responses, right


def measure(name: str, mix: Sequence[str], count: int) -> dict[str, Any]:
    """One row of the table. Raises ValueError when a grade is not what it must be."""
    given, right = answers(mix, count)
    seconds = {}
    for way, size in {"at once": count, "one by one": 1}.items():
        with Verifier() as verifier:
            verifier.equals([("x+1", "1+x")])  # imports what it takes
            start = time.process_time()
            grades = [
                grade
                for first in range(0, count, size)
                for grade in math_family.grade(verifier.equals, given[first : first + size])
            ]
            seconds[way] = time.process_time() - start
        if [grade.correct for grade in grades] != right:
            raise ValueError(f"{name}: graded otherwise than made")
    return {
        "answers": name,
        "count": count,
        "at once, answers/s": count / seconds["at once"],
        "one by one, answers/s": count / seconds["one by one"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=260, help="answers of each mix")
    parser.add_argument("--dry", action="store_true", help="print, write nothing")
    arguments = parser.parse_args()
    rows = [measure(name, mix, arguments.count) for name, mix in MIXES.items()]
    if arguments.dry:
        print(markdown(rows))
    else:
        write_results("grading", rows, "python -m performance.grading")


if __name__ == "__main__":
    main()
