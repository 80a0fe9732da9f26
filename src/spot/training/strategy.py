"""Lightning strategies: one process on one device, or many under DeepSpeed, on GPUs or on processors.

Both load a checkpoint only when the model stands on its device, so that the frozen reference is scored
with the starting weights in a resumed run, too.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
from pytorch_lightning.accelerators import CUDAAccelerator
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.plugins.precision.deepspeed import DeepSpeedPrecision
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy

from spot.config import HardwareConfig
from spot.training.staging import Staging

if not torch.cuda.is_available():  # DeepSpeed warns otherwise, and takes a GPU for granted
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
CPU = torch.device("cpu")
PATIENCE = timedelta(hours=4)  # ranks wait for each other so long: rank 0 may write a terabyte


class OneDevice(SingleDeviceStrategy):
    """One process; the checkpoint comes after the model's set-up, as under DeepSpeed."""

    def __init__(self, staging: Staging, device: torch.device) -> None:
        super().__init__(device)
        self.staging = staging

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        self.staging.add(checkpoint, filepath)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True


class LeaveNumbersAlone(DeepSpeedPrecision):
    """Neither batches nor the module are cast: Lightning's own plugin makes −149.0 of −149.27 in bf16.

    The model is loaded in its dtype, and log-probs, losses and δ are fp32 by construction.
    """

    def __init__(self) -> None:
        super().__init__("32-true")

    def convert_input(self, data: Any) -> Any:
        return data

    def convert_module(self, module: torch.nn.Module) -> torch.nn.Module:
        return module


class Zero(DeepSpeedStrategy):
    """DeepSpeed's ZeRO, on processors, too (which Lightning's strategy refuses)."""

    def __init__(self, staging: Staging, **options: Any) -> None:
        super().__init__(**options)
        self.staging = staging

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        self.deepspeed_engine.checkpoint_engine.save = self.staging.add
        super().save_checkpoint(checkpoint, filepath)

    def setup_environment(self) -> None:
        if isinstance(self.accelerator, CUDAAccelerator):
            super().setup_environment()
            return
        assert self.parallel_devices is not None
        self.parallel_devices = [torch.device("cpu", i) for i in range(len(self.parallel_devices))]
        DDPStrategy.setup_environment(self)

    def training_step(self, *arguments: Any, **more: Any) -> Any:
        """Not through the engine: its forward pass is that of a pack, and a step may have several."""
        assert self.lightning_module is not None
        return self.lightning_module.training_step(*arguments, **more)

    def teardown(self) -> None:
        """Nothing: Lightning would copy weights and moments to the host, and the process ends anyway."""


def make_strategy(hardware: HardwareConfig, clip: float) -> Any:
    """The strategy that `hardware` asks for; `clip` bounds the global gradient norm."""
    staging = Staging(hardware)
    if not hardware.deepspeed:
        return OneDevice(staging, torch.device("cuda", 0) if hardware.device == "cuda" else CPU)
    if hardware.accelerator == "cpu":
        os.environ["DS_ACCELERATOR"] = (
            "cpu"  # also on a machine with GPUs; before DeepSpeed's import
        )
    return Zero(
        staging,
        config=zero_config(hardware, clip),
        precision_plugin=LeaveNumbersAlone(),
        cluster_environment=LightningEnvironment(),
        process_group_backend="nccl" if hardware.accelerator == "gpu" else "gloo",
        timeout=PATIENCE,
        exclude_frozen_parameters=True,
    )


def zero_config(hardware: HardwareConfig, clip: float) -> dict[str, Any]:
    """DeepSpeed's configuration.

    Under bf16 the gradients of a step's packs are added up in fp32; each pack's is summed over the
    ranks in bf16, as it was computed.
    """
    zero: dict[str, Any] = {
        "stage": hardware.zero_stage,
        "overlap_comm": hardware.overlap_comm and hardware.accelerator == "gpu",
        "contiguous_gradients": hardware.contiguous_gradients,
        "reduce_bucket_size": hardware.reduce_bucket,
        "allgather_bucket_size": hardware.gather_bucket,
    }
    if hardware.zero_stage == 3:
        zero |= {"stage3_prefetch_bucket_size": hardware.gather_bucket // 4}
    if hardware.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": hardware.accelerator == "gpu"}
    if hardware.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": hardware.accelerator == "gpu"}
    config: dict[str, Any] = {
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": clip,
        "train_micro_batch_size_per_gpu": 1,
    }
    if hardware.precision == "bf16":
        config |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    return config
