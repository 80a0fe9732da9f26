"""Small programming tasks of our own making: a statement, a reference solution, hidden tests.

The kinds of tasks are in `code_tasks.yaml`. A task is a kind with values for its parameters. Whether
it belongs to training or to the benchmark is decided by a checksum of both, so the two never share
one, whatever the seeds. A task's tests depend on the task alone: it is the same question always.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import string
import textwrap
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from spot.data.rows import Question
from spot.utils.errors import UserError

TASK = "code_tasks"
DOMAINS = {"train": range(0, 70), "benchmark": range(70, 100)}  # of the checksum's hundred values
TESTS = 20  # hidden ones of each task
DRAWN = 200  # inputs to choose the tests from

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """What tasks of one kind have in common; `<name>` in text and code stands for a parameter."""

    signature: str
    params: Mapping[str, tuple[Any, ...]]
    where: str
    text: str
    inputs: tuple[str, ...]
    code: str

    @property
    def name(self) -> str:
        """The function to write."""
        return self.signature.partition("(")[0]

    def combinations(self) -> Iterator[Values]:
        """The values of the parameters, one mapping for each task."""
        for chosen in itertools.product(*self.params.values()):
            values = dict(zip(self.params, chosen, strict=True))
            if eval(self.where, dict(values)):  # an expression of ours, out of the YAML file
                yield values


@cache
def kinds() -> dict[str, Kind]:
    """All kinds, by name."""
    text = (resources.files("spot.data") / "code_tasks.yaml").read_text("utf-8")
    found = [
        Kind(
            row["signature"],
            {name: _choices(spec) for name, spec in row["params"].items()},
            row.get("where", "True"),
            row["text"],
            tuple(row["inputs"]),
            row["code"].strip(),
        )
        for row in yaml.safe_load(text)
    ]
    return {kind.name: kind for kind in found}


def questions(count: int, seed: int, domain: str) -> list[Question]:
    """`count` distinct tasks of `train` or `benchmark`, kinds in turn, the same for the same seed.

    More tasks with one seed begin with the same ones. `id` names the task: `count_multiples/k=7`.
    `answer` is the reference, `meta` holds `entry_point` (which names the kind) and `tests`. Raises UserError when
    there are not so many.
    """
    rng = random.Random(f"{domain}/{seed}")
    piles = []
    for kind in kinds().values():
        tasks = [(kind, v) for v in kind.combinations() if domain_of(kind, v) == domain]
        rng.shuffle(tasks)
        piles.append(tasks)
    rng.shuffle(piles)
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*piles))
    tasks = [task for task in rounds if task is not None]
    if count > len(tasks):
        raise UserError(f"{count} tasks are asked for: {domain} has {len(tasks)}, ask for fewer.")
    return [question_of(kind, values) for kind, values in tasks[:count]]


def domain_of(kind: Kind, values: Values) -> str:
    """Which set a task belongs to."""
    checksum = zlib.crc32(_id(kind, values).encode()) % 100
    return next(domain for domain, share in DOMAINS.items() if checksum in share)


def reference(kind: Kind, values: Values) -> str:
    """The solution, as a program."""
    return f"def {kind.signature}:\n{textwrap.indent(_filled(kind.code, values), '    ')}\n"


def question_of(kind: Kind, values: Values) -> Question:
    """The question of one task; its first test is shown as an example and not among the hidden ones."""
    example, *hidden = _tests(kind, values)
    arguments = ", ".join(map(repr, example["args"]))
    text = (
        f"Write a Python function with the signature\n\n    def {kind.signature}:\n\n"
        f"{_filled(kind.text, values).strip()}\n\n"
        f"Example: `{kind.name}({arguments})` returns `{example['expected']!r}`."
    )
    meta = {"entry_point": kind.name, "tests": hidden}
    return Question(_id(kind, values), TASK, text, reference(kind, values), meta)


def _id(kind: Kind, values: Values) -> str:
    return f"{kind.name}/" + ",".join(f"{name}={value}" for name, value in values.items())


def _filled(text: str, values: Values) -> str:
    return re.sub(r"<(\w+)>", lambda match: str(values[match[1]]), text)


def _choices(spec: Any) -> tuple[Any, ...]:
    if isinstance(spec, str):
        low, high = spec.split("..")
        return tuple(range(int(low), int(high) + 1))
    return tuple(spec)


# ---------------------------------------------------------------------------------------- tests


def _tests(kind: Kind, values: Values) -> list[dict[str, Any]]:
    """An example and TESTS hidden tests: the reference's answers to inputs whose answers differ."""
    rng = random.Random(_id(kind, values))
    names: dict[str, Any] = {}
    exec(reference(kind, values), names)  # a program of ours, out of the YAML file
    cases: dict[str, dict[str, Any]] = {}
    for index in range(DRAWN):
        arguments = [DRAWS[name](rng, values, index) for name in kind.inputs]
        expected = names[kind.name](*deepcopy(arguments))
        cases.setdefault(json.dumps(arguments), {"args": arguments, "expected": expected})
    return _varied(list(cases.values()))


def _varied(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """TESTS + 1 cases in their order of drawing (edge cases come first), expected values mixed.

    A value is taken again only when all others have been taken as often: no constant passes. The
    example is a case with a longer answer.
    """
    seen: Counter[str] = Counter()
    rounds = []
    for case in cases:
        answer = json.dumps(case["expected"])
        rounds.append((seen[answer], case))
        seen[answer] += 1
    chosen = [case for _, case in sorted(rounds, key=lambda pair: pair[0])][: TESTS + 1]
    example = max(chosen[len(chosen) // 2 :], key=lambda case: len(json.dumps(case)))
    return [example, *(case for case in chosen if case is not example)]


def _marks(values: Values, low: int, high: int) -> list[int]:
    """The integers in [low, high] next to a parameter, where mistakes show."""
    marks = [v + d for v in values.values() if isinstance(v, int) for d in (-1, 0, 1)]
    return [mark for mark in marks if low <= mark <= high]


def _near(rng: random.Random, values: Values, low: int, high: int) -> int:
    """An integer in [low, high], one in three of them a mark."""
    marks = _marks(values, low, high)
    return rng.choice(marks) if marks and rng.random() < 1 / 3 else rng.randint(low, high)


def _integers(low: int, high: int, least: int = 0, most: int = 9) -> Draw:
    def draw(rng: random.Random, values: Values, index: int) -> list[int]:
        count = least if index == 0 else rng.randint(least, most)
        return [_near(rng, values, low, high) for _ in range(count)]

    return draw


def _integer(low: int, high: int) -> Draw:
    def draw(rng: random.Random, values: Values, index: int) -> int:
        edges = [low, low + 1, *_marks(values, low, high)]
        return edges[index] if index < len(edges) else rng.randint(low, high)

    return draw


def _characters(alphabet: str, most: int) -> Draw:
    return lambda rng, values, index: "".join(
        rng.choices(alphabet, k=index if index < 2 else rng.randint(2, most))
    )


WORDS = (
    "apple ant Bob bear cat Car doggy Den egg extra-long sun Sea two Tea x1 a I be can deed eye "
    "Table steam acorn Button daisy elephant sky toy Cloud t to At an b c do Summer so kitchen "
    "daylight at by everybody"
).split()


def _text(rng: random.Random, values: Values, index: int) -> str:
    return " ".join(rng.choices(WORDS, k=index if index < 2 else rng.randint(2, 9)))


def _runs(rng: random.Random, values: Values, index: int) -> str:
    return "".join(rng.choice("abcx") * rng.randint(1, 5) for _ in range(min(index, 6)))


def _digits_below(rng: random.Random, values: Values, index: int) -> str:
    return "".join(rng.choices(string.digits[: values["base"]], k=min(index, 7)))


def _matrix(rng: random.Random, values: Values, index: int) -> list[list[int]]:
    width = rng.randint(1, 4)
    rows = rng.randint(1, 4)
    return [[_near(rng, values, -9, 9) for _ in range(width)] for _ in range(rows)]


def _intervals(rng: random.Random, values: Values, index: int) -> list[list[int]]:
    """Half of them begin next to where another ends, give or take a parameter."""
    intervals: list[list[int]] = []
    for _ in range(min(index, rng.randint(1, 5))):
        start = _near(rng, values, -5, 20)
        if intervals and rng.random() < 1 / 2:
            start = rng.choice(intervals)[1] + rng.choice([0, 1, *_marks(values, 0, 13)])
        intervals.append([start, start + rng.randint(1, 6)])
    return intervals


def _brackets(rng: random.Random, values: Values, index: int) -> str:
    """A well-nested text of up to six pairs; one in three has a character changed or lost."""
    text = ""
    for _ in range(min(index, rng.randint(1, 6))):
        at = rng.randint(0, len(text)) if rng.random() < 0.4 else len(text) // 2
        text = text[:at] + rng.choice(["()", "[]"]) + text[at:]
    if text and rng.random() < 1 / 3:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(["", *"()[]"]) + text[at + 1 :]
    return text


def _multiple(rng: random.Random, values: Values, index: int) -> int:
    factors = [rng.choice([1, v]) for v in values.values()]
    return index if index < 2 else factors[0] * factors[1] * factors[2] * rng.randint(0, 9)


NAMES = "ash bay elm fir oak yew".split()


def _table(rng: random.Random, values: Values, index: int) -> dict[str, int]:
    names = rng.sample(NAMES, min(index, rng.randint(1, 6)))
    return {name: _near(rng, values, 0, 12) for name in names}


def _names(rng: random.Random, values: Values, index: int) -> list[str]:
    return rng.choices([*NAMES, "gum"], k=min(index, rng.randint(0, 10)))


Draw = Callable[[random.Random, Values, int], Any]
DRAWS: dict[str, Draw] = {  # (rng, parameters, how many were drawn before) → one argument
    "ints": _integers(-20, 20, most=14),
    "near_ints": _integers(-10, 16),
    "few_ints": _integers(-9, 12, most=5),
    "nats": _integers(0, 30),
    "positive": _integers(1, 60),
    "dense": _integers(0, 7, most=16),
    "signed": _integer(-10, 10),
    "count": _integer(0, 14),
    "length": _integer(1, 20),
    "number": _integer(0, 200),
    "percent": _integer(0, 100),
    "composite": lambda rng, values, index: rng.randint(1, 8) * rng.randint(1, 12),
    "big": lambda rng, values, index: index if index < 2 else rng.randint(2, 9000),
    "multiple": _multiple,
    "word": _characters("abcdez", 6),
    "digits": _characters(string.digits, 9),
    "digits_below": _digits_below,
    "text": _text,
    "runs": _runs,
    "brackets": _brackets,
    "matrix": _matrix,
    "intervals": _intervals,
    "table": _table,
    "names": _names,
}
