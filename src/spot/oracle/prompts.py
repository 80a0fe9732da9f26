"""What an Oracle is told: templates in `prompts/`, or the user's own file in place of any of them.

They have the structure of the paper's (App. F), in other words, and are filled in as any template
(`spot.data.templates`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from spot.data.templates import Template
from spot.oracle.postprocess import clean
from spot.oracle.types import Task, Try
from spot.utils.errors import UserError

WITH_TRUTH, WITHOUT_TRUTH, DIRECT, REASK = (
    "rectify_with_truth",
    "rectify_without_truth",
    "direct",
    "reask",
)
# (must be in the template, may be in it)
PLACEHOLDERS: dict[str, tuple[set[str], set[str]]] = {
    WITH_TRUTH: ({"question", "response", "answer"}, {"ending"}),
    WITHOUT_TRUTH: ({"question", "response"}, {"ending"}),
    DIRECT: ({"question"}, {"ending"}),
    REASK: ({"previous", "reason"}, set()),
}
ENDINGS = {  # what the final answer must look like to be found again, by data.answer_format
    "boxed": r"`Therefore, the final answer is: $\boxed{ANSWER}$.`",
    "last": "`#### ANSWER`",
    "json": '`{"answer": "ANSWER"}`',
    "code": "one fenced block of Python (```python) that holds the whole function",
}
NAMES = frozenset({"question", "response", "answer", "ending", "previous", "reason"})
_NOTHING = "(It was empty.)"


@dataclass(frozen=True)
class Prompts:
    """All that one run says to its Oracle: `first` to each task, `again` after a refused reply.

    Call it with a task and its tries so far for (kind, text). A task asked again is told the whole
    first prompt once more, and then what was wrong: the shared beginning is cheap where servers cache.
    """

    name: str  # of the first
    first: Template
    again: Template
    answer_format: str = "boxed"

    def __call__(self, task: Task, tries: Sequence[Try] = ()) -> tuple[str, str]:
        """`(rectify | direct | reask, the prompt)`."""
        text = self.first.fill(
            {
                "question": task.question,
                "response": task.response,
                "answer": _shown(task.answer, self.answer_format),
                "ending": ENDINGS[self.answer_format],
            }
        )
        if not tries:
            return ("direct" if self.name == DIRECT else "rectify"), text
        previous = clean(tries[-1].text, task.response) or _NOTHING
        return "reask", text + self.again.fill({"previous": previous, "reason": tries[-1].reason})

    @property
    def digest(self) -> str:
        """SHA-256 of all that an Oracle is told, but for the tasks: part of the product's key."""
        parts = [self.name, self.first.text, self.again.text, ENDINGS[self.answer_format]]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _shown(answer: str, answer_format: str) -> str:
    """The truth as the Oracle sees it: of a program the reference, never the tests it must pass."""
    return str(json.loads(answer)["reference"]) if answer_format == "code" else answer


def prompts(
    mode: str,
    *,
    ground_truth: bool = True,
    answer_format: str = "boxed",
    own: str | Path | None = None,
    own_reask: str | Path | None = None,
) -> Prompts:
    """The prompts of a run in `mode` (rectified | direct), from the package or the user's own files.

    Raises UserError when a file cannot be read, lacks a placeholder, or has one that is not filled.
    """
    rectify = WITH_TRUTH if ground_truth else WITHOUT_TRUTH
    name = DIRECT if mode == "direct" else rectify
    again = load_prompt(REASK, own_reask, "oracle.reask_prompt")
    return Prompts(name, load_prompt(name, own), again, answer_format)


def load_prompt(name: str, path: str | Path | None = None, key: str = "oracle.prompt") -> Template:
    """The template called `name`, or the file that replaces it; `key` names the option in errors."""
    if path is None:
        text = (resources.files("spot.oracle") / "prompts" / f"{name}.md").read_text("utf-8")
    else:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{key}={path} cannot be read ({error}): give a text file.") from None
    required, allowed = PLACEHOLDERS[name]
    found = {name for name in NAMES if f"{{{name}}}" in text}
    if missing := sorted(required - found):
        listed = " and ".join(f"{{{placeholder}}}" for placeholder in missing)
        raise UserError(f"{key}={path} lacks {listed}: the prompt {name} needs it; add it.")
    if unfit := sorted(found - required - allowed):
        raise UserError(
            f"{key}={path} has {{{unfit[0]}}}, which the prompt {name} does not know: take it out"
            + (" or set oracle.ground_truth=true." if unfit == ["answer"] else ".")
        )
    return Template(text, NAMES)
