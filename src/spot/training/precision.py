"""fp32 master weights beside a bf16 model: what the optimiser moves.

bf16 keeps 8 bits of a weight: at a learning rate of 1e-6 an update of a weight above 5e-4 would round
to nothing. So the optimiser moves fp32 copies, and the model gets them rounded after every step.
Gradients of a step's packs are added up in fp32, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class MasterWeights:
    """fp32 copies of parameters, in their order. Gradients move over as soon as they are complete."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.model = list(parameters)
        self.masters = [Parameter(p.detach().float()) for p in self.model]
        for parameter, master in zip(self.model, self.masters, strict=True):
            parameter.register_post_accumulate_grad_hook(_mover(master))

    def publish(self) -> None:
        """Round the masters into the model."""
        with torch.no_grad():
            for parameter, master in zip(self.model, self.masters, strict=True):
                parameter.copy_(master)

    def state_dict(self) -> list[Tensor]:
        return [master.detach() for master in self.masters]

    def load_state_dict(self, state: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for master, saved in zip(self.masters, state, strict=True):
                master.copy_(saved)
        self.publish()


def _mover(master: Parameter):  # type: ignore[no-untyped-def]
    """A hook that adds a bf16 gradient to its master's and lets it go."""

    def move(parameter: Tensor) -> None:
        assert parameter.grad is not None
        gradient = parameter.grad.float()
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)
        parameter.grad = None

    return move
