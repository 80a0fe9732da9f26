"""Responses are sampled once: another answer format or grader grades them again, and says what changed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from spot.config.compose import compose
from spot.data import artifacts
from spot.data.rows import Attempt, Response, Score
from spot.generation import Completion, Request
from spot.grading import versions
from spot.oracle import build
from spot.pipeline import clients, responses, stages
from spot.pipeline.policy import SHIPPED, Policy
from spot.pipeline.run import Run
from spot.utils.errors import UserError

SAID = {  # question: response; every truth is 4
    "a": r"So \boxed{4}.",
    "b": "So 4.",
    "c": "A: 4, I think",
    "d": r"\boxed{5}",
    "e": r"It was 3 but \boxed{4}, not 5",
    "f": "",
}


class KilledError(BaseException):
    """The process ends here."""


class Scripted:
    """Answers from `SAID`, and counts what it is asked; one prompt is too long."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.dies_at = ""

    def generate(
        self, requests: Sequence[Request], done: Collection[str] = ()
    ) -> Iterator[Completion]:
        for request in requests:
            if request.key not in done:
                self.asked.append(request.key)
                if request.key == self.dies_at:
                    raise KilledError
                text = SAID[request.question_id[-1]]
                finish = "stop" if text else "prompt_too_long"
                yield Completion(request.key, text, (), finish, 99, len(text), "scripted")

    def ready(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scripted:
    """Who answers. The questions are in the folder, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    rows = [{"id": name, "question": f"2+2, {name}?", "answer": "4"} for name in SAID]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one = Scripted()
    monkeypatch.setattr(clients, "generator", lambda *_: one)
    return one


def run(*overrides: str) -> Run:
    data = [
        "data=jsonl",
        "data.path=rows.jsonl",
        "data.fields.id=id",
        "oracle.path=rows.jsonl",
        "model=tiny",
    ]
    task = ["benchmarks=one", "+benchmark@benchmarks.tasks.math500=math500"]
    math500 = ["path=rows.jsonl", "trials=1"]
    tasks = [*task, *(f"benchmarks.tasks.math500.{key}" for key in math500)]
    return Run(compose([*data, *tasks, *overrides]), Path("run"))


def verdicts(product: artifacts.Product, row_type: Any = Attempt) -> dict[str, str]:
    return {row.id[-3]: row.verdict for row in artifacts.read_rows(product.folder, row_type)}


BOXED = dict(zip("abcde", ["correct", *["unparseable"] * 2, "wrong", "correct"], strict=True))
LAST = dict(zip("abcde", [*["correct"] * 3, "wrong", "wrong"], strict=True))
CHANGED = "3 verdicts changed, 2 unparseable → correct, 1 correct → wrong"


def test_another_answer_format_grades_the_same_responses(generator: Scripted, capsys: Any) -> None:
    first = stages.attempts(run())
    assert verdicts(first) == BOXED
    assert first.counts == {"correct": 2, "prompt_too_long": 1, "unparseable": 2, "wrong": 1}
    assert len(generator.asked) == len(SAID)
    other = stages.attempts(run("data.answer_format=last"))
    assert verdicts(other) == LAST
    assert len(generator.asked) == len(SAID), "nothing is asked twice"
    assert f"elicit: regraded 5 responses: {CHANGED}" in "".join(capsys.readouterr())
    assert other.inputs["responses"] == first.inputs["responses"]
    assert stages.attempts(run()).folder == first.folder
    stages.attempts(run("data.answer_format=json"))
    assert "elicit: 5 of 5 responses have no answer" in "".join(capsys.readouterr())


def test_another_grader_grades_the_same_responses(
    generator: Scripted, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stages.attempts(run())
    monkeypatch.setitem(versions.VERSIONS, "math", "another")
    other = stages.attempts(run())
    assert other.folder != first.folder
    assert other.digest == first.digest, "later products are reused where no verdict has changed"
    assert len(generator.asked) == len(SAID)
    assert "regraded 5 responses: no verdict changed" in "".join(capsys.readouterr())
    monkeypatch.setitem(versions.VERSIONS, "connect4", "another")
    assert stages.attempts(run()).folder == other.folder


def test_benchmarks_are_graded_again_too(
    generator: Scripted, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy("tiny", SHIPPED, "digest")
    first = stages.evaluate(run(), "scores", policy)
    scores = {row.id: row for row in artifacts.read_rows(first.folder, Score)}
    assert scores["math500/f#0"].reason == "the prompt has 99 tokens"
    asked = len(generator.asked)
    last = "benchmarks.tasks.math500.answer_format=last"
    other = stages.evaluate(run(last), "scores", policy)
    assert verdicts(other, Score) == LAST | {"f": "unparseable"}
    assert f"evaluate: regraded {len(scores)} responses: {CHANGED}" in "".join(capsys.readouterr())
    monkeypatch.setitem(versions.VERSIONS, "math", "another")
    assert stages.evaluate(run(last), "scores", policy).folder != other.folder
    assert stages.evaluate(run(), "scores", policy).digest == first.digest
    assert len(generator.asked) == asked == len(SAID)


@pytest.mark.parametrize("kind", ["elicit", "evaluate"])
def test_products_of_before_are_taken_as_responses(
    generator: Scripted, kind: str, tmp_path: Path
) -> None:
    """They held responses and verdicts together, under settings without a grader."""
    policy = Policy("tiny", SHIPPED, "digest")

    def make(*overrides: str) -> artifacts.Product:
        if kind == "elicit":
            return stages.attempts(run(*overrides))
        return stages.evaluate(run(*overrides), "scores", policy)

    new = make()
    row_type: Any = Attempt if kind == "elicit" else Score
    rows = artifacts.read_rows(new.folder, row_type)
    settings = {k: v for k, v in new.settings.items() if k not in ("grader", "graders")}
    inputs = {k: v for k, v in new.inputs.items() if k != "responses"}
    before = artifacts.product(tmp_path / "old" / "products", kind, settings, inputs)
    artifacts.compute_rows(before, row_type, lambda done, counts: rows)
    generator.asked.clear()
    again = make("output=old", "data.answer_format=last")
    too_long = ["f#0"] if kind == "elicit" else []
    assert generator.asked == too_long, "a prompt without a response is asked again"
    if kind == "elicit":
        assert verdicts(again) == LAST
    else:
        assert again.digest == new.digest


def test_responses_to_other_prompts_are_not_graded(generator: Scripted) -> None:
    first = stages.respond(run())
    assert first is not None
    with pytest.raises(UserError, match="answers other questions than are asked now: delete it"):
        responses.read(first, {f"{name}#0": "2+2?" for name in SAID})


def test_a_killed_sampling_goes_on(generator: Scripted) -> None:
    whole = stages.respond(run("output=whole"))
    generator.asked.clear()
    generator.dies_at = "d#0"
    with pytest.raises(KilledError):
        stages.respond(run())
    generator.dies_at = ""
    again = stages.respond(run())
    assert whole is not None
    assert again is not None
    assert generator.asked == ["a#0", "b#0", "c#0", "d#0", "d#0", "e#0", "f#0"]
    assert again.digest == whole.digest


def test_an_oracles_replies_serve_attempts_that_are_graded_again(
    generator: Scripted, tmp_path: Path
) -> None:
    """What was paid for the same responses is found under the digest that they were corrected as."""
    first, last = stages.attempts(run()), stages.attempts(run("data.answer_format=last"))
    digests = responses.verdict_digests(last)
    assert digests == [last.digest, first.digest]
    oracle = run().config.oracle
    old = build.journal_path(oracle, [first.digest], tmp_path)
    assert build.journal_path(oracle, digests, tmp_path) != old
    old.parent.mkdir()
    old.write_text("")
    assert build.journal_path(oracle, digests, tmp_path) == old


def test_responses_are_readable_rows(generator: Scripted) -> None:
    made = stages.respond(run())
    assert made is not None
    assert made.counts == {"prompt_too_long": 1, "stop": 5}
    row = artifacts.read_rows(made.folder, Response)[0]
    assert asdict(row) | {"seed": 0} == {
        "id": "a#0",
        "prompt": row.prompt,
        "response": SAID["a"],
        "finish_reason": "stop",
        "prompt_tokens": 99,
        "tokens": len(SAID["a"]),
        "model": "scripted",
        "seed": 0,
    }
    assert "2+2, a?" in row.prompt
