"""Proximity against edit-distance's matcher, hand-derived values and the properties of eq. 1."""

import itertools
import random

import edit_distance
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spot.data.edits import change_ratio, common_prefix, edited_spans

TOKENS = st.lists(st.integers(0, 5), max_size=30)
SOME_TOKENS = st.lists(st.integers(0, 5), min_size=1, max_size=30)


def lcs_by_edit_distance(a: list[int], b: list[int]) -> int:
    matcher = edit_distance.SequenceMatcher(
        a=a, b=b, action_function=edit_distance.highest_match_action
    )
    return matcher.matches()


def is_subsequence(short: list[int], long: list[int]) -> bool:
    rest = iter(long)
    return all(token in rest for token in short)


@pytest.mark.parametrize(
    ("rejected", "chosen", "ratio"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 0.0),
        ([1, 2, 3, 4], [1, 2, 9, 4], 0.25),
        ([1, 2, 3, 4], [2, 4], 0.0),  # deletions are free: the denominator is |y⁺|
        ([2, 4], [1, 2, 3, 4], 0.5),
        ([], [7, 8], 1.0),
        ([1, 2, 3], [3, 2, 1], 2 / 3),
    ],
)
def test_change_ratio_by_hand(rejected, chosen, ratio):
    assert change_ratio(rejected, chosen) == pytest.approx(ratio, abs=1e-15)


def test_an_empty_correction_has_no_ratio():
    with pytest.raises(ValueError, match="empty correction"):
        change_ratio([1, 2], [])


def adversarial_pairs() -> list[tuple[list[int], list[int]]]:
    """Pairs on which greedy block matching (difflib) finds too short a subsequence."""
    long_block = list(range(20))
    return [
        ([9] * 40, [9] * 23),
        ([1, 2] * 30, [2, 1] * 30),
        (long_block + [50, 51] * 15, [50, 51] * 15 + long_block),
        (list(range(60)), list(reversed(range(60)))),
        ([0] * 30 + [1] * 30, [1] * 30 + [0] * 30),
        ([0, 1, 2] * 20, [2, 1, 0] * 20),
        ([1], [2] * 50 + [1]),
    ]


@pytest.mark.parametrize(("rejected", "chosen"), adversarial_pairs())
def test_adversarial_sequences_agree_with_edit_distance(rejected, chosen):
    expected = 1 - lcs_by_edit_distance(rejected, chosen) / len(chosen)
    assert change_ratio(rejected, chosen) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("seed", range(40))
def test_random_edits_agree_with_edit_distance(seed):
    rng = random.Random(seed)
    vocabulary = rng.choice([2, 5, 50, 150_000])
    rejected = [rng.randrange(vocabulary) for _ in range(rng.randrange(1, 150))]
    chosen = [t if rng.random() < 0.7 else rng.randrange(vocabulary) for t in rejected]
    del chosen[rng.randrange(len(chosen)) :: 7]
    chosen = chosen or [0]
    expected = 1 - lcs_by_edit_distance(rejected, chosen) / len(chosen)
    assert change_ratio(rejected, chosen) == pytest.approx(expected, abs=1e-15)


@given(TOKENS, SOME_TOKENS)
def test_ratio_is_a_share_and_zero_exactly_for_subsequences(rejected, chosen):
    ratio = change_ratio(rejected, chosen)
    assert 0.0 <= ratio <= 1.0
    assert (ratio == 0.0) == is_subsequence(chosen, rejected)
    assert (ratio == 1.0) == (not set(rejected) & set(chosen))
    assert ratio == pytest.approx(1 - lcs_by_edit_distance(rejected, chosen) / len(chosen))


@given(TOKENS, TOKENS)
def test_common_prefix_is_shared_and_cannot_be_longer(a, b):
    n = common_prefix(a, b)
    assert a[:n] == b[:n]
    assert n == common_prefix(b, a)
    assert n == min(len(a), len(b)) or a[n] != b[n]


def test_common_prefix_by_hand():
    assert common_prefix([1, 2, 3], [1, 2, 4, 3]) == 2
    assert common_prefix([], [1]) == 0
    assert common_prefix([1, 2], [1, 2, 3]) == 2


@given(TOKENS, TOKENS)
def test_spans_rebuild_both_sides_and_keep_a_longest_subsequence(rejected, chosen):
    spans = edited_spans(rejected, chosen)
    assert [t for _, i1, i2, _, _ in spans for t in rejected[i1:i2]] == rejected
    assert [t for _, _, _, j1, j2 in spans for t in chosen[j1:j2]] == chosen
    kept = 0
    for tag, i1, i2, j1, j2 in spans:
        if tag == "equal":
            assert rejected[i1:i2] == chosen[j1:j2]
            assert i2 > i1
            kept += i2 - i1
        assert (tag == "delete") == (i2 > i1 and j2 == j1)
        assert (tag == "insert") == (i2 == i1 and j2 > j1)
    assert kept == lcs_by_edit_distance(rejected, chosen)
    equal = [tag == "equal" for tag, *_ in spans]
    assert all(left != right for left, right in itertools.pairwise(equal))


def test_spans_by_hand():
    assert edited_spans([1, 2, 3, 4], [1, 7, 8, 4, 5]) == [
        ("equal", 0, 1, 0, 1),
        ("replace", 1, 3, 1, 3),
        ("equal", 3, 4, 3, 4),
        ("insert", 4, 4, 4, 5),
    ]
    assert edited_spans([], []) == []
