"""How near two ways of computing the same log-probs must come, by the dtype they are computed in."""

from __future__ import annotations

import torch
from torch import Tensor

# The largest difference of all tokens; in 16 bits, where a logit of 30 is rounded by 0.06, the mean.
BOUNDS = {torch.float64: 1e-6, torch.float32: 2e-3}
NARROW_BOUND = 0.25


def differ(ours: Tensor, own: Tensor, dtype: torch.dtype) -> bool:
    """Whether log-probs are further apart than rounding explains; NaN is."""
    off = (ours - own).abs()
    error = off.max() if dtype in BOUNDS else off.mean()
    return not error <= BOUNDS.get(dtype, NARROW_BOUND)
