"""`key=value` arguments of the commands that take no configuration, read into a dataclass."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ValidationError

from spot.utils.errors import UserError, guess

T = TypeVar("T")
KINDS = {
    "Integer": "a whole number",
    "Float": "a number",
    "bool": "true or false",
    "ListConfig": "a list, [a,b]",
}


def read(
    kind: type[T], words: Iterable[str], command: str, named: bool = False
) -> tuple[list[str], T]:
    """The words that are no `key=value` (names of folders, files, runs), and the rest as `kind`.

    kind: a dataclass whose fields are the keys; one without a default must be given. named: whether the
    command takes such words. Raises UserError.
    """
    keys = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    values: DictConfig = OmegaConf.structured(kind)
    names: list[str] = []
    given: set[str] = set()
    for word in words:
        key, equals, value = word.partition("=")
        if named and (not equals or (key not in keys and Path(word).exists())):
            names.append(word)  # a folder may be called as a key is, or have = in its name
            continue
        if key not in keys or not equals:
            raise UserError(
                f"{short(word)} is unknown to spot {command}: {guess(key, keys)}write spot {command} "
                f"{_usage(values)}."
            )
        if key in given:
            raise UserError(f"{key} is given twice: once is enough.")
        given.add(key)
        if not value:
            raise UserError(f"{key} is empty: give a value, {key}=…, or leave it out.")
        try:
            values[key] = value  # as it was typed: a file may be called 007
        except ValidationError as error:
            raise UserError(
                f"{short(word)} is of the wrong type: it must be {expected(error) or 'text'}."
            ) from None
    for key in OmegaConf.missing_keys(values):
        raise UserError(f"{key} is missing: write spot {command} {_usage(values)}.")
    result = OmegaConf.to_object(values)
    assert isinstance(result, kind)
    return names, result


def _usage(values: DictConfig) -> str:
    known = OmegaConf.structured(OmegaConf.get_type(values))
    return " ".join(
        f"{key}=…" if value == MISSING else f"[{key}=…]" for key, value in known._content.items()
    )


def expected(error: ValidationError) -> str | None:
    """The kind of value that OmegaConf wanted, if it says so."""
    match = re.search(r"(?:converted to|not a valid|is not a(?! valid)) (\w+)", str(error))
    return None if match is None else KINDS.get(match[1], match[1])


def short(text: str) -> str:
    """What was typed, so that the line stays readable."""
    line = " ".join(text.split())
    return line if len(line) <= 100 else f"{line[:97]}…"
