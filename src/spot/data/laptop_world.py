"""The laptop world's questions: chains of sums and differences, bare, as stories and under constraints.

A chain is written left to right and may hold brackets of two numbers: `47 + 38 - (12 + 25)`. Which set
a chain belongs to (training, one of the benchmarks, or pretraining) is decided by a checksum of the
chain itself, so no set can share one with another, whatever the seeds.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from spot.data.rows import Question

LARGEST = 199  # of any number that is ever written
NEAR_MISS = 4  # units that miss a carry by no more may get one all the same
SPLITS = {  # of the checksum's hundred values
    "sums": range(0, 40),  # asked in training
    "pretraining": range(40, 70),
    "benchmark/sums": range(70, 80),
    "benchmark/word_problems": range(80, 90),
    "benchmark/instructions": range(90, 100),
}


class Term(NamedTuple):
    """A number of a chain with the sign it is written with. `bracket` is "", "(" or ")"."""

    sign: str
    value: int
    bracket: str = ""


class Step(NamedTuple):
    """One line of work: `left sign right = result`."""

    left: int
    sign: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left} {self.sign} {self.right} = {self.result}"


Chain = tuple[Term, ...]


FEWEST, MOST = 4, 6  # numbers of a chain
MINUS_BRACKETS, PLUS_BRACKETS = 0.5, 0.25  # shares of chains with a bracket after that sign


# ------------------------------------------------------------------------------------ arithmetic


def written(chain: Sequence[Term]) -> str:
    """`47 + 38 - (12 + 25)`. The first number's sign is not written."""
    words = []
    for index, term in enumerate(chain):
        number = {"(": f"({term.value}", ")": f"{term.value})"}.get(term.bracket, str(term.value))
        words.append(number if index == 0 else f"{term.sign} {number}")
    return " ".join(words)


_TERM = re.compile(r"\s*([+-]?)\s*(\(?)\s*(\d+)\s*(\)?)")


def parse_chain(text: str) -> Chain | None:
    """The chain in a question's text, or None when there is none."""
    match = re.search(r"\d+(?:\s*[+-]\s*\(?\s*\d+\s*\)?)+", text)
    if match is None:
        return None
    return tuple(
        Term(sign or "+", int(value), opening or closing)
        for sign, opening, value, closing in _TERM.findall(match[0])
    )


def signed(chain: Sequence[Term], *, drop_brackets: bool = False) -> list[tuple[str, int]]:
    """Signs and numbers to go through one after the other.

    In a bracket after a minus the second sign turns round. `drop_brackets` forgets that: the slip.
    """
    result = []
    outer = "+"
    for term in chain:
        sign = term.sign
        if term.bracket == "(":
            outer = term.sign
        elif term.bracket == ")" and outer == "-" and not drop_brackets:
            sign = "+" if sign == "-" else "-"
        result.append((sign, term.value))
    return result


def work(chain: Sequence[Term]) -> list[Step]:
    """The right steps, left to right."""
    (_, left), *rest = signed(chain)
    steps = []
    for sign, right in rest:
        result = left + right if sign == "+" else left - right
        steps.append(Step(left, sign, right, result))
        left = result
    return steps


def miscarried(left: int, sign: str, right: int) -> int:
    """What a wrong carry or borrow adds to the result; 0 where none is at stake.

    One that is needed is lost (47 + 38 = 75); where the units come near to needing one, within
    NEAR_MISS, it is invented (42 + 37 = 89). Being wrong both ways, it takes *carry when* to correct it.
    """
    excess = left % 10 + right % 10 - 10 if sign == "+" else right % 10 - left % 10 - 1
    if excess < -NEAR_MISS:
        return 0
    return (-10 if excess >= 0 else 10) * (1 if sign == "+" else -1)


def has_turned_bracket(chain: Sequence[Term]) -> bool:
    """Whether the chain holds a bracket after a minus: class B."""
    return any(term.bracket == "(" and term.sign == "-" for term in chain)


def error_class(chain: Sequence[Term]) -> str:
    """What the student gets wrong here: B (a bracket after a minus), A (a carry or borrow at stake) or none."""
    if has_turned_bracket(chain):
        return "B"
    return "A" if any(miscarried(s.left, s.sign, s.right) for s in work(chain)) else "none"


# ------------------------------------------------------------------------------------ chains


def split_of(chain: Sequence[Term]) -> str:
    """The set a chain belongs to, by its checksum."""
    value = zlib.crc32(written(chain).encode()) % 100
    return next(name for name, values in SPLITS.items() if value in values)


def draw_chain(rng: random.Random, split: str) -> Chain:
    """A chain of the given set, whose numbers stay in 0…LARGEST with the brackets kept or dropped."""
    count = rng.randint(FEWEST, MOST)
    draw = rng.random()
    outer = ""
    if draw < MINUS_BRACKETS + PLUS_BRACKETS:
        outer = "-" if draw < MINUS_BRACKETS else "+"
    at = rng.randint(1, count - 2) if outer else count
    while True:  # the form stays, so that its share does not depend on how often numbers fit it
        chain = _draw(rng, count, outer, at)
        if _in_range(chain) and split_of(chain) == split:
            return chain


def _draw(rng: random.Random, count: int, outer: str, at: int) -> Chain:
    terms = [Term("+", rng.randint(10, 99))]
    for index in range(1, count):
        sign, value = rng.choice("+-"), rng.randint(2, 99)
        if index == at:
            terms.append(Term(outer, value, "("))
        else:
            terms.append(Term(sign, value, ")" if index == at + 1 else ""))
    return tuple(terms)


def _in_range(chain: Chain) -> bool:
    for drop in (False, True):
        total = 0
        for sign, value in signed(chain, drop_brackets=drop):
            total += value if sign == "+" else -value
            if not 0 <= total <= LARGEST:
                return False
    return all(
        first.value > second.value
        for first, second in pairwise(chain)
        if second.bracket == ")" and second.sign == "-"
    )


# ------------------------------------------------------------------------------------ wordings

ASKING = ("Compute {}.", "What is {}?", "Find {}.")
NAMES = (
    ("Mia", "She"),
    ("Tom", "He"),
    ("Ann", "She"),
    ("Ben", "He"),
    ("Zoe", "She"),
    ("Max", "He"),
)
THINGS = ("coins", "cards", "beads", "shells")
CONSTRAINTS = {  # by name: the sentence that asks for it
    "number": "Answer with the number only.",
    "lines": "Write one step a line.",
    "capitals": "Use capital letters.",
    "done": "End with done.",
    "sure": "Begin with sure.",
    "plain": "Do not use a box.",
    "words": "Use words for signs.",
    "numbered": "Number the steps.",
    "stars": "Put a star after each step.",
}
ALONE = ("number",)  # cannot be combined


def bare_text(rng: random.Random, chain: Chain) -> str:
    """The chain as a plain question."""
    return rng.choice(ASKING).format(written(chain))


def story_text(rng: random.Random, chain: Chain) -> str:
    """The chain as a word problem; a bracket becomes a box that comes or goes."""
    name, pronoun = rng.choice(NAMES)
    sentences = [f"{name} has {chain[0].value} {rng.choice(THINGS)}."]
    for index, term in enumerate(chain[1:], 1):
        if term.bracket == ")":
            continue
        gains = term.sign == "+"
        if term.bracket == "(":
            second = chain[index + 1]
            verb = "gets" if gains else "gives away"
            inside = (
                f"{term.value} red and {second.value} blue"
                if second.sign == "+"
                else f"{term.value} without {second.value}"
            )
            sentences.append(f"{pronoun} {verb} a box of {inside}.")
        else:
            verb = rng.choice(("finds", "buys") if gains else ("loses", "sells"))
            sentences.append(f"{pronoun} {verb} {term.value}.")
    return " ".join([*sentences, "How many are left?"])


def constrained_text(rng: random.Random, chain: Chain, most: int) -> tuple[str, list[str]]:
    """The chain as a question with one to `most` constraints on the answer, and their names."""
    names = rng.sample(sorted(CONSTRAINTS), rng.randint(1, most))
    if set(names) & set(ALONE):
        names = names[:1] if names[0] in ALONE else [n for n in names if n not in ALONE]
    return " ".join([bare_text(rng, chain), *(CONSTRAINTS[name] for name in names)]), names


# ------------------------------------------------------------------------------------ questions


def questions(count: int, seed: int, task: str = "sums") -> list[Question]:
    """`count` distinct questions, the same for the same seed, with ids like `sums-0-000017`.

    `task` is `sums` for training, or `benchmark/<name>`. More questions with one seed begin with the
    same ones. `meta` holds the chain (`terms`), the error class and, for instructions, `constraints`.
    """
    rng = random.Random(f"{task}/{seed}")
    found: dict[Chain, Question] = {}
    while len(found) < count:
        chain = draw_chain(rng, task)
        if chain not in found:
            found[chain] = _question(rng, chain, task.removeprefix("benchmark/"), seed, len(found))
    return list(found.values())


def _question(rng: random.Random, chain: Chain, task: str, seed: int, index: int) -> Question:
    meta: dict[str, object] = {"terms": [list(t) for t in chain], "class": error_class(chain)}
    if task == "instructions":
        text, meta["constraints"] = constrained_text(rng, chain, most=3)
    elif task == "word_problems":
        text = story_text(rng, chain)
    else:
        text = bare_text(rng, chain)
    return Question(f"{task}-{seed}-{index:06d}", task, text, str(work(chain)[-1].result), meta)
