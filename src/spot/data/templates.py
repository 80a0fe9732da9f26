"""What is put around a question before a model is asked: templates in `prompts/`, or files of one's own.

A template is plain text; only the named placeholders in braces are filled in, so LaTeX needs no
escaping. Filling happens once: a question that itself says `{options}` stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from spot.utils.errors import UserError


@dataclass(frozen=True)
class Template:
    """A text with placeholders. The text itself, and nothing else, decides what is said."""

    text: str
    placeholders: frozenset[str]

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with each placeholder replaced by its value. KeyError if one has none."""
        return _pattern(self.placeholders).sub(lambda match: values[match[1]], self.text)


AS_IS = Template("{question}", frozenset({"question"}))  # the question alone


def load(
    name_or_path: str | Path | None,
    placeholders: Collection[str] = ("question",),
    key: str = "data.prompt",
) -> Template:
    """The template of that name in the package, or in the file at that path; None: `AS_IS`.

    All `placeholders` must be in it. White space around a template is not part of it. `key` names the
    option in errors. Raises UserError when there is no such template or it lacks a placeholder.
    """
    if name_or_path is None:
        return AS_IS
    text = _text(name_or_path, key).strip()
    found = frozenset(_pattern(placeholders).findall(text))
    if missing := sorted(set(placeholders) - found):
        listed = " and ".join(f"{{{name}}}" for name in missing)
        raise UserError(f"{key}={name_or_path} lacks {listed}: add it where it is to be filled in.")
    return Template(text, found)


def of_family(family: str) -> Template:
    """Our own words around a question of a family of benchmarks; `AS_IS` where there are none."""
    file = resources.files("spot.data") / "prompts" / "benchmarks" / f"{family}.md"
    return (
        Template(file.read_text("utf-8").strip(), AS_IS.placeholders) if file.is_file() else AS_IS
    )


def names() -> list[str]:
    """The templates of the package."""
    folder = resources.files("spot.data") / "prompts"
    return sorted(f.name.removesuffix(".md") for f in folder.iterdir() if f.name.endswith(".md"))


def _text(name_or_path: str | Path, key: str) -> str:
    if str(name_or_path) in names():
        file = resources.files("spot.data") / "prompts" / f"{name_or_path}.md"
        return file.read_text("utf-8")
    path = Path(name_or_path).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{key}={name_or_path} is neither a text file nor one of the package's templates: give a file, "
            f"or one of {', '.join(names())}."
        ) from error


def _pattern(placeholders: Collection[str]) -> re.Pattern[str]:
    return re.compile(r"\{(" + "|".join(map(re.escape, sorted(placeholders))) + r")\}")
