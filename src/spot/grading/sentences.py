"""NLTK's model of English sentences, on which two of IFEval's instructions depend.

The model (punkt_tab, trained abbreviations and the like) is data that NLTK fetches. Without it Punkt
still splits at full stops, question and exclamation marks, but takes `Dr.` for an end.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

TRAINED, UNTRAINED = "trained", "untrained"
WARNING = (
    "Sentences were split without NLTK's English model: "
    "set NLTK_DATA to a folder with tokenizers/punkt_tab, delete these scores and run again."
)
DOWNLOAD_SECONDS = 30.0  # NLTK itself would wait for minutes where packets are dropped
_FILES = ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt")


_FETCH = """
import nltk, nltk.tokenize.punkt as punkt
try:
    punkt.PunktTokenizer("english")
except (LookupError, OSError):
    nltk.download("punkt_tab", quiet=True)
"""


@functools.cache
def fetch() -> None:
    """Have NLTK fetch the model if it lacks it, unless HF_HUB_OFFLINE forbids: once in a process."""
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        return
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, "-c", _FETCH],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=DOWNLOAD_SECONDS,
            check=False,
        )


@contextlib.contextmanager
def model() -> Iterator[str]:
    """While this lasts NLTK finds a model to load; yields TRAINED or UNTRAINED.

    Looked for where NLTK looks (NLTK_DATA first), else an empty model is made in a temporary folder.
    """
    if _loads():
        yield TRAINED
        return
    import nltk

    with tempfile.TemporaryDirectory() as folder:
        english = Path(folder, "tokenizers", "punkt_tab", "english")
        english.mkdir(parents=True)
        for name in _FILES:
            (english / name).touch()
        nltk.data.path.insert(0, folder)  # before a damaged model
        try:
            yield UNTRAINED
        finally:
            nltk.data.path.remove(folder)


def _loads() -> bool:
    from nltk.tokenize.punkt import PunktTokenizer

    try:
        PunktTokenizer("english")
    except (LookupError, OSError):
        return False
    return True
