"""Questions in everyday words, each with its path: one or two steps of small whole numbers to the answer.

The kinds are in `everyday.yaml`: a wording with slots, what the slots may hold, and the steps. A
question can be read back (`path_of`), so that an Oracle that sees its text alone knows the path.
Training, benchmark and pretraining never share a question: a checksum of its text decides.
"""

from __future__ import annotations

import itertools
import random
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from spot.data.rows import Question
from spot.utils.errors import UserError

TASK = "everyday"
SPLITS = {"train": range(0, 80), "everyday": range(80, 100)}  # of the checksum's hundred values
NAMES = ("Tom", "Mia", "Ben", "Anna", "Sam", "Lucy", "Max", "Emma")
OTHER_FORM = "everyday_other"  # the benchmark of the kinds that are never trained
TRIES = 400  # draws for one more question of a kind before it has none left

SIGNS = "+-*/"
Value = int | str


@dataclass(frozen=True)
class Step:
    """One step of a path: `left sign right = result`, in whole numbers."""

    left: int
    sign: str
    right: int
    result: int


Path = tuple[Step, ...]


@dataclass(frozen=True)
class Kind:
    """What questions of one kind have in common.

    wordings: with slots in braces. numbers: for each slot its smallest and largest value. words: for
    each slot what it may hold. steps: `a + b`; `#` is the result before. where: what must hold.
    """

    name: str
    wordings: tuple[str, ...]
    numbers: Mapping[str, tuple[int, int]]
    words: Mapping[str, tuple[str, ...]]
    steps: tuple[str, ...]
    where: str
    trained: bool

    def path(self, values: Mapping[str, Value]) -> Path | None:
        """The steps with these numbers; None where one leaves the whole numbers above 0."""
        found: list[Step] = []
        for step in self.steps:
            left, sign, right = (
                word if word in SIGNS else found[-1].result if word == "#" else int(values[word])
                for word in step.split()
            )
            result = computed(int(left), str(sign), int(right))
            if result is None or result <= 0:
                return None
            found.append(Step(int(left), str(sign), int(right), result))
        return tuple(found)


def computed(left: int, sign: str, right: int) -> int | None:
    """`left sign right`; None where a division leaves a rest."""
    if sign == "/":
        return left // right if right and left % right == 0 else None
    return {"+": left + right, "-": left - right, "*": left * right}[sign]


def ways(path: Path) -> list[Path]:
    """The path, and the one that takes away before it adds, or the other way round."""
    if (
        len(path) < 2
        or {path[0].sign, path[1].sign} != {"+", "-"}
        or path[1].left != path[0].result
    ):
        return [path]
    first, second = path
    begun = computed(first.left, second.sign, second.right)
    if begun is None or begun <= 0:
        return [path]
    turned = Step(first.left, second.sign, second.right, begun)
    return [path, (turned, Step(begun, first.sign, first.right, second.result))]


def in_one(path: Path) -> str:
    """The whole path as one computation: `40 - 8 * 3`."""
    first = path[0]
    text = f"{first.left} {first.sign} {first.right}"
    for before, step in itertools.pairwise(path):
        loose = before.sign in "+-" and step.sign in "*/"
        text = f"({text})" if loose else text
        after = step.left == before.result
        text = f"{text} {step.sign} {step.right}" if after else f"{step.left} {step.sign} {text}"
    return text


def leaves(path: Path) -> list[int]:
    """The given numbers that the last step of a path is made of."""
    found = [path[0].left, path[0].right]
    for before, step in itertools.pairwise(path):
        found.append(step.right if step.left == before.result else step.left)
    return found


@cache
def kinds() -> tuple[Kind, ...]:
    """All kinds, in the order of their file."""
    text = (resources.files("spot.data") / "everyday.yaml").read_text("utf-8")
    found = []
    for row in yaml.safe_load(text):
        numbers = {slot: tuple(ends) for slot, ends in row["numbers"].items()}
        words = {slot: tuple(held) for slot, held in row.get("words", {}).items()}
        steps, where = tuple(row["steps"]), row.get("where", "True")
        trained = row.get("trained", True)
        kind = Kind(row["name"], tuple(row["wordings"]), numbers, words, steps, where, trained)
        found.append(kind)
    return tuple(found)


def questions(count: int, seed: int, split: str = "train") -> list[Question]:
    """`count` distinct questions of a split, kinds in turn, the same for the same seed.

    split: train | everyday (the trained kinds, never the same question) | everyday_other (the kinds
    that are held out). More questions with one seed begin with the same ones. A kind that has no more
    is left out; UserError is raised where all have none.
    """
    rng = random.Random(f"{split}/{seed}")
    left = [kind for kind in kinds() if kind.trained == (split != OTHER_FORM)]
    found: dict[str, Question] = {}
    while len(found) < count and left:
        for kind in list(left):
            drawn = (_drawn(rng, kind, split) for _ in range(TRIES))
            text = next((text for text in drawn if text is not None and text not in found), None)
            if text is None:
                left.remove(kind)
            else:
                name = f"{split}-{seed}-{len(found):06d}"
                found[text] = _question(name, kind, text)
    if len(found) < count:
        raise UserError(
            f"{count} questions are asked for: {split} has about {len(found)}, ask for fewer."
        )
    return list(found.values())[:count]


def _question(name: str, kind: Kind, text: str) -> Question:
    path = path_of(text)
    assert path is not None
    return Question(name, kind.name, text, str(path[-1].result), {"kind": kind.name})


def _drawn(rng: random.Random, kind: Kind, split: str) -> str | None:
    """A question of the kind, or None where numbers or checksum do not fit."""
    values: dict[str, Value] = {slot: rng.randint(*ends) for slot, ends in kind.numbers.items()}
    values |= {slot: rng.choice(held) for slot, held in kind.words.items()}
    values["name"], values["friend"] = rng.sample(NAMES, 2)
    text = rng.choice(kind.wordings).format(**values)
    if not eval(kind.where, dict(values)) or kind.path(values) is None:  # an expression of ours
        return None
    if kind.trained and zlib.crc32(text.encode()) % 100 not in SPLITS[split]:
        return None
    return text


# ------------------------------------------------------------------------------------ reading


@cache
def _patterns() -> tuple[tuple[Kind, re.Pattern[str]], ...]:
    return tuple((kind, _pattern(kind, wording)) for kind in kinds() for wording in kind.wordings)


def _pattern(kind: Kind, wording: str) -> re.Pattern[str]:
    """What reads the slots out of a question in this wording."""
    seen: set[str] = set()
    pieces = []
    for text, slot in re.findall(r"([^{]*)(?:\{(\w+)\})?", wording):
        pieces.append(re.escape(text))
        if slot in seen:
            pieces.append(f"(?P={slot})")
        elif slot:
            held = r"\d+" if slot in kind.numbers else "|".join(kind.words.get(slot, NAMES))
            pieces.append(f"(?P<{slot}>{held})")
            seen.add(slot)
    return re.compile("".join(pieces))


def path_of(text: str) -> Path | None:
    """The path of a question, wherever it stands in `text`; None for what is none of ours."""
    for kind, pattern in _patterns():
        if (match := pattern.search(text)) is not None:
            return kind.path(match.groupdict())
    return None
