"""Selection: every reason for a drop, the arms, γ, subsampling and the held-out split."""

import random
import re
from dataclasses import replace

import pytest

from spot.data.held_out import split_held_out
from spot.data.rows import Attempt, Rectification
from spot.grading.registry import Verifier
from spot.pipeline.selection import Rules, nothing_left, select
from spot.utils.errors import UserError

EOS = 0


class Words:
    """A tokenizer that numbers words; the prompt is `<user>`, the question and `<assistant>`."""

    eos_token_id = EOS

    def __init__(self):
        self.ids = {"<eos>": EOS}

    def __call__(self, text, add_special_tokens=True):
        assert not add_special_tokens
        return {"input_ids": [self.ids.setdefault(word, len(self.ids)) for word in text.split()]}

    def apply_chat_template(self, messages, **_):
        return f"<user> {messages[0]['content']} <assistant>"


RULES = Rules(arm="rectified", answer_format="boxed", context_length=30, gamma=0.6)


def correction(n=0, **changes):
    row = Rectification(
        id=f"q{n}#0",
        question_id=f"q{n}",
        task="sums",
        question=f"q {n} ?",
        answer="4",
        mode="rectified",
        rejected=r"two and two is five so \boxed{5}",
        chosen=r"two and two is four so \boxed{4}",
        extracted="4",
        outcome="ok",
        oracle="rule",
    )
    return replace(row, **changes)


def attempt(n=0, trial=0, verdict="correct", response=r"it is \boxed{4}"):
    return Attempt(
        id=f"q{n}#{trial}",
        question_id=f"q{n}",
        trial=trial,
        task="sums",
        question=f"q {n} ?",
        answer="4",
        response=response,
        finish_reason="stop",
        tokens=3,
        extracted="4",
        verdict=verdict,
        model="tiny",
        seed=0,
    )


def choose(rows, rules=RULES):
    with Verifier() as verifier:
        selection = select(rows, Words(), rules, verifier)
    assert len(selection.pairs) + sum(selection.counts.values()) == len(rows)
    return selection


class Blind(Words):
    """A tokenizer that makes all numbers alike, as Unicode normalisation makes spellings alike."""

    def __call__(self, text, add_special_tokens=True):
        return super().__call__(re.sub(r"[0-9]|four|five", "n", text), add_special_tokens)


def test_responses_that_are_the_same_tokens_are_identical():
    with Verifier() as verifier:
        selection = select([correction()], Blind(), RULES, verifier)
    assert selection.pairs == []
    assert selection.counts == {"identical": 1}


def test_a_pair_in_tokens():
    (pair,) = choose([correction()]).pairs
    # y⁺ and y⁻: 7 words and the end of sequence each; `five` → `four` and the box differ.
    assert (pair.chosen_tokens, pair.rejected_tokens) == (8, 8)
    assert pair.change_ratio == 2 / 8
    assert pair.common_prefix == 4
    assert (pair.arm, pair.id, pair.question_id) == ("rectified", "q0#0", "q0")


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("outcome_wrong", {"outcome": "wrong"}),
        ("outcome_refused", {"outcome": "refused", "chosen": ""}),
        ("mode_direct", {"mode": "direct"}),
        ("empty", {"chosen": " \n"}),
        ("empty", {"rejected": ""}),
        ("identical", {"rejected": r"two and two is four so \boxed{4}"}),
        ("leftover_markers", {"chosen": "=== CORRECTED STARTED ===\n\\boxed{4}"}),
        ("leftover_markers", {"chosen": "\\boxed{4}\n===Corrected ended==="}),
        ("chosen_not_correct", {"chosen": r"still \boxed{5}"}),
        ("chosen_not_correct", {"chosen": "four"}),
        ("rejected_is_correct", {"rejected": r"other words, \boxed{4.0}"}),
        ("end_token_inside", {"chosen": r"two <eos> \boxed{4}"}),
        ("over_long", {"question": "w " * 30}),
        ("over_long", {"rejected": "w " * 30 + r"\boxed{5}"}),
        ("over_long", {"chosen": "w " * 30 + r"\boxed{4}"}),
        ("change_ratio_above_gamma", {"chosen": r"all other words here \boxed{4}"}),
    ],
)
def test_every_drop_has_its_reason(reason, changes):
    row = correction(**changes)
    assert choose([row]).dropped == {reason: [row.id]}


def test_a_context_that_just_fits_is_kept():
    row = correction()  # prompt: 5 words; response: 7 words and the end of sequence
    assert choose([row], replace(RULES, context_length=13)).pairs
    assert choose([row], replace(RULES, context_length=12)).counts == {"over_long": 1}


def test_gamma_is_inclusive_and_none_lets_all_pass():
    rewritten = correction(chosen=r"all other words here \boxed{4}")
    assert choose([correction()], replace(RULES, gamma=0.25)).pairs
    assert not choose([correction()], replace(RULES, gamma=0.2499)).pairs
    (pair,) = choose([rewritten], replace(RULES, gamma=None)).pairs
    assert pair.change_ratio == pytest.approx(5 / 6)  # the end of sequence is common


def test_direct_keeps_the_rejected_response_and_knows_no_gamma():
    row = correction(mode="direct", chosen=r"all other words here \boxed{4}")
    (pair,) = choose([row], replace(RULES, arm="direct", gamma=0.1)).pairs
    assert pair.rejected == row.rejected
    assert pair.change_ratio == pytest.approx(5 / 6)


def test_self_has_no_rejected_response():
    rows = [
        attempt(0),
        attempt(1, verdict="wrong", response=r"\boxed{5}"),
        attempt(2, verdict="truncated"),
        attempt(3, response=r"\boxed{5}"),  # says correct, is not
        attempt(0, trial=1),  # the same words again
    ]
    selection = choose(rows, replace(RULES, arm="self"))
    (pair,) = selection.pairs
    assert (pair.id, pair.rejected, pair.change_ratio, pair.common_prefix) == (
        "q0#0",
        None,
        None,
        None,
    )
    assert pair.rejected_tokens is None
    assert selection.counts == {
        "chosen_not_correct": 1,
        "duplicate": 1,
        "verdict_truncated": 1,
        "verdict_wrong": 1,
    }


def test_arms_take_their_own_rows_only():
    with pytest.raises(ValueError, match="rectifications"):
        choose([attempt()])
    with pytest.raises(ValueError, match="attempts"):
        choose([correction()], replace(RULES, arm="self"))


def test_duplicates_keep_the_first_id():
    rows = [correction(0, id="q0#1"), correction(0), correction(1)]
    selection = choose(rows)
    assert [p.id for p in selection.pairs] == ["q0#0", "q1#0"]
    assert selection.dropped == {"duplicate": ["q0#1"]}


def test_the_subsample_depends_on_seed_and_ids_only():
    rows = [correction(n) for n in range(40)]
    rules = replace(RULES, pairs=10)
    chosen = choose(rows, rules)
    assert len(chosen.pairs) == 10
    assert chosen.counts == {"beyond_pairs": 30}
    shuffled = random.Random(0).sample(rows, len(rows))
    assert choose(shuffled, rules) == chosen
    ids = {p.id for p in chosen.pairs}
    assert {p.id for p in choose(rows, replace(rules, seed=1)).pairs} != ids
    # More pairs keep those already taken: 2k is part of 4k.
    assert ids < {p.id for p in choose(rows, replace(rules, pairs=20)).pairs}
    assert choose(rows, replace(rules, pairs=400)).counts == {}


def test_the_message_of_an_empty_result_names_gamma_and_the_smallest_ratio():
    rules = replace(RULES, gamma=0.1)
    rows = [correction(), correction(1, chosen=r"all other words here \boxed{4}")]
    message = nothing_left(choose(rows, rules), rules)
    assert "data.gamma=0.1" in message
    assert "0.250" in message
    message = nothing_left(choose([correction(outcome="wrong")]), RULES)
    assert "outcome_wrong 1" in message


def test_held_out_questions_are_never_trained_on():
    rng = random.Random(0)
    attempts = [
        attempt(n, trial, rng.choice(["correct", "wrong", "truncated"]))
        for n in range(60)
        for trial in range(2)
    ]
    train, held_out = split_held_out(attempts, 16, seed=0)
    wrong = [a for a in held_out if a.verdict == "wrong"]
    assert 16 <= len(wrong) <= 17
    assert len(train) + len(held_out) == len(attempts)
    assert not {a.question_id for a in train} & {a.question_id for a in held_out}
    assert split_held_out(attempts[::-1], 16, seed=0)[1] == held_out[::-1]
    assert split_held_out(attempts, 16, seed=1)[1] != held_out
    smaller = {a.id for a in split_held_out(attempts, 8, seed=0)[1]}
    assert smaller < {a.id for a in held_out}


def test_holding_out_everything_is_refused():
    attempts = [attempt(n, verdict="wrong") for n in range(5)]
    with pytest.raises(UserError, match=r"data\.held_out=5 takes all 5"):
        split_held_out(attempts, 5, seed=0)
    train, held_out = split_held_out([attempt(0)], 5, seed=0)
    assert (len(train), held_out) == (1, [])


def test_where_corrections_are_there_only_they_are_held_out():
    attempts = [attempt(n, verdict="wrong") for n in range(40)]
    corrected = {a.id for a in attempts[::4]}
    train, held_out = split_held_out(attempts, 3, 0, corrected)
    assert len(held_out) == 3
    assert {a.id for a in held_out} < corrected
    assert len(train) == 37, "the others are on the side of training, and counted there"
    assert split_held_out(attempts, 3, 0, {a.id for a in attempts}) == split_held_out(
        attempts, 3, 0
    )
    with pytest.raises(
        UserError, match=r"takes all 10 corrections: lower it, data\.held_out=2, or correct"
    ):
        split_held_out(attempts, 64, 0, corrected)
    with pytest.raises(UserError, match=r"takes the only correction: correct more"):
        split_held_out(attempts, 64, 0, {attempts[0].id})
    with pytest.raises(UserError, match="no wrong attempt has a correction"):
        split_held_out(attempts, 64, 0, set())


def test_a_question_listed_under_several_ids_stays_on_one_side():
    attempts = [
        replace(attempt(n, verdict="wrong"), question=f"the  same {n // 4}?" if n % 2 else f"the same {n // 4}?")
        for n in range(40)
    ]  # fmt: skip
    train, held_out = split_held_out(attempts, 12, seed=0)
    sides = [{" ".join(a.question.split()) for a in side} for side in (train, held_out)]
    assert len(held_out) == 12
    assert not sides[0] & sides[1]
