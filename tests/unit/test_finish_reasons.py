"""What servers call the end of a response, and what it means for generation and Oracle alike."""

from __future__ import annotations

from typing import Any

import pytest

from spot.generation import Sampling
from spot.oracle.types import Usage, ended
from spot.utils import finish
from spot.utils.openai_client import read_chat
from tests.generation.asking import SAMPLING, generator, requests, run, text
from tests.generation.server import Plan, answer, serving, tokenizer

WHOLE = (
    "stop eos eos_token end_turn stop_sequence STOP COMPLETE eosFound Finish_Reason_Stop "
    "<|im_end|> </s> <｜end▁of▁sentence｜> REASON_STOP stop-sequence endoftext"
).split()
CUT = "length max_tokens MAX_TOKENS model_length maxPredictedTokensReached content_filter SAFETY".split()
CUT += ["tool_calls", "repetition", "model_context_window_exceeded", "refusal"]
GIVEN_UP = ["abort", "error", "cancelled", "insufficient_system_resource"]


def test_the_table_is_of_distinct_spellings() -> None:
    assert len(finish._KNOWN) == len(finish.FINISH_REASONS)
    assert set(finish.FINISH_REASONS.values()) <= {
        finish.STOP,
        finish.LENGTH,
        finish.FILTERED,
        finish.OTHER,
        finish.BROKEN,
    }


@pytest.mark.parametrize("tells_ids", [True, False])
def test_generation_knows_them(tells_ids: bool) -> None:
    words = [*WHOLE, *CUT, {"type": "stop", "matched": 151645}, {"type": "length", "length": 64}]
    changes = {f"said {i}": {"choices.0.finish_reason": word} for i, word in enumerate(words)}
    scripts = {text(i): [f"said {i}"] for i in range(len(words))}
    with serving(Plan(scripts=scripts, changes=changes, tells_ids=tells_ids)) as server:
        found = run(generator(server.url), requests(len(words)))
    ends = [found[f"q{i}#0"].finish_reason for i in range(len(words))]
    assert ends == ["stop"] * len(WHOLE) + ["length"] * len(CUT) + ["stop", "length"]
    for i in range(len(WHOLE)):  # the token that ended it is no part of it
        said = answer(text(i), i)
        ids = tokenizer()(said, add_special_tokens=False)["input_ids"]
        assert (found[f"q{i}#0"].text, found[f"q{i}#0"].tokens) == (said, len(ids))


@pytest.mark.parametrize("tells", ["ids", "usage", "nothing"])
@pytest.mark.parametrize("word", ["went_well", None, "null", 7])
def test_an_unknown_one_is_named_once_and_whole_below_the_limit(
    word: Any, tells: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finish._name.cache_clear()
    changes = {"odd": {"choices.0.finish_reason": word}}
    plan = Plan(
        faults={"odd": 1.0},
        changes=changes,
        tells_ids=tells == "ids",
        tells_usage=tells != "nothing",
    )
    with serving(plan) as server:
        whole = run(generator(server.url), requests(5))
        cut = run(generator(server.url), requests(5, Sampling(1, 1, 0, 5)))
    assert {c.finish_reason for c in whole.values()} == {"stop"}
    assert {(c.finish_reason, c.tokens) for c in cut.values()} == {("length", 5)}
    said = capsys.readouterr().err
    named = "no finish reason" if word in (None, "null") else f"the finish reason '{word}'"
    assert said.count("A server gives") == said.count(named) == 1


@pytest.mark.parametrize("word", GIVEN_UP)
def test_what_a_server_gave_up_is_asked_again(word: str) -> None:
    changes = {"given up": {"choices.0.finish_reason": word}}
    with serving(Plan(scripts={"*": ["given up"]}, changes=changes)) as server:
        [completion] = run(generator(server.url), requests(1)).values()
        assert server.ledger()["requests"] == 2
    assert completion.finish_reason == "stop"


@pytest.mark.parametrize(
    ("word", "tokens", "outcome", "reason"),
    [
        *((word, 9, "stop", "") for word in WHOLE),
        *((word, 9, "max_tokens", word) for word in CUT[:4]),
        *((word, 9, "safety", word) for word in ("content_filter", "SAFETY", "refusal", "SPII")),
        *((word, 9, "other", word) for word in ("RECITATION", "abort", "tool_calls")),
        ("unheard_of", 9, "stop", ""),
        ("unheard_of", 64, "max_tokens", "unheard_of"),
        ("", 9, "stop", ""),
        ("", 0, "stop", ""),  # the server does not say how much it is
    ],
)
def test_an_oracle_knows_them(word: str, tokens: int, outcome: str, reason: str) -> None:
    reply = ended("4", word, Usage(5, output=tokens), "m", SAMPLING.max_new_tokens)
    assert (reply.finish, reply.reason) == (outcome, reason)


def test_a_count_beyond_the_limit_is_not_believed() -> None:
    changes = {"much": {"usage.completion_tokens": 5000}}
    with serving(Plan(faults={"much": 1.0}, changes=changes, tells_ids=False)) as server:
        [completion] = run(generator(server.url), requests(1)).values()
    assert completion.tokens == len(tokenizer()(completion.text)["input_ids"])


def test_no_reason_at_all_is_empty() -> None:
    body: dict[str, Any] = {"choices": [{"message": {"content": "4"}}]}
    assert read_chat(body).finish == ""
    assert read_chat({"choices": []}).finish is None
