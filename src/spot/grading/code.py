"""Programming tasks: the model writes a function, and hidden tests decide (a benchmark family).

A row has `prompt`, `entry_point` and `tests`, a list of {"args": [...], "expected": ...} in JSON, and
may have `id` and a `reference` solution. Programs run in spot.grading.sandbox, which gets the arguments
and never what is expected. Returned values are compared as JSON: a tuple is a list, keys of a dict
are strings, True is not 1, floats are equal to 1e-6.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from spot.data import code_tasks
from spot.data.answers import Item, encodable
from spot.data.chat import final_part
from spot.data.rows import CORRECT, UNPARSEABLE, WRONG, Question
from spot.grading import sandbox
from spot.grading.family import Answer, Family, Grade, RowError, pose, truncated
from spot.grading.sandbox import Limits, Outcome, Program

CONSTANTS: tuple[Any, ...] = (None, 0, 1, -1, True, False, "", [], {})
PYTHON = ("python", "python3", "py", "")  # how a block of Python is labelled
UNWRITTEN = ("SyntaxError", "IndentationError", "TabError")

_FENCE = re.compile(r"\s*(`{3,}|~{3,})\s*(\w*)[^`]*$")


def family() -> Family:
    """Programming tasks, their programs run in the sandbox."""
    return Family(
        read,
        pose,
        grade,
        trivial,
        make=lambda _, count, seed: code_tasks.questions(count, seed, "benchmark"),
        ready=sandbox.ready,
    )


def read(row: Mapping[str, Any], row_id: str) -> Question:
    """The question of a row; its own id, if it has one, comes before `row_id`.

    `answer` is the reference solution, or empty. meta: entry_point, tests. Raises RowError.
    """
    text, entry_point, tests = row.get("prompt"), row.get("entry_point"), row.get("tests")
    if not isinstance(text, str) or not text.strip():
        raise RowError("prompt: no task")
    if not isinstance(entry_point, str) or not entry_point.isidentifier():
        raise RowError("entry_point: not the name of a function")
    if not isinstance(tests, list) or not tests:
        raise RowError("tests: not a list of tests")
    for number, test in enumerate(tests, 1):
        if not isinstance(test, dict) or not isinstance(test.get("args"), list):
            raise RowError(f"tests: test {number} has no list `args`")
        if "expected" not in test:
            raise RowError(f"tests: test {number} has no value `expected`")
    reference = row.get("reference") or ""
    if not isinstance(reference, str):
        raise RowError("reference: not a program")
    if not encodable(text + reference):
        raise RowError("prompt, reference: half a character (surrogate)")
    name = row_id if row.get("id") is None else str(row["id"])
    return Question(name, "code", text, reference, {"entry_point": entry_point, "tests": tests})


def grade(answers: Sequence[Answer], limits: Limits | None = None) -> list[Grade]:
    """What responses are worth: correct if the program passes every test. Run many at once.

    Reasons: `cut at the token limit` (truncated), `no code` (unparseable), and of wrong ones `wrong
    answer on test 3`, `error: NameError`, `time limit`, `memory limit`, `output limit`, `crashed`:
    how the first failing test failed. details: passed, total.
    """
    programs = [None if a.finish_reason == "length" else extract(a) for a in answers]
    asked = {
        index: _program(source, answers[index].question)
        for index, source in enumerate(programs)
        if source is not None
    }
    found = sandbox.run_all(list(asked.values()), limits or Limits())
    outcomes = dict(zip(asked, found, strict=True))
    return [_grade(a, programs[index], outcomes.get(index)) for index, a in enumerate(answers)]


def trivial(questions: Sequence[Question]) -> tuple[float, str]:
    """The share in [0, 1] of tasks that the best function returning a constant passes, and it."""
    passed: Counter[str] = Counter()
    for question in questions:
        expected = [test["expected"] for test in question.meta["tests"]]
        for constant in {repr(c): c for c in (*CONSTANTS, expected[0])}.values():
            passed[f"return {constant!r}"] += all(sandbox.same(constant, e) for e in expected)
    best, count = passed.most_common(1)[0]
    return count / len(questions), best


def truth_of(question: Question) -> str:
    """All that it takes to tell a right program from a wrong one, as the truth of an attempt: JSON."""
    return json.dumps({"reference": question.answer, **question.meta}, sort_keys=True)


def verdicts(items: Sequence[Item]) -> list[tuple[str, str | None]]:
    """`(verdict, program)` of each item, whose truth is that of `truth_of`: for the loop."""
    answers = [
        Answer(Question("", "code", "", "", json.loads(truth)), final_part(response), finish_reason)
        for response, truth, finish_reason, _ in items
    ]
    return [(found.verdict, found.extracted) for found in grade(answers)]


def extract(answer: Answer) -> str | None:
    """The program in a response, or None when there is none.

    The last block that defines the function, one labelled as Python before others; without one, the
    last block; without any block, the whole text if a line of it begins to define the function.
    """
    name = answer.question.meta["entry_point"]
    found = blocks(answer.response)
    if not found:
        return answer.response if _defines(answer.response, name) else None
    defining = [block for block in found if _defines(block[1], name)]
    python = [block for block in defining if block[0] in PYTHON]
    return (python or defining or found)[-1][1]


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of each fenced block; one that is never closed ends with the text."""
    found: list[tuple[str, str]] = []
    fence, language = "", ""
    lines: list[str] = []
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if not fence and mark:
            fence, language, lines = mark[1], mark[2].lower(), []
        elif fence and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            found.append((language, textwrap.dedent("\n".join(lines))))
            fence = ""
        else:
            lines.append(line)
    return [*found, (language, textwrap.dedent("\n".join(lines)))] if fence else found


def _defines(code: str, name: str) -> bool:
    return re.search(rf"^(?:def[ \t]+{name}\b|{name}[ \t]*=(?!=))", code, re.MULTILINE) is not None


def _program(source: str, question: Question) -> Program:
    calls = [test["args"] for test in question.meta["tests"]]
    return Program(source, question.meta["entry_point"], calls)


def _grade(answer: Answer, source: str | None, outcome: Outcome | None) -> Grade:
    tests = answer.question.meta["tests"]
    if answer.finish_reason == "length":
        return truncated(details=_counts(0, tests))
    prose = source == answer.response  # no block: text that happens to define the function
    if source is None or outcome is None or (prose and outcome.error in UNWRITTEN):
        return Grade(False, UNPARSEABLE, None, "no code", _counts(0, tests))
    reasons = [_reason(i, test["expected"], outcome) for i, test in enumerate(tests)]
    reason = next(filter(None, reasons), "")
    verdict = WRONG if reason else CORRECT
    return Grade(not reason, verdict, source, reason, _counts(reasons.count(""), tests))


def _counts(passed: int, tests: Sequence[Any]) -> dict[str, int]:
    return {"passed": passed, "total": len(tests)}


def _reason(index: int, expected: Any, outcome: Outcome) -> str:
    """Why a test failed; empty if it passed."""
    call = outcome.calls[index]
    error = outcome.error if call is None else call.error
    if error is not None:
        return "memory limit" if error == "MemoryError" else f"error: {error}"
    if call is None:
        return outcome.ended
    return "" if sandbox.same(call.value, expected) else f"wrong answer on test {index + 1}"
