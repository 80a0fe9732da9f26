"""What a report may say of the machine it was made on: no directory of anybody's, no server's name."""

from __future__ import annotations

import re
from typing import Any

# The directories of an absolute path, at the start of a word or behind =, a comma or a bracket.
DIRECTORIES = re.compile(r"""(?<![^\s=,'"\[({])~?/(?:[^\s=,'"\])}/]+/)*(?=[^\s/])""")
SERVER = re.compile(r"(https?://)[^\s/'\",\])}]+")


def scrubbed(value: Any) -> Any:
    """JSON values with `/home/me/data/x.jsonl` as `…/x.jsonl` and `http://host:80/v1` as `http://…/v1`.

    Scrubbing what is scrubbed changes nothing.
    """
    if isinstance(value, str):
        return DIRECTORIES.sub("…/", SERVER.sub(r"\1…", value))
    if isinstance(value, dict):
        return {scrubbed(key): scrubbed(of) for key, of in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrubbed(of) for of in value]
    return value
