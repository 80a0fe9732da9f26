"""The page of what is supported, written from the tables that the code reads by."""

from __future__ import annotations

from spot.data import hub
from spot.data.answers import ANSWER_FORMATS
from spot.grading.registry import FAMILIES
from spot.oracle.prompts import ENDINGS
from spot.utils import finish

MEANINGS = {  # what becomes of a response, by how it ended
    finish.STOP: "whole: it is graded",
    finish.LENGTH: "cut at a limit: truncated, which is no error of reasoning, and not used",
    finish.FILTERED: "refused or cut by a filter: no answer",
    finish.OTHER: "no answer",
    finish.BROKEN: "given up by the server: asked again",
}
READ = {  # what is read as the final answer, by data.answer_format
    "boxed": r"the last `\boxed{…}` whose braces balance and that is not empty",
    "last": "the number behind the last `####`, otherwise the last number",
    "json": 'the last `"answer": …`',
    "code": "the program in the last block of code, which hidden tests run",
}
GRADED = {
    "arithmetic": "the laptop world's own sums and instructions",
    "choice": "the letter that is stated as the answer, by a box, JSON, `<answer>` or a sentence",
    "code": "tests in a sandbox",
    "connect4": "a solver",
    "data": "as the attempts of the run's own data",
    "everyday": "everyday questions by their last number, what may be forgotten by rules",
    "ifeval": "lm-eval's own checker",
    "math": "the final answer against the truth: the same text, or the same parts and exact values",
}


def page() -> str:
    """Markdown. Raises where the code knows a format, a family or a meaning that is not described here."""
    _same("answer formats", READ, {*ANSWER_FORMATS, "code"})
    _same("families", GRADED, FAMILIES)
    _same("meanings of a finish reason", MEANINGS, finish.FINISH_REASONS.values())
    lines = [
        "# What is supported",
        "",
        "Written from the code when the site is built. [Models](models.md) have a table of their own; Oracles, generators and "
        "hardware are options: [Configuration](configuration/index.md).",
        "",
        "## Files of rows",
        "",
        f"{', '.join(f'`{suffix}`' for suffix in hub.SUFFIXES)}; those of text also packed as `.gz`. Questions "
        "(`data.path`), recorded attempts and benchmarks are read from any of them; responses to grade are JSON Lines.",
        "",
        "## Final answers",
        "",
        "| `data.answer_format` | what is read | what an Oracle is asked to close with |",
        "|---|---|---|",
        *(f"| `{name}` | {says} | {_code(ENDINGS[name])} |" for name, says in READ.items()),
        "",
        "## Benchmarks",
        "",
        "| `family` | graded by |",
        "|---|---|",
        *(f"| `{name}` | {says} |" for name, says in GRADED.items()),
        "",
        "## How a response ended",
        "",
        "What servers write as `finish_reason`, in any spelling: capitals, hyphens and a leading `FINISH_REASON_` make no "
        "difference. A reason that is not here is named once, and the response counts as whole unless it has all the tokens that it "
        "was allowed.",
        "",
        "| words | what becomes of the response |",
        "|---|---|",
    ]
    for meaning, says in MEANINGS.items():
        words = (word for word, means in finish.FINISH_REASONS.items() if means == meaning)
        lines.append(f"| {', '.join(f'`{word}`' for word in words)} | {says} |")
    return "\n".join([*lines, ""])


def _same(what: str, described: dict[str, str], known: object) -> None:
    assert described.keys() == {*known}, f"{what}: {described.keys() ^ {*known}}"  # type: ignore[misc]


def _code(ending: str) -> str:
    return ending.replace("|", "\\|")
