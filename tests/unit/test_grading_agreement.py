"""performance/grading_agreement.py: what is altered is another answer, and both graders are counted."""

import json

import pytest

from performance import grading_agreement
from spot.data.rows import Question

TRUTHS = [
    "12", "-0.5", r"\frac{3}{7}", r"2\sqrt{5}", r"x^{2}-3x+1", "(2,7]", "32_5", r"\text{Monday}", "1, 3, -4", "y=3x-2",
    r"n \equiv 3 \pmod 8", r"\{x \mid x < 6\}", r"1 < x \leq 9", r"12 \text{ cm}^2", "4e-7", r"E_{1}+2E_{2}", r"\pm 3",
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "truth", "altered"),
    [
        ("digit", "a_1=29", ["a_2=29", "a_1=39", "a_1=20"]),
        ("sign", "3-x", ["3+x", "-3-x"]),
        ("sign", "-0", []),
        ("letter", r"\sin x+z", [r"\sin y+z", r"\sin x+a"]),
        ("case", r"\pi xY \text{ab}", [r"\pi XY \text{ab}", r"\pi xy \text{ab}"]),
        ("exponent", "x^{12}+y^1", ["x+y^1"]),
        ("base", "25_{8}", ["25", "25_{7}"]),
        ("bracket", "(1,2]", ["[1,2]", "(1,2)"]),
    ],
)
def test_one_thing_is_altered(kind, truth, altered):
    assert list(grading_agreement.KINDS[kind](truth)) == altered


def test_a_row_with_a_tolerance_keeps_its_digits():
    question = Question("1", "math", "P", "4.2", {"tolerance": "0.1"})
    assert grading_agreement.altered(question, "digit", 9) == []
    assert grading_agreement.altered(question, "sign", 9) == ["-4.2"]


def test_both_rates_are_counted(tmp_path):
    path = tmp_path / "truths.jsonl"
    rows = [{"id": i, "problem": "P", "answer": truth} for i, truth in enumerate(TRUTHS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = grading_agreement.measure("math500", path, each=50, show=False)
    assert {row["graded"] for row in found} > {"the truth", "another digit", "another base"}
    right, wrong = grading_agreement.totals(found)
    assert (right["pairs"], right["called correct"]) == (len(TRUTHS), f"{len(TRUTHS)} (100%)")
    assert (wrong["called correct"], wrong["given up"]) == ("0 (0%)", 0)
    assert wrong["pairs"] > 60
    assert sum(row[grading_agreement.THEIRS] for row in found) >= len(TRUTHS) - 4
