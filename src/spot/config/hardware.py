"""What a run is computed on, and what it keeps: the groups `hardware`, `save` and `plan`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from spot.config.missing import MISSING
from spot.utils.errors import UserError, in_range, one_of


@dataclass
class HardwareConfig:
    """What training runs on. `nodes` × `devices` processes share every optimiser step's pairs."""

    name: str = MISSING
    accelerator: str = "cpu"  # cpu | gpu
    nodes: int = 1
    devices: int = 1  # processes of a node; on GPUs, one each
    strategy: str = "single"  # single (one process) | deepspeed
    precision: str = "fp32"  # fp32 | bf16 (with fp32 master weights, log-probs and losses)
    optimizer: str = "adamw"  # adamw | adamw8bit (moments of 8 bits; single only)
    threads: int | None = None  # of torch on a CPU, per process; null: torch's own choice
    tokens_per_pack: int = 8192  # the largest forward pass; pairs that are longer are dropped
    attention: str = "auto"  # auto | sdpa | varlen | flash
    logprobs: str = "torch"  # torch | liger (a GPU's fused kernel, if its numbers agree)
    fused: str = "auto"  # norms, rotary embeddings and SwiGLU: auto | liger | none (see `fuses`)
    checkpoint_layers: str = "none"  # auto | all | none | how many
    deterministic: bool = False  # the same bits on the same GPUs, by slower kernels
    memory_gib: float | None = None  # of a device, for checkpoint_layers=auto; null: what it has
    tflops: float | None = None  # of a device at this precision, dense; for `spot plan`
    zero_stage: int = 2  # what ranks share: 1 optimiser state | 2 and gradients | 3 and weights
    offload_optimizer: bool = False  # masters, moments and the update on the host's processor
    offload_parameters: bool = False  # weights too, on the host; stage 3 only
    overlap_comm: bool = True  # reduce gradients while the backward pass goes on
    contiguous_gradients: bool = True
    reduce_bucket: int = 200_000_000  # elements that are reduced together
    gather_bucket: int = 200_000_000  # elements that are gathered together

    def __post_init__(self) -> None:
        one_of("hardware.accelerator", self.accelerator, ("cpu", "gpu"))
        one_of("hardware.strategy", self.strategy, ("single", "deepspeed"))
        one_of("hardware.precision", self.precision, ("fp32", "bf16"))
        one_of("hardware.optimizer", self.optimizer, ("adamw", "adamw8bit"))
        one_of("hardware.attention", self.attention, ("auto", "sdpa", "varlen", "flash"))
        one_of("hardware.logprobs", self.logprobs, ("torch", "liger"))
        one_of("hardware.fused", self.fused, ("auto", "liger", "none"))
        for name in (
            *("nodes", "devices", "threads", "tokens_per_pack", "reduce_bucket", "gather_bucket"),
        ):
            in_range(f"hardware.{name}", getattr(self, name), 1)
        in_range("hardware.zero_stage", self.zero_stage, 1, 3)
        in_range("hardware.memory_gib", self.memory_gib, 0, open_low=True)
        in_range("hardware.tflops", self.tflops, 0, open_low=True)
        if not (
            self.checkpoint_layers in ("auto", "all", "none") or self.checkpoint_layers.isdecimal()
        ):
            raise UserError(
                f"hardware.checkpoint_layers={self.checkpoint_layers} is unknown: choose auto, all, "
                "none or a number of layers."
            )
        loose = self.attention == "flash" or "liger" in (self.logprobs, self.fused)
        if self.deterministic and loose:
            raise UserError(
                "hardware.deterministic=true knows no order of additions in flash-attn and Liger: choose "
                "hardware.attention=varlen or sdpa, hardware.logprobs=torch and hardware.fused=auto."
            )
        self._check_strategy()

    def _check_strategy(self) -> None:
        """Refuse what the chosen strategy cannot do."""
        if self.strategy == "single" and self.ranks > 1:
            raise UserError(
                f"hardware.nodes × hardware.devices = {self.ranks} processes need "
                "hardware.strategy=deepspeed."
            )
        if self.strategy == "deepspeed" and self.optimizer != "adamw":
            raise UserError(
                f"hardware.optimizer={self.optimizer} is for hardware.strategy=single: DeepSpeed "
                "divides the moments over the ranks instead."
            )
        if self.strategy == "single" and (self.offload_optimizer or self.offload_parameters):
            raise UserError("hardware.offload_…=true needs hardware.strategy=deepspeed.")
        if self.offload_parameters and self.zero_stage < 3:
            raise UserError("hardware.offload_parameters=true needs hardware.zero_stage=3.")

    @property
    def ranks(self) -> int:
        """Processes in all."""
        return self.nodes * self.devices

    def decisive(self) -> dict[str, Any]:
        """What decides a training's numbers, if only their last bits, and which pairs fit a pack.

        What came later, `fused` and `deterministic`, is named where it changes something: trainings
        without it keep the names they had before.
        """
        idle = ["name", "memory_gib", "tflops", "fused"]
        if not self.deterministic:
            idle.append("deterministic")
        if not self.deepspeed:
            idle += ["zero_stage", "offload_optimizer", "offload_parameters", "overlap_comm"]
            idle += ["contiguous_gradients", "reduce_bucket", "gather_bucket"]
        named = {key: value for key, value in asdict(self).items() if key not in idle}
        return named | ({"fused": "liger"} if self.fuses else {})

    @property
    def fuses(self) -> bool:
        """Whether one kernel each computes norms, rotary embeddings and SwiGLU, of layers that are known."""
        wanted = self.accelerator == "gpu" and self.precision == "bf16"
        return self.fused == "liger" or (self.fused == "auto" and wanted and not self.deterministic)

    @property
    def device(self) -> str:
        """torch's name of the kind of device."""
        return "cuda" if self.accelerator == "gpu" else "cpu"

    @property
    def deepspeed(self) -> bool:
        return self.strategy == "deepspeed"

    @property
    def apart(self) -> bool:
        """Whether every rank is a process of its own, with whose end all GPU memory is free again."""
        return self.deepspeed or self.accelerator == "gpu"

    @property
    def in_parts(self) -> bool:
        """Whether each rank holds only a part of the weights."""
        return self.deepspeed and self.zero_stage == 3


@dataclass
class SaveConfig:
    """What training leaves on disk besides the trained model."""

    minutes: float = 10.0  # between resumable checkpoints; the last step has none
    every: int | None = None  # optimiser steps between them instead; null: by minutes
    optimizer: bool = True  # false: no resumable checkpoints; a killed training starts again
    exports: int = 0  # steps between weights that can be evaluated later; 0: the trained ones only
    dtype: str | None = None  # of exported weights: fp32 | bf16; null: hardware.precision

    def __post_init__(self) -> None:
        in_range("save.minutes", self.minutes, 0)
        in_range("save.every", self.every, 1)
        in_range("save.exports", self.exports, 0)
        if self.dtype is not None:
            one_of("save.dtype", self.dtype, ("fp32", "bf16"))


@dataclass
class PlanConfig:
    """What `spot plan` assumes where there is nothing to measure yet."""

    utilisation: float = 0.4  # share of hardware.tflops that a training step reaches
    prompt_tokens: int = 150  # mean, with the chat template
    response_tokens: int = 1800  # mean; the paper's data have not been published
    variation: float = 0.7  # of response lengths: their standard deviation ÷ their mean
    shared: float = 0.5  # share of a response that y⁺ and y⁻ have in common at its start
    bandwidth: float = 2.0  # TB/s that generation reads weights, keys and values at, on one GPU
    tokens_per_second: float | None = None  # generated by all servers together; null: by bandwidth
    oracle_seconds: float = 60.0  # of one reply of a paid Oracle
    start_seconds: float = 60.0  # of a training's processes, and of a model's servers
    seeds: int = 5  # of each arm, for what can be decided
    worlds: int = 1  # in which each of them is trained
    runs: str | None = None  # finished ones, or their archive: correlations are measured there
    repeat_correlation: float = 0.6  # of two answers of one arm to one question, right or wrong
    model_correlation: float = 0.45  # of an answer each of two models
    seed_spread: float = 1.0  # percent points by which seeds of an arm differ: standard deviation
    world_spread: float = 2.0  # by which a difference does from world to world

    def __post_init__(self) -> None:
        in_range("plan.utilisation", self.utilisation, 0, 1, open_low=True)
        in_range("plan.prompt_tokens", self.prompt_tokens, 1)
        in_range("plan.response_tokens", self.response_tokens, 1)
        in_range("plan.variation", self.variation, 0)
        in_range("plan.shared", self.shared, 0, 1)
        for name in ("bandwidth", "tokens_per_second", "oracle_seconds"):
            in_range(f"plan.{name}", getattr(self, name), 0, open_low=True)
        in_range("plan.start_seconds", self.start_seconds, 0)
        in_range("plan.seeds", self.seeds, 1)
        in_range("plan.worlds", self.worlds, 1)
        in_range("plan.repeat_correlation", self.repeat_correlation, 0, 1)
        in_range("plan.model_correlation", self.model_correlation, 0, self.repeat_correlation)
        in_range("plan.seed_spread", self.seed_spread, 0)
        in_range("plan.world_spread", self.world_spread, 0)


def too_few_gpus(wanted: int, found: int) -> str:
    """What is said where a machine has fewer than `hardware.devices`."""
    return (
        f"hardware.accelerator=gpu needs a CUDA device for each of hardware.devices={wanted} and "
        f"sees {found}: choose hardware=cpu, or as many devices as there are."
    )
