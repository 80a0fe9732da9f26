"""Versions of the graders: part of the name of every product with verdicts, so that a change grades anew.

Each is a digest of its grader's verdicts on the cases of `tests/support/grader_cases.jsonl`. A test
fails when they move; `python -m tests.support.grader_cases` writes the new ones here.
"""

from __future__ import annotations

VERSIONS = {
    "arithmetic": "cacbbded",
    "choice": "f62ea01a",
    "code": "17b401b4",
    "connect4": "0024aa6b",
    "everyday": "c26637a8",
    "ifeval": "cb0addd7",
    "math": "83f8a90c",
}


def of_family(family: str, data_format: str) -> str:
    """Of a benchmark's grader; data_format: `data.answer_format`, which the family `data` is graded by."""
    return of_format(data_format) if family == "data" else f"{family} {VERSIONS[family]}"


def of_format(answer_format: str) -> str:
    """Of what grades the run's own data."""
    return of_family("code" if answer_format == "code" else "math", answer_format)
