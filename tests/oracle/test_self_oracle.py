"""The policy as its own Oracle: prompted to correct, or answering again, when its nearest right answer counts."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest

from spot.config import OracleConfig
from spot.config.compose import compose
from spot.generation.types import LENGTH, STOP, Completion, Generator, Request, Sampling
from spot.grading.registry import Verifier
from spot.oracle import build, pricing
from spot.oracle.postprocess import Judge
from spot.oracle.prompts import prompts
from spot.oracle.self_oracle import SelfOracle
from spot.oracle.task_loop import OracleTask
from spot.oracle.types import Result, Usage
from spot.utils.errors import UserError
from tests.oracle import world
from tests.support.command_line import spot

pytestmark = pytest.mark.oracle
SAMPLING = Sampling(0.7, 0.8, 20, 200)
SAMPLES = 5


class Student:
    """Corrects even items at once, odd ones when it is asked again; item 5 is cut off both times."""

    def __init__(self) -> None:
        self.rounds: list[list[Request]] = []

    def generate(
        self, requests: Sequence[Request], done: Collection[str] = ()
    ) -> Iterator[Completion]:
        self.rounds.append(list(requests))
        for request in reversed(requests):  # in any order
            number = int(world.item(request.messages[0]["content"]))
            again = len(self.rounds) > 1
            text = (
                world.corrected(number)
                if again or number % 2 == 0
                else world.wrong_response(number)
            )
            finish = LENGTH if number == 5 else STOP
            yield Completion(request.key, world.marked(text), (1, 2, 3), finish, 50, 3, "student")

    def ready(self) -> None:
        """Nothing is to be started."""

    def close(self) -> None:
        """Nothing was started."""


def oracle(
    student: Generator,
    verifier: Verifier,
    seed: int = 0,
    target: int | None = None,
    resample: int = 0,
) -> SelfOracle:
    spec = OracleTask(prompts("rectified"), Judge(verifier), pricing.FREE.cost, lambda _: Usage())
    config = OracleConfig("self", seed=seed, resample=resample)
    return SelfOracle(config, spec, lambda: student, SAMPLING, target)


def test_whoever_was_wrong_is_asked_again_in_the_next_round() -> None:
    student = Student()
    tasks = [world.task(number) for number in range(8)]
    with Verifier() as verifier:
        results = list(oracle(student, verifier).rectify(tasks))
    assert [len(requests) for requests in student.rounds] == [8, 4]
    outcomes = {result.task.id: result.outcome for result in results}
    assert outcomes == {f"q{n}/0": "truncated" if n == 5 else "ok" for n in range(8)}
    assert [len(r.tries) for r in sorted(results, key=lambda r: r.task.id)] == [1, 2] * 4
    by_id = {result.task.id: result for result in results}
    assert by_id["q3/0"].chosen == world.corrected(3)
    assert by_id["q3/0"].tries[0].outcome == "unchanged"
    seeds = [request.seed for requests in student.rounds for request in requests]
    assert len(set(seeds)) == len(seeds)


def test_a_task_says_the_same_whatever_it_is_asked_with() -> None:
    """Seeds belong to the task and the try, so that a resumed run equals an uninterrupted one."""
    alone, together = Student(), Student()
    with Verifier() as verifier:
        list(oracle(alone, verifier, 3).rectify([world.task(4)]))
        tasks = [world.task(number) for number in range(8)]
        list(oracle(together, verifier, 3).rectify(tasks))
        other = Student()
        list(oracle(other, verifier, 4).rectify([world.task(4)]))
    (mine,) = alone.rounds[0]
    assert mine in together.rounds[0]
    assert other.rounds[0][0].seed != mine.seed


def test_enough_is_enough() -> None:
    tasks = [world.task(number) for number in range(0, 40, 2)]
    with Verifier() as verifier:
        results = list(oracle(Student(), verifier, target=7).rectify(tasks, verified=2))
    assert len(results) == 5


def test_no_generator_starts_when_nothing_is_left_to_ask() -> None:
    spec = OracleTask(prompts("rectified"), Judge(Verifier()), pricing.FREE.cost, lambda _: Usage())
    started: list[Student] = []

    def start() -> Student:
        started.append(Student())
        return started[-1]

    assert not list(SelfOracle(OracleConfig("self"), spec, start, SAMPLING).rectify([]))
    assert not started


def test_the_shipped_student_corrects_itself_at_the_command_line(tmp_path: Path) -> None:
    """It understands no instructions, so little is right; every attempt has its row and its tries."""
    (tmp_path / "short.md").write_text("{question} {answer} {response}")
    (tmp_path / "again.md").write_text(" {previous} {reason}")
    overrides = ["oracle=self", "data.questions=60", "data.held_out=5"]
    prompts = ["oracle.prompt=short.md", "oracle.reask_prompt=again.md"]
    done = spot(tmp_path, "rectify", *overrides, *prompts)
    assert done.returncode == 0, done.stderr
    files = list(tmp_path.glob("outputs/products/rectify/*/rows.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert len(files) == 2
    assert len(rows) > 20
    assert {row["oracle"] for row in rows} == {"self"}
    assert all(row["detail"]["tries"] for row in rows)
    assert any(row["detail"]["tries"][0]["usage"]["output"] > 0 for row in rows)


# ---- answering again ------------------------------------------------------------


def another(number: int) -> str:
    """A right answer in other words: far from y⁻."""
    return f"Put together, that makes $\\boxed{{{world.truth(number)}}}$ in all."


class Resampled:
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

    def ready(self) -> None:
        """Nothing is to be started."""

    def close(self) -> None:
        """Nothing was started."""


def resampled(
    student: Resampled,
    numbers: Sequence[int],
    mode: str = "rectified",
    target: int | None = None,
    verified: int = 0,
) -> list[Result]:
    with Verifier() as verifier:
        tasks = [world.task(number, mode) for number in numbers]
        made = oracle(student, verifier, target=target, resample=SAMPLES)
        return list(made.rectify(tasks, verified))


def test_the_right_answer_that_changes_least_is_taken() -> None:
    first, second, third = resampled(Resampled(), [1, 2, 3])
    assert (first.outcome, first.chosen) == ("ok", world.corrected(1))
    assert second.chosen == world.corrected(2)
    change = first.detail["change_ratio"]
    assert change is not None
    assert 0 < change < 0.2
    assert (third.outcome, third.chosen) == ("wrong", "")
    assert [t.outcome for t in first.tries] == ["wrong", "ok", "ok", "wrong", "truncated"]
    assert all(t.usage.output == 3 and t.prompt == "resample" for t in first.tries)


def test_a_direct_answer_is_any_right_one() -> None:
    (result,) = resampled(Resampled(), [1], mode="direct")
    assert result.chosen == another(1)


def test_answers_belong_to_the_attempt_whatever_it_is_asked_with() -> None:
    """So that a resumed run equals an uninterrupted one."""
    alone, together = Resampled(), Resampled()
    assert resampled(alone, [2]) == resampled(together, [1, 2, 4])[1:2]
    assert {(r.key, r.seed) for r in alone.requests} < {(r.key, r.seed) for r in together.requests}
    assert len({request.seed for request in together.requests}) == 3 * SAMPLES


def test_enough_new_answers_are_enough() -> None:
    assert len(resampled(Resampled(), [1, 2, 4, 5], target=3, verified=1)) == 2


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
