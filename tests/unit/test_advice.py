"""What is said where responses or corrections cannot be used, and when."""

from __future__ import annotations

import ast
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from spot.config import DataConfig
from spot.config.groups import FieldsConfig
from spot.data.advice import nothing_wrong, ungraded
from spot.data.rows import Response
from spot.pipeline.elicitation import FIRST, Tally
from spot.pipeline.selection import Rules, Selection, nothing_left
from spot.utils.terminal import count
from tests.support.command_line import spot

RULES = Rules(arm="rectified", answer_format="boxed", context_length=99)


@pytest.mark.parametrize(
    ("verdicts", "data", "words", "without"),
    [
        ({"unparseable": 37, "wrong": 3}, {}, "37 of 40 data.prompt=math data.answer_format=last", ""),
        ({"unparseable": 37, "wrong": 3}, {"prompt": "math"}, "data.answer_format=last", "prompt=math"),
        ({"unparseable": 3}, {"answer_format": "last"}, "3 of 3 data.prompt", "data.answer_format=last or"),
        ({"unparseable": 9}, {"fields": FieldsConfig(response="r")}, "data.fields.response", "prompt"),
        ({"truncated": 63, "correct": 37}, {}, "63 of 100 generator.max_new_tokens", "data.prompt"),
        ({"truncated": 40, "unparseable": 40}, {}, "generator.max_new_tokens data.prompt=math", ""),
        ({"unparseable": 50, "wrong": 50}, {}, "", ""),
        ({"correct": 5}, {}, "", ""),
        ({}, {}, "", ""),
    ],
)  # fmt: skip
def test_most_responses_without_a_verdict_name_the_key(
    verdicts: dict[str, int], data: dict[str, object], words: str, without: str
) -> None:
    said = ungraded(verdicts, replace(DataConfig(), **data))
    assert bool(said) == bool(words)
    assert all(word in said for word in words.split())
    assert not without or without not in said


def test_nothing_wrong_is_told_apart_from_nothing_graded() -> None:
    assert "1 response right and none wrong" in nothing_wrong({"correct": 1}, DataConfig())
    assert "data.prompt=math" in nothing_wrong({"unparseable": 4}, DataConfig())


def responses(count: int, tokens: int = 10, pause: float = 0.0) -> Iterator[Response]:
    time.sleep(pause)
    for number in range(count):
        yield Response(f"q{number}#0", "q", "r", "length", 9, tokens, "m", 0)


@pytest.mark.parametrize(("count", "times"), [(FIRST + 50, 1), (FIRST, 1), (7, 0)])
def test_it_is_said_once_after_the_first_hundred(
    count: int, times: int, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = Tally(lambda _: "truncated", partial(ungraded, data=DataConfig()))
    seen = []
    for response in tally.watch(responses(count)):
        seen.append(response)
        if len(seen) == FIRST:
            assert "max_new_tokens" in capsys.readouterr().err, "while the rest is still asked"
            times -= 1
    tally.details(seen)
    assert capsys.readouterr().err.count("max_new_tokens") == times


def test_a_rate_is_tokens_over_seconds_from_the_first_question() -> None:
    tally = Tally()  # all responses of a batch come at its end
    assert len(list(tally.watch(responses(48, tokens=100, pause=0.25)))) == 48
    assert 4800 / 0.5 < tally.tokens_per_second <= 4800 / 0.25
    assert Tally().tokens_per_second == 0


@pytest.mark.parametrize(
    ("counts", "held_out", "words"),
    [
        ({"verdict_unparseable": 37, "verdict_wrong": 3}, False, "to train on data.answer_format"),
        ({"verdict_truncated": 9, "verdict_wrong": 3}, False, "generator.max_new_tokens"),
        ({"outcome_refused": 64}, True, "held out outcome_refused 64 corrected, too"),
        ({"outcome_wrong": 5, "outcome_truncated": 6}, False, "oracle.max_tokens"),
        ({"chosen_not_correct": 5, "duplicate": 1}, False, "data.fields.answer"),
        ({"over_long": 5}, False, "model.context_length"),
        ({"duplicate": 5}, False, "ask more questions"),
        ({}, False, "no row came in ask more questions"),
    ],
)
def test_the_commonest_reason_decides_the_advice(
    counts: dict[str, int], held_out: bool, words: str
) -> None:
    dropped = {reason: ["id"] * number for reason, number in counts.items()}
    said = nothing_left(Selection([], dropped, None), RULES, held_out=held_out)
    assert all(word in said for word in words.split())
    assert ("ask more questions" in said) == ("ask more questions" in words)


def test_an_oracle_is_not_asked_where_nothing_can_be_graded(tmp_path: Path) -> None:
    rows = [{"question": f"{n}+1?", "answer": str(n + 1), "response": f"It is {n}."} for n in range(40)]  # fmt: skip
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = ["data=jsonl", "data.path=own.jsonl", "data.fields.response=response", "data.held_out=4"]
    oracle = ["oracle=openai", "oracle.model=m", "oracle.base_url=http://127.0.0.1:9/v1", "oracle.free=true"]  # fmt: skip
    done = spot(tmp_path, "rectify", *own, *oracle, "oracle.key_name=null")
    assert done.returncode == 2, done.stderr
    assert "40 of 40 responses have no answer" in done.stderr.splitlines()[-1]
    assert "data.answer_format=last" in done.stderr.splitlines()[-1]
    done = spot(tmp_path, "select", *own, "data.answer_format=last", "oracle=human", "oracle.path=own.jsonl", "data.fields.solution=question")  # fmt: skip
    assert Counter(done.stderr)["\n"] > 1
    assert "ask more questions" not in done.stderr


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 claims"), (1, "1 claim"), (2, "2 claims"), (2000, "2,000 claims")]
)
def test_numbers_and_their_nouns_agree(number: int, text: str) -> None:
    assert count(number, "claim") == text
    assert count(1, "reply", "replies") == "1 reply"
    assert count(3, "reply", "replies") == "3 replies"


def test_messages_are_plain_english() -> None:
    """Phrases that readers stumbled over stand in no text of the package."""
    odd = re.compile(
        r"(?<!there )\bis no (?!longer|need|more)\w+[:;,. ({]|told apart,|lets nobody|cannot be told\b"
    )
    source = Path(__file__).parents[2] / "src" / "spot"
    found = []
    for file in sorted(source.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):  # what names a value; docstrings are none
                text = "".join(str(getattr(part, "value", "{")) for part in node.values)
                found += [f"{file.name}: {text}"] * bool(odd.search(text))
    assert not found
