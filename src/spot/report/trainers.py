"""Pairs and questions of a run as other trainers read them: `spot export`.

A format has up to two files: pairs for trainers that learn from y⁺ and y⁻, and questions with their true
answers for those that sample and reward. Questions are all that the run asked, but for those of its
held-out pairs. A prompt is the row's chat, so that the trainer's own chat template writes it. Fields are
those of the trainer named, each stated where they are made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spot.config.arguments import read as read_arguments
from spot.data import artifacts, chat, run_record
from spot.data.rows import Attempt, Pair
from spot.report import inspect_log
from spot.report.load import FinishedRun, load
from spot.utils.errors import UserError, one_of
from spot.utils.files import check_output, write_aside

Record = dict[str, Any]
INSPECT = "inspect"  # not a trainer's: the scores, as logs of an evaluation


@dataclass
class Arguments:
    """Of `spot export`."""

    format: str = "trl"
    out: str | None = None
    run: str | None = None  # the same as naming it


def command(arguments: list[str]) -> None:
    """`spot export <run> format=…`: write the files and say what is in each."""
    names, given = read_arguments(Arguments, arguments, "export", named=True)
    names += [] if given.run is None else [given.run]
    if len(names) != 1 or not names[0]:
        raise UserError("name one run: spot export <run> [format=trl] [out=<folder>].")
    one_of("format", given.format, (*FORMATS, INSPECT))
    source = Path(names[0])
    if not run_record.is_finished(source):
        raise UserError(
            f"{source} holds no finished run: give one that spot runs lists as complete."
        )
    out = source / "export" / given.format if given.out is None else Path(given.out)
    check_output(out, "out", "folder")
    for file, rows in export(source, given.format, out).items():
        print(f"export: {file} ({rows:,} rows)", flush=True)


def export(source: Path, name: str, out: Path) -> dict[Path, int]:
    """Write a finished run's rows into the folder `out`; returns the rows of every file."""
    (run,), _ = load(source)
    out.mkdir(parents=True, exist_ok=True)
    if name == INSPECT:
        return inspect_log.write(run, out)
    made, form = {}, FORMATS[name]
    if form.pair is not None:
        told = {"chat_template_kwargs": {"enable_thinking": run.config["model.thinking"]}}
        made["pairs"] = [form.pair(pair) | (told if form.told else {}) for pair in _pairs(run)]
    if form.question is not None:
        made["questions"] = [form.question(question) for question in _questions(run)]
    written = {}
    for kind, rows in made.items():
        file = out / f"{kind}.{form.suffix}"
        write_parquet(file, rows) if form.suffix == "parquet" else _lines(file, rows)
        written[file] = len(rows)
    if form.beside:
        write_aside(out / form.beside[0], json.dumps(form.beside[1], indent=2) + "\n")
    return written


def _pairs(run: FinishedRun) -> list[Pair]:
    pairs = [pair for pair in run.pairs("pairs") if pair.rejected is not None]
    if not pairs:
        raise UserError(
            f"{run.folder} trained on correct samples alone: there are no pairs to export."
        )
    return pairs


def _questions(run: FinishedRun) -> list[Attempt]:
    """One attempt of every question, but for those that are held out."""
    held_out = {pair.question_id for pair in run.pairs("held_out")}
    attempts = artifacts.read_rows(run.product("attempts"), Attempt)
    first = {attempt.question_id: attempt for attempt in reversed(attempts)}
    return [first[name] for name in sorted(first.keys() - held_out)]


def prompt(row: Pair | Attempt) -> list[Record]:
    """The chat that the response follows, as role and content."""
    return [dict(turn) for turn in chat.asked(row.question, row.messages)]


def _said(text: str | None) -> list[Record]:
    return [{"role": "assistant", "content": text}]


# ---- formats -----------------------------------------------------------------------------------


def trl_pair(pair: Pair) -> Record:
    """TRL's conversational preference data set (DPOTrainer 1.16): prompt, chosen, rejected, each a chat.

    A row's `chat_template_kwargs` go to the chat template.
    """
    return {"prompt": prompt(pair), "chosen": _said(pair.chosen), "rejected": _said(pair.rejected)}


def trl_question(question: Attempt) -> Record:
    """TRL's prompt-only data set (GRPOTrainer 1.16); a reward function gets `answer` by its name."""
    return {"prompt": prompt(question), "answer": question.answer}


def trl_sdft_pair(pair: Pair) -> Record:
    """TRL's self-distillation (experimental.sdft, 1.16): the teacher sees `privileged_context`, here y⁺."""
    return {"prompt": prompt(pair), "privileged_context": pair.chosen}


def verl_question(question: Attempt) -> Record:
    """verl's RL data set: data_source, prompt, ability, reward_model and extra_info, in Parquet.

    A reward function is chosen by `data_source`; give one with custom_reward_function.path.
    """
    return {
        "data_source": f"spot/{question.task}",
        "prompt": prompt(question),
        "ability": question.task,
        "reward_model": {"style": "rule", "ground_truth": question.answer},
        "extra_info": {"index": question.question_id, "question": question.question},
    }


def verifiers_question(question: Attempt) -> Record:
    """A data set of an environment of `verifiers`, which PRIME-RL trains with: prompt, answer, info."""
    info = json.dumps({"id": question.question_id, "task": question.task})
    return {"prompt": prompt(question), "answer": question.answer, "info": info}


def openrlhf_pair(pair: Pair) -> Record:
    """OpenRLHF's preference data set, for --chosen_key chosen --rejected_key rejected --apply_chat_template.

    Both are whole chats there, whose common beginning is the prompt.
    """
    chats = {side: [*prompt(pair), *_said(getattr(pair, side))] for side in ("chosen", "rejected")}
    return dict(chats)


def openrlhf_question(question: Attempt) -> Record:
    """OpenRLHF's prompts, for --input_key prompt --label_key answer --apply_chat_template."""
    return {"prompt": prompt(question), "answer": question.answer}


def llama_factory_pair(pair: Pair) -> Record:
    """LLaMA-Factory's preference data in its sharegpt layout: conversations, chosen, rejected."""
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    turns = [{"from": names[turn["role"]], "value": turn["content"]} for turn in prompt(pair)]
    system = [turn["value"] for turn in turns if turn["from"] == "system"]
    return {
        "conversations": [turn for turn in turns if turn["from"] != "system"],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
        "system": "\n\n".join(system),
    }


def plain_pair(pair: Pair) -> Record:
    """The row as it is kept here."""
    return dict(vars(pair))


def plain_question(question: Attempt) -> Record:
    """What data=jsonl reads again: id, question, answer, messages."""
    return {
        "id": question.question_id,
        "question": question.question,
        "answer": question.answer,
        "messages": prompt(question),
    }


LLAMA_FACTORY = {  # its dataset_info.json
    "spot_pairs": {
        "file_name": "pairs.jsonl",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {
            "messages": "conversations", "chosen": "chosen", "rejected": "rejected", "system": "system",
        },
    }
}  # fmt: skip


@dataclass(frozen=True)
class Format:
    """How a trainer's files are made; None: it has none of this kind.

    beside: a file's name and its JSON. told: whether a pair says what its chat template is told.
    """

    pair: Callable[[Pair], Record] | None = None
    question: Callable[[Attempt], Record] | None = None
    suffix: str = "jsonl"
    beside: tuple[str, Mapping[str, Any]] | None = None
    told: bool = False


FORMATS = {
    "trl": Format(trl_pair, trl_question, told=True),
    "trl_sdft": Format(trl_sdft_pair),
    "verl": Format(question=verl_question, suffix="parquet"),
    "prime_rl": Format(question=verifiers_question),
    "openrlhf": Format(openrlhf_pair, openrlhf_question),
    "llama_factory": Format(llama_factory_pair, beside=("dataset_info.json", LLAMA_FACTORY)),
    "jsonl": Format(plain_pair, plain_question),
}


def _lines(file: Path, rows: Sequence[Record]) -> None:
    write_aside(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_parquet(file: Path, rows: Sequence[Record]) -> None:
    """The rows as a table, written whole or not at all."""
    import io

    import pyarrow
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), buffer)
    write_aside(file, buffer.getvalue())
