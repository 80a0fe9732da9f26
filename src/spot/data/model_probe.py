"""A model's configuration, tokenizer and chat template, tried in a process that may be killed.

They are files of others: a template may loop for ever or write until the memory is gone, a tokenizer's
pattern may take exponential time. So they are used once here, within limits and without torch, before
anything else reads them.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import resource
import subprocess
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from spot.config.groups import ALL_LINEAR
from spot.utils import digests
from spot.utils.errors import UserError, first_line

SECONDS = 4  # of computing, for each of the three
WALL_SECONDS = 60.0  # for everything, with the start of the process
GIBIBYTES = 4
LONGEST = 100_000  # characters that a template may write around a short question
FILES = ("config.json", "generation_config.json", "token*", "*.jinja", "vocab*", "merges.txt")
OUTER = ("embed_tokens", "lm_head")  # the latter is no file's where words and head are one
TOKENIZERS = ("tokenizer.json", "*.model", "vocab*", "*.tiktoken", "tekken.json")  # one is needed
SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings",
)  # fmt: skip
HEADS = ("num_attention_heads", "n_head", "n_heads")  # how families call them in config.json
CONVERT = "convert them as docs/security.md shows, and give that folder"
PARTS = {"config": "config.json", "tokenizer": "tokenizer", "template": "chat template"}
_good: set[str] = set()  # digests of files that were tried in this process


def untrained(folder: Path) -> str:
    """Why the model in `folder` cannot be trained, as far as its config.json tells; empty where it may be.

    Raises UserError where it cannot be used at all. Imports nothing: this is said at once.
    """
    config = _read(folder / "config.json")
    within = config.get("text_config")
    text = config | within if isinstance(within, dict) else config
    for name in (*SIZES, *HEADS):
        if text.get(name) is not None and not (type(text[name]) is int and text[name] > 0):
            raise UserError(
                f"{folder / 'config.json'} has {name}={str(text[name])[:40]}, which must be a whole number "
                "above 0: copy the model's own again."
            )
    if text is not config or config.get("is_encoder_decoder"):
        return "it is no model of text alone"
    if not any(text.get(name) for name in HEADS):
        return "its config.json names no attention heads"
    library = importlib.util.find_spec("transformers")  # where it is, not what is in it
    family = str(config.get("model_type", "")).replace("-", "_")
    folders = library.submodule_search_locations if library else None
    code = [f for root in folders or () for f in Path(root, "models", family).glob("modeling_*.py")]
    if code and not any("ALL_ATTENTION_FUNCTIONS" in f.read_text(encoding="utf-8") for f in code):
        return "its attention in transformers cannot be replaced (ALiBi, as a rule)"
    return ""


def matrices(folder: Path) -> set[str]:
    """Names of the matrices in the safetensors files of a folder, from their headers; of damaged ones none."""
    found = set()
    for file in folder.glob("*.safetensors"):
        with suppress(OSError, ValueError), file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
            found |= {
                name.removesuffix(".weight")
                for name, tensor in header.items()
                if name.endswith(".weight") and len(tensor["shape"]) == 2
            }
    return found


def check_targets(targets: Sequence[str], modules: Collection[str]) -> None:
    """Raise UserError where adapters are asked for at what is no matrix of a layer of the model.

    modules: dotted names of matrices. Words and the head, which stand outside of the layers, get none.
    """
    inner = {name for name in modules if any(part.isdecimal() for part in name.split("."))}
    names = sorted({name.rpartition(".")[2] for name in inner})
    for target in targets:
        if target == ALL_LINEAR or any(f".{name}".endswith(f".{target}") for name in inner):
            continue
        if target in OUTER or any(f".{name}".endswith(f".{target}") for name in modules):
            raise UserError(
                f"model.lora.targets names {target}, and words and the head get no adapter: choose from "
                f"{', '.join(names)}."
            )
        near = difflib.get_close_matches(target, names, n=3, cutoff=0.5) or names
        raise UserError(
            f"model.lora.targets names {target}, which this model has not: {' or '.join(near)}?"
        )


def probe(folder: Path) -> None:
    """Raise UserError where configuration, tokenizer or chat template cannot be used.

    What was tried before in this process costs nothing.
    """
    if not has_tokenizer(folder):
        raise no_tokenizer(folder)
    untrained(folder)
    refuse_pickled(folder)
    digest = _digest(folder)
    if digest not in _good:
        _try_apart(folder)
        _good.add(digest)


def refuse_pickled(folder: Path) -> None:
    """Raise UserError where a model has no other weights: reading them could run what is in them."""
    if not any(folder.glob("*.safetensors")) and any(folder.glob("*.bin")):
        raise UserError(
            f"{folder} has pickled weights only, which may run code when they are read: {CONVERT}."
        )


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has any file that a tokenizer is made of."""
    return any(any(folder.glob(pattern)) for pattern in TOKENIZERS)


def no_tokenizer(folder: Path) -> UserError:
    """What is said where it has none."""
    return UserError(
        f"{folder} holds no tokenizer.json: copy the model's tokenizer.json and tokenizer_config.json "
        "there."
    )


def unreadable(folder: Path, error: BaseException) -> str:
    """What is said of a tokenizer or a configuration that cannot be loaded."""
    if "trust_remote_code" in str(error):
        return needs_code(folder)
    return (
        f"The tokenizer or config.json in {folder} cannot be read ({first_line(error)}): copy the model's "
        "files again."
    )


def needs_code(folder: Path) -> str:
    """What is said of a model that is a program of its own, which nobody here has read."""
    return (
        f"The model in {folder} needs code of its own (auto_map), which is never run: choose one whose "
        "architecture transformers has."
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{file} cannot be read ({first_line(error)}): copy the model's again."
        ) from error
    return found


def _digest(folder: Path) -> str:
    found = {path.name for pattern in FILES for path in folder.glob(pattern) if path.is_file()}
    return json.dumps(digests.hash_files(folder, sorted(found)))


def _try_apart(folder: Path) -> None:
    command = [sys.executable, "-P", "-m", __name__, str(folder.absolute())]
    quiet = os.environ | {"TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=WALL_SECONDS, env=quiet
        )
        lines = done.stdout.decode(errors="replace").splitlines()
    except subprocess.TimeoutExpired as error:
        lines = (error.stdout or b"").decode(errors="replace").splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    if found and found[-1].get("part") == "end":
        return
    if found and "error" in found[-1]:
        raise UserError(found[-1]["error"])
    part = PARTS[found[-1]["part"]] if found else "files"
    raise UserError(
        f"The {part} of the model in {folder} takes more than {SECONDS} s or {GIBIBYTES} GiB to use: "
        "copy the model's own again."
    )


# ---- in the process apart ------------------------------------------------------------------------


def _main(folder: Path) -> None:
    sys.modules["torch"] = None  # type: ignore[assignment]  # transformers does without, three times faster
    from transformers import AutoConfig, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as OWN

    most = GIBIBYTES << 30
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        _begin("config")
        config = AutoConfig.from_pretrained(folder, **where)
        if (
            "AutoModelForCausalLM" in getattr(config, "auto_map", ())
            and config.model_type not in OWN
        ):
            raise UserError(needs_code(folder))
        _begin("tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(folder, **where)
        tokenizer("1 + 1 = 2. " + "a" * 200 + " " * 200 + "1" * 200)
        _begin("template")
        _try_template(tokenizer)
        _say(part="end")
    except UserError as error:
        _say(error=str(error))
    except MemoryError:
        pass  # the last part that began is named
    except BaseException as error:  # Rust's panics are no Exceptions
        _say(error=unreadable(folder, error))


def _begin(part: str) -> None:
    """From now on this part computes for so many seconds at most."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + 1 + SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
    _say(part=part)


def _say(**line: str) -> None:
    print(json.dumps(line), flush=True)


def _try_template(tokenizer: Any) -> None:
    from spot.data import chat

    chat.check(tokenizer)
    text = chat.write(tokenizer, chat.user("1 + 1"), add_generation_prompt=True)
    if len(text) > LONGEST:
        raise UserError(
            f"The chat template writes {len(text):,} characters around a short question: copy the model's "
            "own again."
        )


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
