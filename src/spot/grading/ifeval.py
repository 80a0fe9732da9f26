"""IFEval: instructions that a program can check (Zhou et al. 2023, arXiv:2311.07911).

A response is correct when it follows all instructions of its prompt to the letter ("prompt-level
strict"). Loose verdicts also forgive asterisks and a first or last line too many.

The checks are the official ones as lm-evaluation-harness keeps them (`lm_eval.tasks.ifeval`). They
run in a process of their own, because they draw random numbers, seed a language detector and have
regular expressions that a response can keep busy for hours: so nothing leaks, every answer begins
from the same seed, and one that takes longer than SECONDS is given up as unparseable.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import importlib.util
import json
import logging
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TextIO

from spot.data.rows import CORRECT, TRUNCATED, UNPARSEABLE, WRONG, Question
from spot.grading import sentences
from spot.grading.family import Answer, Family, Grade, RowError, pose
from spot.utils.errors import UserError

SECONDS = (
    60.0  # for one response; a megabyte of English takes a quarter of it, half on a busy machine
)
START_SECONDS = 180.0  # to import the checker on a busy machine, and to fetch the sentence model
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
    return [_grade(answer, CHECKER.check(answer)) for answer in answers]


def _grade(answer: Answer, found: Mapping[str, Any]) -> Grade:
    names = answer.question.meta["instruction_id_list"]
    strict = found.get("strict", [False] * len(names))
    loose = found.get("loose", [False] * len(names))
    details = {
        "prompt_strict": all(strict),
        "prompt_loose": all(loose),
        "instruction_strict": strict,
        "instruction_loose": loose,
    }
    if SPLITS_SENTENCES.intersection(names):
        details["sentences"] = found["sentences"]
        if found["sentences"] == sentences.UNTRAINED:
            details["warning"] = sentences.WARNING
    broken = ", ".join(name for name, follows in zip(names, strict, strict=True) if not follows)
    if answer.finish_reason == "length":
        return Grade(False, TRUNCATED, reason="cut at the token limit", details=details)
    if "error" in found:
        return Grade(False, UNPARSEABLE, reason=f"gave up: {found['error']}", details=details)
    return Grade(all(strict), WRONG if broken else CORRECT, reason=broken, details=details)


DIED = {"error": "the checking process died"}


class Checker:
    """The process that checks: started at the first answer, replaced when it hangs or dies.

    Usable from any thread. What it says of an answer is {strict, loose} or {error}, and with which
    model it splits sentences.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._sentences = ""

    def check(self, answer: Answer) -> dict[str, Any]:
        """What it says of an answer. Raises UserError when the checker is not installed."""
        meta = answer.question.meta
        asked = {
            "prompt": answer.question.text,
            "instruction_id_list": meta["instruction_id_list"],
            "kwargs": meta["kwargs"],
            "response": answer.response,
        }
        line = json.dumps(asked) + "\n"
        with self._lock:
            found = self._ask(line)
            if found == DIED:  # somebody ended it, perhaps between two answers: once more
                found = self._ask(line)
            return {**found, "sentences": self._sentences}

    @property
    def pid(self) -> int | None:
        """Of the process, if there is one."""
        return None if self._process is None else self._process.pid

    def stop(self) -> None:
        """End the process; the next answer starts another, which looks for sentences anew."""
        with self._lock:
            self._stop()
            self._sentences = ""

    def forget(self) -> None:
        """After a fork: the process belongs to the parent."""
        self.__init__()  # type: ignore[misc]

    def _start(self) -> subprocess.Popen[str]:
        ready()
        source = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path}
        if self._sentences == sentences.UNTRAINED:  # a replacement does as its predecessor did
            environment["HF_HUB_OFFLINE"] = "1"
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", "spot.grading.ifeval"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        hello = self._reply(process, START_SECONDS)
        if "error" in hello:
            raise RuntimeError(
                f"the IFEval checker did not start ({hello['error']}): "
                "see `python -m spot.grading.ifeval`"
            )
        self._sentences = hello["sentences"]
        return process

    def _ask(self, line: str) -> dict[str, Any]:
        try:
            process = self._process or self._start()
            assert process.stdin is not None
            with contextlib.suppress(OSError):  # it has died; reading its reply will notice
                process.stdin.write(line)
                process.stdin.flush()
            return self._reply(process, SECONDS)
        except BaseException:  # after an interruption its reply would answer another question
            self._stop()
            raise

    def _reply(self, process: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
        assert process.stdout is not None
        if not wait([process.stdout.fileno()], seconds):
            self._stop()
            return {"error": f"it took longer than {seconds:g} s"}
        if line := process.stdout.readline():
            return json.loads(line)
        self._stop()
        return DIED

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        self._process.wait()
        self._process = None


CHECKER = Checker()
atexit.register(CHECKER.stop)
os.register_at_fork(after_in_child=CHECKER.forget)


def ready() -> None:
    """Raise UserError where the checker is not installed."""
    packages = ("lm_eval", "langdetect", "immutabledict", "nltk")
    if not all(importlib.util.find_spec(name) for name in packages):
        raise UserError(
            "IFEval's checker is not installed: pip install -c constraints.txt -e '.[ifeval]'."
        )


def family() -> Family:
    """IFEval, from rows as `google/IFEval` has them."""
    return Family(read=read, pose=pose, grade=grade, trivial=trivial)


# ---------------------------------------------------------------- the checking process


def _serve(requests: TextIO, replies: TextIO) -> None:
    """Its life: which sentence model it has, then one JSON answer a line in, its verdicts out."""
    with sentences.model() as kind:
        import langdetect
        import nltk
        from lm_eval.tasks.ifeval import instructions_util, utils

        instructions_util.count_sentences("One. Two.")  # loads the model while it is there
        nltk.word_tokenize("One. Two.")  # keeps one of its own
    logging.disable(logging.CRITICAL)  # the checker logs whole responses
    langdetect.DetectorFactory.seed = SEED
    print(json.dumps({"sentences": kind}), file=replies, flush=True)
    for line in requests:
        # Ends this process even while one regular expression runs forever, should the parent be gone.
        faulthandler.dump_traceback_later(SECONDS + 5, exit=True)
        print(json.dumps(_check(utils, json.loads(line))), file=replies, flush=True)
        faulthandler.cancel_dump_traceback_later()


def _check(utils: Any, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Strict and loose verdicts on each instruction, or the error that a response provoked."""
    example = utils.InputExample(
        key=0,
        prompt=asked["prompt"],
        instruction_id_list=asked["instruction_id_list"],
        kwargs=asked["kwargs"],
    )
    found = {}
    for name in ("strict", "loose"):
        random.seed(SEED)  # where a letter is none of a to z the checker draws one
        test = getattr(utils, f"test_instruction_following_{name}")
        try:
            found[name] = test(example, asked["response"]).follow_instruction_list
        except Exception as error:  # 100,000 brackets are no JSON but a RecursionError
            return {"error": f"{type(error).__name__}: {str(error)[:200]}"}
    return found


if __name__ == "__main__":
    own_stdout = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries print
    _serve(sys.stdin, own_stdout)
