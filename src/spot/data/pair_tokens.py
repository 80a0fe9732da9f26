"""Token ids of selected pairs, beside their rows: who trains on them need not tokenise again.

In the folder `tokens` of a product: names [pairs], lengths [pairs, 3] of prompts, y⁺ and y⁻ (0 where
there is none), ids [tokens] of all of them one after the other. A product's digest is of its rows alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spot.data import artifacts
from spot.utils.files import write_folder_aside

FOLDER = "tokens"
Ids = NDArray[np.int32]
TokenIds = tuple[Ids, Ids, Ids | None]  # of the prompt, y⁺ and y⁻


def write(folder: Path, pairs: Mapping[str, TokenIds]) -> None:
    """Keep the ids of pairs, by the pair's own id, in a product that is being made."""
    nothing = np.empty(0, np.int32)
    parts = [nothing if ids is None else ids for pair in pairs.values() for ids in pair]
    arrays = {
        "names": np.array(list(pairs), np.str_),
        "lengths": np.array([len(ids) for ids in parts], np.int64).reshape(-1, 3),
        "ids": np.concatenate([nothing, *parts]),
    }

    def fill(aside: Path) -> None:
        for name, array in arrays.items():
            np.save(aside / f"{name}.npy", array, allow_pickle=False)

    write_folder_aside(folder / FOLDER, fill)


def read(folder: Path) -> dict[str, TokenIds]:
    """The ids in a complete product, as views of its file; nothing where it was made without them.

    Raises UserError where they are not what was written.
    """
    if not (folder / FOLDER).is_dir():
        return {}
    artifacts.verify(folder, f"{FOLDER}/*")
    names, lengths, ids = (
        np.load(folder / FOLDER / f"{name}.npy", mmap_mode="r")
        for name in ("names", "lengths", "ids")
    )
    ends = np.cumsum(lengths.ravel())
    parts = [ids[end - size : end] for end, size in zip(ends, lengths.ravel(), strict=True)]
    return {
        str(name): (parts[3 * n], parts[3 * n + 1], parts[3 * n + 2] if lengths[n, 2] else None)
        for n, name in enumerate(names)
    }
