"""What a small chat model can do before it is trained on everyday questions, and may forget: four parts.

`one_digit`: sums and differences of digits. `copying`: words to repeat. `lists`: a list in a given form.
`facts`: one of four words is of a kind. Each is made from a seed.
"""

from __future__ import annotations

import random

from spot.data.rows import Question
from spot.utils.errors import UserError

KINDS = {  # what a fact is about: words of that kind
    "fruit": "apple banana cherry grape lemon mango orange peach pear plum".split(),
    "animal": "cat cow dog duck frog goat horse lion mouse sheep tiger wolf".split(),
    "colour": "black blue brown green grey pink purple red white yellow".split(),
    "country": "Brazil Canada China Egypt France India Italy Japan Kenya Spain".split(),
    "tool": "axe drill hammer rake saw screwdriver shovel spade".split(),
    "piece of furniture": "armchair bed bookcase chair desk sofa stool table wardrobe".split(),
}
MARKS = {"-": "each on a line that begins with a dash (-)", "1.": "as a numbered list (1., 2., …)"}
TRIES = 50  # draws for one more question before there are none left
PARTS = ("one_digit", "copying", "lists", "facts")


def questions(part: str, count: int, seed: int) -> list[Question]:
    """`count` distinct questions of a part. Raises UserError where there are not so many."""
    rng = random.Random(f"{part}/{seed}")
    found: dict[str, Question] = {}
    for _ in range(TRIES * count):
        if len(found) == count:
            return list(found.values())
        text, answer, meta = _DRAWN[part](rng)
        name = f"{part}-{seed}-{len(found):06d}"
        found.setdefault(text, Question(name, part, text, answer, meta))
    raise UserError(f"{count} questions are asked for: {part} has {len(found)}, ask for fewer.")


def _one_digit(rng: random.Random) -> tuple[str, str, dict[str, object]]:
    left, right, sign = rng.randint(1, 9), rng.randint(1, 9), rng.choice("+-")
    left, right = max(left, right), min(left, right)
    return f"What is {left} {sign} {right}?", str(left + right if sign == "+" else left - right), {}


def _copying(rng: random.Random) -> tuple[str, str, dict[str, object]]:
    words = " ".join(rng.sample(sorted({w for held in KINDS.values() for w in held}), 4))
    return f"Repeat exactly these words and write nothing else: {words}", words, {}


def _lists(rng: random.Random) -> tuple[str, str, dict[str, object]]:
    kind, mark, length = rng.choice(sorted(KINDS)), rng.choice(sorted(MARKS)), rng.randint(2, 6)
    text = f"Write a list of {length} words, {MARKS[mark]}. Each word is the name of a {kind}."
    return text, f"{length} lines with {mark}", {"mark": mark, "length": length}


def _facts(rng: random.Random) -> tuple[str, str, dict[str, object]]:
    kind, *others = rng.sample(sorted(KINDS), 4)
    options = [rng.choice(KINDS[kind]), *(rng.choice(KINDS[other]) for other in others)]
    right = options[0]
    rng.shuffle(options)
    lettered = " ".join(
        f"{letter}) {option}" for letter, option in zip("ABCD", options, strict=True)
    )
    article = "an" if kind[0] in "aeiou" else "a"
    text = f"Which one of these is {article} {kind}? {lettered}\nAnswer with one of the four."
    return text, "ABCD"[options.index(right)], {"options": options}


_DRAWN = dict(zip(PARTS, (_one_digit, _copying, _lists, _facts), strict=True))
