r"""Whether the grader calls a truth right, and an altered truth wrong.

    python -m performance.grading_agreement                          # fetches the three data sets
    python -m performance.grading_agreement math500=<file> minerva=<file> olympiadbench=<file>

Every truth is graded against itself and against copies with one thing altered: a digit, a sign, a letter,
the case of a letter, an exponent, a base, a bracket. math-verify grades the same pairs. No text of the
data sets is kept; `--show` prints what was called right.

Not altered, because the answer would be the same: the sign of a zero, the exponent 1, the case of words, and
digits where the row allows a tolerance.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from performance.common import markdown, write_results
from spot.config import BenchmarkConfig
from spot.data.rows import Question
from spot.evaluation import benchmarks
from spot.grading.family import Answer
from spot.grading.registry import Verifier

CONF = Path(__file__).parents[1] / "conf" / "benchmark"
THEIRS = f"called correct by math-verify {version('math-verify')}"
NAMES = ("math500", "minerva", "olympiadbench")
# What is no variable: words, environments, commands.
_NAMED = re.compile(
    r"\\(?:text\w*|mbox|mathrm|operatorname)\s*\{[^{}]*\}|\\(?:begin|end)\{\w+\}|\\[a-zA-Z]+|\\."
    r"|np\.arc\w+|(?<=\d)e(?=[-\d])"
)
_WORDS = re.compile(r"\\(?:text\w*|mbox)\s*\{([^{}]*)\}")
Alterations = Iterator[str]


def _replaced(text: str, start: int, new: str, end: int | None = None) -> str:
    return text[:start] + new + text[start + 1 if end is None else end :]


def _variables(text: str) -> list[int]:
    """Where the letters stand that are neither commands nor words."""
    hidden = {i for match in _NAMED.finditer(text) for i in range(*match.span())}
    return [i for i, c in enumerate(text) if c.isascii() and c.isalpha() and i not in hidden]


def digits(text: str) -> Alterations:
    for match in re.finditer(r"\d", text):
        yield _replaced(text, match.start(), str((int(match[0]) + 1) % 10))


def signs(text: str) -> Alterations:
    for match in re.finditer(r"[-+](?!\s*0(?![.\d]))", text):
        yield _replaced(text, match.start(), "-" if match[0] == "+" else "+")
    if re.match(r"[$\s]*(?:[1-9]|\\frac|\\sqrt|\\pi)", text) and "=" not in text:
        start = re.match(r"[$\s]*", text)
        yield _replaced(text, start.end() if start else 0, "-", start.end() if start else 0)


def letters(text: str) -> Alterations:
    inside = [
        i for match in _WORDS.finditer(text) for i in range(*match.span(1)) if text[i].isalpha()
    ]
    for place in (*_variables(text), *inside):
        old = text[place]
        yield _replaced(text, place, {"z": "a", "Z": "A"}.get(old, chr(ord(old) + 1)))


def cases(text: str) -> Alterations:
    words = {
        i for m in re.finditer(r"[A-Za-z]{2,}", text) if m[0].islower() for i in range(*m.span())
    }
    for place in _variables(text):
        if place not in words:
            yield _replaced(text, place, text[place].swapcase())


def exponents(text: str) -> Alterations:
    for match in re.finditer(r"\^\s*(?:\{[^{}\\]*\}|[\w])", text):
        if match[0].strip("^{} ") != "1":
            yield _replaced(text, match.start(), "", match.end())


def bases(text: str) -> Alterations:
    for match in re.finditer(r"(?<=\d)_\{?\d+\}?", text):
        yield _replaced(text, match.start(), "", match.end())
        yield _replaced(text, match.start(), "_{7}" if "7" not in match[0] else "_{3}", match.end())


def brackets(text: str) -> Alterations:
    match = re.fullmatch(r"[$\s]*(\\left)?([(\[])[^()\[\]]*([)\]])[$\s]*", text)
    if match and "," in text:
        for group in (2, 3):
            yield _replaced(
                text, match.start(group), {"(": "[", "[": "(", ")": "]", "]": ")"}[match[group]]
            )


KINDS: dict[str, Callable[[str], Alterations]] = {
    "digit": digits, "sign": signs, "letter": letters, "case": cases,
    "exponent": exponents, "base": bases, "bracket": brackets,
}  # fmt: skip


def altered(question: Question, kind: str, each: int) -> list[str]:
    """At most `each` alterations of a truth, drawn by the question's id."""
    if kind == "digit" and "tolerance" in question.meta:
        return []
    found = list(dict.fromkeys(KINDS[kind](question.answer)))
    drawn = random.Random(f"{question.id} {kind}").sample(found, min(each, len(found)))
    return [text for text in drawn if text != question.answer]


def math_verify_says(answer: str, truth: str) -> bool:
    """math-verify's verdict as its users ask for it; what it gives up is not correct."""
    from math_verify import parse, verify

    try:
        gold = parse("$" + truth.replace("$", "") + "$")
        return bool(verify(gold, parse(rf"\boxed{{{answer.replace('$', '')}}}")))
    except Exception:
        return False


def questions(name: str, path: Path | None) -> list[Question]:
    """The questions of a benchmark of conf/benchmark."""
    values = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert isinstance(values, dict)
    del values["defaults"]
    task = BenchmarkConfig(**{str(key): value for key, value in values.items()})
    return list(benchmarks.read_questions(task, benchmarks.family_of(task), path))


def measure(name: str, path: Path | None, each: int, show: bool) -> list[dict[str, Any]]:
    """One row for the truths of a benchmark themselves, and one for each kind of alteration."""
    asked = questions(name, path)
    kinds = {"itself": [(q, q.answer) for q in asked]} | {
        kind: [(q, text) for q in asked for text in altered(q, kind, each)] for kind in KINDS
    }
    task = BenchmarkConfig(name=name, family="math", path="-")
    rows = []
    with Verifier() as verifier:
        family = benchmarks.family_of(task, verifier)
        for kind, pairs in kinds.items():
            grades = family.grade([Answer(q, rf"\boxed{{{text}}}") for q, text in pairs])
            theirs = [math_verify_says(text, q.answer) for q, text in pairs]
            for (question, text), grade in zip(pairs, grades, strict=True):
                if show and grade.correct != (kind == "itself"):
                    print(f"{name} {kind}: {question.answer}  |  {text}  |  {grade.verdict}")
            rows.append({
                "data set": name,
                "graded": "the truth" if kind == "itself" else f"another {kind}",
                "right": (kind == "itself" and "yes") or "no",
                "pairs": len(pairs),
                "called correct": sum(g.correct for g in grades),
                "given up": sum(g.verdict == "unparseable" for g in grades),
                THEIRS: sum(theirs),
            })  # fmt: skip
    return [row for row in rows if row["pairs"]]


def totals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The two rates: of truths, and of altered ones, that are called correct."""
    result = []
    for right, graded in (("yes", "the truth"), ("no", "anything altered")):
        summed = [row for row in rows if row["right"] == right]
        total: dict[str, Any] = {"data set": "all", "graded": graded, "right": right}
        total["pairs"] = pairs = sum(row["pairs"] for row in summed)
        for column in ("called correct", "given up", THEIRS):
            count = sum(row[column] for row in summed)
            total[column] = (
                f"{count:,} ({100 * count / pairs:.3g}%)" if column != "given up" else count
            )
        result.append(total)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="*", metavar="name=file", help="local copies")
    parser.add_argument("--each", type=int, default=2, help="alterations of a kind for each truth")
    parser.add_argument("--show", action="store_true", help="print disagreements; write nothing")
    arguments = parser.parse_args()
    files = {name: Path(path) for name, _, path in (f.partition("=") for f in arguments.files)}
    rows = [
        row
        for name in NAMES
        for row in measure(name, files.get(name), arguments.each, arguments.show)
    ]
    rows += totals(rows)
    if arguments.show:
        print(markdown(rows))
    else:
        write_results("grading_agreement", rows, "python -m performance.grading_agreement")


if __name__ == "__main__":
    main()
