"""Keys of paid servers: read from the environment only, and kept out of everything that is written."""

from __future__ import annotations

from functools import partial

from spot.utils import http
from spot.utils.http import Key

# What a server gets that wants no key: the openai package insists on one.
NO_KEY = Key("no variable (set oracle.key_name)", "")

read_key = partial(http.read_key, option="oracle.key_name", owner="The Oracle")
