"""What an Oracle is told: every part in its place, and mistakes in a user's own file found at once."""

from pathlib import Path

import pytest

from spot.oracle.postprocess import ENDED, STARTED
from spot.oracle.prompts import prompts
from spot.oracle.types import Task, Try, Usage
from spot.utils.errors import UserError

pytestmark = pytest.mark.oracle

TASK = Task("q1#0", "Half of $\\frac{4}{3}$?", "TRUTH", "It is $\\boxed{1}$, {answer}.")
TRY = Try("rectify", f"{STARTED}\nIt is 12.\n{ENDED}", "wrong", Usage(), 0.1, None, "12 is wrong")


def test_with_the_truth_without_it_and_direct() -> None:
    kind, told = prompts("rectified")(TASK)
    assert kind == "rectify"
    for part in (TASK.question, TASK.response, "TRUTH", STARTED, ENDED, r"$\boxed{ANSWER}$."):
        assert told.count(part) == 1, part

    kind, told = prompts("rectified", ground_truth=False)(TASK)
    assert kind == "rectify"
    assert TASK.question in told
    assert TASK.response in told
    assert "TRUTH" not in told
    assert "First solve the problem on your own" in told

    kind, told = prompts("direct")(TASK)
    assert kind == "direct"
    assert TASK.question in told
    assert TASK.response not in told
    assert "TRUTH" not in told


@pytest.mark.parametrize("mode", ["rectified", "direct"])
def test_asked_again_with_what_was_wrong(mode: str) -> None:
    ask = prompts(mode, ground_truth=False)
    _, first = ask(TASK)
    kind, told = ask(TASK, [TRY])
    assert kind == "reask"
    assert told.startswith(first), "the beginning is shared, so that servers can cache it"
    assert "It is 12." in told
    assert "12 is wrong" in told
    assert "TRUTH" not in told


def test_the_final_answer_is_asked_for_in_the_form_that_is_looked_for() -> None:
    assert "`#### ANSWER`" in prompts("direct", answer_format="last")(TASK)[1]
    assert '"answer"' in prompts("direct", answer_format="json")(TASK)[1]


def test_ones_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.md"
    path.write_text("{question} | {response} | {answer} | {ANSWER} {0}", encoding="utf-8")
    ask = prompts("rectified", own=path)
    told = ask(TASK)[1]
    assert told == f"{TASK.question} | {TASK.response} | TRUTH | {{ANSWER}} {{0}}"
    before = ask.digest
    path.write_text("{question} | {response} | {answer}", encoding="utf-8")
    assert prompts("rectified", own=path).digest != before


@pytest.mark.parametrize(
    ("mode", "truth", "text", "said"),
    [
        ("rectified", True, "{question} {answer}", r"lacks \{response\}"),
        ("rectified", True, "{Question} {resp}", r"lacks \{answer\} and \{question\} and \{resp"),
        ("rectified", False, "{question} {response} {answer}", "oracle.ground_truth=true"),
        ("direct", True, "Solve it.", r"lacks \{question\}"),
        ("direct", True, "{question} {reason}", r"has \{reason\}"),
    ],
)
def test_a_mistake_in_it_is_found_at_once(
    tmp_path: Path, mode: str, truth: bool, text: str, said: str
) -> None:
    path = tmp_path / "mine.md"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said) as caught:
        prompts(mode, ground_truth=truth, own=path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_reask_without_a_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"oracle\.prompt=.*cannot be read"):
        prompts("direct", own=tmp_path / "none.md")
    path = tmp_path / "again.md"
    path.write_text("Again: {previous}", encoding="utf-8")
    with pytest.raises(UserError, match=r"oracle\.reask_prompt=.*lacks \{reason\}"):
        prompts("direct", own_reask=path)


def test_the_digest_names_everything_that_is_said() -> None:
    variants = [
        prompts("rectified"),
        prompts("rectified", ground_truth=False),
        prompts("direct"),
        prompts("direct", answer_format="last"),
    ]
    assert len({ask.digest for ask in variants}) == len(variants)
    assert prompts("rectified").digest == prompts("rectified").digest
