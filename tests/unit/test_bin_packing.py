"""Who computes what: bounds, fairness and the cost model, by hand and on random batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spot.training.bin_packing import Cost, balance, deal, tight_budget
from spot.training.packing import PackingSettings, PairTokens, held_to, step_packs


def test_flops_of_a_model_by_hand(build_model: Any) -> None:
    cost = Cost.of(build_model(tied=True))
    # a layer: q 32x32, k and v 16x32, o 32x32, three MLP matrices 48x32; two layers
    assert cost.token == 2 * 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32)
    assert cost.scored == 2 * 45 * 32
    assert cost.seen == 4 * 2 * 4 * 8
    assert Cost.of(build_model("llama", tied=False)) == cost


def test_cost_of_rows_by_hand() -> None:
    only_attention = Cost(0, 0, 1)
    # 3 tokens of c see 1, 2 and 3; a sees 4 and 5; b sees 4
    assert only_attention.row(3, 2, 1, 0) == 1 + 2 + 3 + 4 + 5 + 4
    assert Cost(10, 100, 0).row(3, 2, 1, 4) == 460
    pair = PairTokens("p", (1, 2), (3, 4), (3, 5))
    shared = PackingSettings(99, cost=only_attention)
    assert pair.cost(shared) == 1 + 2 + 3 + 4 + 4
    apart = PackingSettings(99, share_prefix=False, cost=only_attention)
    assert pair.cost(apart) == 2 * (1 + 2 + 3 + 4)


def test_bins_have_equal_cost_not_equal_length() -> None:
    costs, tokens = [9.0, 3, 3, 3], [3, 3, 3, 3]
    assert sorted(map(sorted, balance(costs, tokens, 100, 2) or [])) == [[0], [1, 2, 3]]
    assert balance(costs, tokens, 5, 2) is None


def test_an_exchange_improves_on_longest_first() -> None:
    """Longest first gives 11 and 9 here; 10 and 10 is possible."""
    costs = [6.0, 5, 4, 3, 2]
    bins = balance(costs, [1] * 5, 100, 2)
    assert bins is not None
    assert [sum(costs[i] for i in items) for items in bins] == [10, 10]


def test_as_few_bins_as_hold_all_and_as_many_on_each_rank() -> None:
    assert [len(b) for b in deal([1.0] * 8, [5] * 8, 10)] == [4]
    dealt = deal([1.0] * 8, [5] * 8, 10, ranks=2)
    assert [[len(b) for b in rank] for rank in dealt] == [[2, 2], [2, 2]]
    # what fits exactly is found although balancing by cost first would leave no room
    bins = deal([9.0, 1, 1, 9], [6, 4, 6, 4], 10)[0]
    assert sorted(map(sorted, bins)) in ([[0, 1], [2, 3]], [[0, 3], [1, 2]])
    with pytest.raises(ValueError, match="11 tokens does not fit a bin of 10"):
        deal([1.0, 1.0], [3, 11], 10)
    assert deal([], [], 10) == [[[]]]


def test_no_bin_is_empty_while_there_are_items() -> None:
    """A rank with one giant item and two bins would have nothing for the second."""
    dealt = deal([14.7, 180, 11, 165], [13, 94, 10, 88], 100, ranks=2)
    assert all(items for bins in dealt for items in bins)
    assert deal([1.0], [1], 10, ranks=2) == [[[0]], [[]]]  # but for fewer items than bins


def test_a_rank_without_pairs_goes_along_with_packs_that_do_not_count() -> None:
    pairs = [PairTokens(name, (1,), (2,) * n, (3,)) for name, n in (("long", 4), ("short", 1))]
    ranks = [step_packs(pairs, PackingSettings(9), rank, 3) for rank in range(3)]
    assert [packs[0].ids for packs in ranks] == [("long",), ("short",), ("short",)]
    assert [packs[0].counted for packs in ranks] == [True, True, False]
    three = [PairTokens(str(i), (1,), (2,) * 3, (3,) * 3) for i in range(3)]
    two = [step_packs(three, PackingSettings(9), rank, 2) for rank in range(2)]
    assert [len(packs) for packs in two] == [2, 2]
    assert sorted(i for packs in two for p in packs if p.counted for i in p.ids) == ["0", "1", "2"]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=40),
    budget=st.integers(100, 300),
    ranks=st.sampled_from([1, 2, 3, 8]),
)
def test_every_item_once_within_the_budget(lengths: list[int], budget: int, ranks: int) -> None:
    costs = [n + 0.01 * n * n for n in lengths]
    dealt = deal(costs, lengths, budget, ranks)
    assert len(dealt) == ranks
    assert len({len(bins) for bins in dealt}) == 1
    assert sorted(i for bins in dealt for items in bins for i in items) == list(range(len(lengths)))
    bins_in_all = sum(map(len, dealt))
    assert sum(not items for bins in dealt for items in bins) == max(0, bins_in_all - len(lengths))
    for bins in dealt:
        assert all(sum(lengths[i] for i in items) <= budget for items in bins)
    assert dealt == deal(costs, lengths, budget, ranks)


@pytest.mark.parametrize("budget", [40_000, 12_000])  # one pack a rank, and two
@pytest.mark.parametrize("ranks", [8, 16])
def test_long_tailed_lengths_are_dealt_evenly(ranks: int, budget: int) -> None:
    """Eight pairs a rank, lognormal with coefficient of variation 0.7: within 3% of the best possible."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        lengths = np.exp(rng.normal(7.3, 0.63, 8 * ranks)).clip(64, 8000).astype(int).tolist()
        costs = [1.4e10 * n + 3e5 * n * n for n in lengths]
        dealt = deal(costs, lengths, budget, ranks)
        assert len(dealt[0]) == (1 if budget == 40_000 else 2)
        loads = [sum(costs[i] for items in bins for i in items) for bins in dealt]
        assert max(loads) <= 1.03 * max(sum(loads) / ranks, max(costs))


def test_ranks_share_a_step(build_model: Any) -> None:
    """All ranks together forward every pair once, in as many packs each."""
    rng = np.random.default_rng(1)
    pairs = [
        PairTokens(str(i), [2, 3], [2, *rng.integers(4, 40, n)], [3, *rng.integers(4, 40, n)])
        for i, n in enumerate(rng.integers(1, 30, 13).tolist())
    ]
    settings = PackingSettings(120, cost=Cost.of(build_model()))
    packs = [step_packs(pairs, settings, rank, 3) for rank in range(3)]
    assert len({len(own) for own in packs}) == 1
    assert sorted(i for own in packs for p in own for i in p.pairs.tolist()) == list(range(13))
    assert all(pack.tokens <= 120 for own in packs for pack in own)


def test_packs_are_no_larger_than_a_run_needs() -> None:
    """The longest pair, or 1.15 × a rank's mean share of a step; never above the budget."""
    assert tight_budget(longest=900, share=1000.0, budget=4096) == 1150
    assert tight_budget(longest=1200, share=1000.0, budget=4096) == 1200
    assert tight_budget(longest=1200, share=8000.0, budget=4096) == 4096

    def pair(name: str, response: int) -> PairTokens:
        ids = np.arange(response, dtype=np.int32)
        return PairTokens(name, ids[:2], ids, ids[::-1])

    pairs, settings = [pair("a", 4), pair("b", 8)], PackingSettings(100)
    assert [p.tokens(settings) for p in pairs] == [10, 18]
    assert held_to(settings, pairs, [], share=1.5).token_budget == 25  # 1.15 · 1.5 · 14 = 24.15
    assert held_to(settings, pairs, [pair("c", 20)], share=1.5).token_budget == 42
