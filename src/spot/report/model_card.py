"""The card of a trained model: `README.md` in its folder, with front matter as the Hugging Face Hub reads it.

Everything in it comes from the manifests of the run's products and its resolved configuration. It is
written when training ends, and again, with scores, when the run is complete. A product's digest must
not cover it: the same weights may be made by two commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData

from spot.config import SFT_LIKE, arm_label
from spot.data import artifacts
from spot.report.load import FinishedRun, Study
from spot.report.style import cell, label, signed
from spot.report.tables import columns, score_table
from spot.utils.files import write_aside

CARD = "README.md"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LEARNED_FROM = {
    "rectified": "its own wrong responses, each corrected by an Oracle with the smallest edit",
    "direct": "its own wrong responses and an Oracle's own answers to the same questions",
    "self": "its own correct responses",
}
PAPER = "[surgical post-training](https://arxiv.org/abs/2603.01683)"


def write(
    products: Mapping[str, Path],
    config: Mapping[str, Any],
    command: str,
    number: int | None = None,
) -> Path:
    """Write the card of the model in `products["checkpoint"]` and return its path.

    `products` are folders of complete products by their name in run.json: `checkpoint` and `pairs`,
    any others, and for a table of scores `base_scores` and `scores`. `config` is the resolved
    configuration as plain values, `command` what repeats the run, `number` the round that trained the
    model, by default the last one.
    """
    number = number or config["rounds"]
    trained = artifacts.read_manifest(products["checkpoint"])
    sections = [
        _front_matter(config),
        _what(products, config, trained, number),
        _scores(products, config),
        _use(config),
        _training(config, trained, number),
        _data(products, trained),
        _made(config, command, trained),
        "## License\n\nNot set: it follows from the base model's and the data's. Add `license:` to "
        "the lines at the top before you publish this model.",
    ]
    path = products["checkpoint"] / "model" / CARD
    write_aside(path, "\n\n".join(section for section in sections if section) + "\n")
    return path


def hub_id(model: Mapping[str, Any]) -> str | None:
    """What the policy is called on the Hub; None for a folder and for a student made here."""
    path = model["path"]
    if path is None or Path(path).expanduser().is_dir() or not HUB_ID.fullmatch(path):
        return None
    return str(path)


def fenced(text: str, language: str = "") -> str:
    """A code block that nothing in the text can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the text of a cell is text, whatever it contains."""
    lines = [head, ["---"] * len(head), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _collapsed(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


# ---- sections ----------------------------------------------------------------------------------


def _front_matter(config: Mapping[str, Any]) -> str:
    """Only names from fixed lists and a checked hub id: nothing here can end it early."""
    base = hub_id(config["model"])
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=base,
        base_model_relation="finetune" if base else None,
        tags=["spot", "surgical-post-training", *_method_tags(config)],
    )
    return f"---\n{data.to_yaml()}\n---"


def _method_tags(config: Mapping[str, Any]) -> list[str]:
    names = [config["loss"]["name"], config["arm"], config["data"]["arm"]]
    return list(dict.fromkeys(str(name).replace("_", "-") for name in names if name))


def _what(
    products: Mapping[str, Path], config: Mapping[str, Any], trained: Mapping[str, Any], number: int
) -> str:
    model, data = config["model"], config["data"]
    name = hub_id(model) or model["name"]
    selected = artifacts.read_manifest(products["pairs"])["counts"].get(data["arm"], 0)
    count = selected - len(trained["details"].get("over_long", []))
    rounds = f"in {number} rounds, each from the model of the round before, and in the last "
    said = f"on {count:,} pair{'s' * (count != 1)} made from {LEARNED_FROM[data['arm']]}."
    return (
        f"# {cell(name)}, {cell(label(_method(config)))}\n\n"
        f"{cell(name)} after {PAPER} (SPoT): trained {rounds if number > 1 else ''}{said}"
    )


def _method(config: Mapping[str, Any]) -> str:
    return arm_label(config["arm"], config["loss"]["name"], config["data"]["arm"])


def _scores(products: Mapping[str, Path], config: Mapping[str, Any]) -> str:
    """The base and this model, where both were measured; the same numbers as in the run's report."""
    if not {"base_scores", "scores"} <= set(products):
        return ""
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
        gain = f"{signed(after.gain.value)} {signed(after.gain)}"
        shown = [
            f"{c.accuracy.value:.1f} [{c.accuracy.low:.1f}, {c.accuracy.high:.1f}]"
            for c in (before, after)
        ]
        rows.append([column.title, column.note, *shown, gain])
    return (
        "## Scores\n\nPercent correct with 95% intervals over questions; differences are paired by "
        "question. One training seed.\n\n"
        + table(["benchmark", "questions × trials", "before", "after", "difference"], rows)
    )


def _use(config: Mapping[str, Any]) -> str:
    sampling = config["generator"]
    chosen = ", ".join(f"{name}={sampling[name]}" for name in ("temperature", "top_p", "top_k"))
    code = f"""\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder, or its name on the Hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
prompt = tokenizer.apply_chat_template(
    [{{"role": "user", "content": "..."}}],
    add_generation_prompt=True,
    enable_thinking={config["model"]["thinking"]},
    return_dict=True,
    return_tensors="pt",
)
answer = model.generate(**prompt, max_new_tokens=1024, do_sample=True, {chosen})
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))"""
    return f"## Use\n\n{fenced(code, 'python')}"


def _training(config: Mapping[str, Any], trained: Mapping[str, Any], number: int) -> str:
    details = trained["details"]
    final = details.get("final", {})
    metrics = [(name, f"{value:.4g}") for name, value in final.items()]
    shown = [table(["", ""], _settings(config, trained, number))]
    if metrics:
        shown.append(_collapsed("Metrics of the last step", table(["metric", "value"], metrics)))
    return "\n\n".join(["## Training", *shown])


def _settings(
    config: Mapping[str, Any], trained: Mapping[str, Any], number: int
) -> list[tuple[str, object]]:
    """What was trained, how and on what; values as they were resolved."""
    model, data, loss = config["model"], config["data"], trained["settings"]["loss"]
    delta, policy = loss["delta"], model["path"] or model["name"]
    if number > 1:
        policy = f"the model of round {number - 1}, which began with {policy}"
    rows: list[tuple[str, object]] = [
        ("policy and reference", policy),
        ("revision of the policy", model["revision"]),
        ("method", f"{label(_method(config))} (loss={loss['name']}, data.arm={data['arm']})"),
        ("β", None if loss["name"] in SFT_LIKE else f"{loss['beta']:g}"),
        ("δ", f"{delta['mode']}, decay {delta['decay']:g}" if loss["name"] == "bco" else None),
        ("γ", f"{data['gamma']:g}" if data["arm"] == "rectified" else None),
        ("epochs", loss["epochs"]),
        ("pairs a step", loss["batch_pairs"]),
        ("optimiser steps", trained["details"].get("steps")),
        ("learning rate", f"{loss['learning_rate']:g}, {loss['schedule']}, warm-up {loss['warmup']:.0%}"),
        ("AdamW", f"β ({loss['adam_beta1']:g}, {loss['adam_beta2']:g}), weight decay {loss['weight_decay']:g}, gradients clipped at {loss['clip']:g}"),
        ("seed", config["seed"]),
        ("computed on", _hardware(config["hardware"])),
        ("attention, log-probs", ", ".join(trained["details"].get("kernels", {}).values()) or None),
        ("seconds", f"{trained['seconds']:.0f}"),
    ]  # fmt: skip
    return [(name, value) for name, value in rows if value is not None]


def _hardware(hardware: Mapping[str, Any]) -> str:
    ranks = hardware["nodes"] * hardware["devices"]
    kind = "GPU" if hardware["accelerator"] == "gpu" else "CPU process"
    plural = "" if ranks == 1 else "es" if kind.endswith("s") else "s"
    said = [f"{hardware['name']}: {ranks} {kind}{plural}"]
    if hardware["strategy"] == "deepspeed":
        said.append(f"DeepSpeed ZeRO-{hardware['zero_stage']}")
    masters = " with fp32 master weights" if hardware["precision"] == "bf16" else ""
    said.append(hardware["precision"] + masters)
    if hardware["optimizer"] == "adamw8bit":
        said.append("moments of 8 bits")
    return ", ".join(said)


def _data(products: Mapping[str, Path], trained: Mapping[str, Any]) -> str:
    """Counts and digests of what training read, and of what came before it where it is known."""
    manifests = {
        name: artifacts.read_manifest(products[name])
        for name in ("attempts", "rectifications", "pairs", "held_out")
        if name in products
    }
    digests = {name: manifest["digest"] for name, manifest in manifests.items()}
    digests |= trained["inputs"]  # what training really read, the policy among it
    rows = [
        (name.replace("_", " "), _counts(manifests.get(name, {})), digest)
        for name, digest in [*digests.items(), ("this model", trained["digest"])]
    ]
    return f"## Data\n\n{table(['product', 'rows', 'SHA-256'], rows)}"


def _counts(manifest: Mapping[str, Any]) -> str:
    counts = manifest.get("counts", {}).items()
    return ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in counts)


def _made(config: Mapping[str, Any], command: str, trained: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in trained["versions"].items())
    revision = trained["revision"] or "unknown"
    resolved = yaml.safe_dump(_public(dict(config)), sort_keys=False, allow_unicode=True, width=100)
    return "\n\n".join(
        [
            "## How to repeat it",
            fenced(re.sub(r"(?<==)/\S*/", "…/", command), "sh"),
            f"Git revision {cell(revision)}; {cell(versions)}.",
            _collapsed("The resolved configuration", fenced(resolved, "yaml")),
        ]
    )


def _public(value: Any) -> Any:
    """Values without the folders of this machine: the card is made for the Hub."""
    if isinstance(value, dict):
        return {key: _public(item) for key, item in value.items()}
    if isinstance(value, str) and Path(value).is_absolute():
        return f"…/{Path(value).name}"
    return value
