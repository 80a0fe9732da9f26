"""Hydra's own sweeper, without composing every job once more: `spot` has checked them all before."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.core_plugins import basic_sweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from spot.config.text import quoted, without_schema


@dataclass
class CheckedSweeperConf(basic_sweeper.BasicSweeperConf):
    """Options of `hydra/sweeper: checked`, those of Hydra's `basic`."""

    _target_: str = "hydra_plugins.spot_checked_sweeper.CheckedSweeper"


ConfigStore.instance().store(
    group="hydra/sweeper", name="checked", node=CheckedSweeperConf, provider="spot"
)


class CheckedSweeper(basic_sweeper.BasicSweeper):
    """Expands `key=a,b` to jobs and hands them to the launcher."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Tell all jobs the sweep's folder: its name holds what was typed, of which a job knows its part."""
        folder = OmegaConf.select(config, "hydra.sweep.dir")
        with open_dict(config):
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(str(folder))}")
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    @staticmethod
    def split_arguments(
        overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """The overrides of every job, in batches."""
        overrides = [without_schema(override) for override in overrides]
        return basic_sweeper.BasicSweeper.split_arguments(overrides, max_batch_size)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing: `spot.config.compose.expand` has composed and checked every job.

        Just before they are launched, this lists the jobs for `spot runs`, which submitit does not.
        """
        assert self.config is not None
        if "submitit" in str(self.config.hydra.launcher._target_):
            from spot.pipeline import sweep_jobs

            jobs = [job for batch in self.overrides or () for job in batch]
            sweep_jobs.list_waiting(jobs, Path(str(self.config.hydra.sweep.dir)))
