"""Packs: the rows and indices by hand, and equality with sequences of their own."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from spot.training import attention
from spot.training.forward import pack_logprobs
from spot.training.packing import (
    PackingSettings,
    PairTokens,
    build_pack,
    fitting,
    plan_steps,
    step_packs,
)

SHARED, SEPARATE = PackingSettings(100), PackingSettings(100, share_prefix=False)
CHOSEN = PackingSettings(100, rejected=False)
PAIR = PairTokens("p", (10, 11), (20, 21, 22, 0), (20, 21, 30, 31, 0))


def test_a_shared_row_by_hand() -> None:
    pack = build_pack([PAIR], SHARED)
    assert pack.input_ids[0].tolist() == [10, 11, 20, 21, 22, 0, 30, 31, 0]
    assert pack.position_ids[0].tolist() == [0, 1, 2, 3, 4, 5, 4, 5, 6]
    assert pack.rows == ((4, 2, 3),)
    # both tails are predicted from hidden state 3, the last of the shared part
    assert pack.sources.tolist() == [1, 2, 3, 4, 3, 6, 7]
    assert pack.targets.tolist() == [20, 21, 22, 0, 30, 31, 0]
    chosen, rejected = pack.slot_sums(torch.tensor([1.0, 2, 4, 8, 16, 32, 64]))
    assert chosen.tolist() == [1 + 2 + 4 + 8]
    assert rejected.tolist() == [1 + 2 + 16 + 32 + 64]
    assert pack.scored == (7,)
    assert PAIR.tokens(SHARED) == 9
    assert PAIR.scored(SHARED) == 7


def test_separate_rows_by_hand() -> None:
    pack = build_pack([PAIR], SEPARATE)
    assert pack.input_ids[0].tolist() == [10, 11, 20, 21, 22, 0, 10, 11, 20, 21, 30, 31, 0]
    assert pack.rows == ((2, 4, 0), (2, 5, 0))
    assert pack.sources.tolist() == [1, 2, 3, 4, 7, 8, 9, 10, 11]
    assert pack.targets.tolist() == [20, 21, 22, 0, 20, 21, 30, 31, 0]
    assert PAIR.tokens(SEPARATE) == 13
    assert PAIR.scored(SEPARATE) == 9


def test_a_pair_without_rejected_beside_another() -> None:
    own = PairTokens("own", PAIR.prompt, PAIR.chosen)
    pack = build_pack([PAIR, own], SHARED, places=[7, 3])
    assert pack.pairs.tolist() == [7, 3]
    assert pack.has_rejected.tolist() == [True, False]
    assert pack.rows == ((4, 2, 3), (2, 4, 0))
    assert pack.sources.tolist()[7:] == [10, 11, 12, 13]
    assert pack.slot_counts()[0].tolist() == [4, 4]
    assert pack.slot_counts()[1].tolist() == [5, 0]


def test_rejected_left_out() -> None:
    pack = build_pack([PAIR], CHOSEN)
    assert pack.rows == ((2, 4, 0),)
    assert pack.has_rejected.tolist() == [False]
    assert pack.slots.tolist() == [0, 0, 0, 0]
    assert pack.parts.tolist() == [0, 0, 1, 2]  # still told apart, against the y- left out
    assert (PAIR.tokens(CHOSEN), PAIR.scored(CHOSEN), PAIR.unshared_tokens(CHOSEN)) == (6, 4, 6)
    assert (PAIR.unshared_tokens(SHARED), PAIR.longest) == (13, 5)


@pytest.mark.parametrize(("chosen", "rejected"), [((), (1,)), ((1,), ()), ((1, 2), (1, 2))])
def test_pairs_that_cannot_be_trained_on_are_refused(
    chosen: tuple[int, ...], rejected: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="pair p"):
        PairTokens("p", (1,), chosen, rejected)


CASES = {
    "no common prefix": ((5, 6, 7, 0), (8, 9, 0)),
    "partial": ((5, 6, 7, 8, 0), (5, 6, 9, 0)),
    "one-token tails": ((5, 6, 7), (5, 6, 8)),
    "empty tail of y+": ((5, 6, 7), (5, 6, 7, 8, 9)),
    "empty tail of y-": ((5, 6, 7, 8), (5, 6)),
    "single tokens": ((5,), (6,)),
}


def case_pairs() -> list[PairTokens]:
    rng = random.Random(3)
    pairs = [
        PairTokens(name, tuple(rng.choices(range(2, 45), k=4)), *responses)
        for name, responses in CASES.items()
    ]
    for i in range(5):  # and longer ones of many lengths
        shared, a, b = (
            tuple(rng.choices(range(2, 45), k=rng.randint(*k))) for k in ((0, 30), (1, 30), (1, 30))
        )
        pairs.append(PairTokens(f"random {i}", (2, 3, 4), (*shared, 5, *a), (*shared, 6, *b)))
    return pairs


def alone(model: Any, prompt: tuple[int, ...], response: tuple[int, ...]) -> torch.Tensor:
    """Token log-probs of a response in a sequence of its own, through the model's own attention."""
    logits = model(torch.tensor([[*prompt, *response]])).logits[0].float()
    rows = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return rows[torch.arange(len(response)), torch.tensor(response)]


def gradients(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("settings", [SHARED, SEPARATE])
@pytest.mark.parametrize("tied", [True, False])
def test_packed_equals_separate(
    build_model: Any, kind: str, settings: PackingSettings, tied: bool
) -> None:
    model, pairs = build_model(kind, tied=tied), case_pairs()
    up, down = torch.linspace(0.5, 2, len(pairs)), torch.linspace(-1, 1.5, len(pairs))

    expected, loss = [], torch.tensor(0.0)
    for i, pair in enumerate(pairs):
        assert pair.rejected is not None
        chosen, rejected = (alone(model, pair.prompt, r) for r in (pair.chosen, pair.rejected))
        expected.append((chosen, rejected))
        loss = loss + up[i] * chosen.sum() + down[i] * rejected.sum()
    wanted = gradients(model, loss)

    with attention.packed(model):
        pack = build_pack(pairs, settings)
        logps = pack_logprobs(model, pack)
        sums = pack.slot_sums(logps)
        got = gradients(model, (up * sums[0]).sum() + (down * sums[1]).sum())
    assert model.config._attn_implementation == "sdpa"
    for i, (pair, part) in enumerate(zip(pairs, logps.split(pack.scored), strict=True)):
        chosen, rejected = expected[i]
        shared = len(chosen) + len(rejected) - len(part)  # scored once
        torch.testing.assert_close(part, torch.cat([chosen, rejected[shared:]]), atol=1e-5, rtol=0)
        for side, alone_logps in enumerate(expected[i]):
            wanted_sum = alone_logps.sum().item()
            tolerance = 1e-5 * len(alone_logps)
            assert sums[side][i].item() == pytest.approx(wanted_sum, abs=tolerance), pair.id
    assert (got - wanted).norm() / wanted.norm() < 2e-5


def test_other_packs_same_gradient(build_model: Any) -> None:
    """Accumulating over small packs is one big pack."""
    model, pairs = build_model(), case_pairs()
    found = []
    for budget, count in ((10_000, 1), (100, 4)):
        packs = step_packs(pairs, PackingSettings(budget))
        assert len(packs) >= count
        assert all(pack.tokens <= budget for pack in packs)
        assert sorted(i for pack in packs for i in pack.pairs.tolist()) == list(range(len(pairs)))
        model.zero_grad()
        with attention.packed(model):
            for pack in packs:
                chosen, rejected = pack.slot_sums(pack_logprobs(model, pack))
                weights = 1.0 + pack.pairs
                (weights * (chosen - 0.5 * rejected)).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert (found[0] - found[1]).norm() / found[0].norm() < 2e-5


def test_steps_are_fixed_by_the_seed_and_cover_every_epoch() -> None:
    steps = plan_steps(2000, 32, 2, seed=0)
    assert len(steps) == 125
    assert {len(step) for step in steps} == {32}
    flat = [i for step in steps for i in step]
    assert sorted(flat[:2000]) == sorted(flat[2000:]) == list(range(2000))
    assert flat[:2000] != flat[2000:]
    assert steps == plan_steps(2000, 32, 2, seed=0)
    assert steps != plan_steps(2000, 32, 2, seed=1)
    assert [len(step) for step in plan_steps(10, 4, 1, 0)] == [4, 4, 2]


def test_pairs_longer_than_a_pack_are_left_out_whatever_the_loss() -> None:
    pairs = [PAIR, PairTokens("long", range(2, 90), (5, 6, 7), (5, 8, 7))]
    for settings in (SHARED, CHOSEN):
        assert [len(found) for found in fitting(pairs, settings)] == [2, 0]
    # 88 + 1 + 2 + 2 tokens in one row, 182 in two; y+ alone would fit
    for settings in (PackingSettings(92), PackingSettings(92, rejected=False), SEPARATE):
        kept, over_long = fitting(pairs, settings)
        assert [pair.id for pair in kept] == ["p"]
        assert over_long == ["long"]


def test_parts_of_a_pair_by_hand() -> None:
    # y-: 5 6 |7 8| 9 3 0     y+: 5 6 |1| 9 3 |4| 0
    pair = PairTokens("p", (2, 3), (5, 6, 1, 9, 3, 4, 0), (5, 6, 7, 8, 9, 3, 0))
    for settings in (SHARED, SEPARATE):
        pack = build_pack([pair], settings)
        parts = {slot: pack.parts[pack.slots == slot].tolist() for slot in range(2)}
        assert parts == {0: [0, 0, 1, 2, 2, 1, 2], 1: [0, 0, 1, 1, 2, 2, 2]}
    assert set(build_pack([pair], PackingSettings(100, parts=False)).parts.tolist()) == {3}
    own = build_pack([PairTokens("own", (2,), (5, 0))], SHARED)
    assert own.parts.tolist() == [3, 3]


def test_twins_share_a_context() -> None:
    assert build_pack([PAIR], SHARED).contexts.tolist() == list(range(7))
    assert build_pack([PAIR], SEPARATE).contexts.tolist() == [0, 1, 2, 3, 0, 1, 6, 7, 8]
