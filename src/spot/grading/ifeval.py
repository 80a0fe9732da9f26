"""IFEval: instructions that a program can check (Zhou et al. 2023, arXiv:2311.07911).

A response is correct when it follows all instructions of its prompt to the letter ("prompt-level
strict"). Loose verdicts also forgive asterisks and a first or last line too many.

The checks are the official ones as lm-evaluation-harness keeps them (`lm_eval.tasks.ifeval`). They
run in a process of their own, because they draw random numbers, seed a language detector and have
regular expressions that a response can keep busy for hours: so nothing leaks, every answer begins
from the same seed, and one that takes longer than SECONDS is given up as unparseable.
"""

from __future__ import annotations

import importlib.util
import logging
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pebble import ProcessExpired

from spot.data.rows import CORRECT, UNPARSEABLE, WRONG, Question
from spot.grading import sentences
from spot.grading.family import Answer, Family, Grade, RowError, pose, truncated
from spot.grading.process_pool import WorkerPool
from spot.utils.errors import UserError

SECONDS = 60.0  # for one response; a megabyte of English takes half of it on a busy machine
SEED = 0

# What each instruction must be told. The checker would draw at random what a row leaves out.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "change_case:capital_word_frequency": ("capital_frequency", "capital_relation"),
    "change_case:english_capital": (),
    "change_case:english_lowercase": (),
    "combination:repeat_prompt": ("prompt_to_repeat",),
    "combination:two_responses": (),
    "detectable_content:number_placeholders": ("num_placeholders",),
    "detectable_content:postscript": ("postscript_marker",),
    "detectable_format:constrained_response": (),
    "detectable_format:json_format": (),
    "detectable_format:multiple_sections": ("num_sections", "section_spliter"),
    "detectable_format:number_bullet_lists": ("num_bullets",),
    "detectable_format:number_highlighted_sections": ("num_highlights",),
    "detectable_format:title": (),
    "keywords:existence": ("keywords",),
    "keywords:forbidden_words": ("forbidden_words",),
    "keywords:frequency": ("frequency", "keyword", "relation"),
    "keywords:letter_frequency": ("let_frequency", "let_relation", "letter"),
    "language:response_language": ("language",),
    "length_constraints:nth_paragraph_first_word": (
        "first_word",
        "nth_paragraph",
        "num_paragraphs",
    ),
    "length_constraints:number_paragraphs": ("num_paragraphs",),
    "length_constraints:number_sentences": ("num_sentences", "relation"),
    "length_constraints:number_words": ("num_words", "relation"),
    "punctuation:no_comma": (),
    "startend:end_checker": ("end_phrase",),
    "startend:quotation": (),
}
LANGUAGES = frozenset(
    "ar bg bn de en es fa fi fr gu he hi it ja kn ko ml mr ne pa pl pt ru sw ta te th uk ur vi".split()
)
SPLITS_SENTENCES = {"change_case:capital_word_frequency", "length_constraints:number_sentences"}
_RELATIONS = ("less than", "at least")
_LISTS = ("keywords", "forbidden_words")
_TEXTS = ("end_phrase", "first_word", "keyword", "letter", "postscript_marker", "prompt_to_repeat",
          "section_spliter")  # fmt: skip
_PATTERNS = (*_LISTS, "keyword", "postscript_marker", "section_spliter")  # regular expressions

# Responses that do not depend on the question, by what they are: quoted text in lower case without
# commas follows many instructions, and a long one many more.
TRIVIAL = {
    "nothing": "",
    "one of the three constrained answers": "My answer is maybe.",
    "a quoted sentence": '"the answer is here."',
    "a quoted line with all marks": '"<<title>> *a* *b* *c* [a] [b] [c] [d] p.p.s. p.s. my answer is maybe."',
    "80 quoted sentences with all marks": '"'
    + "the answer is *here* [x]. " * 80
    + '<<title>> p.p.s. p.s. my answer is maybe."',
}


# ---------------------------------------------------------------- questions


def read(row: Mapping[str, Any], number: str) -> Question:
    """The question of a row of `google/IFEval` or of a file like it.

    Fields: prompt, instruction_id_list, kwargs (one object for each instruction; null values are
    left out, as the hub has them), and key, which becomes the id. Raises RowError for an instruction
    that the checker does not know and for arguments with which it cannot check.
    """
    prompt, names = row.get("prompt"), row.get("instruction_id_list")
    if not isinstance(prompt, str) or not prompt.strip():
        raise RowError("prompt: not a text")
    if not isinstance(names, list) or not names:
        raise RowError("instruction_id_list: not a list of instructions")
    given = row.get("kwargs") or [None] * len(names)
    if not isinstance(given, list) or len(given) != len(names):
        raise RowError(f"kwargs: not a list of {len(names)}, one for each instruction")
    key = row.get("key")
    return Question(
        id=number if key is None else str(key),
        task="ifeval",
        text=prompt,
        answer="",
        meta={
            "instruction_id_list": names,
            "kwargs": [
                _arguments(name, arguments, f"kwargs[{index}]")
                for index, (name, arguments) in enumerate(zip(names, given, strict=True))
            ],
        },
    )


def _arguments(name: object, given: object, where: str) -> dict[str, Any]:
    """The arguments of one instruction, without nulls. Raises RowError."""
    if not isinstance(name, str) or name not in ARGUMENTS:
        raise RowError(f"instruction_id_list: the checker knows no {name!r}")
    if not isinstance(given, Mapping | None):
        raise RowError(f"{where}: not an object")
    arguments = {key: value for key, value in (given or {}).items() if value is not None}
    wanted = set(ARGUMENTS[name])
    if missing := sorted(wanted - arguments.keys()):
        raise RowError(f"{where}: {name} needs {', '.join(missing)}")
    if unknown := sorted(arguments.keys() - wanted):
        raise RowError(f"{where}: {name} takes no {', '.join(unknown)}")
    for key, value in arguments.items():
        if fault := _fault(key, value):
            raise RowError(f"{where}: {key}={value!r} is {fault}")
    if name.endswith("first_word") and arguments["nth_paragraph"] > arguments["num_paragraphs"]:
        raise RowError(f"{where}: nth_paragraph is above num_paragraphs")
    return arguments


def _fault(key: str, value: object) -> str:
    """What is wrong with an argument, or nothing."""
    if key.endswith("relation"):
        return "" if value in _RELATIONS else f"neither of {_RELATIONS}"
    if key == "language":
        return "" if value in LANGUAGES else f"none of {', '.join(sorted(LANGUAGES))}"
    if key not in _LISTS and key not in _TEXTS:
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        return "" if whole else "not a whole number from 1"
    words = value if key in _LISTS else [value]
    if not (isinstance(words, list) and words and all(isinstance(w, str) for w in words)):
        return "not a list of texts" if key in _LISTS else "not a text"
    if not all(word.strip() for word in words):
        return "blank"
    for word in words if key in _PATTERNS else ():
        try:
            re.compile(word)
        except re.error as error:
            return f"no regular expression, as which the checker reads it ({error})"
    return ""


def trivial(questions: Sequence[Question]) -> tuple[float, str]:
    """Share in [0, 1] of the questions that the best of TRIVIAL is correct for, and its name."""
    shares = {
        name: sum(g.correct for g in grade([Answer(q, response) for q in questions]))
        / len(questions)
        for name, response in TRIVIAL.items()
    }
    best = max(shares, key=shares.__getitem__)
    return shares[best], best


# ---------------------------------------------------------------- grading


def grade(answers: Sequence[Answer]) -> list[Grade]:
    """Whether responses follow all of their instructions, strictly; `reason` names the broken ones.

    details: prompt_strict, prompt_loose (bools), instruction_strict, instruction_loose (a bool for
    each instruction; all False where the check was given up), and for instructions that count
    sentences or capital words `sentences` (trained | untrained), with a `warning` if untrained.
    Raises UserError when the checker is not installed.
    """
    ready()
    sentences.fetch()
    asked = [(a.question.text, a.question.meta, a.response) for a in answers]
    return [_grade(a, found) for a, found in zip(answers, CHECKER.map(asked), strict=True)]


def _grade(answer: Answer, found: Mapping[str, Any] | Exception) -> Grade:
    names = answer.question.meta["instruction_id_list"]
    gave_up = _gave_up(found) if isinstance(found, Exception) else ""
    verdicts = {} if isinstance(found, Exception) else found
    strict = verdicts.get("strict", [False] * len(names))
    loose = verdicts.get("loose", [False] * len(names))
    details = {
        "prompt_strict": all(strict),
        "prompt_loose": all(loose),
        "instruction_strict": strict,
        "instruction_loose": loose,
    }
    if SPLITS_SENTENCES.intersection(names) and not gave_up:
        details["sentences"] = verdicts["sentences"]
        if verdicts["sentences"] == sentences.UNTRAINED:
            details["warning"] = sentences.WARNING
    broken = ", ".join(name for name, follows in zip(names, strict, strict=True) if not follows)
    if answer.finish_reason == "length":
        return truncated(details=details)
    if gave_up:
        return Grade(False, UNPARSEABLE, reason=f"gave up: {gave_up}", details=details)
    return Grade(all(strict), WRONG if broken else CORRECT, reason=broken, details=details)


def _gave_up(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"it took longer than {CHECKER.seconds:g} s"
    if isinstance(error, ProcessExpired):
        return "the checking process died"
    return f"{type(error).__name__}: {str(error)[:200]}"


def ready() -> None:
    """Raise UserError where the checker is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("IFEval's checker is not installed: pip install -c constraints.txt -e .")


def family() -> Family:
    """IFEval, from rows as `google/IFEval` has them."""
    return Family(read, pose, grade, trivial, ready=ready)


# ---------------------------------------------------------------- in the checking process

_sentence_model = ""  # which one this process has


def prepare() -> None:
    """Load the checker and its model of sentences."""
    global _sentence_model
    with sentences.model() as _sentence_model:
        import langdetect
        import nltk
        from lm_eval.tasks.ifeval import instructions_util

        instructions_util.count_sentences("One. Two.")  # loads the model while it is there
        nltk.word_tokenize("One. Two.")  # keeps one of its own
    logging.disable(logging.CRITICAL)  # the checker logs whole responses
    langdetect.DetectorFactory.seed = SEED


def check(prompt: str, meta: Mapping[str, Any], response: str) -> dict[str, Any]:
    """Strict and loose verdicts on each instruction, and the sentence model they rest on."""
    from lm_eval.tasks.ifeval import utils

    example = utils.InputExample(0, meta["instruction_id_list"], prompt, meta["kwargs"])
    found: dict[str, Any] = {"sentences": _sentence_model}
    for name in ("strict", "loose"):
        random.seed(SEED)  # where a letter is none of a to z the checker draws one
        test = getattr(utils, f"test_instruction_following_{name}")
        found[name] = test(example, response).follow_instruction_list
    return found


CHECKER = WorkerPool(check, prepare, SECONDS, workers=1)
