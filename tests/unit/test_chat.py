"""What is graded of a response, and what is kept of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import pytest

from spot.data.chat import final_part
from spot.data.rows import Question
from spot.generation import Completion, Request, Sampling, respond
from spot.grading.registry import Verifier
from spot.pipeline import elicitation
from spot.pipeline.elicitation import Tally


@pytest.mark.parametrize(
    ("response", "graded"),
    [
        ("So 4.", "So 4."),
        ("<think>\n2 + 2 = 5\n</think>\n\nSo 4.", "\n\nSo 4."),
        ("2 + 2 = 5</think>So 4.", "So 4."),  # the template opened the block
        ("<think>one</think>a<think>two</think>b", "b"),
        ("<think>2 + 2 = 4, so 4", ""),  # never closed: nothing was answered
        ("", ""),
    ],
)
def test_the_reasoning_block_is_not_graded(response: str, graded: str) -> None:
    assert final_part(response) == graded


class Scripted:
    """A generator that says what it was given."""

    said = {  # noqa: RUF012
        "right#0": (r"<think>\boxed{5}</think>So $\boxed{4}$.", "stop"),
        "wrong#0": (r"<think>\boxed{4}</think>So $\boxed{5}$.", "stop"),
        "open#0": (r"<think>It is \boxed{4}", "stop"),
        "cut#0": (r"So $\boxed{4}$ and", "length"),
        "long#0": ("", "prompt_too_long"),
    }

    def generate(
        self, requests: Sequence[Request], done: Collection[str] = ()
    ) -> Iterator[Completion]:
        for request in requests:
            text, finish = self.said[request.key]
            yield Completion(request.key, text, (), finish, 9, len(text), "scripted")

    def ready(self) -> None: ...

    def close(self) -> None: ...


def test_verdicts_are_counted_apart_and_the_block_stays_in_the_record() -> None:
    questions = [Question(key.removesuffix("#0"), "t", "2+2?", "4") for key in Scripted.said]
    asked = elicitation.requests(questions, 1, Sampling(0, 1, 0, 9), seed=0)
    with Verifier() as verifier:
        tally = Tally(elicitation.verdict_of(asked, verifier.verdicts, "boxed"))
        requests = [request for _, request in asked.values()]
        responses = list(tally.watch(respond(Scripted(), requests)))
        attempts = list(elicitation.grade(asked, responses, verifier.verdicts, "boxed"))
    assert {a.question_id: a.verdict for a in attempts} == {
        "right": "correct",
        "wrong": "wrong",
        "open": "unparseable",
        "cut": "truncated",
    }
    assert [r.finish_reason for r in responses if r.id == "long#0"] == ["prompt_too_long"]
    assert {r.prompt for r in responses} == {"2+2?"}
    assert attempts[0].response.startswith("<think>")
    assert {a.model for a in attempts} == {"scripted"}
    assert elicitation.details(attempts)["accuracy"]["percent"] == 25
    found = tally.details(responses)
    lengths = sorted(len(text) for text, finish in Scripted.said.values() if text)
    assert found["response_tokens"]["max"] == lengths[-1]
    assert found["response_tokens"]["total"] == sum(lengths)
    assert "25.0% correct" in tally.note()
