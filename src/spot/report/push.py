"""`spot push`: a finished run on the Hugging Face Hub, by the hub's own client.

The model's repository holds the trained checkpoint (of LoRA the adapter), its card and its scores in the
hub's layout, a file of `.eval_results/` for each benchmark (https://huggingface.co/docs/hub/eval-results);
a data set's holds the pairs as TRL reads them, which `data=pairs` takes. Both are private unless asked. What
goes up is laid out in a folder first, weights as links; no path of this machine is in it.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.filesize import decimal

from spot.data import artifacts
from spot.data.rows import Pair
from spot.report import model_card, trainers
from spot.report.load import FinishedRun, load
from spot.utils.errors import UserError, first_line
from spot.utils.redact import scrubbed

SCORES = ".eval_results"
PAIRS = "data/train-00000-of-00001.parquet"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")
STALE = {  # of an earlier push; an adapter's settings beside all weights would be read first
    "model": [*WEIGHTS, "adapter/*", "adapter_config.json"],
    "dataset": ["data/*"],
}
FOUND_AT = ("_name_or_path", "name_or_path", "base_model_name_or_path")  # where weights were read


@dataclass(frozen=True)
class Upload:
    """A repository and the folder that it gets."""

    repo: str
    kind: str  # model | dataset
    folder: Path


def push(
    folder: Path, repo: str, pairs: str | None, *, public: bool, merged: bool, dry: bool
) -> None:
    """Send the finished run in `folder` to `repo` and its pairs to `pairs`; None: they stay here.

    merged: all weights of LoRA, not the adapter alone. dry: only say which files would go where. Raises
    UserError for what the hub refuses; called again it sends what is missing.
    """
    (run,), _ = load(folder)
    with tempfile.TemporaryDirectory(prefix="spot-push-") as place:
        uploads = lay_out(run, repo, pairs, merged, Path(place))
        if not dry:
            artifacts.verify(run.product("checkpoint"), "model/*")
            return _send(uploads, public)
        print(f"dry run of spot push: nothing is sent. {folder} would give")
        for each in uploads:
            print(f"  {each.kind} {each.repo} ({'public' if public else 'private'})")
            for file in sorted(file for file in each.folder.rglob("*") if file.is_file()):
                size, name = decimal(file.stat().st_size), file.relative_to(each.folder)
                print(f"    {size:>10}  {name.as_posix()}")


def lay_out(
    run: FinishedRun, repo: str, pairs_repo: str | None, merged: bool, folder: Path
) -> list[Upload]:
    """What goes up, in folders below `folder`."""
    pairs = [pair for pair in run.pairs() if pair.rejected is not None]
    if pairs_repo is None or not pairs:
        _lay_out_model(run, merged, None, folder / "model")
        return [Upload(repo, "model", folder / "model")]
    _lay_out_model(run, merged, pairs_repo, folder / "model")
    table = folder / "pairs" / PAIRS
    table.parent.mkdir(parents=True)
    trainers.write_parquet(table, [_row(pair) for pair in pairs])
    card = model_card.pairs_card(run, len(pairs), pairs_repo)
    (folder / "pairs" / model_card.CARD).write_text(card, encoding="utf-8")
    return [
        Upload(repo, "model", folder / "model"),
        Upload(pairs_repo, "dataset", folder / "pairs"),
    ]


def _row(pair: Pair) -> dict[str, Any]:
    """A pair as TRL reads one, with its true answer and what was measured."""
    kept = ("id", "question_id", "task", "answer", "change_ratio", "common_prefix")
    return trainers.trl_pair(pair) | {name: getattr(pair, name) for name in kept}


# ---- the model ---------------------------------------------------------------------------------


def _lay_out_model(run: FinishedRun, merged: bool, pairs: str | None, out: Path) -> None:
    model = run.product("checkpoint") / "model"
    base = model_card.hub_id(run.record["config"]["model"])
    adapter = model / "adapter"
    alone = adapter.is_dir() and base is not None and not merged
    card = model / model_card.CARD
    if not card.is_file():
        raise UserError(f"{card} is missing: run the command of the run again, which writes it.")
    for file in sorted(model.rglob("*")):
        name = file.relative_to(model)
        if not file.is_file() or file.name == model_card.CARD:
            continue
        if alone and adapter in file.parents:
            name = file.relative_to(adapter)
        elif alone and any(file.match(pattern) for pattern in WEIGHTS):
            continue
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        if (settings := _without_places(file, base)) is None:
            (out / name).symlink_to(file)
        else:
            (out / name).write_text(settings, encoding="utf-8")
    text = model_card.published(card.read_text(encoding="utf-8"), pairs, adapter=alone)
    (out / model_card.CARD).write_text(text, encoding="utf-8")
    for benchmark, entries in eval_results(run).items():
        (out / SCORES).mkdir(exist_ok=True)
        text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)
        (out / SCORES / f"{benchmark}.yaml").write_text(text, encoding="utf-8")


def _without_places(file: Path, base: str | None) -> str | None:
    """A file of settings without the folders that it names; None: it names none."""
    if not file.name.endswith("config.json"):
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    told = {key: values[key] for key in FOUND_AT if isinstance(values.get(key), str)}
    hidden = {
        key: value if value == base else base or scrubbed(value) for key, value in told.items()
    }
    return None if hidden == told else json.dumps(values | hidden, indent=2) + "\n"


def eval_results(run: FinishedRun) -> dict[str, list[dict[str, Any]]]:
    """Scores by benchmark, as the files of `.eval_results` have them, accuracy in percent.

    Only those of a whole data set of the hub: others are none of its benchmarks. `task_id` is the data
    set's subset, or `default`.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    group, found = run.record["config"]["benchmarks"], {}
    for name, task in group["tasks"].items():
        if not task["hub"] or task["path"] or task["questions"] or name not in run.scores:
            continue
        summary = run.summary(name)
        of = summary.accuracy
        entry = EvalResultEntry(
            dataset_id=task["hub"],
            task_id=task["subset"] or "default",
            value=round(of.value, 2),
            dataset_revision=None if group["folder"] else task["revision"],
            date=run.record["finished"][:10],
            notes=f"{summary.trials} trials of {of.questions} questions, 95% interval over questions "
            f"{of.low:.1f} to {of.high:.1f}",
        )
        found[name] = eval_result_entries_to_yaml([entry])
    return found


# ---- the hub -----------------------------------------------------------------------------------


def _send(uploads: list[Upload], public: bool) -> None:
    """Make the repositories, send what they lack, and only then show them, if they are to be public."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    api = HfApi()
    repo = ""
    try:
        for each in uploads:
            repo = each.repo
            api.create_repo(repo, repo_type=each.kind, private=True, exist_ok=True)
            if not public and not api.repo_info(repo, repo_type=each.kind).private:
                raise UserError(f"{repo} is public already: add public=true, or name another.")
        for each in uploads:
            repo = each.repo
            done = api.upload_folder(
                repo_id=repo,
                repo_type=each.kind,
                folder_path=each.folder,
                commit_message="Upload from spot push",
                delete_patterns=STALE[each.kind],
            )
            if public:
                api.update_repo_settings(repo, repo_type=each.kind, private=False)
            print(f"{each.kind}: {api.endpoint}/{_address(each)} at {done.oid}", flush=True)
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise UserError(_explained(error, repo)) from error


def _address(upload: Upload) -> str:
    return f"datasets/{upload.repo}" if upload.kind == "dataset" else upload.repo


def _explained(error: BaseException, repo: str) -> str:
    """What the hub refused, and the next step."""
    from huggingface_hub.errors import HfHubHTTPError

    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    why = getattr(error, "server_message", None) or first_line(error.__cause__ or error)
    step = {
        401: "set HF_TOKEN to a token that is valid",
        403: "set HF_TOKEN to a token that may write there",
        404: "set HF_TOKEN to a token that may write there",
        409: "another upload is going on there: try later",
    }.get(status or 0, "run the same command again, which sends only what is missing")
    said = f"the hub answered {status} for {repo}" if status else f"{repo} was not sent whole"
    return f"{said} ({' '.join(why.split())}): {step}."
