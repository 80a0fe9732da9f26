"""One sentence of a response about an everyday question, put right where it stands."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from spot.data.everyday import Path, Step, in_one, leaves
from spot.oracle.calculator import Claim, Number, claims, numbers, sign_of
from spot.oracle.tutor_sense import Sense

Edit = tuple[int, int, str]  # of a text: from, to, what stands there then

_WHOLE = re.compile(
    r"\b(?:total|altogether|all|now|left|change|remain\w*|has|have)\b", re.IGNORECASE
)
_ALL = re.compile(
    r"\b(?:total|altogether|in all(?=[.,!]|$)|left|change|remain\w*)\b", re.IGNORECASE
)
_PART = re.compile(r"\b(?:box\w*|pa(?:y|id)\w*|cost\w*|spen[dt]\w*|first)\b", re.IGNORECASE)
_CLAUSE = re.compile(r"\b(?:after|because|since|when|if|from|out of|than)\b", re.IGNORECASE)
_SO = re.compile(r"\b(?:so|therefore|thus|then|which)\b", re.IGNORECASE)
_ASKS = (  # an operation that is said and not computed, with what it is done to
    r"\b(?P<verb>(?:add|subtract|multiply|divide)(?:ing)?|multiplying|dividing|the (?:sum of|difference between|product of))\b[^,;:.\n]*"
)
_ASKED = re.compile(_ASKS, re.IGNORECASE)
_OTHERWISE = re.compile(  # an operation that is said so that it cannot be put otherwise
    r"\b(?:added|subtracted|multiplied|divided|division|multiplication|subtraction|addition)\b",
    re.IGNORECASE,
)
_PHRASES = {
    "+": ("add {1} to {0}", "adding {1} to {0}", "the sum of {0} and {1}"),
    "-": (
        "subtract {1} from {0}",
        "subtracting {1} from {0}",
        "the difference between {0} and {1}",
    ),
    "*": ("multiply {0} by {1}", "multiplying {0} by {1}", "the product of {0} and {1}"),
    "/": ("divide {0} by {1}", "dividing {0} by {1}", "the quotient of {0} and {1}"),
}
_SAID = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}
_WRITTEN = {"*": ("×", r"\times", "*", "x"), "/": ("÷", r"\div", "/")}


class WrongError(Exception):
    """A sentence that cannot be put right where it stands."""


@dataclass
class Mender:
    """What is known while the sentences of a response are read, in their order.

    sense: of the question. response: the whole, for its signs. done: steps of the path that were found.
    known: numbers that may be said. renamed: wrong results, and what they became. became: wrong
    computations, and which step of the path they became.
    """

    path: Path
    sense: Sense
    response: str
    done: int = 0
    known: set[int] = field(default_factory=set)
    renamed: dict[int, int] = field(default_factory=dict)
    became: dict[str, int] = field(default_factory=dict)

    @property
    def answer(self) -> int:
        """The last result of the path."""
        return self.path[-1].result

    def sign(self, sign: str) -> str:
        """A sign as the response writes it."""
        forms = _WRITTEN.get(sign, (sign,))
        spaced = (f for f in forms if (f" {f} " if f == "x" else f) in self.response)
        return next(spaced, "*" if sign == "*" else sign)

    def mended(self, sentence: str, *, final: bool = False) -> str:
        """The sentence put right. Raises WrongError where it cannot be."""
        found = claims(sentence)
        if final and found and (whole_of := self._in_one(sentence, found)) is not None:
            return whole_of
        ahead = self.path[self.done :] or self.path
        edits: list[Edit] = []
        for claim in found:
            edits += self._claim(sentence, claim)
        inside = [(claim.start, claim.end) for claim in found]
        outside = [n for n in numbers(sentence) if not _within(n.start, inside)]
        asked = self._asked(sentence, inside, ahead)
        outside = [n for n in outside if not _within(n.start, [edit[:2] for edit in asked])]
        if (
            final
            and found
            and self.done < len(self.path)
            and outside
            and outside[-1].start > inside[-1][0]
        ):
            raise WrongError  # a step is missing, and its result is said to be another
        if found and self._astray(found, outside):
            raise WrongError
        edits += asked + self._quantities(sentence, outside, final and not found)
        return self._sensible(_edited(sentence, edits))

    def _astray(self, found: list[Claim], outside: list[Number]) -> bool:
        """Whether a sentence computes one step twice, or with other numbers than it tells."""
        last = [self._index(claim, [n.value for n in claim.numbers]) for claim in found]
        steps = [index for index in last if index is not None]
        meant = {n for step in self.path[: self.done] for n in (step.left, step.right, step.result)}
        used = {
            n
            for step in self.path[max(self.done - len(found), 0) : self.done]
            for n in (step.left, step.right, step.result)
        }
        told = {n.value for n in outside} & (meant | self.known)
        return len(set(steps)) < len(steps) or not told <= used | {1} | set(self.renamed)

    def _partial(self, sentence: str) -> bool:
        """Whether a sentence tells what a step before the last one gives."""
        between = {step.result for step in self.path[:-1]} - set(leaves(self.path)) - {self.answer}
        told = {n.value for n in numbers(sentence)}
        made = {claim.value for claim in claims(sentence)} & {
            step.result for step in self.path[:-1]
        }
        return bool(told & between or made) and self.answer not in told

    def allows(self, sentence: str) -> bool:
        return self.sense.allows(sentence, [step.result for step in self.path])

    def _sensible(self, sentence: str) -> str:
        """The sentence. Raises WrongError where it holds what is not understood, or false."""
        marked = re.match(r"####\s*(\d+)", sentence)
        if marked and int(marked[1]) != self.answer:
            raise WrongError
        made = Counter(claim.formula for claim in claims(sentence))
        if max(made.values(), default=1) > 1:
            raise WrongError
        if not self.allows(sentence) or (_ALL.search(sentence) and self._partial(sentence)):
            raise WrongError
        return sentence

    def _in_one(self, sentence: str, found: list[Claim]) -> str | None:
        """A last sentence that computes a part and says that it is all, with the whole computation."""
        claim, steps = found[-1], self.path
        rest = numbers(sentence[claim.end :]) or claim.result.start == claim.result.end
        if len(steps) == 1 or self.done or len(found) > 1 or rest or claim.verb is not None:
            return None
        index = self._index(claim, [n.value for n in claim.numbers])
        if index == len(steps) - 1 or not _WHOLE.search(sentence) or _PART.search(sentence):
            return None
        text = re.sub(r"[*/]", lambda m: self.sign(m[0]), in_one(steps))
        start = claim.numbers[0].start - (sentence[: claim.numbers[0].start][-1:] == "$")
        start = min(start, min(n.start for n in claim.numbers))
        before = [n for n in numbers(sentence[:start]) if n.value not in self.known]
        if before:
            raise WrongError
        dollar = "$" if sentence[claim.result.start - 1] == "$" else ""
        self._finish(len(steps) - 1)
        return self._sensible(
            f"{sentence[:start]}{text} = {dollar}{self.answer}{sentence[claim.result.end :]}"
        )

    def _quantities(self, sentence: str, found: list[Number], final: bool) -> list[Edit]:
        """Numbers that nothing is computed with. final: one of them must be the answer."""
        edits, said = [], []
        for number in found:
            value = number.value
            assert value is not None
            if value in self.renamed and value not in self.known:
                edits.append((number.start, number.end, str(self.renamed[value])))
                said.append(self.renamed[value])
            elif value in self.known or value == 1:
                said.append(value)
            elif not final or value in [step.result for step in self.path]:
                self._reach(value)
                said.append(value)
            else:
                edits.append((number.start, number.end, str(self.answer)))
                said.append(self.answer)
        if final and self.answer not in said:
            return self._answer_in(sentence, found)
        return edits

    def _answer_in(self, sentence: str, found: list[Number]) -> list[Edit]:
        """The one number of a last sentence that must be the answer and is another."""
        given = set(leaves(self.path)) | {1}
        clause, so = _CLAUSE.search(sentence), list(_SO.finditer(sentence))
        free = found if len(found) == 1 else [n for n in found if n.value not in given]
        if not free and so:
            free = [n for n in found if n.start > so[-1].start()]
        elif not free and clause:
            free = [n for n in found if n.start < clause.start()]
        if len(free) != 1:
            raise WrongError
        return [(free[0].start, free[0].end, str(self.answer))]

    def _reach(self, value: int) -> None:
        """Note a result that is said and not computed. Raises WrongError where it is none."""
        results = [step.result for step in self.path]
        if value not in results[self.done :]:
            raise WrongError
        self._finish(results.index(value, self.done))

    def _finish(self, index: int) -> None:
        self.done = max(self.done, index + 1)
        self.known |= {step.result for step in self.path[: self.done]}

    def _asked(self, sentence: str, inside: list[tuple[int, int]], ahead: Path) -> list[Edit]:
        """Operations that are said: what is none of those ahead, number by number, becomes the next one."""
        if any(not _within(match.start(), inside) for match in _OTHERWISE.finditer(sentence)):
            raise WrongError
        edits = []
        for match in _ASKED.finditer(sentence):
            said = Counter(n.value for n in numbers(match[0]))
            meant = [step for step in ahead if step.sign == sign_of(match["verb"])]
            right = said and any(said <= Counter((step.left, step.right)) for step in meant)
            if _within(match.start(), inside) or right:
                continue
            if any(start < match.end() for start, _ in inside):  # computed before it is said
                raise WrongError
            if " and then " in sentence[: match.start()]:
                raise WrongError
            step = ahead[0]
            if step.result != self.answer and _ALL.search(sentence):
                raise WrongError  # one step is not the way to all
            noun, doing = match["verb"].lower().startswith("the "), match["verb"].endswith("ing")
            phrase = _PHRASES[step.sign][2 if noun else int(doing)]
            edits.append((match.start(), match.end(), phrase.format(step.left, step.right)))
        return edits

    # ------------------------------------------------------------------------ a computation

    def _claim(self, sentence: str, claim: Claim) -> list[Edit]:
        """What makes a computation the next step of the path, or one that was made before."""
        index = self._index(claim, [n.value for n in claim.numbers])
        if index is None:
            renamed = [self.renamed.get(n.value or 0, n.value) for n in claim.numbers]
            index = self._index(claim, renamed)
        if index is None:
            index = self.became.get(claim.formula)
        edits: list[Edit] = []
        if index is None:
            if self.done == len(self.path):
                raise WrongError
            index = self.became[claim.formula] = self.done
        if len(claim.signs) == 1 or claim.formula in self.became:
            edits = self._rewritten(sentence, claim, self.path[index])
        result, said = self.path[index].result, claim.result.value
        if said is not None and said != result and said not in self.known:
            self.renamed[said] = result
        self._finish(index)
        bare = claim.result.start == claim.result.end
        if not bare and (said != result or claim.kept != claim.result.start):
            edits.append((claim.kept, claim.result.end, str(result)))
        return edits

    def _index(self, claim: Claim, values: list[int | None]) -> int | None:
        """The step that a computation with these numbers is, none beyond the next."""
        if len(claim.signs) > 1:
            return self._index_of_many(claim)
        sign = claim.signs[0]
        for index, step in reversed(list(enumerate(self.path[: self.done + 1]))):
            pairs = [[step.left, step.right]] + [[step.right, step.left]] * (sign in "+*")
            if sign == step.sign and values in pairs:
                return index
        return None

    def _index_of_many(self, claim: Claim) -> int | None:
        """The step that several operations at once reach with the numbers that lead to it."""
        values = sorted(n.value or 0 for n in claim.numbers)
        for index, step in enumerate(self.path):
            repeated = step.sign == "*" and set(claim.signs) == {"+"}
            ways = [sorted(leaves(self.path[: index + 1]))]
            ways += [[step.left] * step.right, [step.right] * step.left] if repeated else []
            if claim.value == step.result and values in ways:
                return index
        return None

    def _rewritten(self, sentence: str, claim: Claim, step: Step) -> list[Edit]:
        """The computation as this step, in its own form; what stood between its numbers stays."""
        if len(claim.signs) > 1:
            raise WrongError
        if claim.verb is not None and claim.signs[0] != step.sign:
            words = sentence[claim.verb[0] :].lower()
            form = (
                2
                if words.startswith("the ")
                else int(" " in words and words.split()[0].endswith("ing"))
            )
            if words.split()[0].endswith("ed"):
                raise WrongError
            phrase = _PHRASES[step.sign][form].format(step.left, step.right)
            return [(*claim.verb, phrase)]
        edits = _renumbered(claim, step)
        if claim.verb is None and claim.signs[0] != step.sign:
            start, end = claim.places[0]
            worded = sentence[start:end].isalpha() and sentence[start:end] != "x"
            sign = _SAID[step.sign] if worded else self.sign(step.sign)
            edits.append((start, end, sign))
            if step.sign == "*":
                edits += _without_dollar(sentence, claim, edits, step)
        return edits


def _renumbered(claim: Claim, step: Step) -> list[Edit]:
    """The numbers of a computation as those of a step, as few of them changed as possible."""
    meant = [step.left, step.right]
    here = [number.value for number in claim.numbers]
    if step.sign in "+*" and sum(map(int.__eq__, meant[::-1], map(int, here))) > sum(  # type: ignore[arg-type]
        map(int.__eq__, meant, map(int, here))  # type: ignore[arg-type]
    ):
        meant = meant[::-1]
    return sorted(
        (n.start, n.end, str(value))
        for n, value in zip(claim.numbers, meant, strict=True)
        if n.value != value
    )


def _without_dollar(sentence: str, claim: Claim, edits: list[Edit], step: Step) -> list[Edit]:
    """Two prices are not multiplied: the number of things loses its dollar."""
    priced = [n for n in claim.numbers if sentence[n.start - 1 : n.start] == "$"]
    new = {start: int(text) for start, _, text in edits if text.isdecimal()}
    things = [n for n in priced if new.get(n.start, n.value) == step.right]
    if len(priced) < 2 or not things:
        return []
    return [(things[-1].start - 1, things[-1].start, "")]


def _within(place: int, spans: list[tuple[int, int]]) -> bool:
    return any(start <= place < end for start, end in spans)


def _edited(text: str, edits: list[Edit]) -> str:
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text
