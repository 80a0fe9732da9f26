"""Questions of one's own out of rows, and responses that a model gave to them elsewhere.

Rows come from a JSON Lines file here, from other files and the hub in `hub.py`, and pass the same
checks. Bad rows stop the run with the line and the field (`on_bad_row="error"`), or are counted and
left out (`"drop"`): rows in = rows out + drops, always.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TextIO, cast

from spot.config import FieldsConfig
from spot.data.answers import Item, encodable, final_truth, scalar_text
from spot.data.chat import Message, posed, user
from spot.data.rows import Attempt, Question
from spot.utils.errors import UserError, first_line
from spot.utils.files import write_aside

NEXT_STEP = "fix the {unit}, or set data.on_bad_row=drop to leave such rows out and count them"
LONGEST_LINE = 16 << 20  # characters
ROLES = ("system", "user", "assistant")
OWN_ID = "id"  # the field that names a row where data.fields.id names none
# What a damaged file raises while it is read.
UNREADABLE = (OSError, EOFError, ValueError, zlib.error)


@dataclass(frozen=True)
class Problem:
    """Why a row is unusable: a short reason to count by, and a sentence."""

    reason: str
    explanation: str


NOT_UTF8 = Problem("not_utf8", "the line is not UTF-8 text")
NumberedRow = tuple[int, dict[str, Any] | Problem]  # its number, from 1, and what it holds


class Read(NamedTuple):
    """What a row says; response and solution are empty where none is asked for, or the row has none."""

    question: Question
    response: str
    solution: str


@dataclass(frozen=True)
class Source:
    """Rows to read once, where they are from and what one of them is called there: for messages."""

    name: str
    rows: Iterable[NumberedRow]
    unit: str = "row"  # line | row


def read_questions(
    source: str | Path | Source,
    fields: FieldsConfig,
    answer_format: str = "boxed",
    *,
    task: str = "data",
    limit: int | None = None,
    on_bad_row: str = "error",
) -> tuple[list[Question], dict[str, int]]:
    """The first `limit` questions of a source, and how many rows were left out, by reason.

    A path is that of a JSON Lines file; `hub.load_rows` opens other files and data sets of the hub.
    The answer may be a worked solution: then what it ends in (by `answer_format`) is the truth.
    """
    rows, dropped = _usable_rows(source, fields, answer_format, task, limit, on_bad_row)
    return [row.question for row in rows], dropped


def read_solutions(
    source: str | Path | Source,
    fields: FieldsConfig,
    answer_format: str,
    *,
    on_bad_row: str = "error",
) -> dict[str, str]:
    """Worked solutions by their question's id, which is the one that `import_attempts` gives it."""
    rows, _ = _usable_rows(source, fields, answer_format, "data", None, on_bad_row)
    return {row.question.id: row.solution for row in rows if row.solution}


def import_attempts(
    source: str | Path | Source,
    fields: FieldsConfig,
    answer_format: str,
    grade: Callable[[Sequence[Item]], list[tuple[str, str | None]]],
    *,
    task: str = "data",
    model: str = "imported",
    limit: int | None = None,
    on_bad_row: str = "error",
) -> tuple[list[Attempt], dict[str, int]]:
    """Existing responses as attempts with the verdicts of `grade`, and how many rows were left out, by reason.

    A response without a final answer is an attempt with the verdict `unparseable`. How a response
    ended is not recorded in such files, so it counts as finished; `tokens` is 0: not counted yet.
    """
    if fields.response is None:
        raise ValueError("importing attempts takes a field of responses")
    rows, dropped = _usable_rows(source, fields, answer_format, task, limit, on_bad_row)
    verdicts = grade(
        [Item(row.response, row.question.answer, "stop", answer_format) for row in rows]
    )
    attempts = [
        Attempt(
            id=f"{question.id}#0",
            question_id=question.id,
            trial=0,
            task=task,
            question=question.text,
            answer=question.answer,
            response=response,
            finish_reason="stop",
            tokens=0,
            extracted=extracted,
            verdict=verdict,
            model=model,
            seed=0,
            messages=question.messages,
        )
        for (question, response, _), (verdict, extracted) in zip(rows, verdicts, strict=True)
    ]
    return attempts, dropped


def read_objects(path: str | Path) -> Iterator[NumberedRow]:
    """`(line number, object or what is wrong with the line)`; blank lines are passed over.

    Raises UserError when the file is missing, unreadable or holds nothing.
    """
    path = Path(path)
    found = False
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    found = True
                    yield number, _parse(line.removeprefix("\ufeff"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give a JSON Lines file.") from None
    except UNREADABLE as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{path} cannot be read ({why}): give a JSON Lines file.") from error
    if not found:
        raise UserError(f"{path} is empty: give a file with one JSON object a line.")


def open_text(path: Path) -> TextIO:
    """A text file, packed (.gz) or not, in UTF-8 or, as its first bytes say, in UTF-16.

    Bytes that are not UTF-8 become surrogates, for the row they are in to be refused. Line ends stay.
    """
    packed = path.suffix.lower() == ".gz"
    with gzip.open(path) if packed else path.open("rb") as file:
        utf16 = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    encoding, errors = ("utf-16", "strict") if utf16 else ("utf-8-sig", "surrogateescape")
    opener: Any = gzip.open if packed else open
    return cast(TextIO, opener(path, "rt", encoding=encoding, errors=errors, newline=""))


def write_objects(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line; the file is written whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def value_at(row: Mapping[str, Any], name: str) -> Any:
    """What a dotted name leads to, or None. A field whose own name holds the dots comes first."""
    if name in row:
        return row[name]
    head, _, rest = name.partition(".")
    inner = row.get(head)
    return value_at(inner, rest) if rest and isinstance(inner, Mapping) else None


def _usable_rows(
    source: str | Path | Source,
    fields: FieldsConfig,
    answer_format: str,
    task: str,
    limit: int | None,
    on_bad_row: str,
) -> tuple[list[Read], dict[str, int]]:
    """What the rows say, and how many were left out, by reason."""
    if not isinstance(source, Source):
        source = Source(str(source), read_objects(source), "line")
    numbers: dict[str, int] = {}
    rows: list[Read] = []
    own: list[str] = []  # what the rows call themselves, unasked
    dropped: Counter[str] = Counter()
    for number, found in source.rows:
        row = (
            found
            if isinstance(found, Problem)
            else _row(found, number, fields, answer_format, task)
        )
        if not isinstance(row, Problem) and row.question.id in numbers:
            name = row.question.id
            first = f"{source.unit} {numbers[name]}"
            row = Problem("duplicate_id", f"the id {name!r} is that of {first} already")
        if isinstance(row, Problem):
            if on_bad_row == "error":
                where = f"{source.name}, {source.unit} {number}"
                next_step = NEXT_STEP.format(unit=source.unit)
                raise UserError(f"{where}: {row.explanation}; {next_step}.")
            dropped[row.reason] += 1
            continue
        numbers[row.question.id] = number
        own.append(scalar_text(found.get(OWN_ID)) if isinstance(found, dict) else "")
        if limit is not None and len(rows) >= limit:
            dropped["beyond_questions"] += 1
        else:
            rows.append(row)
    if fields.id is None and all(own) and len(set(own)) == len(own):
        named = zip(own, rows, strict=False)
        rows = [row._replace(question=replace(row.question, id=name)) for name, row in named]
    if not rows and not dropped:
        raise UserError(f"{source.name} is empty: give data with at least one row.")
    if not rows:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items()))
        raise UserError(f"{source.name} holds no usable row ({reasons}): check data.fields.")
    return rows, dict(dropped)


def _parse(line: str) -> dict[str, Any] | Problem:
    if len(line) > LONGEST_LINE:
        return Problem("line_too_long", f"the line has {len(line)} characters")
    try:
        line.encode()
        value = json.loads(line, object_pairs_hook=unique_keys)
    except UnicodeEncodeError:
        return NOT_UTF8
    except (ValueError, RecursionError) as error:
        return Problem("malformed_json", f"malformed JSON ({first_line(error)})")
    return object_or_problem(value)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError where a key is in it twice: which one is meant?"""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} twice in an object")
    return found


def object_or_problem(value: Any) -> dict[str, Any] | Problem:
    """The value itself if it is a JSON object."""
    if isinstance(value, dict):
        return value
    return Problem("not_an_object", f"expected a JSON object, found {type(value).__name__}")


def _row(
    row: dict[str, Any], number: int, fields: FieldsConfig, answer_format: str, task: str
) -> Read | Problem:
    found = _asked(row, fields)
    if isinstance(found, Problem):
        return found
    turns, said = found
    text, messages = posed(turns)
    answer = _last_said(value_at(row, fields.answer))
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    truth = final_truth(scalar_text(answer), answer_format)
    if not truth:
        return _missing("answer", fields.answer)
    response: Any = ""
    if fields.response is not None:
        own = fields.response == fields.messages
        response = said if own else _last_said(value_at(row, fields.response))
    if not isinstance(response, str):
        return _missing("response", str(fields.response))
    solution = None if fields.solution is None else _last_said(value_at(row, fields.solution))
    if not isinstance(solution, str) or not scalar_text(solution):
        solution = ""
    # a line number is stable while lines are only appended
    name = f"row-{number:06d}" if fields.id is None else value_at(row, fields.id)
    if not scalar_text(name):
        return _missing("id", str(fields.id))
    if not encodable(f"{name}{text}{truth}{response}{solution}"):
        return Problem("not_utf8", "half a character (surrogate)")
    return Read(Question(str(name), task, text, truth, messages=messages), response, solution)


def _asked(row: dict[str, Any], fields: FieldsConfig) -> tuple[list[Message], str | None] | Problem:
    """The turns up to the question, and what the assistant answers there if the row says it."""
    if fields.messages is not None:
        return chat_turns(value_at(row, fields.messages), fields.messages)
    text = value_at(row, fields.question)
    if isinstance(text, list) and all(isinstance(turn, dict) for turn in text):
        return chat_turns(text, fields.question)
    if not isinstance(text, str) or not scalar_text(text):
        return _missing("question", fields.question)
    return list(user(text)), None


def _last_said(value: Any) -> Any:
    """Of turns of a chat what the assistant says last; any other value as it is."""
    last = value[-1] if isinstance(value, list) and value else None
    return (
        last.get("content") if isinstance(last, dict) and last.get("role") == ROLES[-1] else value
    )


def chat_turns(value: Any, name: str = "messages") -> tuple[list[Message], str | None] | Problem:
    """The turns of a chat before the last response, and that response if the chat has it.

    At most one system turn, first, then user and assistant in turn: what every template can write.
    """
    if not isinstance(value, list) or not value:
        return _missing("messages", name)
    turns = []
    for turn in value:
        role, content = (
            turn.get(key) if isinstance(turn, dict) else None for key in Message.__annotations__
        )
        if role not in ROLES:
            known = ", ".join(ROLES)
            return Problem(
                "unknown_role", f"a turn in {name!r} is {role!r}'s, and chats know {known}"
            )
        if not isinstance(content, str) or not content.strip():
            return Problem("empty_turn", f"a turn in {name!r} ({role}) has no text")
        turns.append(Message(role=role, content=content))
    said = turns.pop()["content"] if turns[-1]["role"] == "assistant" else None
    spoken = turns[1:] if turns and turns[0]["role"] == "system" else turns
    if not any(turn["role"] == "user" for turn in spoken):
        return Problem("no_user_turn", f"no user turn in the field {name!r}")
    order = [ROLES[1 + n % 2] for n in range(len(spoken))]
    if [turn["role"] for turn in spoken] != order or order[-1] != "user":
        return Problem("turn_order", f"user and assistant do not take turns in {name!r}")
    return turns, said


def _missing(what: str, field: str) -> Problem:
    return Problem(f"no_{what}", f"no {what} in the field {field!r} (data.fields.{what})")
