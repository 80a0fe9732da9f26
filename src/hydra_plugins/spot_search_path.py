"""Puts experiments/ on Hydra's search path, so that `+paper=table2` works from any directory."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


class SpotSearchPath(SearchPathPlugin):
    """Adds `experiments/paper/table2.yaml` as option `table2` of the group `paper`, and so on."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="spot", path=f"file://{EXPERIMENTS}")
