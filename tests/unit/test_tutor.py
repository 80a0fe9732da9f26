"""The tutor on responses that people wrote, and the calculator that is a part of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spot.data.everyday import path_of
from spot.oracle import calculator
from spot.oracle.tutor import correct
from spot.oracle.types import Task

CASES = Path(__file__).parents[1] / "support" / "tutor_cases.jsonl"
ROWS = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]


def corrected(question: str, response: str) -> str | None:
    path = path_of(question)
    assert path is not None
    return correct(Task("x", question, str(path[-1].result), response))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["response"][:40])
def test_a_response_is_corrected_as_a_person_would_or_refused(row: dict[str, str]) -> None:
    assert corrected(row["question"], row["response"]) == row["correction"]


def test_no_correction_of_them_claims_what_is_not_so() -> None:
    made = [row["correction"] for row in ROWS if row["correction"]]
    assert len(made) > 60
    assert [calculator.corrected(text) for text in made] == made


BOXES = "There are 3 boxes with 4 cakes in each box, and 2 more cakes on a plate. How many cakes are there in total?"


@pytest.mark.parametrize(
    ("response", "gone"),
    [
        ("There are 2 boxes with 4 cakes. 3 * 4 = 12. 12 + 2 = 13 cakes.", "2 boxes"),
        ("This is a problem of fractions. 3 * 4 = 12. 12 + 2 = 13 cakes.", "fractions"),
        ("Emma has 3 boxes. 3 * 4 = 12. 12 + 2 = 13 cakes.", "Emma"),
        ("3 * 4 = 12, so there are 12 cakes in total. 12 + 2 = 13 cakes.", "12 cakes in total"),
        ("We multiply the cakes by the boxes. 3 * 4 = 12. 12 + 2 = 13.", "the cakes by the boxes"),
    ],
)
def test_what_is_false_or_not_understood_does_not_stay(response: str, gone: str) -> None:
    made = corrected(BOXES, response)
    assert made is None or gone not in made


def test_the_own_answer_follows_the_path() -> None:
    task = Task("x", BOXES, "14", "", mode="direct")
    assert correct(task) == "3 * 4 = 12\n12 + 2 = 14\nThe answer is 14."
    assert correct(Task("x", "What is the capital of France?", "Paris", "It is 3.")) is None


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("71 + 43 = 194", "71 + 43 = 114"),
        ("72 minus 43 gives 72", "72 minus 43 gives 29"),
        ("3 times 4 gives you 11.", "3 times 4 gives you 12."),
        ("adding 15 and 2 results in 16", "adding 15 and 2 results in 17"),
        ("If we subtract 2 from 15, we get 12.", "If we subtract 2 from 15, we get 13."),
        ("15 + 2 equals 18", "15 + 2 equals 17"),
        ("$3 × 5 = $16", "$3 × 5 = $15"),
        ("5 pencils * $3/pencil = $16", "5 pencils * $3/pencil = $15"),
        ("3 x 4 + 2 = 14 + 2 = 16", "3 x 4 + 2 = 14"),  # a way that is none goes
        ("(3 + 4) * 2 = 11", "(3 + 4) * 2 = 14"),
        (r"\(3 \times 4 = 13\)", r"\(3 \times 4 = 12\)"),
        ("1,200 + 300 = 1,400", "1,200 + 300 = 1500"),
        ("12 / 5 = 2", "12 / 5 = 2"),  # no whole number
        ("x = 3, y-2 = 4", "x = 3, y-2 = 4"),
        ("in 2-3 days", "in 2-3 days"),
        ("15 + 2 = 17", "15 + 2 = 17"),
    ],
)
def test_the_calculator(text: str, right: str) -> None:
    assert calculator.corrected(text) == right


@pytest.mark.parametrize("text", ["3 + " * 300, "3 apples and " * 300, "add " * 300 + "3 to 4 is"])
def test_no_text_takes_long(text: str) -> None:
    """Each would take minutes where words or blanks could be parted in several ways."""
    assert calculator.corrected(text) == text
