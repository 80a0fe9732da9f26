"""What other trainers are given, field by field, of one pair and its question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spot.data.chat import Message
from spot.data.rows import Attempt, Pair
from spot.evaluation import elsewhere
from spot.report.trainers import FORMATS, command
from spot.utils.errors import UserError
from tests.support.runs import HOSTILE, MadeRun, made_study

TURNS = [Message(role="system", content="Be brief."), Message(role="user", content="1 + 1?")]
PAIR = Pair(
    "q#0", "q", "sums", "rectified", "Be brief. 1 + 1?", "2", "It is 2.", "It is 3.", 0.2, 2, 4, 4, messages=TURNS
)  # fmt: skip
QUESTION = Attempt(
    "q#0", "q", 0, "sums", "1 + 1?", "2", "It is 3.", "stop", 4, "3", "wrong", "tiny", 0
)  # fmt: skip
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]
GOOD, BAD = ({"role": "assistant", "content": f"It is {n}."} for n in (2, 3))
ASKED = [{"role": "user", "content": "1 + 1?"}]

PAIRS: dict[str, dict[str, Any]] = {
    "trl": {"prompt": CHAT, "chosen": [GOOD], "rejected": [BAD]},
    "trl_sdft": {"prompt": CHAT, "privileged_context": "It is 2."},
    "openrlhf": {"chosen": [*CHAT, GOOD], "rejected": [*CHAT, BAD]},
    "llama_factory": {
        "conversations": [{"from": "human", "value": "1 + 1?"}], "system": "Be brief.",
        "chosen": {"from": "gpt", "value": "It is 2."}, "rejected": {"from": "gpt", "value": "It is 3."},
    },
    "jsonl": {
        "id": "q#0", "question_id": "q", "task": "sums", "arm": "rectified", "question": "Be brief. 1 + 1?",
        "answer": "2", "chosen": "It is 2.", "rejected": "It is 3.", "change_ratio": 0.2, "common_prefix": 2,
        "chosen_tokens": 4, "rejected_tokens": 4, "messages": TURNS,
    },
}  # fmt: skip
QUESTIONS: dict[str, dict[str, Any]] = {
    "trl": {"prompt": ASKED, "answer": "2"},
    "openrlhf": {"prompt": ASKED, "answer": "2"},
    "prime_rl": {"prompt": ASKED, "answer": "2", "info": json.dumps({"id": "q", "task": "sums"})},
    "verl": {
        "data_source": "spot/sums", "prompt": ASKED, "ability": "sums",
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"index": "q", "question": "1 + 1?"},
    },
    "jsonl": {"id": "q", "question": "1 + 1?", "answer": "2", "messages": ASKED},
}  # fmt: skip

WHEN = "2026-01-01T00-00-00"


@pytest.mark.parametrize("name", FORMATS)
def test_fields(name: str) -> None:
    form = FORMATS[name]
    assert (form.pair and form.pair(PAIR)) == PAIRS.get(name)
    assert (form.question and form.question(QUESTION)) == QUESTIONS.get(name)


def test_scores_are_a_log_of_inspect_which_is_read_again(tmp_path: Path) -> None:
    """By the fields of its EvalLog; `spot grade` reads question, response and trial out of it."""
    made = MadeRun(
        right={"sums": 50}, base={"sums": 25}, domains={"sums": "in_domain"}, questions=4, trials=2,
        asked=True, config={"model.name": "tiny", "model.thinking": False},
    )  # fmt: skip
    made_study(tmp_path, [made])
    command([str(tmp_path / "sweep/0"), "format=inspect", f"out={tmp_path}"])
    log = json.loads((tmp_path / f"{WHEN}_sums_base.json").read_text())
    assert (log["eval"]["model"], log["eval"]["config"]) == ("tiny", {"epochs": 2})
    assert log["eval"]["dataset"]["sample_ids"] == ["q0", "q1", "q2", "q3"]
    assert log["results"]["scores"][0]["metrics"]["accuracy"]["value"] == 0.25
    assert [s["scores"]["spot"]["value"] for s in log["samples"]] == [*"CC", *"IIIIII"]
    trained = json.loads((tmp_path / f"{WHEN}_sums_trained.json").read_text())
    assert trained["eval"]["model"] == "tiny after spot_bco"
    row = dict(elsewhere.rows(tmp_path / f"{WHEN}_sums_base.json", {}))[2]
    assert isinstance(row, dict)
    assert row["question"] == f"{HOSTILE} q0?"
    assert (row["id"], row["trial"], row["response"], row["finish_reason"]) == ("q0", 1, "text", "stop")  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name one run: spot export"),
        (["x", "y"], "name one run: spot export"),
        ([".", "format=axolotl"], "format=axolotl is unknown: choose one of trl, trl_sdft"),
        ([".", "out=here"], r"\. holds no finished run"),
        (["run=."], r"\. holds no finished run"),
    ],
)
def test_mistakes_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        command(arguments)
    assert not list(tmp_path.iterdir())
