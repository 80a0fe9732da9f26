"""What a correction must not say, and what ordinary mathematics says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from spot.data.rows import Attempt
from spot.grading.registry import Verifier
from spot.oracle import Oracle
from spot.oracle.comments import comment
from spot.oracle.postprocess import ENDED, STARTED, Judge
from spot.oracle.prompts import prompts
from spot.oracle.types import STOP, Result, Task, Try, Usage
from spot.pipeline import rectification

TELL_TALE = [
    "Since the answer is known to be 42, we need x = 6.",
    "According to the given answer, x must be 42.",
    "The answer key says 42.",
    "To match the expected answer, we take x = 42.",
    "But my previous calculation was wrong, so x = 42.",
    "The correct answer is given as 42, so we adjust.",
    "Since the given answer is 42, the sum must be 42.",
    "As the answer is 42, the number of terms is 7.",
    "We know that the answer is 42, hence n = 7.",
    "We know the final answer is $42$, so n = 7.",
    "This agrees with the reference answer.",
    "This matches the provided answer.",
    "This is consistent with the given answer of 42.",
    "The expected result is 42.",
    "As the reference solution shows, x = 42.",
    "Working backwards from the answer, we get x = 6.",
    "Given that the answer is 42, we get x = 6.",
    "Given the correct answer of 42, we see that x = 6.",
    "Knowing the answer is 42, we can check that x = 6.",
    "Comparing with the correct answer, we see x = 6.",
    "The answer provided is 42, so x = 6.",
    "The answer, which is given as 42, implies x = 6.",
    "The stated answer is 42.",
    "The target answer 42 requires x = 6.",
    "The official solution gets 42.",
    "We are told that the answer is 42.",
    "The ground truth is 42.",
    "In order to get the required answer of 42, x must be 6.",
    "To arrive at the correct answer of 42, we must have x = 6.",
    "The answer is supposed to be 42, so x = 6.",
    "The answer is stated to be 42.",
    "The known answer, 42, confirms this.",
    "as per the answer key, x = 42",
    "The answer we were given is 42.",
    "The solution manual says 42.",
    "The textbook answer is 42.",
    "The reference says the result is 42.",
    "The provided solution confirms x = 42.",
    "Since the correct answer is \\boxed{42}, we must have x=6.",
    "This aligns with the expected final answer.",
    "This matches the answer.",
    "which matches the correct result",
    "Because the answer must be 42, one of the terms is off.",
    "The desired answer is known to be 42.",
    "The true answer is 42.",
    "I made a mistake in the previous step.",
    "In my earlier attempt I forgot the factor 2.",
    "My initial answer was incorrect.",
    "The previous attempt was incorrect.",
    "The earlier calculation contained an error.",
    "The previous solution made an error in the sign.",
    "Let me correct my mistake.",
    "Correcting the earlier mistake, we get x = 42.",
    "The corrected calculation gives 42.",
    "I mistakenly added 3.",
    "I previously wrote 12, but it is 42.",
    "I should have multiplied by 2.",
    "The mistake was in the second step.",
    "The original solution incorrectly multiplied by 3.",
    "The student's work has a wrong sign.",
    "The student forgot the factor 2.",
    "The student made a sign error.",
    "The student should have added.",
    "Your solution has a mistake.",
    "Instead of 12 as previously computed, we get 42.",
    "It is 42, not 12 as I originally stated.",
    "We incorrectly assumed x = 3 earlier.",
    "Upon rechecking my original work, x = 42.",
    "Unlike in the first attempt, we now multiply.",
    "My first attempt gave 12.",
    "The error in the previous calculation was the sign.",
    "The earlier answer of 12 was wrong.",
    "The wrong answer came from adding 3.",
    "Fixing this error gives 42.",
    "The attempt above was wrong.",
    "In the incorrect solution, the sign was dropped.",
    "Wait, the earlier result of 12 is incorrect.",
    "I apologize for the confusion.",
    "The revised answer is 42.",
    "Here is the corrected step: x = 42.",
    "The previous value of 12 was not right.",
    "We were told the answer is 42.",
    "Since 42 is the known answer, x = 6.",
    "Since 42 is the given answer, x = 6.",
    "The problem gives the answer as 42.",
    "so that it equals the answer provided",
    "Because the final answer has to be 42, we get x = 6.",
    "Checking against the given answer: 42.",
    "which is the answer that was provided",
    "The result must equal the given answer, 42.",
    "It is given that the answer is 42.",
    "Looking at the answer, we see that x must be 6.",
    "The answer given is 42.",
    "The final answer is already known: 42.",
    "The answer is expected to be 42, so the last term must be 6.",
    "Since we know the result should be 42, we look for a factor of 7.",
    "The provided correct answer, 42, shows that x is 6.",
    "It has to come out as 42, the answer we were provided with.",
    "This equals the reference answer.",
    "This is the expected answer.",
    "which is in agreement with the answer given.",
    "The problem's answer of 42 implies x = 6.",
    "Since it is given that the final answer is 42, we must have n = 7.",
    "By the answer key, n = 7.",
    "The solution key gives 42.",
    "We need the answer to be 42, so n = 7.",
    "To be consistent with the correct answer, n must be 7.",
    "As the correct answer is 42, this step must be 6 * 7.",
    "the answer has been given as 42",
    "This yields the target answer.",
    "Our result now matches the given answer.",
    "This confirms the given answer.",
    "we get exactly the given answer",
    "Let's adjust so that it gives the expected answer.",
    "Hmm, but the expected answer is 42.",
    "From the given answer we can deduce x = 6.",
    "the final answer stated is 42",
    "My earlier computation had a sign error.",
    "Earlier I computed 12, which is wrong.",
    "I had previously computed 12.",
    "My mistake was in the addition.",
    "There was a mistake in my addition.",
    "There was an error in the previous step.",
    "My calculation above is wrong.",
    "I got this wrong before.",
    "I made an arithmetic error earlier.",
    "The previous answer of 12 is incorrect because the sign was dropped.",
    "In the previous attempt, the sign was dropped.",
    "The original answer incorrectly used 3.",
    "Here the student wrongly added 3.",
    "The student's solution has the wrong sign.",
    "The student's error is in line two.",
    "This corrects the mistake made above.",
    "After fixing the error, we have 42.",
    "Oops, that was wrong; it is 42.",
    "Sorry, I miscounted.",
    "I was wrong: it is 42.",
    "My first answer was 12.",
    "The correct calculation should have been 42.",
    "This step was incorrect in the original.",
    "Note: the original response added incorrectly.",
    "The error in the attempt was the sign.",
    "However, the answer should be 42, so let us recheck the sum.",
    "But we are given that the correct answer is 42.",
    "But the final answer is supposed to be 42.",
    "Given the final answer of 42, the base must be 6.",
    "The answer is given to be 42.",
    "From the answer provided, we know x = 6.",
    "As stated in the answer, x = 6.",
    "Per the reference, the value is 42.",
    "This is the value in the reference.",
    "This matches the reference.",
    "The reference answer's value confirms it.",
    "in order to agree with the official answer",
    "so we conclude, as the answer indicates, that x = 6",
    "The solution provided says 42.",
    "which is what the answer key lists",
    "Using the known final answer of 42, we solve for x.",
    "Using the given answer, we find x = 6.",
    "With the answer being 42, x must be 6.",
    "Since the final answer is supposed to be 42",
    "We can deduce from the answer that x = 6.",
    "Since it is known that the answer is 42, x = 6.",
    "It is known that the answer is 42.",
    "The known correct answer is 42.",
    "The correct final answer is provided as 42.",
    "We know from the problem that the answer is 42.",
    "Because we already know that the final result is 42, x = 6.",
    "The right answer is known: 42.",
    "Our calculation does not match the given answer, so we check again.",
    "That is different from the correct answer, so there must be an error.",
    "This contradicts the given answer.",
    "This does not match the expected result.",
    "The result differs from the known answer.",
    "I made an error earlier.",
    "There is an error in the above calculation.",
    "We made a mistake here before.",
    "The mistake here was adding instead of multiplying.",
    "Initially, I wrote 12.",
    "The first calculation was wrong.",
    "The calculation in the previous attempt was off.",
    "Previously we had incorrectly added 3.",
    "the incorrect value 12 computed earlier",
    "Actually, my earlier statement was incorrect.",
    "Correction: the sum is 42.",
    "(corrected from 12)",
    "The student incorrectly computed 12.",
    "The student's final answer was 12.",
    "In the student's attempt, the sum is 12.",
    "This fixes the original error.",
    "The error was made in step 2.",
    "I misread the problem.",
    "Let me redo this calculation.",
    "Let me fix that.",
    "Unlike my previous answer, this uses 6.",
    "The original reasoning forgot the 6.",
    "We are told the final answer is 42, so x = 6.",
    "We already know the answer is 42.",
    "Given that the correct answer is 42, we must have x = 6.",
    "According to the answer provided in the problem, x = 6.",
    "This is consistent with the known answer.",
    "Therefore, to match the given answer of 42, we choose x = 6.",
    "The given final answer is 42.",
    "The answer is known.",
    "In light of the given answer, x = 6.",
    "The reference solution uses 6.",
    "As expected from the answer key, it is 42.",
    "I previously made an error in the sum.",
    "The earlier mistake was in the sum.",
    "In the initial attempt, we forgot the 6.",
    "Looking back at my work, I see a mistake.",
    "My calculation was wrong.",
    "The above calculation is incorrect.",
    "The previous solution was wrong.",
    "We need to correct the previous mistake.",
    "Since my answer was wrong, I try again.",
    "The student's calculation is wrong.",
    "the answer, as given, is 42",
    "We are given the answer 42.",
    "The expected final answer is 42.",
    "Matching this to the expected answer gives x = 6.",
    "The answer, known to be 42, is even.",
    "The stated final answer is 42.",
    "Because the official answer is 42, x = 6.",
    "The answer specified in the problem is 42.",
    "After reviewing the correct answer, we see x = 6.",
    "After comparing with the answer key, x = 6.",
    "The intended answer is 42.",
    "It should be 42 to match the reference.",
    "I realize that my previous step is wrong.",
    "This was an error in my original solution.",
    "I now see that I was wrong before.",
    "Contrary to my first answer, x = 6.",
    "Note that the first attempt had a mistake.",
    "On second thought, my earlier answer is off.",
    "In my last attempt I used 5.",
]
ORDINARY = [
    "We are given that x = 3.",
    "The given expression equals 42.",
    "Among the given answer choices, only 42 is even.",
    "The given answer choices are all integers.",
    "From the previous equation we get x = 3.",
    "From the previous step, x = 3.",
    "The expected value is 3.5.",
    "The expected number of heads is 5.",
    "It is known that the sum is 10.",
    "It is well known that pi is irrational.",
    "A known result in geometry says so.",
    "By a well-known result, this holds.",
    "The correct answer is 42.",
    "The answer is 42.",
    "Therefore, the final answer is: $\\boxed{42}$.",
    "Since the answer must be positive, x = 3.",
    "Since the answer must be an integer, x = 3.",
    "Since the answer is not an integer, we round.",
    "The answer is given by the formula n(n+1)/2.",
    "The answer should be in radians.",
    "We want the answer in simplest form.",
    "Our answer is 42.",
    "The desired answer is 42.",
    "The required probability is 1/2.",
    "The target value is 3.",
    "The provided information says 3 apples.",
    "Provided that x > 0, the answer is 42.",
    "The answer is 42, provided that x > 0.",
    "As stated, x is positive.",
    "As previously shown, AB = 5.",
    "From our previous work, AB = 5.",
    "In the previous part we found 7.",
    "He made a mistake and lost 5 dollars.",
    "By mistake, she bought 3 more.",
    "The relative error is 0.01.",
    "The standard error of the mean is 2.",
    "This is a contradiction.",
    "Let us check: 3 + 4 = 7, which is correct.",
    "The original price is 50 dollars.",
    "The original equation is satisfied.",
    "The initial value is 3.",
    "His first attempt succeeds with probability 1/2.",
    "The first attempt has probability 1/2.",
    "On the first try she hits.",
    "The given solution is 20% acid.",
    "The solution of the equation is x = 3.",
    "The solution set is {3}.",
    "The student has 3 apples.",
    "Each student gets 5.",
    "The students made 12 cakes.",
    "The teacher gave each student 3 answer sheets.",
    "This matches the given condition.",
    "This is consistent with the given information.",
    "This agrees with the formula.",
    "We compare it with the other value.",
    "Substituting into the original equation, we verify x = 3.",
    "So the answer to the first part is 5.",
    "The answer form is a/b.",
    "The correct option is C.",
    "Thus the value of the expression is 42.",
    "This does not match the condition.",
    "I should multiply by 2.",
    "She forgot to bring 2 of them.",
    "The reference angle is 30 degrees.",
    "In the reference frame of the train, v = 3.",
    "The key observation is that n is even.",
    "The key step is to factor.",
    "The answer in base 5 is 132.",
    "We can reason backwards from the final number of coins.",
    "Working backwards, we get 8 coins.",
    "The corrected sample variance is 4.",
    "A corrected watch gains 3 minutes.",
    "The revised price is 40.",
    "The true value is 3.",
    "The mean of the stated values is 3.",
    "Compare the two solutions.",
    "This gives the required result.",
    "which is the desired result.",
    "as expected.",
    "as was to be shown.",
    "Hence our previous assumption that x is odd is false.",
    "We made the assumption that x > 0.",
    "The previous value of x was 3.",
    "The previous result gives a = 2.",
    "The answer we seek is 42.",
    "Hence the answer is expressed as m/n with m + n = 5.",
    "The answer, 42, is even.",
    "We know the answer is at most 50.",
    "We know that the answer cannot exceed 50.",
    "Since the answer is the same for every n, take n = 1.",
    "The given answer options are 1, 2 and 3.",
    "We check the given values.",
    "The stated condition gives x = 3.",
    "The provided diagram shows AB = 3.",
    "Expected winnings are 3 dollars.",
    "The problem states that x is positive.",
    "This confirms our guess.",
    "We verify the solution x = 3.",
    "Checking our answer: 3 + 4 = 7.",
    "We check our answer by substituting back.",
    "To find the answer, we add.",
    "To get the answer, we subtract 3 from 10.",
    "This gives us our answer of 42.",
    "Based on the answer to part (a), x = 3.",
    "Using the answer from part (a), x = 3.",
    "From the answer above, AB = 3.",
    "The solution given by the quadratic formula is 3.",
    "The first step was to factor.",
    "The original number was wrong-way round.",
    "The initial amount of error is small.",
    "Our initial assumption is wrong, so n is odd.",
    "This contradicts our earlier assumption.",
    "The error bound is 0.01.",
    "There is no mistake possible here.",
    "He realized his mistake and gave back 3 dollars.",
    "The clerk made an error of 3 dollars.",
    "If the student answers 3 questions correctly, he scores 15.",
    "The student must have at least 3 points.",
    "The student wrote 12 letters.",
    "The teacher said the students forgot 3 books.",
    "She corrected 12 papers.",
    "He fixed the step of the ladder.",
    "Sorry tales aside, there are 3 books.",
    "It remains to correct for double counting.",
    "We must correct for overcounting by dividing by 2.",
    "We have overcounted, so we subtract 3.",
    "The previous calculation shows x = 3.",
    "The above solution works for all n.",
    "The original answer sheet has 3 rows.",
    "Each wrong answer costs 2 points.",
    "A correct answer is worth 6 points.",
    "The known values are 3 and 4.",
    "The model solution space is convex.",
    "We find the correction: 520 * 18% = 93.6.",
    "We know the answer lies between 3 and 5.",
    "We see from the answer to part (a) that x = 3.",
    "The required value is 3, which differs from x.",
    "Originally I had 5 apples.",
    "I initially had 12 marbles.",
    "Earlier I bought 3 pens.",
]


@pytest.mark.parametrize("sentence", TELL_TALE)
def test_what_gives_the_truth_or_an_attempt_away_is_found(sentence: str) -> None:
    assert comment(f"Let x be a number. {sentence}\nSo $\\boxed{{42}}$.") is not None


@pytest.mark.parametrize("sentence", ORDINARY)
def test_ordinary_mathematics_passes(sentence: str) -> None:
    assert comment(f"Let x be a number. {sentence}\nSo $\\boxed{{42}}$.") is None


def test_the_students_own_words_and_the_questions_are_left() -> None:
    said = "But my previous calculation was wrong."
    assert comment(said, attempt=f"It is 3.\n{said}\nSo 4.") is None
    assert comment("I made a mistake.", attempt=f"It is 3.\n{said}\nSo 4.") is not None
    assert comment("The expected answer is 3.", question="What is the expected answer?") is None
    question = "A student has 3 apples and eats 1. How many are left?"
    assert comment("The student's answer is 2.", question=question) is None
    assert comment("The expected answer is 2.", question=question) is not None


@pytest.mark.parametrize(
    ("sentence", "kind"),
    [
        ("Since the answer is known to be 42, x is 6.", "answer known beforehand"),
        ("My previous calculation was wrong.", "earlier attempt"),
        ("The student forgot a factor.", "student"),
    ],
)
def test_a_comment_is_refused_and_asked_for_again_with_its_words(sentence: str, kind: str) -> None:
    task = Task("q", "What is 6 times 7?", "42", "6 times 7 is 41. $\\boxed{41}$.")
    text = f"{STARTED}\n{sentence} 6 times 7 is 42. $\\boxed{{42}}$.\n{ENDED}"
    with Verifier() as verifier:
        judged = Judge(verifier)(text, STOP, task)
    assert (judged.outcome, judged.chosen) == ("commented", "")
    assert judged.reason.endswith(f"who knows of no {kind}")
    again = Try("rectify", text, judged.outcome, Usage(), 0.0, None, judged.reason)
    assert judged.reason in prompts("rectified")(task, [again])[1]


def test_the_share_that_was_refused_is_told() -> None:
    task = Task("q", "What is 6 times 7?", "42", "41")
    refused = Try("rectify", "", "commented", Usage(), 0.0)
    taken = Try("reask", "", "ok", Usage(), 0.0)

    class Listed(Oracle):
        name = "listed"

        def rectify(self, tasks: Sequence[Task], verified: int = 0) -> Iterator[Result]:
            tries = [(refused, taken), (taken,), (refused, refused), (taken,)]
            for one, each in zip(tasks, tries, strict=True):
                yield Result(one, "42", "42", each[-1].outcome, each)

        def note(self) -> str:
            return "0.10 USD"

    rows = [
        Attempt(
            f"q#{i}", "q", i, "math", task.question, "42", "41", "stop", 1, "41", "wrong", "m", 0
        )
        for i in range(4)
    ]
    outcomes: Counter[str] = Counter()
    list(rectification.rectify(rows, Listed(), mode="rectified", outcomes=outcomes))
    told = rectification.note(Listed(), outcomes)
    assert (
        told
        == f"3 ok, 1 commented, 50% refused at least once for {rectification.COMMENTS}, 0.10 USD"
    )


def test_the_measurement_counts_false_alarms(tmp_path: Path) -> None:
    rows = [
        {"problem": "1 + 1?", "solution": "It is 2."},
        {"problem": "2 + 2?", "solution": "The answer key says 4."},
    ]
    path = tmp_path / "solutions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "performance.false_alarms", str(path), "--text=solution", "--question=problem"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert "| solutions.jsonl | 2 | 1 | 50.00 |" in done.stdout
    assert "answer key" in done.stdout
