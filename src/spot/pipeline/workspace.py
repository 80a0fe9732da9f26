"""`spot workspace`: a saved W&B view of all runs of a project, with the panels of Figures 2 to 5.

Its metrics are the columns of metrics.csv, its tables and summary values those of `spot.pipeline.tracking`.
Runs of an arm are one line, their mean, with the range over seeds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from spot.config.arguments import read
from spot.utils.errors import UserError
from spot.utils.files import check_output, notes, write_aside

NAME = "spot: Figures 2 to 5"
PROBES = "probe/.*"  # one column for each benchmark that is asked while training goes on

# section: (title of a panel, metric)
CURVES = {
    "Figures 3 and 4: loss and held-out rewards": [
        ("Training loss (Figure 3)", "loss"),
        ("Reward of y⁺ (Figure 4)", "held_out/rewards/chosen"),
        ("Reward of y⁻ (Figure 4)", "held_out/rewards/rejected"),
        ("Margin", "held_out/rewards/margins"),
    ],
    "Threshold, tether and distance": [
        ("δ", "delta"),
        ("Tether on y⁺", "tether/chosen"),
        ("Tether on y⁻", "tether/rejected"),
        ("KL to the reference, held out", "held_out/kl"),
        ("Entropy, held out", "held_out/entropy"),
    ],
    "Rounds after the first: distance to the first policy": [
        ("Reward of y⁺ to the base, held out", "held_out_to_base/rewards/chosen"),
        ("Reward of y⁻ to the base, held out", "held_out_to_base/rewards/rejected"),
        ("KL to the base, held out", "held_out_to_base/kl"),
    ],
    "Where the loss acts": [
        ("Gradient on the shared prefix", "gradients/shared"),
        ("Gradient on the edit of y⁺", "gradients/chosen_edited"),
        ("KL before the first edit", "held_out/kl/shared"),
        ("KL on the edit", "held_out/kl/edited"),
        ("KL behind the edit", "held_out/kl/after"),
    ],
    "Optimisation": [
        ("Gradient norm", "gradient_norm"),
        ("Learning rate", "learning_rate"),
        ("Tokens per second", "tokens_per_second"),
    ],
}
SCORES = ("score/average", "gain/average")  # summary values of a finished run


@dataclass
class Arguments:
    """Of `spot workspace`."""

    entity: str = MISSING  # user or team
    project: str = "spot"
    out: str | None = None


def command(arguments: Sequence[str]) -> None:
    """Save the workspace to W&B; with `out=`, or without a key, write its definition as JSON instead.

    The definition is what W&B keeps of a saved view. Raises UserError for unknown arguments.
    """
    _, given = read(Arguments, arguments, "workspace")
    path = Path(given.out or "workspace.json")
    check_output(path, "out")
    view = workspace(given.entity, given.project)
    if given.out is None and has_key():
        print(f"workspace: {view.save().url}", flush=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, definition(view) + "\n")
    why = "" if given.out else " (WANDB_API_KEY is not set; with a key it is saved to W&B)"
    print(f"workspace: {path}{why}", file=notes(path), flush=True)


def has_key() -> bool:
    """Whether W&B knows who this is: WANDB_API_KEY, or what `wandb login` left in .netrc."""
    from requests.utils import get_netrc_auth

    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return bool(os.environ.get("WANDB_API_KEY") or get_netrc_auth(host))


def workspace(entity: str, project: str) -> Any:
    """The view, as wandb-workspaces describes it."""
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError:
        raise UserError(
            "spot workspace needs wandb-workspaces: pip install 'spot[workspace]'."
        ) from None
    arm = ws.Config("arm")
    ability = wr.LinePlot(title="General ability over steps (Figure 2)", metric_regex=PROBES)
    distance = wr.CustomChart(
        query={"summaryTable": {"tableKey": "change_ratios"}},
        chart_name="wandb/histogram/v0",
        chart_fields={"value": "change_ratio"},
        chart_strings={"title": "Share of y⁺ that is not in y⁻ (Figure 5)"},
    )
    reached: list[Any] = [wr.BarPlot(title=name, metrics=[name]) for name in SCORES]
    sections = [
        ws.Section(name="Figures 2 and 5: ability and proximity", panels=[ability, distance]),
        *(
            ws.Section(name=name, panels=[wr.LinePlot(title=t, y=[m]) for t, m in curves])
            for name, curves in CURVES.items()
        ),
        ws.Section(name="Scores", panels=reached),
    ]
    for section in sections:
        section.is_open = True
    return ws.Workspace(
        name=NAME,
        entity=entity,
        project=project,
        sections=sections,
        auto_generate_panels=False,
        runset_settings=ws.RunsetSettings(
            groupby=[arm],
            order=[ws.Ordering(ws.Summary(SCORES[0]), ascending=False)],
            pinned_columns=[f"summary:{name}" for name in SCORES],
        ),
    )


def definition(view: Any) -> str:
    """A workspace as the JSON text that W&B stores for it."""
    return str(view._to_model().spec.model_dump_json(by_alias=True, exclude_none=True, indent=1))
