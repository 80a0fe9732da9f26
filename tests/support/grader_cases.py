"""What the graders say of some hundred responses, and their versions, which follow from it.

After a change of a grader that is meant to move verdicts: `python -m tests.support.grader_cases`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from spot.data.answers import Item
from spot.data.chat import final_part
from spot.grading import registry, versions
from spot.grading.family import Answer
from spot.grading.registry import Options, Verifier

CASES = Path(__file__).with_suffix(".jsonl")
COMMAND = "python -m tests.support.grader_cases"


def cases() -> list[dict[str, Any]]:
    """A row of a benchmark, a response to it and, as `verdict`, what that was worth last.

    Also: `format` of the answer, `seed` of posing, `parser`, and `finish`, the reason it ended.
    """
    return [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]


def verdicts(some: list[dict[str, Any]]) -> list[str]:
    """What the responses are worth now; of mathematics also where it is the run's own data."""
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for index, case in enumerate(some):
        kind = case["family"], case.get("format", "boxed"), case.get("parser", "tolerant")
        groups[kind].append(index)
    found: dict[int, str] = {}
    with Verifier() as verifier:
        for (name, form, parser), indices in groups.items():
            family = registry.family(name, Options(verifier, form, form, parser))
            answers = [_answer(family, some[i]) for i in indices]
            graded = [grade.verdict for grade in family.grade(answers)]
            if name == "math":
                items = [
                    Item(a.response, a.question.answer, a.finish_reason, form) for a in answers
                ]
                own = [verdict for verdict, _ in verifier.verdicts(items)]
                graded = [a if a == b else f"{a}, {b}" for a, b in zip(graded, own, strict=True)]
            found |= dict(zip(indices, graded, strict=True))
    return [found[index] for index in range(len(some))]


def version(some: list[dict[str, Any]], found: list[str], family: str) -> str:
    """A grader's version: it changes with any verdict, and with the cases."""
    own = [v for case, v in zip(some, found, strict=True) if case["family"] == family]
    return hashlib.sha256("\n".join(own).encode()).hexdigest()[:8]


def moved(some: list[dict[str, Any]], found: list[str]) -> list[str]:
    """A line for each verdict that is not what it was."""
    return [
        f"{case['family']}: {case['row'].get('answer', '')!r} with {case['response'][:80]!r}: "
        f"{case.get('verdict')} → {verdict}"
        for case, verdict in zip(some, found, strict=True)
        if case.get("verdict") != verdict
    ]


def _answer(family: registry.Family, case: dict[str, Any]) -> Answer:
    question = family.read(case["row"], "row-1")
    posed = family.pose(question, case.get("seed", 0), "{question}")
    return Answer(posed, final_part(case["response"]), case.get("finish", "stop"))


def keep() -> None:
    """Store the verdicts of today, and write the versions that follow from them."""
    some = cases()
    found = verdicts(some)
    print("\n".join(moved(some, found)) or "no verdict has moved")
    lines = [case | {"verdict": verdict} for case, verdict in zip(some, found, strict=True)]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    CASES.write_text(text, encoding="utf-8")
    file = Path(versions.__file__)
    source = file.read_text(encoding="utf-8")
    for family in versions.VERSIONS:
        new = f'"{family}": "{version(some, found, family)}"'
        source = re.sub(rf'"{family}": "\w*"', new, source)
    file.write_text(source, encoding="utf-8")


if __name__ == "__main__":
    keep()
