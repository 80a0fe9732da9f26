"""An Oracle that corrects free text without a language model: it knows the path of an everyday question.

It reads a response sentence by sentence. What it finds right stays; a wrong number, sign or operation is
changed where it stands; what cannot be put right so, and what follows from it, is written anew in the
response's own form. What it cannot read it refuses.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from itertools import takewhile

from spot.data.answers import extract
from spot.data.everyday import Path, Step, leaves, path_of, ways
from spot.oracle.calculator import claims, numbers, whole
from spot.oracle.tutor_sense import Sense
from spot.oracle.tutor_sentence import Mender, WrongError
from spot.oracle.types import Task

_BREAK = re.compile(r"((?<=[.!?])[ \t]+(?=\S)|\s*\n\s*)")
_ITEM = re.compile(r"\W*(?:Step )?\d+\.$")
_OTHER_SCRIPT = re.compile("[\u0370-\u1cff\u2e80-\ud7ff\uf900-\ufaff]")
_ENGLISH = re.compile(
    r"\b(?:the|is|are|so|we|you|he|she|has|have|there|answer|and|of|to|each|from|gives|gets|costs?|left)\b",
    re.IGNORECASE,
)
_UNREAD = re.compile(
    r"\d\s*%|\\frac|\b[a-wyz]\s*=|\bx\s*=|\d[a-z]|[-+*/×] [A-Z]|[<>≤≥]|```|\bdef |\breturn "
)


def correct(task: Task) -> str | None:
    """The attempt corrected, or the tutor's own answer (mode `direct`); None for what it cannot read."""
    path = path_of(task.question)
    if path is None:
        return None
    if task.mode == "direct":
        return "\n".join(
            [*(f"{step_text(step)}" for step in path), f"The answer is {path[-1].result}."]
        )
    if not _understood(task):
        return None
    found = [_corrected(way, task) for way in ways(path)]
    return min(filter(None, found), key=lambda text: _distance(task.response, text), default=None)


def _understood(task: Task) -> bool:
    """Whether the response is in English, and has numbers, whole ones only."""
    text = task.response
    words = set(re.findall("[a-z]{2,}", text))
    ours = set(re.findall("[a-z]{4,}", task.question)) | {"plus", "minus", "times", "total"}
    if _OTHER_SCRIPT.search(text) or (words and not _ENGLISH.search(text) and not words & ours):
        return False
    found = numbers(text)
    return bool(found) and not _UNREAD.search(text) and all(n.value is not None for n in found)


def _corrected(path: Path, task: Task) -> str | None:
    """The response put on this path; None where nothing of it could stay.

    Up to the last sentence with a number, the first that cannot be put right ends what is kept.
    """
    mender = Mender(path, Sense(task.question), task.response, known=set(leaves(path)))
    wrong = whole(extract(task.response, "last") or "")
    if wrong is not None and wrong not in {*mender.known, *(step.result for step in path)}:
        mender.renamed[wrong] = mender.answer
    sentences, breaks = _sentences(task.response)
    last = max(i for i, sentence in enumerate(sentences) if numbers(sentence))
    kept: list[str] = []
    for sentence, behind in zip(sentences[:last], breaks, strict=False):
        before = mender.done, set(mender.known)
        try:
            kept += [mender.mended(sentence), behind]
        except WrongError:
            mender.done, mender.known = before
            break
    ending = sentences[last:]
    if not kept:  # of a list, of which it was the last item
        ending[0] = re.sub(r"^\W*\d+\.\s", "", ending[0])
    text = _ended(mender, kept, ending, breaks[last:], next(filter(None, breaks), " "))
    if text is None or extract(text, "last") == str(mender.answer):
        return text
    return f"{text.rstrip()}{next(filter(None, breaks), ' ')}The answer is {mender.answer}."


def _ended(
    mender: Mender, kept: list[str], ending: list[str], behind: list[str], between: str
) -> str | None:
    """What is kept, the steps that are missing, and the ending: the last sentence with a number, and others."""
    computes, alone, before = bool(claims(mender.response)), not claims(ending[0]), mender.done
    try:
        final = mender.mended(ending[0], final=True)
    except WrongError:
        if not any(re.search("[a-z0-9]", piece) for piece in kept):
            return None
        final, alone = f"The answer is {mender.answer}.", True
    steps = mender.path[before if alone else mender.done :] if computes else ()
    missing = [f"{step_text(step, mender.sign('*'), mender.sign('/'))}." for step in steps]
    if not alone:
        return "".join([*kept, between.join([final, *missing])])
    rest = takewhile(lambda pair: mender.allows(pair[1]), zip(behind, ending[1:], strict=False))
    tail = [part for pair in rest for part in pair]
    return "".join([*kept, *(f"{step}{between}" for step in missing), final, *tail])


def _distance(old: str, new: str) -> float:
    """How much of a text was changed, in [0, 1], by words and signs."""
    a, b = (re.findall(r"\w+|\S", text) for text in (old, new))
    return 1 - SequenceMatcher(None, a, b, autojunk=False).ratio()


def step_text(step: Step, times: str = "*", over: str = "/") -> str:
    """`3 * 4 = 12`."""
    sign = {"*": times, "/": over}.get(step.sign, step.sign)
    return f"{step.left} {sign} {step.right} = {step.result}"


def _sentences(text: str) -> tuple[list[str], list[str]]:
    """The sentences of a text, lines apart, and what stands between them; `1.` is none."""
    parts = _BREAK.split(text)
    sentences, breaks = parts[:1], []
    for between, sentence in zip(parts[1::2], parts[2::2], strict=True):
        if _ITEM.match(sentences[-1]) and "\n" not in between:
            sentences[-1] += between + sentence
        else:
            breaks.append(between)
            sentences.append(sentence)
    return sentences, breaks
