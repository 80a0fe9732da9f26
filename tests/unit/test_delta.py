"""δ on a linear drift: batch means 0.01, 0.02, … 2.50 over 250 steps of 32 pairs."""

from __future__ import annotations

import pytest
import torch

from spot.training.delta import Delta

PAIRS = 32


def drift(delta: Delta, steps: int = 250) -> list[float]:
    """The δ that each step uses; each then adds its rewards, whose half sum has mean step / 100."""
    used = []
    for step in range(1, steps + 1):
        used.append(delta.value)
        delta.update(reward_sum=2 * PAIRS * step / 100, pairs=PAIRS)
    return used


def test_ema_lags_by_nine_steps() -> None:
    delta = Delta("ema", 0.9)
    used = drift(delta)
    assert used[:3] == pytest.approx([0.0, 0.1 * 0.01, 0.9 * 0.001 + 0.1 * 0.02])
    # Σ (1−d) d^k (n−k)/100 = n/100 − (d/(1−d)) (1 − d^n)/100
    assert delta.value == pytest.approx(2.50 - 0.09 * (1 - 0.9**250), abs=1e-12)
    assert delta.value == pytest.approx(2.41, abs=5e-3)
    assert used[-1] == pytest.approx(2.49 - 0.09 * (1 - 0.9**249), abs=1e-12)


def test_cumulative_is_the_mean_of_all_history() -> None:
    delta = Delta("cumulative")
    used = drift(delta)
    assert used[:3] == pytest.approx([0.0, 0.01, 0.015])
    assert delta.value == pytest.approx(251 / 200)  # 1.255


def test_cumulative_weighs_pairs_not_batches() -> None:
    delta = Delta("cumulative")
    delta.update(reward_sum=2 * 30 * 1.0, pairs=30)
    delta.update(reward_sum=2 * 10 * 5.0, pairs=10)
    assert delta.value == pytest.approx((30 * 1.0 + 10 * 5.0) / 40)


def test_zero_stays_zero() -> None:
    assert set(drift(Delta("zero"))) == {0.0}


@pytest.mark.parametrize("mode", ["ema", "cumulative", "zero"])
def test_saved_and_restored(mode: str) -> None:
    whole, first = Delta(mode), Delta(mode)
    expected = drift(whole, 20)
    got = drift(first, 8)
    second = Delta(mode)
    second.load_state_dict(first.state_dict())
    for step in range(9, 21):
        got.append(second.value)
        second.update(2 * PAIRS * step / 100, PAIRS)
    assert got == expected


def test_micro_batches_are_judged_by_a_mean_that_has_them() -> None:
    delta = Delta("cumulative", micro_batch=2)
    first = delta.of_each(torch.tensor([1.0, 3.0, 5.0, 7.0, 4.0]))
    assert first.tolist() == [2.0, 2.0, 4.0, 4.0, 4.0]  # (1+3)/2, (1+3+5+7)/4, (16+4)/5
    restored = Delta("cumulative", micro_batch=2)
    restored.load_state_dict(delta.state_dict())
    assert restored.of_each(torch.tensor([10.0])).tolist() == [5.0]  # 30/6
