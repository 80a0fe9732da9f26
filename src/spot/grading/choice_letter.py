"""The letter that a response to a multiple-choice question gives as its answer.

It is read only where the response states it as its answer, never from a capital letter that happens to
stand there. Responses are hostile input: no pattern here may take more than linear time.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from string import ascii_uppercase
from typing import NamedTuple

from spot.data.answers import boxes
from spot.grading.math import equal

MOST_STATEMENTS = 50  # of one kind that are read, from the end of a response
LONGEST_STATEMENT = 2_000  # characters

_JSON_OR_TAG = re.compile(
    r"""["'“”](?:\w{1,9}[_ ])?(?:answer|choice|option)(?:_letter)?["'“”]\s{0,9}:\s{0,9}\[?
        (?: "((?:[^"\\\n]|\\.){0,999})" | '([^'\n]{0,999})' | ([^\s"',{}]{1,20}) )
    | <(?:\w{1,9}_)?answer>([^<]{0,999})</""",
    re.IGNORECASE | re.VERBOSE,
)
_WIDE = re.compile("[\uff01-\uff5e\U0001d400-\U0001d7ff]")  # full width, mathematical alphabets
_COMMAND = re.compile(
    r"\\{1,2}(?:text(?:bf|it|rm|sf)?|math(?:rm|bf|it|sf)|boldsymbol|bm|bf|rm)\s*\{([^{}]*)\}"
)
_MARKS = re.compile(  # of Markdown and LaTeX, and quotation marks
    r"[*`$\"“”]|(?m:^[#>])|(?<!\w)['‘’]|['’](?!\w)|(?<!\w)_++|(?<!_)_++(?!\w)|\\[()\[\]]"
)
_SPACES = re.compile(r"\\[,;:! ]|~|\\q?quad(?![a-z])")


def _pattern(text: str) -> re.Pattern[str]:
    """A pattern for cleaned text, whose blanks are single; a blank matches the end of a line, too."""
    return re.compile(text.replace(" ", r"\s"), re.IGNORECASE)


_NOUN = r"(?:answer|option|choice|letter)"
_LETTER = r"(?:[(\[{<]{1,2}\s*([A-Za-z])\s*[.:]?\s*[)\]}>]{1,2}|([A-Za-z])(?![\w'’]))"
_IS = (
    r"(?: (?:(?:must|should|would|will|has to|have to|seems to|appears to) be|is|was|seems|appears|looks)\b\s*:?"
    r"|\s*[:=→]| [-–—](?=\s))"
)
_FILLING = (
    r"\s*(?:(?:therefore|thus|clearly|indeed|definitely|certainly|most|likely|probably|hence|so|then|simply"
    rf"|actually|is|the|correct|final|solution|conclusion|result|i (?:think|believe|guess)|that|it is|it's|given by|{_NOUN})\b"
    r"[\s,:=]*){0,6}(?P<no>not )?"
)
_WHICH = (  # "the answer [that fits the data] is"
    r"(?:\s*, [\w\s]{1,30},| (?:to|that|which|for|of|in|from|here|i|we|consistent|matching|choice|option|letter)\b"
    r"(?: (?!not\b|wrong|incorrect|false)\w[\w'’-]{1,30}){0,9}?)?"
)
_STATED = _pattern(
    rf"\b(?:(?:final )?(?:{_NOUN}|ans|selection){_WHICH}{_IS}|final answer\s|ans\.\s"
    rf"|(?:correct|right|final) {_NOUN} (?=[(\[])){_FILLING}"
)
_CALLED = (  # "5 J is" is no letter; "(C) Rome is"
    rf"(?<![\w'’])(?<!\d\s){_LETTER}(?:\s*\([^()\n]{{0,99}}\)|(?<=[)\]])[^().,;:\n]{{1,40}}?)?{_IS}"
    r"\s*(?:(?:therefore|thus|clearly|likely) )?"
)
_IS_ANSWER = _pattern(
    rf"{_CALLED}(?:(?:the|our|my|final|only|most|likely|best|correct|right) )*"
    r"(?:answer|(?:correct|right) (?:option|choice|one))\b"
    r"(?! (?:for|if|when|in|under|only|elsewhere|most|many|some|people|students|often|usually)\b(?! (?:this|the) (?:question|problem)))"
)
_IS_RIGHT, _IS_GOOD = (
    _pattern(rf"{_CALLED}(?:the )?(?:only |most )?(?:{adjectives})\b")
    for adjectives in ("correct|right", "true|accurate|valid|best|appropriate")
)
_CHOSEN = _pattern(
    r"\b(?:choose|select|pick|go(?:ing)? (?:with|for)|leaves|leaving|it is|it's|i (?:think|believe|guess|say)"
    r"|i(?:'d| would| will) answer|(?:correct|right|best)(?: \w{2,30}){1,4} is"
    rf"|(?:corresponds? to|match(?:es|ing)?|is)(?= (?:the )?(?:{_NOUN}\s|\([A-Z]\))))"
    rf" (?:only )?{_FILLING}"
)
# "The wrong answer is B", "if the answer is B", "many students pick B".
_UNMEANT = frozenset(
    """if whether suppose supposing assume assuming unless wrong incorrect false tempting naive trap other
    alternative another second next not never initial initially previous previously first students many
    distractor says might could may""".split()
)
_ALONE = _pattern(rf"(?:[∴→⇒•-]|=>|\d[.)])?{_FILLING}{_LETTER}[\s.):,!–—-]*")
_ITEM = _pattern(r"(?<!\w)(?:\([A-Z]\)|[A-Z]\s?[.):]|[A-Z] [-–—(])\s*\S")
_TEXT_FIRST = _pattern(rf"(?P<text>.+?)[\s,–—-]+[(\[]?(?:{_NOUN} )?{_LETTER}[).\]]*$")
_OPENING = _pattern(rf"(?:{_NOUN} )?{_LETTER}")
_BUT = _pattern(rf"{_LETTER}\s*,?\s*but (?:rather )?(?:{_NOUN} )?")
# After a letter without brackets: the end, a stop, a bracket or a reason; "A ball" is no letter.
_FOLLOWS = re.compile(
    r"\s*(?:\.(?!\s?[a-z])|[,;:)\]}!–—→]|-\s|$|(?<=\s)[(\[]|(?:because|since|as|which|due|given|based|for"
    r"|but|though|although|while|whereas|not|rather|instead|with|by|from|here|in|at|on|when|so"
    r"|hence|therefore|thus|and)\b)"
)
_UNIT = re.compile(r"(?<=[\d}])\s+([^\W\d_][\w/^.·\s-]{0,30})$")
_OTHER = r"\s*(?:option )?(?:\([A-Za-z]\)|[A-Z](?![\w'’-]))"
_ANOTHER = re.compile(
    rf"\s*(?:(?:/|&|,?\s*\bor\b){_OTHER}|(?:,\s*and\b|,|\band\b){_OTHER}(?! (?!are|both|or|and)[a-z]))"
)


class _Said(NamedTuple):
    position: int
    letter: str | None
    agreed: bool = True  # not "the answer is not B"
    conditional: bool = False  # "the answer would be B"


def chosen_letter(response: str, options: Sequence[str]) -> str | None:
    r"""The letter that a response gives as its answer to these options (A first), or None.

    The last statement of an answer counts: JSON, a box, `<answer>`, "the answer is C", "Answer: C",
    "C is the correct option", a letter alone on the first or the last line. Only a response without
    one is searched for weaker signs, in this order: "I choose C" or a line "C. Because …" at either end,
    "C is correct", "C is best". An option's full text stands for its letter.
    """
    text = _clean(_on_own_lines(response))
    lines = text.split("\n")
    ends = ((-1, lines[0], lines[1:2]), (len(text), lines[-1], lines[-2:-1]))
    own = [(at, line) for at, line, beside in ends if not _is_list(line, *beside)]
    last = [(at, re.split(r"(?<=[.!?])\s+(?=\S)", line)[-1]) for at, line in own[-1:]]
    alone = [_Said(at, _alone(part, options)) for at, part in own + last]
    sentences = _all_said(text, (_STATED, _IS_ANSWER), options)
    hinted = [
        _Said(at, _read(line, options) if _ITEM.match(line) else _same_text(line, options))
        for at, line in own
    ]
    tiers = (
        lambda: alone + [said for said in sentences if not said.conditional],
        lambda: hinted + sentences + _all_said(text, (_CHOSEN,), options),
        lambda: _all_said(text, (_IS_RIGHT,), options),
        lambda: _all_said(text, (_IS_GOOD,), options),
    )
    return next(filter(None, (_last(tier()) for tier in tiers)), None)


def _on_own_lines(response: str) -> str:
    """The response with what JSON, tags and boxes give as an answer on lines `answer: …` of their own."""
    text = _JSON_OR_TAG.sub(lambda m: f"\nanswer: {next(filter(None, m.groups()), '')}\n", response)
    below = len(text)
    for start, end in reversed(boxes(text)[-MOST_STATEMENTS:]):
        if end <= below and end - start <= LONGEST_STATEMENT:  # of nested boxes the innermost
            text = f"{text[:start]}\nanswer: {text[start:end]}\n{text[end:]}"
            below = start
    return text


def _clean(text: str) -> str:
    """Without markup, each line's blanks made one, without empty lines."""
    text = _WIDE.sub(lambda m: unicodedata.normalize("NFKC", m[0]), text)
    for _ in range(3):
        text = _COMMAND.sub(r"\1", text)
    text = _SPACES.sub(" ", _MARKS.sub("", text)).replace("n't", " not")
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def _all_said(
    text: str, patterns: Sequence[re.Pattern[str]], options: Sequence[str]
) -> list[_Said]:
    """What the sentences of these patterns say, where they are meant."""
    return [
        _said(match, options)._replace(conditional=" would " in match[0].lower())
        for pattern in patterns
        for match in list(pattern.finditer(text))[-MOST_STATEMENTS:]
        if not _UNMEANT.intersection(_words_before(match))
    ]


def _words_before(match: re.Match[str]) -> list[str]:
    """The four words before, of the same sentence."""
    before = match.string[max(0, match.start() - 60) : match.start()]
    return re.split(r"[.!?:;,\n]", before)[-1].lower().split()[-4:]


def _said(match: re.Match[str], options: Sequence[str]) -> _Said:
    if "no" not in match.re.groupindex:  # "C is the answer": the letter stands before
        return _Said(match.start(), _in_range(match, options))
    rest = match.string[match.end() : match.end() + LONGEST_STATEMENT]
    if but := match["no"] and _BUT.match(rest):  # "not B but C"
        return _Said(match.start(), _read(rest[but.end() :], options))
    line, *below = rest.split("\n")
    if "\n" not in match[0]:
        return _Said(match.start(), _read(line, options), not match["no"])
    listed = _is_list(line, *below[:1])  # "Which option is right:", before the options
    return _Said(match.start(), None if listed else _alone(line, options), not match["no"])


def _last(said: Sequence[_Said]) -> str | None:
    """The last letter that is said and not taken back after it."""
    taken_back = set()
    for one in sorted((one for one in said if one.letter), reverse=True):
        if one.agreed:
            return None if one.letter in taken_back else one.letter
        taken_back.add(one.letter)
    return None


def _is_list(*lines: str) -> bool:
    """Whether options are listed: on neighbouring lines, or three on one."""
    return (len(lines) > 1 and all(map(_ITEM.match, lines))) or len(_ITEM.findall(lines[0])) > 2


def _alone(line: str, options: Sequence[str]) -> str | None:
    """The letter of a line that is nothing but an answer: `C`, `(C)`, `So option C.`, `C. Paris`."""
    match = _ALONE.match(line[:LONGEST_STATEMENT])
    if match is None or match["no"]:
        return None
    letter, rest = _in_range(match, options), line[match.end() :].strip(" ()[]")
    return letter if not rest or _is_text_of(letter, rest, options) else None


def _read(text: str, options: Sequence[str]) -> str | None:
    """The letter at the beginning of what follows "the answer is"; one, and not a word's."""
    line = text.split("\n", 1)[0]
    for part in (line, re.split(r"(?<=[.!?])\s", line, maxsplit=1)[0]):
        word = part.strip("(). ")
        if not (len(word) == 1 and word.isalpha()) and (same := _same_text(part, options)):
            return same
    match = _OPENING.match(line)
    if match is None:
        both = _TEXT_FIRST.match(line)  # "Paris (B)"
        letter = _in_range(both, options) if both else None
        return letter if both and _is_text_of(letter, both["text"], options) else None
    letter, rest = _in_range(match, options), line[match.end() :]
    if _is_text_of(letter, rest.strip(" ()[].:=/–—-"), options):
        return letter
    unclear = (
        _ANOTHER.match(rest)
        or rest.startswith("?")
        or (match[2] and not _FOLLOWS.match(line, match.end()))
    )
    return None if unclear else letter


def _same_text(text: str, options: Sequence[str]) -> str | None:
    """The letter of the one option that a text repeats, word by word or in another writing."""
    letters = ascii_uppercase[: len(options)]
    for alike in (_same_words, _same_value, _same_number):
        if found := [letter for letter in letters if alike(text, _option(letter, options))]:
            return found[0] if len(found) == 1 else None
    return None


def _is_text_of(letter: str | None, text: str, options: Sequence[str]) -> bool:
    """Whether a text is that of the option of this letter."""
    if letter is None or not text:
        return False
    option = _option(letter, options)
    return _same_words(text, option) or _same_value(text, option)


def _option(letter: str, options: Sequence[str]) -> str:
    return _clean(options[ascii_uppercase.index(letter)]).replace("\n", " ")


def _same_words(text: str, option: str) -> bool:
    return text.casefold().rstrip(". ") == option.casefold().rstrip(". ")


def _same_value(text: str, option: str) -> bool:
    return len(text) <= 2 * len(option) + 40 and bool(equal(text, option))


def _same_number(text: str, option: str) -> bool:
    """`50` and `50 m/s`: the words behind a number are its unit."""
    return _same_value(text, _UNIT.sub(r"\\text{ \1}", option))


def _in_range(match: re.Match[str], options: Sequence[str]) -> str | None:
    letter = next(group for group in match.groups()[::-1] if group and len(group) == 1).upper()
    return letter if letter in ascii_uppercase[: len(options)] else None
