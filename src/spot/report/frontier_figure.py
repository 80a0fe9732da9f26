"""The figure of `spot.report.frontier`: gain in-domain against loss in general ability, by arm."""

from __future__ import annotations

from collections import defaultdict

from matplotlib.figure import Figure

from spot.report.frontier import frontier, points
from spot.report.load import FinishedRun, Study
from spot.report.style import SOFT, WIDE, colours, label


def draw(study: Study) -> Figure | None:
    """Each model of an arm, whatever its rate and steps, and its frontier."""
    by_arm: dict[str, list[FinishedRun]] = defaultdict(list)
    for run in study.runs:
        by_arm[run.arm].append(run)
    found = {arm: of for arm, runs in by_arm.items() if (of := points(study, runs))}
    if not found:
        return None
    palette = colours(list(found))
    figure = Figure(figsize=(WIDE, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=SOFT[0], linewidth=1)
    axes.axvline(0, color=SOFT[0], linewidth=1)
    for arm, of in found.items():
        best = frontier(of)
        axes.scatter([p.gain for p in of], [-p.general for p in of], s=18, color=palette[arm], alpha=0.45, linewidths=0)  # fmt: skip
        axes.plot(
            [p.gain for p in best], [-p.general for p in best], marker="o", markersize=5,
            color=palette[arm], linewidth=1.5, label=label(arm),
        )  # fmt: skip
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8.5, loc="lower left")
    axes.set_title("Forgetting at equal gain")
    axes.set_xlabel("in-domain, points gained")
    axes.set_ylabel("general ability, points lost")
    return figure
