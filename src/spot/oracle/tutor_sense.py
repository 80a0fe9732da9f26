"""Whether a sentence about an everyday question is one that the tutor understands, and says nothing false.

Deliberately narrow: a sentence with a word that is neither the question's nor one of some hundred plain
ones is not understood, and is written anew.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from spot.data.everyday import NAMES

_PLAIN = set(
    """a an and all also altogether amount am answer are as back be been begin begins beginning by calculate calculated
    calculation can compute cost costs could count did do does dollar dollars end equal equals
    equation ended figure final finally find first follow for from get gets getting give gives given go got
    had has have he her here him his how i if in is it its know known leave leaves left let lets
    many means more much must my need needed needs new next now number of okay on one only or other our out
    per pieces please problem put question receive received remain remaining remains result results s same say second she
    should simple simply since so solve solution start started starting starts step steps still sure take tell that
    the their them then there therefore these they thing things this those thus to together told total totals up us use using
    value very want wants was we well were what when where which who will with work would write you your because but
    add adding added addition subtract subtracting subtracted subtraction multiply multiplying multiplied multiplication divide
    dividing divided division sum difference product quotient plus minus times after before already just each every
    age years year old unit units price item items money whole entire group groups set both perform operation operations
    make makes made making see pay pays whose am pm bring brings like according given
    text boxed times cdot div understand knowing determine show shown represent represents combine combined into same easy""".split()
)
_STEMS = {  # words of another form than the question's
    "fly": "flew flown flying", "buy": "buys bought buying", "win": "won wins winning", "lose": "lost loses losing",
    "pay": "pays paid paying", "costs": "cost costing spend spent", "shared": "share sharing shares distributed split",
    "reads": "read reading", "stops": "stopped stop", "get": "gets got getting", "gets": "get got getting gain gained",
    "buys": "buy bought buying purchase purchased purchases", "wins": "win won winning", "loses": "lose lost losing",
    "pays": "pay paid paying", "walks": "walk walked walking", "walk": "walks walked walking", "older": "elder", "boxes": "box", "children": "child kids kid", "change": "changes",
    "change?": "change",
}  # fmt: skip
_RELATIONS = "than older younger equally less fewer twice half double away split left remain remains remaining".split()
_NO_THINGS = "more and are left from times plus minus years year fly get flew gets for with the each divided change in".split()
_LABELLED = re.compile(  # `the coins she won are 12 - 4`
    r"\b(?:won|wins|lost|loses|gets|got|flew|fly|away)\b[^,.]{0,12}\b(?:is|are|was|were)\b[^,.=]{0,12}\d"
)
# `= 12 cakes in each box`, `one-egg boxes`, `more from the 20`
_ODD = re.compile(
    r"= ?\$?\d+ \w+ (?:in|per|for) (?:each|the first|the second)|(?!step-by)\b[a-z]+-[a-z]+|from the \d+|in a row|in \d+ children|\(\d+\)|(?<!\\)\([a-z]|of one \w+|= ?\$?\d+ \w+ every"
)
_RESULTS = re.compile(r"which (?:is|gives|equals)(?: you)?(?: a total of)? \$?(\d+)(?! *[-+*/x×÷])")
_STORY = re.compile(
    r"\b(?:won|wins|win|lost|loses|losing) (\d+)|(?:gets|got) (\d+) more|(\d+) (?:birds |of them )?(?:fly|flew|flies)"
)
_GETS = re.compile(r"\b(?:gets|got) (\d+)(?! *\w* *[-+*/x×÷=])")
_MORE = re.compile(r"= ?\$?\d+ more\b")
_NAMED = re.compile(rf"\b(?:{'|'.join(NAMES)})\b")


class Sense:
    """What a question tells, to hold sentences against."""

    def __init__(self, question: str) -> None:
        asked = question.rpartition(". ")[2]
        self.names = set(_NAMED.findall(question))
        self.about = next(iter(_NAMED.findall(asked)), None)
        words = _words(question)
        self.words = words | {form for word in words for form in _STEMS.get(word, "").split()}
        if words & {"left", "loses", "change"}:
            self.words |= {"left", "remain", "remains", "remaining"}
        self.words |= {word + "s" for word in words} | {word.removesuffix("s") for word in words}
        self.things, self.owned = _things(question), _owned(question)
        self.asked = set(re.findall(r"How many (?:more )?([a-z]+)", asked))
        self.first, self.costs = _there(question), _costs(question)
        self.question = question
        self.numbers = {int(n) for n in re.findall(r"\d+", question)}
        self.compared = _compared(question)

    def allows(self, sentence: str, results: Iterable[int]) -> bool:
        """Whether a sentence holds no word that is not understood and nothing that is false.

        results: numbers of the path that things may have become.
        """
        found, reached = _words(sentence), set(results)
        if not found <= (self.words | _PLAIN) - (set(_RELATIONS) - self.words):
            return False
        named = set(_NAMED.findall(sentence))
        strange = set(re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", sentence)) - self.names
        if not named <= self.names or strange:
            return False
        for thing, numbers in _things(sentence).items():
            if thing not in self.asked and not numbers <= self.things.get(thing, set()):
                return False
        for name, numbers in _owned(sentence).items():
            mine = reached if name == self.about else set()
            if not numbers <= self.owned.get(name, numbers) | mine:
                return False
        told = {int(n) for n in re.findall(r"\d+", sentence)} & (reached - self.numbers)
        whose = {self.about} if self.about else self.names  # is asked
        if named and not whose <= named and (told or _says_a_result(sentence)):
            return False
        if _ODD.search(sentence) or self._disowned(sentence):
            return False
        said = {int(n) for n in _RESULTS.findall(sentence)}
        told_of = {int(a or b or c) for a, b, c in _STORY.findall(sentence)}
        gets = {int(n) for n in _GETS.findall(sentence)}
        if not gets <= ({int(n) for n in _GETS.findall(self.question)} or reached):
            return False
        if not said <= reached or not told_of <= self.numbers:
            return False
        if not _costs(sentence) <= self.costs:
            return False
        if not _there(sentence) <= self.first | reached:
            return False
        if _LABELLED.search(sentence) or (
            _MORE.search(sentence) and "How many more" not in self.question
        ):
            return False
        return _compared(sentence) in (None, self.compared)

    def _disowned(self, sentence: str) -> bool:
        """Whether a result is said to be somebody's whose it is not."""
        if len(self.names) < 2:
            return False
        ages = "years old" in self.question
        return any(not ages or name != self.about for name in _computed(sentence))


def _computed(text: str) -> list[str]:
    """Whose the result of a computation is said to be, by one name alone."""
    return [
        match[1]
        for match in re.finditer(
            rf"\b({'|'.join(NAMES)})(?:'s age)?(?: now)? (?:has|have|had|is)\b[^.,\n]*= ?\$?\d+(?! more)",
            text,
        )
        if not re.search(r" and $", text[: match.start()]) and "together" not in match[0]
    ]


def _words(text: str) -> set[str]:
    plain = _NAMED.sub(" ", text).replace("\\", " ").replace("'", " ").replace("’", " ")
    return set(re.findall(r"[a-z]+", plain.lower())) - {"x", "t", "s", "re"}


def _things(text: str) -> dict[str, set[int]]:
    """How many of what: `3 boxes`, `2 more cakes`."""
    found: dict[str, set[int]] = defaultdict(set)
    for number, thing in re.findall(r"(?<![\d.])(\d+) (?:more |other )?([a-z]{3,})\b", text):
        if thing not in _PLAIN and thing not in _NO_THINGS:
            found[thing].add(int(number))
    return dict(found)


def _owned(text: str) -> dict[str, set[int]]:
    """Who has, or is, how many. What is computed is not told."""
    found: dict[str, set[int]] = defaultdict(set)
    for name, number in re.findall(
        rf"\b({'|'.join(NAMES)}) ?(?:now )?(?:has|had|is|was|have|walks|reads|starts with|started with|'s age is) (?:now )?(\d+)(?! *\w* *[-+*/×÷=]| years (?:older|younger))",
        text,
    ):
        found[name].add(int(number))
    return dict(found)


def _costs(text: str) -> set[int]:
    """What one thing costs."""
    found = re.findall(r"\b(?:[Aa]|[Ee]ach|[Oo]ne) \w+ (?:is|costs?) \$?(\d+)", text)
    return {int(number) for number in found}


def _there(text: str) -> set[int]:
    """How many there are of what is asked for, at the beginning."""
    return {int(n) for n in re.findall(r"[Tt]here (?:are|were) (\d+)(?! *\w* *[-+*/×÷=])", text)}


def _compared(text: str) -> tuple[str, str] | None:
    """Who is compared with whom."""
    found = re.search(rf"\b({'|'.join(NAMES)})\b[^.]*? than ({'|'.join(NAMES)})\b", text)
    return (found[1], found[2]) if found else None


def _says_a_result(text: str) -> bool:
    return (
        re.search(r"=|\banswer\b|\bso\b|\btherefore\b|\bnow\b|\btotal\b", text, re.IGNORECASE)
        is not None
    )
