"""How often training looks at its held-out pairs."""

from __future__ import annotations

from spot.config import ProbeConfig

SHARE = 0.02  # of a training on GPUs, that looking may take where probe.every is null


def steps_between(
    probe: ProbeConfig, accelerator: str, look: float, batch: float, steps: int
) -> int:
    """`probe.every`, or where it is null 1 on a CPU and on GPUs what takes SHARE of training at most.

    look, batch: forward FLOPs of the held-out pairs and of one step's pairs. A look is one forward pass,
    a step three (recomputed layers are left out: they only make steps dearer). Of n looks in all, those
    before the first and after the last of the `steps` are taken anyway: ⌈steps / (n − 2)⌉.
    """
    if probe.every is not None:
        return probe.every
    if accelerator == "cpu" or not look:
        return 1
    looks = int(SHARE * steps * 3 * batch / look)
    return steps if looks <= 2 else -(-steps // (looks - 2))
