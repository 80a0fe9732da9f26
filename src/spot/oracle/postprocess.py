"""An Oracle's text made into y⁺, and judged: is it there, whole, right, and close to y⁻?

Models wrap their answer in more than the prompt's markers: thoughts, an announcement, a code block.
All of that goes, unless the attempt has it too, for a correction keeps the student's style. What is
left is taken only if its final answer equals the truth (§2), by the verifier that graded the attempt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from spot.data.edits import change_ratio, common_prefix
from spot.data.rows import CORRECT, UNPARSEABLE
from spot.grading.registry import Verifier
from spot.oracle.comments import comment
from spot.oracle.types import EMPTY, MAX_TOKENS, SAFETY, STOP, Task

OK, WRONG, UNCHANGED, TRUNCATED = "ok", "wrong", "unchanged", "truncated"
REWRITTEN, COMMENTED, REFUSED = "rewritten", "commented", "refused"

STARTED, ENDED = "=== CORRECTED STARTED ===", "=== CORRECTED ENDED ==="

# Models decorate the markers (bold, quotes), change their number of signs, or swap their words.
_MARKER = re.compile(
    r"""(?:[*`>#]{1,3}[ \t]{0,3})?={2,20}[ \t]{0,8}
    ((?:(?:START|BEGIN|END)\w{0,5}[ \t]{1,3}(?:OF[ \t]{1,3})?)?CORRECTED\b[^=\n]{0,80})
    ={2,20}[*`]{0,3}""",
    re.IGNORECASE | re.VERBOSE,
)
_CLOSING = re.compile(r"\b(?:END|FINISH|STOP)", re.IGNORECASE)
_THOUGHTS = re.compile(r"\A\s*<think>(.*?)(</think>|\Z)", re.DOTALL)
_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[ \t]*$", re.MULTILINE)
_PROSE = {"", "markdown", "md", "text", "txt", "plaintext", "latex", "tex"}  # code would be code

# What announcements and remarks speak of: a student's own text says none of this about itself.
_CORRECTED = (
    r"(?:corrected|revised|rectified|edited|amended|minimally[ -]\w+|updated)\s+(?:\w+\s+)?"
    r"(?:version|answer|response|solution|trace|text|reasoning|attempt)"
)
_ANNOUNCEMENT = re.compile(  # goes up to its colon or full stop; what follows on the line stays
    rf"""(?:(?:sure|certainly|of\ course|okay|ok|understood|absolutely)[!,.]?\s{{1,3}})?
    (?:(?:here(?:['’]s|\s+is)|below\s+is|this\s+is|i(?:['’]ve|\s+have)\s+\w+)\s[^:.\n]{{0,60}}?)?
    (?:(?:the|your|student['’]?s?)\s+){{0,2}}{_CORRECTED}\b
    (?:[*_]{{0,3}}[:.](?=[\s*_`]|$)|(?:[^:.\n]|[:.](?![\s*_`]|$)){{0,160}}(?:[:.](?=[\s*_`]|$)|$))[\s*_]*
    |(?:sure|certainly|of\ course|absolutely|understood)[!.,]?$""",
    re.IGNORECASE | re.VERBOSE,
)
_REMARK = re.compile(
    r"""\(?(?:note|changes?(?:\ made)?|explanation)\s*:.*
        \b(?:student|corrected|corrections?|changed|mistakes?|errors?)\b.*
    |i\ (?:have\ )?(?:corrected|changed|fixed|revised|replaced)\b.*
    |(?:i\ hope\ this|let\ me\ know\ if|feel\ free\ to)\b.*""",
    re.IGNORECASE | re.VERBOSE,
)
_NOTES = re.compile(  # a heading: all below it speaks of the edit
    r"(?:(?:key|main)\s+)?(?:(?:summary|explanation|list)\s+of\s+(?:the\s+)?)?(?:changes|corrections)"
    r"(?:\s+(?:made|i\s+made))?\s*:?|what\s+(?:i|was)\s+changed\s*:?",
    re.IGNORECASE,
)
_LONGEST_REMARK = 300  # characters; a longer line is content
_LAYERS = 4  # of wrapping; more is no wrapping but content, or an attack on our patience


@dataclass(frozen=True)
class Judgement:
    """What became of one reply. `chosen` is y⁺ when `outcome` is ok and empty otherwise.

    reason: what to tell the Oracle when it is asked again, one sentence without the truth in it.
    detail: change_ratio (eq. 1) and common_prefix, as far as there was a text to measure.
    """

    # ok | wrong | unparseable | empty | unchanged | truncated | rewritten | commented | safety | refused
    outcome: str
    chosen: str = ""
    extracted: str | None = None
    reason: str = ""
    detail: dict[str, float | int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Judge:
    """Judges replies; call it with (text, how the reply ended, task). May be called from any thread.

    tokens: how a response is cut for eq. 1, the policy's tokenizer if there is one; largest_change:
    a correction with a greater change ratio is `rewritten` (None: all ratios pass).
    """

    verifier: Verifier
    answer_format: str = "boxed"
    tokens: Callable[[str], Sequence[int]] = field(default=lambda text: words(text))
    largest_change: float | None = None

    def __call__(self, text: str, finish: str, task: Task) -> Judgement:
        """The judgement of one reply."""
        if finish in _UNUSUAL:
            outcome, reason = _UNUSUAL[finish]
            return Judgement(outcome, reason=reason)
        if finish != STOP:
            return Judgement(REFUSED, reason="you gave no answer")
        attempt = task.response if task.mode == "rectified" else ""
        chosen = clean(text, attempt)
        if not chosen.strip():
            return Judgement(EMPTY, reason="nothing stood between the two markers")
        if task.mode == "rectified" and chosen.split() == attempt.split():
            return Judgement(UNCHANGED, reason="you returned the answer without any change")
        measured = self._measured(attempt, chosen)
        verdict, extracted = self.verifier.verdict(chosen, task.answer, "stop", self.answer_format)
        if verdict != CORRECT:
            outcome, reason = _against(
                verdict, extracted, self.answer_format, whole=_is_whole(text)
            )
            return Judgement(outcome, "", extracted, reason, measured)
        if (found := comment(chosen, attempt, task.question)) is not None:
            reason = "it says {1!r}: write as the student, who knows of no {0}".format(*found)
            return Judgement(COMMENTED, "", extracted, reason, measured)
        ratio = measured.get("change_ratio")
        if self.largest_change is not None and ratio is not None and ratio > self.largest_change:
            reason = f"you rewrote {ratio:.0%} of it: change less"
            return Judgement(REWRITTEN, "", extracted, reason, measured)
        return Judgement(OK, chosen, extracted, "", measured)

    def _measured(self, attempt: str, chosen: str) -> dict[str, float | int | None]:
        """Change ratio and common prefix; a direct answer corrects nothing and has neither."""
        if not attempt:
            return {}
        rejected_ids, chosen_ids = self.tokens(attempt), self.tokens(chosen)
        return {
            "change_ratio": change_ratio(rejected_ids, chosen_ids),
            "common_prefix": common_prefix(rejected_ids, chosen_ids),
        }


_UNUSUAL = {
    MAX_TOKENS: (TRUNCATED, "it was cut off before its end: think and write less"),
    SAFETY: (SAFETY, "a safety filter stopped it"),
    EMPTY: (EMPTY, "it was empty"),
}


def _against(
    verdict: str, extracted: str | None, answer_format: str, *, whole: bool
) -> tuple[str, str]:
    """Outcome and reason of an answer that was not verified."""
    if extracted is None and not whole:
        return TRUNCATED, "it stopped before the final answer and the closing marker"
    if extracted is None:
        return UNPARSEABLE, "it has no final answer in the form that was asked for"
    if answer_format == "code":
        return WRONG, "its program fails a hidden test"
    line = " ".join(extracted.split())
    short = line if len(line) <= 100 else f"{line[:100]}…"
    if verdict == UNPARSEABLE:
        return UNPARSEABLE, f"the final answer {short} could not be compared: write it simply"
    return WRONG, f"the final answer {short} does not match"


def words(text: str) -> list[int]:
    """A text as one integer a word, for eq. 1 where there is no tokenizer. Comparable in one process."""
    return [hash(word) for word in text.split()]


def clean(text: str, attempt: str = "") -> str:
    """The correction inside an Oracle's text, empty if there is none.

    Thoughts, markers, a code block around everything, announcements and remarks on what was changed
    are taken out where `attempt` lacks them; blanks at both ends and line ends are the attempt's.
    """
    text = text.encode(errors="replace").decode()  # half a pair of surrogates cannot be stored
    if "\r" not in attempt:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "<think>" not in attempt:
        text = _without_thoughts(text)
    text = _between_markers(text)
    for _ in range(_LAYERS):  # an announcement may stand outside or inside of a code block
        text = _without_fence(_without_remarks(text, attempt), attempt).strip()
    if not text or not attempt.strip():
        return text
    body = attempt.strip()
    start = attempt.index(body)
    return attempt[:start] + text + attempt[start + len(body) :]


def _without_thoughts(text: str) -> str:
    """What follows `<think>…</think>`; where a chat template opened it, only `</think>` is there."""
    if (match := _THOUGHTS.match(text)) is not None:
        return text[match.end() :]
    return text.rpartition("</think>")[2]


def _between_markers(text: str) -> str:
    """The last block that has both markers and is not blank, else the one with one marker, else all."""
    marks = list(_MARKER.finditer(text))
    if not marks:
        return text
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    opens = [_CLOSING.search(mark[1]) is None for mark in marks]
    closes = [not is_open for is_open in opens[1:]] + [False]
    whole, partial = "", ""
    for mark, end, is_open, is_closed in zip(marks, ends, opens, closes, strict=True):
        block = text[mark.end() : end].strip()
        if block.strip("`*# \t\n") and is_open:
            whole, partial = (block, partial) if is_closed else (whole, block)
    if whole or partial or any(opens):
        return whole or partial
    return text[: marks[0].start()]  # the opening marker was forgotten


def _is_whole(text: str) -> bool:
    """Whether a text that opens the correction also closes it (one without markers counts as whole)."""
    marks = list(_MARKER.finditer(text))
    return not marks or _CLOSING.search(marks[-1][1]) is not None


def _without_fence(text: str, attempt: str) -> str:
    """The inside of a code block that holds the whole text, and no half of a fence at either end."""
    fences = list(_FENCE.finditer(text))
    if not fences or _FENCE.match(attempt.strip()):
        return text
    first, last = fences[0], fences[-1]
    at_start, at_end = first.start() == 0, last.end() == len(text)
    if len(fences) % 2:
        if at_end and not last[1]:
            return text[: last.start()]
        return text[first.end() :] if at_start and first[1].lower() in _PROSE else text
    around = at_start and at_end and first[1].lower() in _PROSE
    inner_opens = len(fences) == 2 or bool(fences[1][1])  # else the second fence closes the first
    return text[first.end() : last.start()] if around and inner_opens else text


def _without_remarks(text: str, attempt: str) -> str:
    """The text without announcements at its start and remarks at its end that the attempt lacks."""
    lines = text.strip().split("\n")
    known = {line.strip() for line in attempt.split("\n")} - {""}
    first, last = 0, len(lines)
    while first < last and not _plain(lines[first], known):
        first += 1
    if first < last:
        lines[first] = _after_announcement(lines[first], known)
    boxed = max((i for i in range(first, last) if "\\boxed" in lines[i]), default=first)
    notes = (i for i in range(boxed + 1, last) if _is_remark(lines[i], known, _NOTES))
    last = next(notes, last)
    while last > first and (
        not _plain(lines[last - 1], known) or _is_remark(lines[last - 1], known, _REMARK)
    ):
        last -= 1
    return "\n".join(lines[first:last])


def _after_announcement(line: str, known: set[str]) -> str:
    """What is left of a line that begins with an announcement; else the line itself."""
    bare = _plain(line, known)
    match = None if line.strip() in known else _ANNOUNCEMENT.match(bare)
    return line if match is None else bare[match.end() :]


def _is_remark(line: str, known: set[str], pattern: re.Pattern[str]) -> bool:
    if line.strip() in known or len(line) > _LONGEST_REMARK or "\\boxed" in line:
        return False
    return pattern.fullmatch(_plain(line, known)) is not None


def _plain(line: str, known: set[str]) -> str:
    """A line without emphasis, empty if it is a rule; as it is where the attempt has it."""
    if line.strip() in known:
        return line
    bare = line.lstrip(" \t*_#>`").rstrip(" \t*_`")
    return bare.strip("-") and bare
