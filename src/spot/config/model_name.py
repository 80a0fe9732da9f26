"""What a model is called in rows, reports and cards: as its folder or its entry on the hub."""

from __future__ import annotations

import re
from pathlib import Path

# What a folder is called whatever the model: those above it say which one.
FORMAL = re.compile(
    r"(hf|huggingface|model|weights|checkpoints?|ckpt|step|epoch|iter|global_step|actor|policy|snapshots?"
    r"|export|output|final|last|latest|best|main|merged|safetensors|v?\d+|[0-9a-f]{7,64})([-_=.]?\d+)*",
    re.IGNORECASE,
)
HOMES = ("home", "users", "user", "root")  # folders whose children are people, or that are one's
# Folders that say nothing of a model.
PLACES = ("/", "tmp", "data", "mnt", "models", "outputs", "products", "train")


def model_name(path: str) -> str:
    """`Qwen3-8B` for /data/Qwen3-8B, Qwen/Qwen3-8B and a snapshot of it; `Qwen3-8B/hf` for …/Qwen3-8B/hf.

    A folder with a formal name gets those above it in front, up to the first that is telling. No home
    and no drive is told.
    """
    parts = list(Path(path).expanduser().absolute().parts if _is_local(path) else Path(path).parts)
    if "snapshots" in parts and parts[parts.index("snapshots") - 1].startswith("models--"):
        return parts[parts.index("snapshots") - 1].split("--")[-1]
    names = [parts.pop()]
    while FORMAL.fullmatch(names[0]) and parts:
        above = parts.pop()
        if above.lower() in (*HOMES, *PLACES) or (parts and parts[-1].lower() in HOMES[:3]):
            break
        names.insert(0, above)
    return "/".join(names)


def _is_local(path: str) -> bool:
    return path.startswith(("/", ".", "~")) or Path(path).expanduser().is_dir()
