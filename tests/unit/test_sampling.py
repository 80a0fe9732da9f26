"""How a token is picked: against transformers' own warpers, and by counting."""

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from spot.generation import Sampling, request_seed
from spot.generation.transformers import limited_distribution, sample

LIMITS = [
    (0.7, 20, 0.8),
    (1.0, 0, 0.9),
    (1.3, 5, 1.0),
    (0.5, 0, 1.0),
    (1.0, 0, 1.0),
    (1.0, 1, 0.3),
    (2.0, 50, 0.01),
]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), LIMITS)
def test_the_limited_distribution_is_that_of_transformers(temperature, top_k, top_p):
    torch.manual_seed(1)
    logits = torch.randn(64, 50) * 3
    warped = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        warped = TopKLogitsWarper(top_k)(None, warped)
    if top_p < 1:
        warped = TopPLogitsWarper(top_p)(None, warped)
    probs, ids = limited_distribution(logits, Sampling(temperature, top_p, top_k, 1))
    ours = torch.zeros_like(logits).scatter(1, ids, probs)
    torch.testing.assert_close(ours, warped.softmax(-1), rtol=1e-5, atol=1e-7)
    assert ((ours > 0) == torch.isfinite(warped)).all()


def test_sampling_follows_the_distribution():
    torch.manual_seed(2)
    logits = torch.randn(1, 12) * 2
    sampling = Sampling(0.8, 0.9, 8, 1)
    probs, ids = limited_distribution(logits, sampling)
    n = 100_000
    uniforms = (torch.arange(n) + 0.5) / n  # evenly spread, so shares are exact up to 1/n
    tokens = sample(logits.expand(n, -1), uniforms, sampling)
    shares = torch.bincount(tokens, minlength=12) / n
    expected = torch.zeros(12).scatter(0, ids[0], probs[0])
    torch.testing.assert_close(shares, expected, rtol=0, atol=5e-5)


def test_the_largest_uniform_never_picks_an_excluded_token():
    logits = torch.tensor([[5.0, 4.0, -1.0, -2.0]])
    almost_one = torch.tensor([1.0])  # float rounding can make a draw exactly 1
    assert int(sample(logits, almost_one, Sampling(1.0, 0.5, 3, 1))) == 0
    assert int(sample(logits, almost_one, Sampling(1.0, 0.9, 3, 1))) == 1


def test_seeds_differ_by_run_question_and_trial():
    seeds = {
        request_seed(run, f"q{question}", trial)
        for run in range(3)
        for question in range(20)
        for trial in range(20)
    }
    assert len(seeds) == 3 * 20 * 20
    assert request_seed(1, "q1", 2) == request_seed(1, "q1", 2)
    assert request_seed(1, "q1", 11) != request_seed(1, "q11", 1)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert request_seed(0, "q0", 0) == 6130416345043729565  # sha256sum of "0\0q0\0" "0"
