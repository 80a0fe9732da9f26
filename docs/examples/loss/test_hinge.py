"""The hinge loss against values worked out by hand."""

import torch

from spot.training.losses import hinge


def test_hinge() -> None:
    chosen = torch.tensor([0.0, 0.5, 2.0], requires_grad=True)
    rejected = torch.tensor([0.0, 0.25, -1.0])
    loss, metrics = hinge(chosen, rejected)
    assert loss.tolist() == [1.0, 0.75, 0.0]  # no margin yet; a quarter; beyond 1
    assert metrics["tether/chosen"].tolist() == [1.0, 1.0, 0.0]
    loss.sum().backward()
    assert chosen.grad.tolist() == [-1.0, -1.0, 0.0]
