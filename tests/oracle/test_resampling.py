"""The policy as its own Oracle without a prompt: it answers again, and its nearest right answer counts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import pytest

from spot.config import OracleConfig
from spot.config.compose import compose
from spot.generation.types import LENGTH, STOP, Completion, Request, Sampling
from spot.grading.registry import Verifier
from spot.oracle import build, pricing
from spot.oracle.postprocess import Judge
from spot.oracle.prompts import prompts
from spot.oracle.self_oracle import SelfOracle
from spot.oracle.task_loop import OracleTask
from spot.oracle.types import Result
from spot.utils.errors import UserError
from tests.oracle import world

pytestmark = pytest.mark.oracle
SAMPLING = Sampling(0.7, 0.8, 20, 200)
SAMPLES = 5


def another(number: int) -> str:
    """A right answer in other words: far from y⁻."""
    return f"Put together, that makes $\\boxed{{{world.truth(number)}}}$ in all."


class Student:
    """Its third answer is right and close, its second right and far; item 3 never gets it right."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def generate(
        self, requests: Sequence[Request], done: Collection[str] = ()
    ) -> Iterator[Completion]:
        self.requests += requests
        for request in reversed(requests):  # in any order
            (message,) = request.messages
            number = int(world.item(message["content"]))
            assert message["content"] == world.question(number), "nothing but the question"
            text = world.response(number, 1)
            if number != 3:
                text = {1: another(number), 2: world.corrected(number)}.get(request.trial, text)
            finish = LENGTH if request.trial == 4 else STOP
            yield Completion(request.key, text, (1, 2, 3), finish, 50, 3, "student")

    def close(self) -> None:
        """Nothing was started."""


def resampled(
    student: Student,
    numbers: Sequence[int],
    mode: str = "rectified",
    target: int | None = None,
    verified: int = 0,
) -> list[Result]:
    with Verifier() as verifier:
        spec = OracleTask(prompts("rectified"), Judge(verifier), pricing.FREE.cost, lambda _: 0.0)
        tasks = [world.task(number, mode) for number in numbers]
        config = OracleConfig("self", resample=SAMPLES)
        oracle = SelfOracle(config, spec, lambda: student, SAMPLING, target)
        return list(oracle.rectify(tasks, verified))


def test_the_right_answer_that_changes_least_is_taken() -> None:
    first, second, third = resampled(Student(), [1, 2, 3])
    assert (first.outcome, first.chosen) == ("ok", world.corrected(1))
    assert second.chosen == world.corrected(2)
    change = first.detail["change_ratio"]
    assert change is not None
    assert 0 < change < 0.2
    assert (third.outcome, third.chosen) == ("wrong", "")
    assert [t.outcome for t in first.tries] == ["wrong", "ok", "ok", "wrong", "truncated"]
    assert all(t.usage.output == 3 and t.prompt == "resample" for t in first.tries)


def test_a_direct_answer_is_any_right_one() -> None:
    (result,) = resampled(Student(), [1], mode="direct")
    assert result.chosen == another(1)


def test_answers_belong_to_the_attempt_whatever_it_is_asked_with() -> None:
    """So that a resumed run equals an uninterrupted one."""
    alone, together = Student(), Student()
    assert resampled(alone, [2]) == resampled(together, [1, 2, 4])[1:2]
    assert {(r.key, r.seed) for r in alone.requests} < {(r.key, r.seed) for r in together.requests}
    assert len({request.seed for request in together.requests}) == 3 * SAMPLES


def test_enough_is_enough() -> None:
    assert len(resampled(Student(), [1, 2, 4, 5], target=3, verified=1)) == 2


def test_how_often_it_answers_again_names_the_product() -> None:
    def settings(*overrides: str) -> dict[str, object]:
        config = compose(["oracle=self", *overrides])
        return build.settings(config.oracle, config.data, "rectified", None, {})

    prompted, eight = settings(), settings("oracle.resample=8")
    assert "resample" not in prompted
    assert eight["resample"] == 8
    assert eight == settings("oracle.resample=8", "oracle.reask=0"), "there is no prompt to repeat"
    with pytest.raises(UserError, match=r"oracle\.resample=-1 is out of range"):
        settings("oracle.resample=-1")
