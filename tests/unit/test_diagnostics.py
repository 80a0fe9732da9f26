"""Rewards, gradients and KL by part: by hand, and against what autograd and plain sums say."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from spot.training import attention, losses
from spot.training.diagnostics import (
    KL_SIDES,
    SHARED_SIDE,
    PartMeans,
    edit_weights,
    gradients_apart,
    kl_terms,
    net_gradients,
    pair_metrics,
)
from spot.training.forward import pack_logprobs
from spot.training.packing import PackingSettings, PairTokens, build_pack

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


def token_gradients(model: Any, settings: PackingSettings, method: Any) -> PartMeans:
    """|∂loss / ∂log-prob| by part, at a start where all rewards are 0."""
    pack, kept = build_pack([PAIR], settings), []
    with attention.packed(model):
        logps = pack_logprobs(model, pack)
    logps.register_hook(kept.append)
    metrics = pair_metrics(pack, logps, logps.detach(), 0.1)
    loss, _ = method(metrics["rewards/chosen"], metrics.get("rewards/rejected"), 0.0)
    loss.sum().backward()
    parts = PartMeans()
    parts.add("g", pack, net_gradients(pack, kept[0]).abs())
    return parts


@pytest.mark.parametrize("settings", [SHARED, SEPARATE])
def test_gradients_cancel_on_the_shared_prefix(build_model: Any, settings: PackingSettings) -> None:
    """§4.5: at the start both sides pull with β/2, in opposite directions."""
    got = token_gradients(build_model(), settings, losses.bco).per_token("g")
    assert got.pop("g/shared") == pytest.approx(0, abs=1e-9)
    assert got == pytest.approx(dict.fromkeys(got, 0.05))
    assert len(got) == 4


def test_without_a_term_in_rejected_nothing_cancels(build_model: Any) -> None:
    settings = PackingSettings(99, rejected=False)
    got = token_gradients(build_model(), settings, losses.rwsft).per_token("g")
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


@pytest.mark.parametrize("settings", [SHARED, SEPARATE])
def test_edit_weight_scales_edited_tokens_alone(settings: PackingSettings) -> None:
    pack = build_pack([PAIR], settings)
    assert edit_weights(pack, 1.0) is None
    zeros = torch.zeros(len(pack.targets))
    metrics = pair_metrics(pack, scores(VALUES, settings), zeros, 1.0, edit_weights(pack, 3.0))
    assert metrics["rewards/chosen"].item() == 3 + 3 * 36 + 88
    assert metrics["rewards/rejected"].item() == 3 + 3 * 300 + 1200
    assert metrics["logps/chosen"].item() == 127  # log-probs are what they are
