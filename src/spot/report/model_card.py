"""The card of a trained model, `README.md` in its folder, and that of its pairs, as the Hugging Face Hub reads them.

Everything in it comes from the manifests of the run's products and its resolved configuration. It is
written when training ends, and again, with scores, when the run is complete. A product's digest must
not cover it: the same weights may be made by two commands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCardData, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from spot.config import LOSSES, arm_label
from spot.data import artifacts
from spot.report import style
from spot.report.load import FinishedRun, Study
from spot.report.style import signed
from spot.report.tables import columns, score_table
from spot.utils.files import write_aside
from spot.utils.redact import scrubbed

CARD = "README.md"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LEARNED_FROM = {
    "rectified": "its own wrong responses, each corrected by an Oracle with the smallest edit",
    "direct": "its own wrong responses and an Oracle's own answers to the same questions",
    "self": "its own correct responses",
}
Values = Mapping[str, Any]


def write(
    products: Mapping[str, Path], config: Values, command: str, number: int | None = None
) -> Path:
    """Write the card of the model in `products["checkpoint"]` and return its path.

    `products` are folders of complete products by their name in run.json: `checkpoint` and `pairs`,
    any others, and for a table of scores `base_scores` and `scores`. `config` is the resolved
    configuration as plain values, `command` what repeats the run, `number` the round that trained the
    model, by default the last one.
    """
    manifests = {name: artifacts.read_manifest(folder) for name, folder in products.items()}
    trained, arm = manifests["checkpoint"], config["data"]["arm"]
    selected = manifests["pairs"]["counts"].get(arm, 0)
    resolved = yaml.safe_dump(
        scrubbed(dict(config)), sort_keys=False, allow_unicode=True, width=100
    )
    text = (
        _environment()
        .get_template("model_card.md.j2")
        .render(
            config=config,
            trained=trained,
            loss=trained["settings"]["loss"],
            front_matter=_front_matter(config),
            name=_name(config["model"]),
            method=style.label(arm_label(config["arm"], config["loss"]["name"], arm)),
            number=number or config["rounds"],
            pairs=selected - len(trained["details"].get("over_long", [])),
            learned_from=LEARNED_FROM[arm],
            scores=_scores(products, config),
            products=_products(manifests),
            command=scrubbed(command),
            resolved=resolved,
            needs=LOSSES[trained["settings"]["loss"]["name"]],
        )
    )
    path = products["checkpoint"] / "model" / CARD
    write_aside(path, text)
    return path


def published(card: str, pairs: str | None, adapter: bool) -> str:
    """A model's card as it goes to the hub: it names the data set of its pairs, and what an adapter is."""
    told = ModelCard(card)
    data: Any = told.data  # what it holds is not in its type
    data.datasets = None if pairs is None else [pairs]
    if adapter:
        data.library_name, data.base_model_relation = "peft", "adapter"
    return str(told)


def pairs_card(run: FinishedRun, pairs: int, repo: str) -> str:
    """The card of a run's pairs as a data set of the hub, `repo`."""
    config, counts = run.record["config"], run.manifest("pairs")["counts"]
    arm = config["data"]["arm"]
    data = DatasetCardData(
        task_categories=["text-generation"],
        tags=["spot", "surgical-post-training", "preference"],
        configs=[
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}
        ],
    )
    return (
        _environment()
        .get_template("pairs_card.md.j2")
        .render(
            front_matter=str(data.to_yaml()),
            repo=repo,
            pairs=pairs,
            name=_name(config["model"]),
            learned_from=LEARNED_FROM[arm],
            gamma=config["data"]["gamma"] if arm == "rectified" else None,
            oracle=scrubbed(config["oracle"]["model"] or config["oracle"]["kind"]),
            answer_format=config["data"]["answer_format"],
            dropped=[(k.replace("_", " "), n) for k, n in counts.items() if k != arm],
        )
    )


def hub_id(model: Values) -> str | None:
    """What the policy is called on the Hub; None for a folder and for a student made here."""
    path = model["path"]
    if path is None or Path(path).expanduser().is_dir() or not HUB_ID.fullmatch(path):
        return None
    return str(path)


def _name(model: Values) -> str:
    """What a card calls the policy, without the place of its folder."""
    return str(scrubbed(hub_id(model) or model["name"]))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("spot.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": style.cell, "fence": style.fence}
    return environment


def _front_matter(config: Values) -> str:
    """Only names from fixed lists and a checked hub id: nothing here can end it early."""
    base = hub_id(config["model"])
    names = [config["loss"]["name"], config["arm"], config["data"]["arm"]]
    methods = dict.fromkeys(str(name).replace("_", "-") for name in names if name)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=base,
        base_model_relation="finetune" if base else None,
        tags=["spot", "surgical-post-training", *methods],
    )
    return str(data.to_yaml())


def _scores(products: Mapping[str, Path], config: Values) -> list[list[str]]:
    """The base and this model, where both were measured; the same numbers as in the run's report."""
    if not {"base_scores", "scores"} <= set(products):
        return []
    record = {name: config[name] for name in ("arm", "seed", "study")} | {
        "config": config,
        "overrides": [],
        "products": {name: str(folder.resolve()) for name, folder in products.items()},
    }
    study = Study([FinishedRun(Path(), record)], [])
    base, trained = score_table(study)
    rows = []
    for column, before, after in zip(columns(study), base.cells, trained.cells, strict=True):
        assert after.gain is not None
        accuracies = [
            f"{e.value:.1f} [{e.low:.1f}, {e.high:.1f}]" for e in (before.accuracy, after.accuracy)
        ]
        gain = f"{signed(after.gain.value)} {signed(after.gain)}"
        rows.append([column.title, column.note, *accuracies, gain])
    return rows


def _products(manifests: Mapping[str, Values]) -> list[tuple[str, str, str]]:
    """Name, counts and digest of what training read, and of what came before it where it is known."""
    before = ("attempts", "rectifications", "pairs", "held_out")
    digests = {name: manifests[name]["digest"] for name in before if name in manifests}
    digests |= manifests["checkpoint"]["inputs"]  # what training really read, the policy among it
    rows = []
    for name, digest in digests.items():
        counts = manifests.get(name, {}).get("counts", {}).items() if name in before else ()
        listed = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in counts)
        rows.append((name.replace("_", " "), listed, digest))
    return [*rows, ("this model", "", manifests["checkpoint"]["digest"])]
