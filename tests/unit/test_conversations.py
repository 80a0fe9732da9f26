"""Rows that are chats: what stands before the last response is prompt, whatever the template's layout."""

from __future__ import annotations

import json

import pytest

from spot.config import FieldsConfig
from spot.data import chat
from spot.data.jsonl import import_attempts, read_questions
from spot.data.rows import Question, from_json, to_json
from spot.data.templates import load
from spot.generation import Sampling
from spot.grading.family import pose
from spot.grading.registry import Verifier
from spot.oracle.human import Solutions
from spot.oracle.types import Result, Task
from spot.pipeline import elicitation, parts
from spot.pipeline.rectification import _row
from spot.pipeline.selection import Rules, select
from spot.training.loop import tokenise
from spot.utils.errors import UserError
from tests.unit.test_end_of_turn import tokenizer_of

# Written here after the layouts of the models' own: where a system turn goes, what is left out or refused.
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set said = messages[0].content | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set said = '' %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n\n{{ said }}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{% if messages[0].role == 'system' %}{% set said = messages[0].content %}{% set turns = messages[1:] %}"
    "{% else %}{% set turns = messages %}{% endif %}{{ bos_token }}{% for m in turns %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if m.role == 'user' %}{% if loop.last and said is defined %}[INST] {{ said }}\n\n{{ m.content }}[/INST]"
    "{% else %}[INST] {{ m.content }}[/INST]{% endif %}{% else %} {{ m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "<think>\neasy\n</think>\n\n2"},
    {"role": "user", "content": "And 2 + 2?"},
]
PROMPTS = {  # template, what ends a sequence, special tokens, and the prompt of SYSTEM and TURNS by hand
    "qwen3": (QWEN3, "<|im_end|>", ["<|im_start|>"],
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
        "2<|im_end|>\n<|im_start|>user\nAnd 2 + 2?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    "llama3": (LLAMA3, "<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>"],
        "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n1 + 1?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n<think>\neasy\n</think>\n\n2<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd 2 + 2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    "mistral": (MISTRAL, "</s>", [],
        "[INST] 1 + 1?[/INST] <think>\neasy\n</think>\n\n2</s>[INST] Be brief.\n\nAnd 2 + 2?[/INST]"),
    "gemma": (GEMMA, "<end_of_turn>", ["<start_of_turn>"],
        "<start_of_turn>user\nBe brief.\n\n1 + 1?<end_of_turn>\n<start_of_turn>model\n<think>\neasy\n</think>\n\n"
        "2<end_of_turn>\n<start_of_turn>user\nAnd 2 + 2?<end_of_turn>\n<start_of_turn>model\n"),
    "chatml": (CHATML, "<|im_end|>", ["<|im_start|>"],
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
        "<think>\neasy\n</think>\n\n2<|im_end|>\n<|im_start|>user\nAnd 2 + 2?<|im_end|>\n<|im_start|>assistant\n"),
}  # fmt: skip
FIELDS = FieldsConfig(messages="messages", response="messages")


def write(tmp_path, *rows):
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chat_of(*turns, **more):
    return {"messages": list(turns), "answer": "4", **more}


@pytest.mark.parametrize("layout", PROMPTS)
def test_each_layout_writes_every_turn_before_the_last_response(layout):
    template, eos, specials, prompt = PROMPTS[layout]
    tokenizer = tokenizer_of(template, eos, specials)
    ids = chat.chat_ids(tokenizer, [SYSTEM, *TURNS])
    assert tokenizer.decode(ids) == prompt
    without = tokenizer.decode(chat.chat_ids(tokenizer, TURNS))
    assert "Be brief." not in without
    assert ("You are helpful." in without) == (layout == "chatml")
    sent = chat.accepted(tokenizer, [SYSTEM, *TURNS])  # what a server, which writes by itself, gets
    assert chat.write(tokenizer, sent, add_generation_prompt=True, enable_thinking=False) == prompt


def test_a_template_that_loses_a_turn_is_refused():
    only_last = "{{ messages[-1].content }}{{ eos_token }}"
    tokenizer = tokenizer_of(only_last, "</s>", [])
    with pytest.raises(UserError, match="leaves out a turn of a chat \\(user\\)"):
        chat.chat_ids(tokenizer, TURNS)


def test_the_last_response_is_the_attempt_and_what_comes_before_it_the_prompt(tmp_path):
    """From the file to the trained tokens, with data.prompt around the last question alone."""
    said = {"role": "assistant", "content": r"$\boxed{5}$"}
    path = write(tmp_path, chat_of(SYSTEM, *TURNS, said), chat_of(TURNS[0], said))
    with Verifier() as verifier:
        attempts, dropped = import_attempts(path, FIELDS, "boxed", verifier.verdicts)
        assert dropped == {}
        assert [a.verdict for a in attempts] == ["wrong", "wrong"]
        assert attempts[0].question == (
            "system: Be brief.\n\nuser: 1 + 1?\n\nassistant: <think>\neasy\n</think>\n\n2\n\nuser: And 2 + 2?"
        )
        assert attempts[1].question == "1 + 1?"
        assert "messages" not in json.loads(to_json(attempts[1]))  # as rows of before
        assert from_json(type(attempts[0]), to_json(attempts[0])) == attempts[0]
        task = parts.task(attempts[0], "rectified")
        assert task.question == attempts[0].question
        fixed = Result(task, r"$\boxed{4}$", "4", "ok", ())
        row = _row(attempts[0], "rectified", "me", fixed)
        template, eos, specials, prompt = PROMPTS["qwen3"]
        tokenizer = tokenizer_of(template, eos, specials)
        rules = Rules("rectified", "boxed", 4096)
        selected = select([row], tokenizer, rules, verifier)
    (pair,) = selected.pairs
    for tokens in (tokenise(tokenizer, [pair], False)[0], *selected.tokens.values()):
        ids, chosen, rejected = (
            tokens if isinstance(tokens, tuple) else (tokens.prompt, tokens.chosen, tokens.rejected)
        )
        assert tokenizer.decode(ids) == prompt
        assert tokenizer.decode(chosen) == r"$\boxed{4}$<|im_end|>"
        assert tokenizer.decode(rejected) == r"$\boxed{5}$<|im_end|>"


def test_the_last_response_is_asked_for_anew_and_prompts_go_around_the_last_question(tmp_path):
    said = {"role": "assistant", "content": "5"}
    fields = FieldsConfig(messages="messages")
    (question,), _ = read_questions(write(tmp_path, chat_of(SYSTEM, *TURNS, said)), fields)
    put = pose(question, 0, load("math").text)
    asked = elicitation.requests([put], 2, Sampling(0, 1, 0, 9), seed=0)
    for _, request in asked.values():
        assert list(request.messages[:-1]) == [SYSTEM, *TURNS[:-1]]
        assert "And 2 + 2?" in request.messages[-1]["content"]
        assert request.messages[-1]["content"] != "And 2 + 2?"
        assert chat.transcript(request.messages) == put.text


def test_a_chat_finds_its_worked_solution(tmp_path):
    path = write(tmp_path, chat_of(SYSTEM, *TURNS, solution="2 + 2 = 4"))
    (question,), _ = read_questions(path, FieldsConfig(messages="messages"))
    solutions = Solutions(path, "solution", None, "messages")
    asked = elicitation.requests([question], 1, Sampling(0, 1, 0, 9), seed=0)
    ((question, _),) = asked.values()
    assert solutions.correct(Task("x", question.text, "4", "5")) == "2 + 2 = 4"
    assert solutions.correct(Task("x", "And 2 + 2?", "4", "5")) is None


ASSISTANT = TURNS[1]


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "no_messages"),
        ("1 + 1?", "no_messages"),
        ([SYSTEM], "no_user_turn"),
        ([SYSTEM, ASSISTANT], "no_user_turn"),
        ([TURNS[0], {"role": "tool", "content": "2"}], "unknown_role"),
        (["1 + 1?"], "unknown_role"),
        ([{"role": "user", "content": [{"type": "image"}]}], "empty_turn"),
        ([{"role": "user", "content": " "}], "empty_turn"),
        ([TURNS[0], TURNS[0]], "turn_order"),
        ([TURNS[0], ASSISTANT, ASSISTANT], "turn_order"),
        ([TURNS[0], SYSTEM, TURNS[2]], "turn_order"),
        ([*TURNS], "no_response"),
    ],
)
def test_a_chat_that_cannot_be_used_is_named_or_dropped_and_counted(tmp_path, turns, reason):
    good = chat_of(*TURNS, ASSISTANT)
    path = write(tmp_path, good, {"messages": turns, "answer": "4"})
    with pytest.raises(UserError, match=r"chats.jsonl, line 2: .*'messages'.*data.on_bad_row=drop"):
        read_questions(path, FIELDS)
    questions, dropped = read_questions(path, FIELDS, on_bad_row="drop")
    assert len(questions) == 1
    assert isinstance(questions[0], Question)
    assert dropped == {reason: 1}
