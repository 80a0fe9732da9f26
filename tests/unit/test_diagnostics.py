"""Rewards, gradients and KL by part: by hand, and against what autograd and plain sums say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from spot import training
from spot.config import WEIGHTED_ARMS, SpanWeights, WeightsConfig
from spot.training import attention, losses
from spot.training.diagnostics import (
    KL_SIDES,
    SHARED_SIDE,
    PartMeans,
    gradients_apart,
    kl_terms,
    net_gradients,
    pair_metrics,
    span_weights,
)
from spot.training.forward import pack_logprobs
from spot.training.loop import line_ends
from spot.training.packing import PackingSettings, PairTokens, build_pack

STUDENT = Path(training.__file__).parent / "assets/tiny"
SHARED, SEPARATE = PackingSettings(99), PackingSettings(99, share_prefix=False)
# y-: 5 6 |7 8| 9 3 0     y+: 5 6 |1| 9 3 |4| 0
PAIR = PairTokens("p", (2, 3), (5, 6, 1, 9, 3, 4, 0), (5, 6, 7, 8, 9, 3, 0))


def scores(by_token: dict[str, list[float]], settings: PackingSettings) -> torch.Tensor:
    """Per-token values in the order of a pack's scored tokens."""
    chosen, rejected = by_token["chosen"], by_token["rejected"]
    return torch.tensor(chosen + (rejected[2:] if settings.share_prefix else rejected))


VALUES = {"chosen": [1.0, 2, 4, 8, 16, 32, 64], "rejected": [1.0, 2, 100, 200, 300, 400, 500]}
REWARDS = {
    "x/shared": 3.0, "x/chosen_edited": 4.0 + 32, "x/chosen_after": 8.0 + 16 + 64,
    "x/rejected_edited": 300.0, "x/rejected_after": 1200.0,
}  # fmt: skip


@pytest.mark.parametrize("settings", [SHARED, SEPARATE])
def test_parts_by_hand(settings: PackingSettings) -> None:
    pack, parts = build_pack([PAIR], settings), PartMeans()
    parts.add("x", pack, scores(VALUES, settings))
    assert parts.per_pair("x", 1) == REWARDS
    assert parts.per_token("x") == {
        "x/shared": 1.5, "x/chosen_edited": 18.0, "x/chosen_after": 88 / 3,
        "x/rejected_edited": 150.0, "x/rejected_after": 400.0,
    }  # fmt: skip
    parts.add("x", pack, scores(VALUES, settings))  # a second pack of the step
    assert parts.per_pair("x", 2) == REWARDS
    kl = PartMeans()
    kl.add("kl", pack, scores(VALUES, settings), KL_SIDES)
    assert kl.per_token("kl") == {"kl/shared": 1.5, "kl/edited": 150.0, "kl/after": 400.0}


def test_pairs_without_rejected_belong_to_no_part() -> None:
    pack, parts = build_pack([PairTokens("own", (2,), (5, 0))], SHARED), PartMeans()
    parts.add("x", pack, torch.ones(2))
    assert parts.per_pair("x", 1) == parts.per_token("x") == {}


def test_kl_by_hand() -> None:
    terms = kl_terms(torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -1.0]))
    assert terms.tolist() == [0.0, pytest.approx(math.exp(-1) - 1 + 1)]
    assert terms.dtype == torch.float64


def token_gradients(model: Any, settings: PackingSettings, method: str) -> PartMeans:
    """|∂loss / ∂log-prob| by part, at a start where all rewards are 0."""
    pack, kept = build_pack([PAIR], settings), []
    with attention.packed(model):
        logps = pack_logprobs(model, pack)
    logps.register_hook(kept.append)
    metrics = pair_metrics(pack, logps, logps.detach(), 0.1)
    rewards = {side: metrics.get(f"rewards/{side}") for side in ("chosen", "rejected")}
    loss, _ = losses.compute(method, rewards | {"delta": 0.0})
    loss.sum().backward()
    parts = PartMeans()
    parts.add("g", pack, net_gradients(pack, kept[0]).abs())
    return parts


@pytest.mark.parametrize("settings", [SHARED, SEPARATE])
def test_gradients_cancel_on_the_shared_prefix(build_model: Any, settings: PackingSettings) -> None:
    """§4.5: at the start both sides pull with β/2, in opposite directions."""
    got = token_gradients(build_model(), settings, "bco").per_token("g")
    assert got.pop("g/shared") == pytest.approx(0, abs=1e-9)
    assert got == pytest.approx(dict.fromkeys(got, 0.05))
    assert len(got) == 4


def test_without_a_term_in_rejected_nothing_cancels(build_model: Any) -> None:
    settings = PackingSettings(99, rejected=False)
    got = token_gradients(build_model(), settings, "rwsft").per_token("g")
    wanted = {"g/shared": 0.05, "g/chosen_edited": 0.05, "g/chosen_after": 0.05}
    assert got == pytest.approx(wanted)


@pytest.mark.parametrize("settings", [SHARED, SEPARATE])
def test_pulls_apart_are_of_a_tokens_own_pair(settings: PackingSettings) -> None:
    other = PairTokens("q", (2,), (5, 8, 0), (5, 9, 0))
    pack, parts = build_pack([PAIR, other], settings), PartMeans()
    pulls = torch.tensor([-0.5, -1.0]), torch.tensor([0.25, 3.0])  # of y⁺ and of y⁻
    parts.add("apart", pack, gradients_apart(pack, pulls, beta=2.0), SHARED_SIDE)
    assert pack.ids == ("p", "q")
    of_p, of_q = 2 * (0.5 + 0.25), 2 * (1.0 + 3.0)  # which begin with two shared tokens and one
    assert parts.per_token("apart") == {"apart/shared": pytest.approx((2 * of_p + of_q) / 3)}


LINE_ENDS = (9,)  # 9 ends a line: y- is 5 6 |7 8 9| 3 0, y+ 5 6 |1 9| 3 4 0
WEIGHTS = WeightsConfig(
    chosen=SpanWeights(prefix=0.5, edit=3, after=2), rejected=SpanWeights(prefix=0.25, edit=4, after=0)
)  # fmt: skip
WEIGHTED = {  # by hand: rewards of y⁺ and y⁻ of VALUES
    "edits": (0.5 * 3 + 3 * 36 + 2 * 88, 0.25 * 3 + 4 * 300),
    "step": (0.5 * 3 + 3 * 12 + 2 * 112, 0.25 * 3 + 4 * 600),
}


@pytest.mark.parametrize("by", WEIGHTED)
@pytest.mark.parametrize("settings", [SHARED, SEPARATE])
def test_weights_by_span_and_side(settings: PackingSettings, by: str) -> None:
    settings = replace(settings, line_ends=LINE_ENDS if by == "step" else None)
    pack = build_pack([PAIR], settings)
    assert span_weights(pack, WeightsConfig()) is None
    zeros = torch.zeros(len(pack.targets))
    weights = span_weights(pack, WEIGHTS)
    metrics = pair_metrics(pack, scores(VALUES, settings), zeros, 1.0, weights)
    rewards = metrics["rewards/chosen"].item(), metrics["rewards/rejected"].item()
    assert rewards == WEIGHTED[by]
    assert metrics["logps/chosen"].item() == 127  # log-probs are what they are


@pytest.mark.parametrize("settings", [SHARED, SEPARATE])
def test_weights_fade_behind_the_last_edit(settings: PackingSettings) -> None:
    """A response that only lost tokens, `r` below, fades from where it lost them."""
    only_lost = PairTokens("r", (2,), (5, 7, 8, 0), (5, 6, 7, 8, 0))
    pack = build_pack([PAIR, only_lost], settings)
    weights = span_weights(pack, WeightsConfig(fade=1))
    assert weights is not None
    by_slot = [weights[pack.slots == slot].tolist() for slot in range(4)]
    # y+: 5 6 |1| 9 3 |4| 0, 5 7 8 0     y-: 5 6 |7 8| 9 3 0, 5 |6| 7 8 0
    assert by_slot == [
        [1, 1, 1, 0.5, 0.25, 1, 0.5], [1, 0.5, 0.25, 0.125],
        [1, 1, 1, 1, 0.5, 0.25, 0.125], [1, 1, 0.5, 0.25, 0.125],
    ]  # fmt: skip


@pytest.mark.parametrize("settings", [SHARED, SEPARATE])
def test_step_dpo_is_dpo_of_responses_that_end_with_the_step(
    build_model: Any, settings: PackingSettings
) -> None:
    model, margins = build_model(), []
    cut = PairTokens("p", PAIR.prompt, (5, 6, 1, 9), (5, 6, 7, 8, 9))
    step = replace(settings, line_ends=LINE_ENDS)
    for pair, layout, weights in (
        (PAIR, step, WEIGHTED_ARMS["step_dpo"][2]),
        (cut, settings, WeightsConfig()),
    ):
        pack = build_pack([pair], layout)
        with attention.packed(model):
            logps = pack_logprobs(model, pack)
        reference = torch.zeros_like(logps)  # both have the same prefix: what it is cancels
        metrics = pair_metrics(pack, logps, reference, 1.0, span_weights(pack, weights))
        margins.append(metrics["rewards/margins"].item())
    assert margins[0] == pytest.approx(margins[1], abs=1e-5)
    assert abs(margins[0]) > 1e-3


def test_line_ends_of_the_student_that_ships() -> None:
    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    assert tokenizer.convert_ids_to_tokens(line_ends(tokenizer)) == ["\n", "\n\n"]
