"""What an Oracle sends back: the correction found in it, and refused for the right reason."""

import time
from collections.abc import Iterator

import pytest

from spot.data.chat import response_ids
from spot.grading.registry import Verifier
from spot.oracle.postprocess import ENDED, STARTED, Judge, Judgement, clean
from spot.oracle.types import EMPTY, MAX_TOKENS, OTHER, SAFETY, STOP, Task

pytestmark = pytest.mark.oracle

ATTEMPT = "We add 3 and 4.\n\n3 + 4 = 8.\nTherefore, the final answer is: $\\boxed{8}$."
RIGHT = ATTEMPT.replace("8", "7")
TASK = Task("q1#0", "What is 3 + 4?", "7", ATTEMPT)
DIRECT = Task("q1#0", "What is 3 + 4?", "7", ATTEMPT, "direct")

WRAPPED = {
    "as asked": f"{STARTED}\n{RIGHT}\n{ENDED}",
    "solved first": f"I solve it: it is 7.\n\n{STARTED}\n{RIGHT}\n{ENDED}\nI hope this helps!",
    "markers doubled": f"{STARTED}\n{STARTED}\n{RIGHT}\n{ENDED}\n{ENDED}",
    "a draft before": f"{STARTED}\nIt is $\\boxed{{9}}$.\n{ENDED}\n{STARTED}\n{RIGHT}\n{ENDED}",
    "no closing marker": f"{STARTED}\n{RIGHT}",
    "no opening marker": f"{RIGHT}\n{ENDED}",
    "no markers": RIGHT,
    "bold markers": f"**{STARTED}**\n{RIGHT}\n**{ENDED}**",
    "markers in other letters": f"== Corrected started ==\n{RIGHT}\n== Corrected ended ==",
    "markers in another order": f"=== BEGIN CORRECTED ANSWER ===\n{RIGHT}\n=== END OF CORRECTED ===",
    "markers spoken of before": f"I write between `{STARTED}` and `{ENDED}`.\n{STARTED}\n{RIGHT}\n{ENDED}",
    "markers on the same line": f"{STARTED} {RIGHT} {ENDED}",
    "code block inside": f"{STARTED}\n```\n{RIGHT}\n```\n{ENDED}",
    "code block around": f"```markdown\n{STARTED}\n{RIGHT}\n{ENDED}\n```",
    "code block across a marker": f"```\n{STARTED}\n{RIGHT}\n```\n{ENDED}",
    "code block alone": f"Here is the corrected solution:\n```latex\n{RIGHT}\n```",
    "announced": f"{STARTED}\nHere is the corrected version:\n\n{RIGHT}\n{ENDED}",
    "announced with a rule": f"Sure! Here's the corrected solution:\n\n---\n{RIGHT}",
    "announced on its line": f"**Corrected Answer:** {RIGHT}",
    "announced at length": f"Certainly, here is the revised answer for 3.5 apples: {RIGHT}",
    "remarked": f"{STARTED}\n{RIGHT}\n\nI have corrected the sum in the second step.\n{ENDED}",
    "noted": f"{RIGHT}\n\n(Note: only the wrong sum was changed.)",
    "changes listed": f"{RIGHT}\n\n**Changes made:**\n- 8 became 7\n- nothing else",
    "thought aloud": f"<think>{STARTED} 3 + 4 = 9 {ENDED}</think>\n\n{STARTED}\n{RIGHT}\n{ENDED}",
    "thoughts without a beginning": f"So 7.\n</think>\n{STARTED}\n{RIGHT}\n{ENDED}",
    "lines of Windows": f"{STARTED}\n{RIGHT}\n{ENDED}".replace("\n", "\r\n"),
}


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as verifier:
        yield verifier


@pytest.fixture
def judge(verifier: Verifier) -> Judge:
    return Judge(verifier, largest_change=0.6)


@pytest.mark.parametrize("text", WRAPPED.values(), ids=WRAPPED)
def test_only_the_correction_is_left(text: str, judge: Judge) -> None:
    assert clean(text, ATTEMPT) == RIGHT
    assert judge(text, STOP, TASK).outcome == "ok"


@pytest.mark.parametrize(
    "attempt",
    [
        f"Sure! Here is the corrected solution:\n{ATTEMPT}",
        f"```python\nprint(3 + 4)\n```\n{ATTEMPT}\n```python\nprint(8)\n```",
        f"```\n{ATTEMPT}\n```",
        f"<think>3 + 4</think>\n{ATTEMPT}",
        f"---\n{ATTEMPT}\n---",
        f"\n\n  {ATTEMPT} \n",
        ATTEMPT.replace("\n", "\r\n"),
        f"Changes:\n{ATTEMPT}\n\nNote: a mistake is easily made.",
    ],
)
def test_what_the_student_writes_as_well_is_kept(attempt: str) -> None:
    right = attempt.replace("8", "7")
    assert clean(f"{STARTED}\n{right}\n{ENDED}", attempt) == right


def test_blanks_at_the_ends_are_those_of_the_attempt() -> None:
    assert clean(f"{STARTED}\n\n{RIGHT}\n\n{ENDED}", f"\n{ATTEMPT}  ") == f"\n{RIGHT}  "


def test_a_first_sentence_behind_an_announcement_is_not_lost() -> None:
    text = "Here is the corrected version: We add 3 and 4. It makes 7.\nSo $\\boxed{7}$."
    assert clean(text, ATTEMPT) == "We add 3 and 4. It makes 7.\nSo $\\boxed{7}$."


def test_what_follows_the_answer_is_kept() -> None:
    text = f"{RIGHT}\n\n---\n\nSo 3 and 4 make 7.\n\n- That is all."
    assert clean(f"{STARTED}\n{text}\n{ENDED}", ATTEMPT) == text


def test_what_no_file_can_hold_is_replaced() -> None:
    assert clean("so \ud800 it is", "") == "so ? it is"


@pytest.mark.parametrize(
    ("text", "finish", "outcome", "reason"),
    [
        ("", STOP, "empty", "nothing stood"),
        (f"{STARTED}\n \n{ENDED}", STOP, "empty", "nothing stood"),
        (f"{STARTED}\nHere is the corrected version:\n{ENDED}", STOP, "empty", "nothing stood"),
        ("<think>I never came to an end", STOP, "empty", "nothing stood"),
        (f"{STARTED}\n{ATTEMPT} \n{ENDED}", STOP, "unchanged", "without any change"),
        (
            f"{STARTED}\n{RIGHT.replace('7', '12')}\n{ENDED}",
            STOP,
            "wrong",
            "the final answer 12 does not match",
        ),
        (f"{STARTED}\n3 + 4 is seven.\n{ENDED}", STOP, "unparseable", "no final answer"),
        (f"{STARTED}\nWe add 3 and", STOP, "truncated", "it stopped before"),
        (RIGHT, MAX_TOKENS, "truncated", "cut off"),
        ("", MAX_TOKENS, "truncated", "cut off"),
        ("", SAFETY, "safety", "filter"),
        ("", EMPTY, "empty", "empty"),
        ("", OTHER, "refused", "no answer"),
        (
            f"{STARTED}\nThe sum of three and four has to be computed: $\\boxed{{7}}$\n{ENDED}",
            STOP,
            "rewritten",
            "% of it: change less",
        ),
        (
            f"{STARTED}\n{RIGHT.replace('We', 'The reference answer is 7, so we')}\n{ENDED}",
            STOP,
            "commented",
            "'reference answer'",
        ),
        (
            f"{STARTED}\n{RIGHT}\nThe student's mistake was in the sum.\n{ENDED}",
            STOP,
            "commented",
            'mistake"',
        ),
    ],
)
def test_refused_with_the_reason(
    judge: Judge, text: str, finish: str, outcome: str, reason: str
) -> None:
    judged = judge(text, finish, TASK)
    assert (judged.outcome, judged.chosen) == (outcome, "")
    assert reason in judged.reason
    assert "7" not in judged.reason or outcome == "rewritten", "the reason gives the truth away"


def test_a_question_about_students_may_be_answered(judge: Judge) -> None:
    question = "The student solution to a test has 3 + 4 points. How many are there?"
    text = RIGHT.replace("We", "For the student solution we")
    assert judge(text, STOP, Task("q", question, "7", ATTEMPT)).outcome == "ok"


def test_the_distance_is_measured_in_words_or_in_the_policys_tokens(verifier: Verifier) -> None:
    chosen = RIGHT.replace("3 + 4 = 7.", "3 + 4 makes 7.")
    # 15 words; kept: We add 3 and 4. 3 + 4 | Therefore, the final answer is: — 13 of them
    judged = Judge(verifier)(chosen, STOP, TASK)
    assert len(chosen.split()) == 16
    assert judged.detail == {"change_ratio": pytest.approx(3 / 16), "common_prefix": 8}

    class Characters:
        eos_token_id = 0

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [ord(letter) for letter in text]}

    judged = Judge(verifier, tokens=lambda text: response_ids(Characters(), text))(
        RIGHT, STOP, TASK
    )
    assert judged.detail == {
        "change_ratio": pytest.approx(2 / (len(RIGHT) + 1)),  # both 8s, of all letters and the end
        "common_prefix": ATTEMPT.index("8"),
    }


def test_a_direct_answer_is_compared_with_the_truth_only(judge: Judge) -> None:
    judged = judge("Seven, for 3 and 4 are $\\boxed{7}$", STOP, DIRECT)
    assert judged == Judgement("ok", "Seven, for 3 and 4 are $\\boxed{7}$", "7", "", {})
    assert judge("It is $\\boxed{8}$.", STOP, DIRECT).outcome == "wrong"


def test_another_form_of_the_answer(verifier: Verifier) -> None:
    task = Task("q", "How many eggs?", "7", "3 + 4 = 8\n#### 8")
    judge = Judge(verifier, answer_format="last")
    assert judge(f"{STARTED}\n3 + 4 = 7\n#### 7\n{ENDED}", STOP, task).outcome == "ok"


@pytest.mark.parametrize(
    "unit",
    ["Here is the corrected version: ", "---\n", "```\n", "=", "=== CORRECTED ", STARTED, " ",
     "<think>", "</think>", "\n", "Changes:\n", "** ", "Sure! ", "the student's ", "[ \t"],
)  # fmt: skip
def test_hostile_text_takes_linear_time(unit: str, judge: Judge) -> None:
    began = time.process_time()
    judge(unit * (400_000 // len(unit)), STOP, TASK)
    assert time.process_time() - began < 10  # squares of this length take minutes
